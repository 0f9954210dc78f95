"""A table in a CSV or Parquet file: a row is an example."""

import collections
import dataclasses
import difflib
import re
from pathlib import Path

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.datasets.columns import (
    Raw,
    as_numbers,
    check_task,
    inputs_as_known,
    inputs_of,
    labels_of,
)
from keras_kd.datasets.parts import (
    PARTS,
    assigned,
    check_classes,
    counts,
    in_parts,
    warn_of_duplicates,
)
from keras_kd.datasets.texts import as_bytes
from keras_kd.extras import needed_by

SUFFIXES = (".csv", ".parquet")

# A number that is not whole, and is no name; and among how many texts it is looked for.
_FRACTION, _LOOKED_AT = re.compile(r"[-+]?\d*[.,]\d+"), 1000

_LABEL, _PART, _TEXT = "label", ("part", "split"), "text"
# Other words for the parts, in any case.
_FLAGS = {"", "false", "true"}
_ALMOST = ("train", "training", "val", "valid", "dev", "testing")


def read_table(
    path,
    label=None,
    task=None,
    length=None,
    validation=0.1,
    test=0.1,
    skip_unreadable=False,
    labels=True,
    announce=print,
    like=None,
    known=None,
    trains=True,
):
    """The rows of a table: numbers and categories; or texts, if its one input is text.

    A column `part` or `split` of "train", "validation" and "test" gives the parts. What is
    held out is so by the hash of a row's content but the label: it stays where it is when
    others come or go, and equal rows are in one part.

    Args:
        path: Of a .csv or .parquet file. The first row of a CSV names the columns.
        label: The column of labels. Defaults to "label", if there is one; else there are
            none.
        task: "multiclass" or "regression", what labels are. Defaults to what they look
            like; see `keras_kd.datasets.columns.labels_of`.
        length: As `keras_kd.datasets.texts.as_bytes` takes it, of text.
        validation, test: Shares that are held out.
        skip_unreadable: Whether rows with a missing number, text or label are left out, and
            counted.
        labels: Whether labels are read. If not, their column is no input either.
        announce: Called with each line that is told.
        like: (length,), of texts whose length is not said.
        known: The columns that a model has learned from, a sequence of
            `keras_kd.datasets.parts.Column`: then these are the inputs, and categories have
            their numbers. Or None.
        trains: As `keras_kd.datasets.folders.read_folder` takes it.

    Returns:
        `keras_kd.datasets.parts.Parts` of the kind "table" or "text".

    Raises:
        DataError: The file, or a column, is not what is described; it names both.
        ModuleNotFoundError: What reads tables is not installed.
    """
    path = Path(path)
    check_task(task)
    # What a user calls values are no codes.
    values_of = (_LABEL if label is None else label) if task == "regression" else None
    columns = _load(path, values_of, known or ())
    name = _label_name(columns, label, path)
    target = columns.pop(name, None)
    if target is None and labels:
        announce(f"Data: {path} has no column 'label' and so no labels; `label` names one")
    target = target if labels else None
    if target is not None and target.is_too_large:
        raise DataError(target.too_large(path))
    given = _parts_of(columns, path, known or ())
    if known is None:
        inputs = inputs_of(list(columns.values()), path, announce)
    else:
        inputs = inputs_as_known(list(columns.values()), known, path, announce)
    is_text = known is None and _is_text(inputs, like)
    kept = _whole_rows(inputs, target, is_text, path, skip_unreadable, announce)
    inputs, given = [x.rows(kept) for x in inputs], [given[row] for row in kept]
    if length is not None and not is_text:
        raise DataError(f"`length` is for texts, and {path} is a table of numbers.")
    if is_text:
        contents = [x.encode() for x in inputs[0].values]
        of_model = like[0] if like and len(like) == 1 else None
        x, described = as_bytes(contents, length or of_model, announce), None
    else:
        x, described, contents = as_numbers(inputs, path, known)
    parts = assigned(contents, given, validation, test)
    values, class_names = None, None
    if target is not None:
        values, class_names = labels_of(target.rows(kept), task, path, trains)
    if class_names is not None and trains:
        check_classes(values, parts, class_names)
    _tell_equal(contents, kept, parts, announce)
    found = in_parts(
        x,
        values,
        parts,
        class_names,
        kind="text" if is_text else "table",
        task=None if values is None else "regression",
        columns=described,
        trains=trains,
    )
    announce(f"Data: {len(x):,} rows in {path}: {counts(parts)}")
    announce(f"Data: {_in_words(inputs, described, name, values, class_names)}")
    return found


