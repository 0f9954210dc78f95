"""Teacher outputs that were computed elsewhere, put beside the examples."""

import hashlib
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd.cache.answers import DROPPED
from keras_kd.cache.examples import ArrayExamples, StreamedExamples
from keras_kd.data.examples import mark
from keras_kd.extras import needed_by
from keras_kd.losses.arguments import check_choice, check_integer
from keras_kd.losses.ops import log_odds, log_softmax
from keras_kd.tasks.task import ROUNDING, sum_to_one
from keras_kd.training.batch import GIVEN, TopK, encode

KINDS = ("logits", "probabilities", "log_probs")
# Logarithm of a probability that underflowed to zero.
_SMALLEST = 1e-37
# The column that says which example a row is of.
_INDEX = "index"
# Of a file with several arrays, the teacher's own outputs.
_OWN = "outputs"


def with_teacher_outputs(examples, outputs, *, kind="logits", num_classes=None):
    """Puts outputs that were computed elsewhere beside the examples.

    `keras_kd.Distiller` takes them from the batch, and needs no teacher model.

    Args:
        examples: Single examples, before `shuffle` and `batch`, in a fixed order: x, (x, y)
            or (x, y, sample_weight). Either NumPy arrays (examples, ...) in a tuple, or a
            finite tf.data.Dataset.
        outputs: One row for each example, in the same order:

            - an array (examples, ..., num_classes), a memory map, or the path of a .npy;
            - a tuple (values, classes) of the largest of each row, (examples, ..., k) each,
              with `num_classes`;
            - a dict of a layer's name to its outputs, None for the teacher's own; or the
              path of a .npz with such arrays by name, "outputs" for its own;
            - the path of a .parquet or .arrow file (`pip install 'keras_kd[tables]'`),
              whose columns are numbers, one a class, or "outputs" of lists;
            - a tf.data.Dataset of one of the first three, example by example.

            They are held in memory. A dict or file may have "index", (examples,), whole
            numbers: of which example a row is, counted from 0. The rows are then put in the
            examples' order.
        kind: What the own outputs are: "logits", "probabilities" or "log_probs". Losses
            receive logits: of probabilities the logarithm; of one unit log p - log(1 - p).
        num_classes: How many classes there are, where `outputs` are the largest alone. The
            mass that probabilities leave is shared evenly among the other classes; of
            logits nobody knows it, so they get none.

    Returns:
        A tf.data.Dataset of single examples whose x carries the outputs, to shuffle, batch
        and `fit`.

    Raises:
        ValueError: `outputs` are of another form or another number of examples, hold NaN
            or infinite numbers, or are not the probabilities that they are said to be;
            the message names the example.
        ModuleNotFoundError: What reads the file is not installed.

    Example:

    >>> import numpy as np
    >>> images, logits = np.zeros((5, 2)), np.ones((5, 3))
    >>> train_ds = with_teacher_outputs((images, np.arange(5) % 3), logits)
    >>> distiller = kd.Distiller(None, student, "kd")
    >>> for x, y in train_ds.batch(5):
    ...     print(sorted(x), y.shape)
    ['keras_kd.index', 'keras_kd.inputs', 'keras_kd.teacher_outputs'] (5,)
    """
    check_choice("kind", kind, KINDS)
    if num_classes is not None:
        num_classes = check_integer("num_classes", num_classes, least=2)
    parts, index = _parts(outputs)
    counts = {len(array) for arrays in parts.values() for array in arrays}
    if len(counts) > 1:
        raise ValueError(
            "`outputs` must be of the same examples, one row each. Received: "
            f"{' and '.join(map(str, sorted(counts)))} rows."
        )
    (count,) = counts
    order = slice(None) if index is None else _order(index, count)
    encoded = _encoded(parts, order, kind, num_classes)
    if not isinstance(examples, tf.data.Dataset):
        whole = ArrayExamples(examples)
        if whole.count != count:
            raise ValueError(
                "`outputs` must have one row for each example. Received: "
                f"{count} rows for {whole.count} examples."
            )
        return mark(whole.join(encoded), _id_of(encoded))
    return mark(StreamedExamples(examples).beside(encoded, count), _id_of(encoded))


