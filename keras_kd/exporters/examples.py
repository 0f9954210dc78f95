"""Examples in any of the forms that `export` takes, batch by batch."""

import itertools

import keras
import numpy as np
from keras import tree

from keras_kd.tasks.heads import alone
from keras_kd.training.batch import inputs_of

_BATCH = 256
# NumPy has no kind for them.
_OF_16_BITS = ("bfloat16",)


def batches(examples, name="examples"):
    """Examples in any of the forms that `export` takes, as batches.

    Args:
        examples: Inputs (n, ...): an array, or a dict or list with one in it, as of a model
            whose one input has a name. A tuple of such, of labels, in a dict or list where
            there are several outputs, and of weights, of which both may be missing, and
            weights are left aside. Or batches of one or the other, for instance a
            `tf.data.Dataset`.
        name: The argument's, for messages.

    Yields:
        (inputs, labels): NumPy arrays (batch, ...), labels in the structure in which they
        are given, or None.

    Raises:
        ValueError: They are of no such form.
    """
    if isinstance(examples, (np.ndarray, dict)) or keras.ops.is_tensor(examples):
        examples = (examples,)
    if isinstance(examples, tuple):
        examples = _slices(_pair(examples, name), name)
    elif isinstance(examples, keras.utils.PyDataset):
        examples = _of_py_dataset(examples, name)
    elif not hasattr(examples, "__iter__"):
        raise ValueError(
            f"`{name}` must be an array of inputs, a tuple (inputs, labels), or batches "
            f"of these. Received: {type(examples).__name__}."
        )
    for batch in examples:
        yield _pair(batch, name)


def first_and_all(examples, name="examples"):
    """The first batch's inputs, and an iterator over all batches, that one included."""
    iterator = batches(examples, name)
    first = next(iterator, None)
    if first is None or not len(first[0]):
        raise ValueError(f"`{name}` is empty.")
    return first[0], itertools.chain([first], iterator)


def _pair(part, name):
    """(inputs, labels) of a batch, or of all of it, as arrays."""
    # A list of one is what a model of one input takes.
    is_tuple = isinstance(part, tuple) or (isinstance(part, list) and len(part) in (2, 3))
    inputs, labels, *more = (*part, None) if is_tuple and part else (part, None)
    inputs = alone(inputs_of(inputs))
    if len(more) > 2 or isinstance(inputs, (dict, tuple)) or not np.ndim(inputs):
        raise ValueError(
            f"`{name}` must be inputs, or tuples of inputs, labels and weights, where "
            "inputs are an array, or a dict or list with one in it. "
            f"Received: {described(part)}."
        )
    inputs = np.asarray(inputs)
    if inputs.dtype.kind not in "biuf" and inputs.dtype.name not in _OF_16_BITS:
        raise ValueError(
            f"`{name}` must be numbers. Received: inputs of dtype {inputs.dtype}. Of a "
            "model of texts, export what follows their lookup."
        )
    return inputs, _arrays(labels)


def _arrays(labels):
    """Labels as arrays; a list may be of several outputs, or the numbers themselves."""
    is_list = isinstance(labels, (list, tuple))
    if is_list and not any(x is None or getattr(x, "shape", ()) != () for x in labels):
        return np.asarray(labels)
    return tree.map_structure(lambda x: None if x is None else np.asarray(x), labels)


def _slices(pair, name):
    inputs, labels = pair
    flat = [x for x in tree.flatten(labels) if x is not None]
    lengths = [len(inputs), *((np.shape(x) or (0,))[0] for x in flat)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"`{name}`, a tuple, must be (inputs, labels), equally long. Received: parts "
            f"of lengths {lengths}."
        )
    for start in range(0, len(inputs), _BATCH):
        part = slice(start, start + _BATCH)
        yield inputs[part], tree.map_structure(
            lambda x, part=part: None if x is None else x[part], labels
        )


def _of_py_dataset(dataset, name):
    if dataset.num_batches is None:
        raise ValueError(f"`{name}`, a PyDataset, must have a length. Received: none.")
    return (dataset[k] for k in range(dataset.num_batches))


def described(part):
    if isinstance(part, dict):
        return f"a dict of {', '.join(map(repr, part))}"
    if isinstance(part, (list, tuple)) and len(part) == 1:
        return described(part[0])
    if isinstance(part, (list, tuple)):
        parts = ", ".join(map(described, part))
        return f"a {type(part).__name__} of {len(part)} ({parts})"
    return type(part).__name__


def as_dtype(inputs, dtype, name):
    """Inputs in the dtype that a model takes.

    Raises:
        ValueError: It takes integers, and these are no such ones.
    """
    with np.errstate(invalid="ignore"):
        taken = inputs.astype(dtype, copy=False)
    if not keras.backend.is_float_dtype(str(dtype)) and not np.array_equal(taken, inputs):
        raise ValueError(
            f"`{name}` must be what the model takes, {dtype} numbers. Received: "
            f"{inputs.dtype} numbers from {np.min(inputs):g} to {np.max(inputs):g}, which "
            "are not all of these."
        )
    return taken


def in_structure(model, inputs):
    """The inputs of a model of one input in the dict or list that it takes."""
    # Of a Sequential model Keras keeps no structure; it takes a tensor.
    if isinstance(model, keras.Sequential):
        return inputs
    return keras.tree.pack_sequence_as(model.input, [inputs])
