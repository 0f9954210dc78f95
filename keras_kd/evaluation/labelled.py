"""Inputs and class labels, batch by batch, of whatever `Model.evaluate` takes."""

import numpy as np
from keras import tree

from keras_kd.tasks.heads import alone

# Examples in a batch where the data are arrays, as in Keras.
BATCH_SIZE = 32


def batches(data, argument="dataset"):
    """Yields (inputs, labels) of each batch, labels as the data have them.

    Sample weights are left out: each example counts once, as in Keras's `metrics`.
    Arguments and errors are those of `weighted_batches`.
    """
    for inputs, labels, _ in weighted_batches(data, argument):
        yield inputs, labels


def weighted_batches(data, argument="dataset"):
    """Yields (inputs, labels, sample weights or None) of each batch.

    Args:
        data: Batches of (inputs, labels) or (inputs, labels, sample_weight), such as a
            `tf.data.Dataset` or a `keras.utils.PyDataset`; or arrays, one such tuple.
        argument: What the user calls the data, for messages.

    Raises:
        ValueError: A batch is something else.
    """
    for batch in _arrays_in_batches(data) if are_arrays(data) else data:
        is_tuple = isinstance(batch, (tuple, list))
        if not is_tuple or len(batch) not in (2, 3):
            length = f" of {len(batch)}" if is_tuple else ""
            raise ValueError(
                f"`{argument}` must give batches of (inputs, labels), or (inputs, labels, "
                f"sample weights). Received: a {type(batch).__name__}{length}."
            )
        inputs, labels, weights = (*batch, None)[:3]
        # A list may be the numbers themselves.
        if not isinstance(labels, (list, dict)) and np.ndim(labels) == 0:
            raise ValueError(
                f"`{argument}` must give batches, and gives single examples. Call "
                "batch(...) on it."
            )
        yield inputs, labels, weights


def are_arrays(data):
    """Whether data are a tuple (inputs, labels) or (inputs, labels, weights) of arrays."""
    is_tuple = isinstance(data, tuple) and len(data) in (2, 3)
    # A tuple there is a batch.
    if not is_tuple or isinstance(data[1], (tuple, list)):
        return False
    return all(hasattr(x, "shape") for x in tree.flatten(data[:2]))


def _arrays_in_batches(data):
    given = data if len(data) == 3 and data[2] is not None else data[:2]
    data = tree.map_structure(np.asarray, given)
    counts = sorted({len(x) for x in tree.flatten(data)})
    if len(counts) > 1:
        raise ValueError(
            "Inputs and labels must be of as many examples. Received: "
            f"{' and '.join(map(str, counts))} examples."
        )
    for first in range(0, counts[0], BATCH_SIZE):
        rows = slice(first, first + BATCH_SIZE)
        yield tree.map_structure(lambda x, rows=rows: x[rows], data)


def class_numbers(labels, outputs_shape, argument="dataset"):
    """The labels of one batch as class numbers: (batch,), int64.

    Args:
        labels: (batch,) or (batch, 1), whole numbers; or one-hot, (batch, num_classes).
            In a dict with one entry, too.
        outputs_shape: (batch, num_classes), of what a model answered them with.
        argument: As `batches` takes it.

    Raises:
        ValueError: They are something else, or of another number of examples.
    """
    # Not of a list, which may be the numbers themselves.
    labels = np.asarray(alone(labels) if isinstance(labels, dict) else labels)
    count, num_classes = outputs_shape
    if labels.dtype.kind in "iu" or _are_whole(labels):
        if labels.shape in ((count,), (count, 1)):
            return labels.reshape(-1).astype("int64")
        if labels.shape == (count, num_classes) and are_one_hot(labels):
            return np.argmax(labels, axis=-1).astype("int64")
    raise ValueError(
        f"`{argument}` must have class labels: one class number for each example, or "
        f"one-hot labels, a single 1 in a row of {num_classes}. Received: labels of shape "
        f"{labels.shape} and dtype {labels.dtype} for {count} examples."
    )


def _are_whole(labels):
    # What `tf.one_hot` gives are floats, and so may class numbers be.
    return labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all())


def are_one_hot(labels):
    """Whether each row of labels, over the last axis, is a single 1 among zeros."""
    is_binary = ((labels == 0) | (labels == 1)).all()
    return bool(is_binary and (labels.sum(axis=-1) == 1).all())