def _parts(outputs):
    """(dict of name to a list of arrays, the "index" or None); None names the own ones."""
    if isinstance(outputs, (str, Path)):
        outputs = _read(Path(outputs))
    if isinstance(outputs, tf.data.Dataset):
        rows = list(outputs.as_numpy_iterator())
        if not rows:
            raise ValueError("`outputs` are empty.")
        outputs = tf.nest.map_structure(lambda *x: np.stack(x), *rows)
    if not isinstance(outputs, dict):
        outputs = {None: outputs}
    index = outputs.get(_INDEX)
    parts = {
        None if name == _OWN else name: _arrays(x)
        for name, x in outputs.items()
        if name != _INDEX
    }
    if not parts:
        raise ValueError("`outputs` hold no outputs. Received: an index alone.")
    return parts, index


def _arrays(part):
    """One array, or the values and classes of the largest, in a list."""
    arrays = list(part) if isinstance(part, tuple) else [part]
    arrays = [x if isinstance(x, np.ndarray) else np.asarray(x) for x in arrays]
    numbers = all(x.dtype.kind in "biuf" or x.dtype.name == "bfloat16" for x in arrays)
    if len(arrays) > 2 or not numbers or not all(x.ndim for x in arrays):
        raise ValueError(
            "`outputs` must be arrays of numbers (examples, ...), or a tuple (values, "
            "classes) of the largest of each row. Received: "
            f"{', '.join(f'{x.dtype} of shape {x.shape}' for x in arrays)}."
        )
    return arrays


def _read(path):
    """What a file holds: an array, or a dict of them by name."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".parquet", ".arrow", ".feather"):
        raise ValueError(
            "`outputs` must be the path of a .npy, .npz, .parquet or .arrow file. "
            f"Received: {str(path)!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"`outputs`: there is no file {path}.")
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            # As NumPy calls what has no name.
            return arrays["arr_0"] if list(arrays) == ["arr_0"] else arrays
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"`outputs`: {path} does not hold arrays: {error}.") from error
    return _read_table(path, suffix)


def _read_table(path, suffix):
    """The columns of a Parquet or Arrow file: "index", and one array of all others."""
    with needed_by("Reading a table", "tables"):
        import pyarrow as pa
        from pyarrow import feather, parquet
    try:
        read = parquet.read_table if suffix == ".parquet" else feather.read_table
        table = read(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"`outputs`: {path} is no such table: {error}.") from error
    names = [x for x in table.column_names if x != _INDEX]
    found = {x: _column(path, x, table[x]) for x in names}
    if _OWN not in found:
        if len({x.shape for x in found.values()}) != 1:
            raise ValueError(
                f"`outputs`: the columns of {path} must be one number for each class, or "
                f"{_OWN!r} of lists. Received: {', '.join(names)}."
            )
        found = {_OWN: np.stack(list(found.values()), axis=-1)}
    if _INDEX in table.column_names:
        found[_INDEX] = table[_INDEX].to_numpy()
    return found


def _column(path, name, column):
    if column.null_count:
        row = next(i for i, x in enumerate(column) if not x.is_valid)
        raise ValueError(f"`outputs`: column {name!r} of {path} has nothing in row {row}.")
    try:
        return np.asarray(column.to_pylist(), dtype="float64").astype("float32")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`outputs`: column {name!r} of {path} must hold numbers, or lists of as many "
            f"numbers each. Received: {column.type}."
        ) from error


def _order(index, count):
    """Which row is that of the first example, and so on."""
    index = np.asarray(index)
    if index.shape != (count,) or index.dtype.kind not in "iu":
        raise ValueError(
            f"`outputs`: {_INDEX!r} must hold one whole number for each of the {count} "
            f"rows. Received: {index.dtype} of shape {index.shape}."
        )
    places = np.full(count, -1)
    for row, example in enumerate(index.tolist()):
        if not 0 <= example < count or places[example] >= 0:
            what = "twice" if 0 <= example < count else f"but there are {count} rows"
            raise ValueError(
                f"`outputs`: {_INDEX!r} must hold each of 0..{count - 1} once. Received: "
                f"{example} in row {row}, {what}."
            )
        places[example] = row
    return places


def _encoded(parts, order, kind, num_classes):
    """The arrays as `batch.pack` takes them."""
    taps, own = {}, None
    if num_classes is not None and len(parts.get(None, ())) != 2:
        raise ValueError(
            "`num_classes` is for outputs of the largest classes alone, a tuple (values, "
            f"classes). Received: num_classes={num_classes}."
        )
    if None not in parts and kind != "logits":
        raise ValueError(
            "`kind` is of the teacher's own outputs, and there are none. Received: "
            f"kind={kind!r}."
        )
    for name, arrays in parts.items():
        values, *classes = (x[order] for x in arrays)
        arrays = [_float32(name, values), *classes]
        if name is None:
            own = _own(arrays, kind, num_classes)
        elif len(arrays) == 1:
            taps[name] = arrays[0]
        else:
            raise ValueError(f"`outputs` of the layer {name!r} must be one array.")
    return encode(own, taps, of=GIVEN)


def _id_of(encoded):
    """What tells these outputs from others: 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for path, array in keras.tree.flatten_with_path(encoded):
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:32]


