"""The columns of a table: what is in each, which are inputs, and what the labels are."""

import dataclasses

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.datasets.parts import Column, numbered

# Text of more values than these, or than half of the rows, is no category.
MOST_CATEGORIES = 1000
# Whole numbers are classes if there are no more, each in ten rows or more on average.
_MOST_CLASSES, _ROWS_OF_A_CLASS = 50, 10
_TASKS = ("multiclass", "regression")


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """A column as the file has it.

    Attributes:
        name: A string.
        values: Strings (n,), objects, of text and truth values; else float64, or int64 of
            whole numbers.
        missing: Booleans (n,); the values there mean nothing.
        is_flag: Whether they are truth values, as "false" and "true".
        numbers: Of text that is whole numbers, such as "007", these, int64; else None.
    """

    name: str
    values: np.ndarray
    missing: np.ndarray
    is_flag: bool = False
    numbers: np.ndarray | None = None

    @property
    def is_text(self):
        return self.values.dtype == object

    @property
    def is_whole(self):
        return self.values.dtype == np.int64

    @property
    def is_too_large(self):
        """Whether a number is finite, and none in float32."""
        is_float = not self.is_text and not self.is_whole
        return is_float and bool((np.isfinite(self.values) & self.missing).any())

    def too_large(self, path):
        """What is said of it."""
        row = int(np.flatnonzero(np.isfinite(self.values) & self.missing)[0])
        return (
            f"{path}: column {self.name!r} holds {self.values[row]:g} in row {row + 1}, "
            "which is too large for float32. Give it in another unit."
        )

    @property
    def known(self):
        """The values that are not missing."""
        return self.values[~self.missing]

    def count(self):
        """How many different values there are."""
        return len(set(self.known)) if self.is_text else len(np.unique(self.known))

    def is_category(self):
        """Whether it is text that is one of a few values."""
        most = min(MOST_CATEGORIES, len(self.values) // 2)
        return self.is_flag or self.is_text and self.count() <= most

    def all_differ(self):
        """Whether each row has another value, as its number or its name is."""
        is_one = self.is_whole or self.is_text
        return is_one and not self.missing.any() and self.count() == len(self.values)

    def is_count(self):
        """Whether the values are consecutive whole numbers, in any order."""
        if not self.is_whole or not self.all_differ():
            return False
        return int(self.values.max()) - int(self.values.min()) == len(self.values) - 1

    def is_index(self):
        """Whether it numbers the rows: consecutive whole numbers, or ever larger ones."""
        rises = self.is_whole and bool((self.values[1:] > self.values[:-1]).all())
        return len(self.values) > 2 and self.all_differ() and (self.is_count() or rises)

    def rows(self, kept):
        """The same of some rows alone."""
        arrays = {"values": self.values, "missing": self.missing, "numbers": self.numbers}
        some = {name: x if x is None else x[kept] for name, x in arrays.items()}
        return dataclasses.replace(self, **some)


def inputs_of(columns, path, announce):
    """The columns that say something of a row: neither its number, nor always the same.

    Args:
        columns: A list of `Raw`, without the label.
        path: Of the file, for messages.
        announce: Called with a line that tells what is left out.

    Returns:
        A list of `Raw`: of one that is text alone, or of numbers and categories.

    Raises:
        DataError: None is left; or text of many values is beside others.
    """
    for column in columns:
        if column.is_too_large:
            raise DataError(column.too_large(path))
    constant = [x for x in columns if x.count() < 2]
    numbering = [x for x in columns if x.is_index() and x not in constant]
    for word, some in (("always the same", constant), ("the row's number", numbering)):
        if some:
            names = ", ".join(repr(x.name) for x in some)
            announce(f"Data: left out of {path}, as {word}: {names}")
    found = [x for x in columns if x not in constant and x not in numbering]
    if not found:
        raise DataError(
            f"{path} has no column to learn from. Its columns beside the label are "
            f"{', '.join(repr(x.name) for x in columns) or 'none'}."
        )
    for column in found:
        if len(found) > 1 and column.is_text and not column.is_category():
            raise DataError(_of_text(column, found, path))
    return found


def inputs_as_known(columns, known, path, announce):
    """The columns that a model has learned from, whatever is in them here.

    Args:
        columns, path, announce: As `inputs_of` takes them.
        known: The model's columns, a sequence of `Column`.

    Returns:
        A list of `Raw`, in the order of `known`.

    Raises:
        DataError: One is missing, or holds numbers in place of categories, or text in place
            of numbers.
    """
    ours, found = {x.name: x for x in columns}, []
    for column in known:
        raw = ours.pop(column.name, None)
        if raw is None:
            names = ", ".join(repr(x.name) for x in columns)
            raise DataError(
                f"{path} has no column {column.name!r}, which the model learned from. Its "
                f"columns beside the label are {names or 'none'}."
            )
        if raw.is_too_large:
            raise DataError(raw.too_large(path))
        if column.categories is None and raw.numbers is not None:
            raw = dataclasses.replace(raw, values=raw.numbers, numbers=None)
        if raw.is_text != (column.categories is not None):
            words = ("numbers", "text")[raw.is_text], ("text", "numbers")[raw.is_text]
            raise DataError(
                f"{path}: column {column.name!r} holds {words[0]}, and where the model "
                f"learned from it, it held {words[1]}. Write it as it was there."
            )
        found.append(raw)
    if ours:
        names = ", ".join(map(repr, ours))
        announce(f"Data: left out of {path}, as the model knows none such: {names}")
    return found


def _of_text(column, found, path):
    """Why a column of text cannot be an input beside others."""
    no_number = [not _is_number(x) for x in column.values]
    few = np.flatnonzero(no_number)
    if 0 < len(few) < len(no_number) / 2:
        return (
            f"{path}: column {column.name!r} holds numbers, but in row {few[0] + 1} (of "
            f"{len(few)}) {column.values[few[0]]!r}. Write a number there, or nothing."
        )
    others = ", ".join(repr(x.name) for x in found if x is not column)
    return (
        f"{path}: column {column.name!r} is text of {column.count():,} values in "
        f"{len(column.values):,} rows, too many for a category, and text is not learned "
        f"from beside other columns ({others}). Remove the column; or, to learn from the "
        "text, remove the others."
    )


def _is_number(text):
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def as_numbers(columns, path, known=None):
    """What models take of columns without missing numbers.

    Args:
        columns: A list of `Raw`: numbers, text and truth values. A missing text is the
            category "".
        path: Of the file, for messages.
        known: As `inputs_as_known` takes it, whose categories keep their numbers; or None.

    Returns:
        `(x, columns, contents)`: float32 (n, columns); a tuple of `Column`; and bytes of
        each row's content, a list of n, equal for equal rows, whatever other categories
        there are, and whether whole numbers are categories.

    Raises:
        DataError: Numbers of a column are the same in float32; or a category is not known.
    """
    x = np.empty((len(columns[0].values), len(columns)), "float32")
    described, names, numbers = [], [], []
    for place, column in enumerate(columns):
        if not column.is_text:
            # Of two zeros there is one.
            x[:, place] = as_float32(column, path) + np.float32(0)
            described.append(Column(column.name))
            numbers.append(x[:, place])
            continue
        texts = np.where(column.missing, "", column.values)
        categories, places = np.unique(texts.astype(str), return_inverse=True)
        categories = tuple(map(str, categories))
        if known is not None:
            theirs = known[place].categories
            numbers_of = numbered(categories, theirs, f"{path}: column {column.name!r}")
            categories, places = theirs, numbers_of[places]
        x[:, place] = places
        described.append(Column(column.name, categories))
        if column.numbers is None:
            names.append([f"{len(x)}:{x}" for x in texts])
        else:
            numbers.append(np.where(column.missing, np.nan, column.numbers))
    numbers = np.array(numbers, "float32").reshape(len(numbers), len(x)).T.copy()
    texts = ["".join(x).encode() for x in zip(*names, strict=True)] or [b""] * len(x)
    contents = [a.tobytes() + b for a, b in zip(numbers, texts, strict=True)]
    return x, tuple(described), contents


def labels_of(column, task, path, trains=True):
    """Labels, and what they are.

    Text, truth values, and few whole numbers are classes; else they are values.

    Args:
        column: A `Raw` without missing values.
        task: "multiclass" or "regression", which says it; or None.
        path: Of the file, for messages.
        trains: Whether they are to be learned from, so that they must differ.

    Returns:
        `(labels, class_names)`: class numbers, int64 (n,), with a tuple of strings; or
        values, float32 (n,), and None.

    Raises:
        DataError: They number the rows, are all the same, or are not of the task.
    """
    check_task(task)
    if trains and column.count() < 2:
        raise DataError(
            f"{path}: the label column {column.name!r} holds one value alone, from which "
            "nothing is to be learned."
        )
    is_count = column.is_count()
    is_number = is_count or (column.all_differ() and task != "regression")
    if trains and is_number:
        repair = "" if is_count else '; or, if these are values, say task = "regression"'
        raise DataError(
            f"{path}: the label column {column.name!r} is another one in every row, as a "
            f"row's number or name is. Name the column of the labels with `label`{repair}."
        )
    few = min(_MOST_CLASSES, len(column.values) // _ROWS_OF_A_CLASS)
    are_classes = column.is_text or column.is_whole and column.count() <= few
    if task is not None:
        are_classes = task == "multiclass"
    if are_classes:
        # Numbers in their order, not in that of their digits.
        of_type = column.values.astype(str) if column.is_text else column.values
        names, numbers = np.unique(of_type, return_inverse=True)
        return numbers.astype("int64"), tuple(f"{x}" for x in names)
    if column.is_text:
        raise DataError(
            f"{path}: the label column {column.name!r} is text, for instance "
            f'{column.values[0]!r}, and no values: task = "regression" needs numbers.'
        )
    return as_float32(column, path), None


def as_float32(column, path):
    """Numbers as models take them.

    Args:
        column: A `Raw` of numbers without missing ones.
        path: Of the file, for messages.

    Raises:
        DataError: Half of those that differ, or more, do not in float32.
    """
    values = column.values.astype("float32")
    left = len(np.unique(values))
    if left <= column.count() / 2:
        raise DataError(
            f"{path}: column {column.name!r} has {column.count():,} different numbers, of "
            f"which {left:,} are left in float32, from {column.values.min():,} to "
            f"{column.values.max():,}. Subtract a constant, or give them in another unit."
        )
    return values


def check_task(task):
    """Refuses what is no task of a data set."""
    if task not in (None, *_TASKS):
        raise DataError(f"`task` must be one of {', '.join(_TASKS)}. Received: {task!r}.")
