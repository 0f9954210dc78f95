"""Inputs, and weights, of no meaning: what a model answers with them tells what it is."""

import keras
import numpy as np
from keras import ops, tree

from keras_kd.models.symbolic import input_structure

# What stands for a size that the model leaves open: enough for a few strides.
_OPEN_SIZE = 32


def probe_inputs(model, batch_size=8, seed=0):
    """Inputs of a model's own shapes and types, the same each time.

    They take nothing from a data set, whose order and views an iteration would move.

    Args:
        model: A built `keras.Model`.
        batch_size: How many examples, where the model leaves it open.
        seed: Integer.

    Returns:
        NumPy arrays in the structure that the model takes: standard normal numbers where
        it takes floating-point numbers, zeros where it takes integers or booleans (the one
        token that each vocabulary has). None where its inputs are not known, as with a
        subclassed model that was built by its own `build`, or are text.
    """
    specs = _input_specs(model)
    if specs is None or any(x.dtype == "string" for x in tree.flatten(specs)):
        return None
    return _fill(specs, batch_size, seed)


def probe_like(x, batch_size=8, seed=0):
    """Inputs of the shapes and types of a batch, which may be symbolic.

    Args:
        x: Tensors, in the structure that a model takes.
        batch_size: How many examples, instead of the batch's own number.
        seed: Integer.

    Returns:
        As `probe_inputs`; where the batch holds text, empty strings. None where not even
        the number of axes is known.
    """
    try:
        specs = tree.map_structure(
            lambda t: keras.KerasTensor(
                (None, *t.shape[1:]), keras.backend.standardize_dtype(t.dtype)
            ),
            x,
        )
    except (AttributeError, TypeError, ValueError):  # TensorFlow's for unknown ranks.
        return None
    return _fill(specs, batch_size, seed)


def _fill(specs, batch_size, seed):
    rng = np.random.default_rng(seed)

    def fill(spec):
        open_sizes = [batch_size, *[_OPEN_SIZE] * len(spec.shape)]
        shape = [
            known if known is not None else size
            for known, size in zip(spec.shape, open_sizes, strict=False)
        ]
        if keras.backend.is_float_dtype(spec.dtype):
            # NumPy does not know every type of Keras; each model casts what it is given.
            is_double = spec.dtype == "float64"
            return rng.normal(size=shape).astype("float64" if is_double else "float32")
        if spec.dtype == "string":
            return np.full(shape, "", dtype=object)
        return np.zeros(shape, spec.dtype)

    return tree.map_structure(fill, specs)


def _input_specs(model):
    """`keras.KerasTensor`s in the structure that a model takes, or None."""
    structure = input_structure(model)
    if structure is not None:
        return tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)),
            structure,
        )
    # What Keras keeps of the call that built a subclassed model.
    config = model.get_build_config() if model.built else None
    shape = (config or {}).get("input_shape")
    if not isinstance(shape, (list, tuple)) or not all(
        x is None or isinstance(x, int) for x in shape
    ):
        return None
    return keras.KerasTensor((None, *shape[1:]), "float32")


def other_biases(model):
    """(variable, value) of the model's vectors, each number larger than it is."""
    rng = np.random.default_rng(0)
    return [
        (x, ops.convert_to_numpy(x.value) + abs(rng.normal(size=x.shape)))
        for x in model.variables
        if len(x.shape) == 1 and x.dtype in ("float32", "float64")
    ]


def low_biases(model):
    """(variable, value) of the model's biases, each number far below what it is."""
    return [
        (x, ops.convert_to_numpy(x.value) - 30.0)
        for x in model.variables
        if x.name in ("bias", "beta") and keras.backend.is_float_dtype(x.dtype)
    ]


def any_weights(model):
    """(variable, value) of all, of no meaning; vectors may be variances, so positive."""
    rng = np.random.default_rng(0)

    def draw(shape):
        if len(shape) < 2:
            return rng.uniform(0.1, 0.3, shape)
        return rng.normal(scale=2 / np.sqrt(np.prod(shape[:-1])), size=shape)

    floats = [x for x in model.variables if keras.backend.is_float_dtype(x.dtype)]
    return [(x, draw(tuple(x.shape))) for x in floats]