def _load(path, values_of=None, known=()):
    """dict of column name to `Raw`.

    Args:
        path: Of the file.
        values_of: A column whose whole numbers are no codes, whatever they begin with.
        known: Columns as `read_table` takes them: of a CSV, whose categories are text.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    with needed_by("A table", "tables"):
        import pyarrow
        from pyarrow import csv, parquet
    codes = {}
    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path)
        else:
            options = csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
            table = csv.read_csv(path, parse_options=options)
            table = _with_texts(table, known, path, options)
            codes = _codes(path, table, options)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as a table: {reason}") from error
    # As in "a, b".
    table = table.rename_columns([name.strip() for name in table.column_names])
    names = collections.Counter(table.column_names)
    no_names = [name for name in names if _FRACTION.fullmatch(name)]
    if no_names:
        raise DataError(
            f"{path} must name its columns in the first row. Received: {no_names[0]!r}."
        )
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError(f"{path} has {names[twice[0]]} columns named {twice[0]!r}.")
    if table.num_rows == 0:
        raise DataError(f"{path} holds no rows.")
    found = {name: _raw(name, table[name], path) for name in table.column_names}
    for name, column in codes.items():
        if name != values_of and column.is_category():
            found[name] = column
    return found


def _with_texts(table, known, path, options):
    """A CSV's table, of which the columns with known categories are text, as they are."""
    from pyarrow import csv, string

    # Truth values are written in several ways.
    texts = {x.name for x in known if x.categories and not _FLAGS >= set(x.categories)}
    names = [x for x in table.column_names if x.strip() in texts]
    if not names or len(set(table.column_names)) < table.num_columns:
        return table
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, string()),
    )
    read = csv.read_csv(path, parse_options=options, convert_options=convert)
    for name in names:
        table = table.set_column(table.column_names.index(name), name, read[name])
    return table


def _codes(path, table, options):
    """dict of name to `Raw` of whole numbers some of which begin with 0, as postcodes do.

    They are text, which knows its numbers: so rows stay in their parts when such a one is
    the first to come. Of so many values that they are no categories they are numbers.
    """
    from pyarrow import compute, csv, string, types

    whole = [x.name for x in table.schema if types.is_integer(x.type)]
    if not whole or len(set(table.column_names)) < table.num_columns:
        return {}
    as_text = dict.fromkeys(whole, string())
    convert = csv.ConvertOptions(include_columns=whole, column_types=as_text)
    texts = csv.read_csv(path, parse_options=options, convert_options=convert)
    found = {}
    for name in whole:
        is_code = compute.match_substring_regex(texts[name], r"^\s*0\d")
        if compute.any(is_code).as_py():
            # "NA" is a missing number, and no text.
            known = compute.if_else(table[name].is_null(), "", texts[name])
            column = _raw(name.strip(), known, path)
            numbers = table[name].fill_null(0).to_numpy().astype("int64")
            found[name.strip()] = dataclasses.replace(column, numbers=numbers)
    return found


