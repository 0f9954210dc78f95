"""Examples of a .npz file: x and y, or Keras's x_train, y_train, x_test, y_test."""

import hashlib
from pathlib import Path

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.datasets.columns import check_task
from keras_kd.datasets.folders import of_classes
from keras_kd.datasets.parts import (
    Column,
    assigned,
    check_classes,
    counts,
    in_parts,
    warn_of_duplicates,
)

_PAIRS = {None: ("x", "y"), "train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
# What an example is called; a table's are rows.
_WORDS = {"images": "images", "table": "rows", "sequences": "sequences"}


def read_arrays(
    path,
    validation=0.1,
    test=0.1,
    task=None,
    skip_unreadable=False,
    labels=True,
    announce=print,
    trains=True,
):
    """The examples of a .npz file: images, rows of numbers, or sequences of them.

    What is held out is so by the hash of an example's bytes: it stays where it is when
    others come or go, and equal examples are in one part.

    Args:
        path: Of the file: arrays `x` and `y`; or `x_train`, `y_train` and `x_test`,
            `y_test`, as Keras's own data sets have them. x is of images, bytes (examples,
            height, width, channels), or without channels; of rows, numbers (examples,
            columns); or of sequences, floats (examples, time, channels). y is (examples,):
            class numbers from 0, class names, or values, which are floats; without y there
            are no labels.
        validation, test: Shares that are held out.
        task: "multiclass" or "regression", what y is. Defaults to what it looks like.
        skip_unreadable: Whether examples with a number that is none, as NaN, are left out,
            and counted.
        labels: Whether y is read.
        announce: Called with a line that tells the counts.
        trains: As `keras_kd.datasets.folders.read_folder` takes it.

    Returns:
        `keras_kd.datasets.parts.Parts`.

    Raises:
        DataError: There is no such file, or its arrays are others.
    """
    path = Path(path)
    check_task(task)
    arrays = _load(path)
    others = [name for name in arrays if name not in sum(_PAIRS.values(), ())]
    if others:
        announce(f"Data: {', '.join(others)} in {path} are left out")
    names = {part: pair for part, pair in _PAIRS.items() if pair[0] in arrays}
    x = {part: arrays[name] for part, (name, _) in names.items()}
    given = [part for part, some in x.items() for _ in some]
    kind, x = _examples(path, {names[part][0]: some for part, some in x.items()})
    y = _labels(path, arrays, names, task, labels)
    has_floats = kind != "images" or (y is not None and y.dtype.kind == "f")
    if skip_unreadable and not has_floats:
        raise DataError(f"skip_unreadable has no effect on the bytes in {path}.")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if y is not None and y.dtype.kind == "f":
        bad |= ~np.isfinite(y)
    if bad.any() and (not skip_unreadable or bad.all()):
        raise DataError(
            f"{path}: {bad.sum():,} of {len(x):,} examples hold what is no finite number, "
            f"the first of them example {np.flatnonzero(bad)[0]}. Mend or remove them, or "
            "say skip_unreadable."
        )
    if bad.any():
        announce(f"Data: {bad.sum():,} of {len(x):,} examples of {path} hold what is no "
                 "finite number, and are left out")
    kept = np.flatnonzero(~bad)
    x, given = x[kept], [given[row] for row in kept]
    digests = [hashlib.sha256(example.tobytes()).digest() for example in x]
    parts = assigned(digests, given, validation, test)
    class_names = None
    if y is not None:
        y, class_names = _as_labels(y[kept], path)
    if class_names is not None and trains:
        check_classes(y, parts, class_names)
    warn_of_duplicates(digests, [f"example {row}" for row in kept], parts)
    columns = None
    if kind == "table":
        columns = tuple(Column(str(place)) for place in range(x.shape[1]))
    task = None if y is None else "regression"
    found = in_parts(x, y, parts, class_names, kind, task, columns, trains)
    what = " of values" if y is not None and not class_names else of_classes(class_names)
    announce(f"Data: {len(x):,} {_WORDS[kind]}{what} in {path}: {counts(parts)}")
    return found


def _load(path):
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} does not hold arrays: {error}.") from error
    # Labels of all, or of none.
    xs, ys = ([pair[k] in arrays for pair in _PAIRS.values()] for k in (0, 1))
    if ("x" in arrays) == ("x_train" in arrays) or ys not in (xs, [False] * len(ys)):
        raise DataError(
            f"{path} must hold the arrays x and y, or x_train, y_train, x_test and y_test; "
            f"without labels, no y. Received: {', '.join(arrays) or 'none'}."
        )
    return arrays


def _examples(path, arrays):
    """(kind, x) of arrays by their names, which are one behind the other."""
    kinds = {}
    for name, x in arrays.items():
        is_number = x.dtype.kind in "iufb"
        if x.ndim in (3, 4) and x.dtype == np.uint8:
            kinds[name] = "images"
        elif x.ndim == 2 and is_number:
            kinds[name] = "table"
        elif x.ndim == 3 and x.dtype.kind == "f":
            kinds[name] = "sequences"
        if name not in kinds or x.size == 0:
            raise DataError(
                f"{path}: {name} must be images of bytes (examples, height, width, "
                "channels), rows of numbers (examples, columns), or sequences of floats "
                f"(examples, time, channels). Received: {x.dtype} of shape {x.shape}."
            )
    if len({(kinds[name], x.shape[1:]) for name, x in arrays.items()}) > 1:
        raise DataError(f"{path}: x_train and x_test must be of one shape and type.")
    kind, x = next(iter(kinds.values())), np.concatenate(list(arrays.values()))
    if kind == "images":
        return kind, x[..., None] if x.ndim == 3 else x
    # Of two zeros there is one; what is too large is none.
    with np.errstate(over="ignore"):
        return kind, x.astype("float32") + np.float32(0)


def _labels(path, arrays, names, task, labels):
    """The labels (n,) as they are, of which the task is told; None without."""
    found = []
    for x, y in names.values():
        if y not in arrays or not labels:
            continue
        values = arrays[y]
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if values.dtype.kind == "b":
            values = values.astype("int64")
        if task == "regression" and values.dtype.kind in "iu":
            values = values.astype("float32")
        types = {None: "iufU", "multiclass": "iuU", "regression": "f"}[task]
        count = len(arrays[x])
        is_number = values.dtype.kind in "iu" and values.size
        if (
            values.shape != (count,)
            or values.dtype.kind not in types
            or (is_number and values.min() < 0)
        ):
            raise DataError(
                f"{path}: {y} must be one class number from 0 on, name or value for each "
                f"of the {count} examples, as the task is. Received: {values.dtype} of "
                f"shape {arrays[y].shape}, task={task!r}."
            )
        found.append(values)
    if len({values.dtype.kind in "iu" or values.dtype.kind for values in found}) > 1:
        raise DataError(f"{path}: y_train and y_test must be of one type.")
    return np.concatenate(found) if found else None


def _as_labels(y, path):
    """(labels, class names or None)."""
    if y.dtype.kind == "f":
        if len(np.unique(y)) < 2:
            raise DataError(f"{path}: y is one value alone: nothing is to be learned.")
        return y.astype("float32"), None
    if y.dtype.kind == "U":
        names, numbers = np.unique(y, return_inverse=True)
        return numbers.astype("int64"), tuple(map(str, names))
    return y.astype("int64"), tuple(map(str, range(int(y.max()) + 1)))