def _own(arrays, kind, num_classes):
    if len(arrays) == 2:
        return _largest(*arrays, kind, num_classes)
    values = arrays[0]
    # One number each is one unit's.
    values = values[:, None] if values.ndim == 1 else values
    if kind == "logits":
        return values
    units, is_log = values.shape[-1], kind == "log_probs"
    p = np.exp(values.astype("float64")) if is_log else values
    what = "logarithms of probabilities" if is_log else "probabilities"
    _check_probabilities(p, what, units)
    if units == 1:
        return ops.convert_to_numpy(log_odds(p.astype("float32")))
    log_p = values if is_log else _log(values)
    return np.maximum(log_p, math.log(_SMALLEST))


def _largest(values, classes, kind, num_classes):
    """The `TopK` of values and classes."""
    if num_classes is None:
        raise ValueError(
            "`num_classes` must say how many classes there are, of which `outputs` are the "
            "largest. Received: num_classes=None."
        )
    k = classes.shape[-1] if classes.ndim > 1 else 0
    if values.shape != classes.shape or not 0 < k < num_classes:
        raise ValueError(
            "`outputs` must be (values, classes) of shape (examples, ..., k) each, k less "
            f"than num_classes={num_classes}. Received: shapes {values.shape} and "
            f"{classes.shape}."
        )
    rows = classes.reshape(len(classes), -1)
    good = (rows >= 0) & (rows < num_classes) if classes.dtype.kind in "iu" else rows < 0
    _check_rows(good, f"classes that are not in 0..{num_classes - 1}")
    alike = np.sort(classes, axis=-1)
    _check_rows(np.diff(alike, axis=-1) != 0, "one class twice")
    if kind == "logits":
        log_probs = ops.convert_to_numpy(log_softmax(values))
        others = np.full((*values.shape[:-1], 1), DROPPED, "float32")
    else:
        is_log = kind == "log_probs"
        log_probs = values if is_log else _log(values)
        p = np.exp(log_probs.astype("float64"))
        total = p.sum(axis=-1, keepdims=True)
        inside = (p >= 0).all(axis=-1, keepdims=True) & (total <= 1 + ROUNDING)
        _check_rows(inside, f"{kind} that sum to more than 1")
        mass = np.maximum(1 - total, 0) / (num_classes - k)
        others = _log(mass)
    log_probs = np.maximum(np.concatenate([log_probs, others], axis=-1), DROPPED)
    return TopK(log_probs.astype("float32"), classes.astype("int32"), num_classes)


def _log(probabilities):
    return np.log(np.maximum(probabilities, _SMALLEST))


def _float32(name, values):
    with np.errstate(over="ignore"):
        values = np.asarray(values, dtype="float32")
    _check_rows(np.isfinite(values), f"NaN or infinite numbers{_of(name)}")
    return values


def _check_probabilities(p, kind, units):
    inside = (p >= 0) & (p <= 1 + ROUNDING)
    _check_rows(inside, f"{kind} that are not in [0, 1]")
    if units > 1:
        hint = " (of labels of their own give logits, log p - log(1 - p))"
        _check_rows(sum_to_one(p), f"{kind} that do not sum to 1{hint}")


def _check_rows(good, problem):
    """Refuses outputs by the first example of which one is not good."""
    rows = good.reshape(len(good), -1).all(axis=1)
    if not rows.all():
        row = int(np.argmin(rows))
        raise ValueError(f"`outputs` of example {row} hold {problem}.")


def _of(name):
    return "" if name is None else f" of the layer {name!r}"