def _delimiter(path):
    """What separates the names in the first line: a comma, a semicolon or a tab."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    return max(",;\t", key=first.count)


def _raw(name, column, path):
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if types.is_binary(kind) and path.suffix.lower() == ".csv":
        raise DataError(f"{path}: column {name!r} is no UTF-8. Save the file as such.")
    is_flag = types.is_boolean(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind)
    # Of nothing but missing values there is no type.
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)
    if not (is_flag or is_text or is_number or types.is_decimal(kind)):
        raise DataError(
            f"{path}: column {name!r} is of {kind}, which is neither number, text "
            "nor truth value. Make numbers of it (of a date the day of the week, say), "
            "or remove it."
        )
    if is_flag or is_text:
        texts = column.cast(pyarrow.string()).fill_null("")
        values = np.array([x.strip() for x in texts.to_pylist()], object)
        numbers = [x for x in values[:_LOOKED_AT] if x]
        if numbers and all(map(_FRACTION.fullmatch, numbers)):
            raise DataError(
                f"{path}: column {name!r} holds numbers with a comma, {numbers[0]!r}. "
                "Write them with a point."
            )
        return Raw(name, values, values == "", is_flag, _whole(values))
    if types.is_integer(kind) and not types.is_uint64(kind):
        missing = column.is_null().to_numpy()
        return Raw(name, column.fill_null(0).to_numpy().astype("int64"), missing)
    values = column.cast(pyarrow.float64()).to_numpy().astype("float64")
    # What float32 cannot hold would be none either.
    with np.errstate(over="ignore"):
        return Raw(name, values, ~np.isfinite(values.astype("float32")))


def _whole(texts):
    """Texts that are whole numbers, such as "007", as int64; None where one is another."""
    if not all(x.isascii() and x.isdecimal() and len(x) < 19 for x in texts if x):
        return None
    return np.array([int(x or 0) for x in texts], "int64")


def _label_name(columns, label, path):
    if label is None or label in columns:
        return _LABEL if label is None else label
    near = difflib.get_close_matches(label, columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(
        f"{path} has no column {label!r}{hint or '.'} Its columns: {', '.join(columns)}."
    )


def _parts_of(columns, path, known=()):
    """The part that each row says, or None; takes their column out of the others.

    A column that a model has learned from says no part.
    """
    rows = len(next(iter(columns.values())).values) if columns else 0
    for name in _PART:
        column = columns.get(name)
        values = set(column.values) if column and column.is_text else ()
        if not values or name in {x.name for x in known}:
            continue
        if "train" not in values and not values <= set(PARTS):
            near = sorted(x for x in values if x.lower() in _ALMOST)
            if near and all(x.lower() in {*_ALMOST, *PARTS} for x in values):
                raise DataError(
                    f"{path}: column {name!r} seems to say the part of a row, with "
                    f"{near[0]!r}. The words are {', '.join(PARTS)}; another name of the "
                    "column makes it an input."
                )
            continue
        others = sorted(values - set(PARTS))
        if others:
            row = int(np.flatnonzero(column.values == others[0])[0]) + 1
            raise DataError(
                f"{path}: column {name!r} says the part of a row: {', '.join(PARTS)}. "
                f"Received in row {row}: {others[0]!r}."
            )
        return list(columns.pop(name).values)
    return [None] * rows


def _is_text(inputs, like=None):
    column = inputs[0]
    if len(inputs) > 1 or not column.is_text:
        return False
    # A model that takes more numbers than one knows the text, though each is there twice.
    is_models = bool(like) and len(like) == 1 and like[0] != 1
    is_named = column.name == _TEXT and not column.is_flag
    return is_models or is_named or not column.is_category()


def _whole_rows(inputs, target, is_text, path, skip_unreadable, announce):
    """The rows in which nothing is missing; of a category that is one more category."""
    needed = [x for x in inputs if is_text or not x.is_text]
    needed += [] if target is None else [target]
    bad = np.zeros(len(inputs[0].values), bool)
    for column in needed:
        bad |= column.missing
    kept = np.flatnonzero(~bad)
    if bad.any() and (not skip_unreadable or not len(kept)):
        row = int(np.flatnonzero(bad)[0])
        column = next(x for x in needed if x.missing[row])
        raise DataError(
            f"{path}: {bad.sum():,} of {len(bad):,} rows lack a value, the first of them "
            f"row {row + 1} in column {column.name!r}. Fill it in, remove the rows or the "
            "column, or say skip_unreadable, which leaves the rows out."
        )
    if bad.any():
        names = ", ".join(repr(x.name) for x in needed if x.missing.any())
        announce(
            f"Data: {bad.sum():,} of {len(bad):,} rows of {path} lack a value ({names}), "
            "and are left out"
        )
    return kept


def _tell_equal(contents, kept, parts, announce):
    again = len(contents) - len(set(contents))
    if again:
        announce(f"Data: {again:,} rows have the same inputs as rows before them")
    warn_of_duplicates(contents, [f"row {row + 1}" for row in kept], parts)


def _in_words(inputs, described, name, values, class_names):
    """Of what is learned, and what."""
    if described is None:
        words = f"text in {inputs[0].name!r}"
    else:
        words = f"{len(described)} column{'s'[: len(described) != 1]}: " + ", ".join(
            x.name
            if x.categories is None
            else f"{x.name} ({len(x.categories)} categories)"
            for x in described
        )
    if values is None:
        return f"{words}; no labels"
    if class_names is None:
        low, high = values.min(), values.max()
        return (
            f"{words}; label {name!r}: values from {low:,.6g} to {high:,.6g} "
            '(task = "multiclass" makes them classes)'
        )
    shown = ", ".join(class_names[:10]) + ", ..." * (len(class_names) > 10)
    return f"{words}; label {name!r}: {len(class_names)} classes ({shown})"
