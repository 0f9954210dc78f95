"""Whether two models are the same: in layers, state and answers."""

import contextlib

import keras
import numpy as np
from keras import ops, tree

from keras_kd.models.probe import probe_inputs
from keras_kd.models.taps import listening

# How far apart two computations of the same numbers may be, in units of the last place of
# the coarsest type in them, and relative to the largest number.
_SAME, _ROUNDED = 4, 16


def is_mixed(model):
    """Whether a layer of a model computes in mixed precision."""
    return any(_mixed(x) for x in model._flatten_layers())


def layer_pairs(copy, model):
    """The layers of a copy, each with the one that it is a copy of, outer ones first.

    Raises:
        ValueError: The copy has more of them, or fewer.
    """
    return _pairs(copy, model, "layers", lambda x: x._flatten_layers())


def variable_pairs(copy, model):
    """As `layer_pairs`, of all variables, those of random seeds included.

    Raises:
        ValueError: The copy has other ones, or of another shape or type.
    """
    pairs = list(_pairs(copy, model, "variables", lambda x: x.variables))
    for variable, other in pairs:
        ours, theirs = ((tuple(x.shape), x.dtype) for x in (variable, other))
        if ours != theirs:
            raise ValueError(
                f"A copy of {model.name!r} has a variable of {ours} for its "
                f"{other.path!r} of {theirs}."
            )
    return pairs


def check_state(copy, model, in_float32=False):
    """Refuses a copy with other layers, dtype policies or values of variables.

    Args:
        copy, model: Built `keras.Model`s.
        in_float32: Whether the copy has float32 where the model has mixed precision.

    Raises:
        ValueError: It has.
    """
    for layer, other in layer_pairs(copy, model):
        same = layer.dtype_policy.name == other.dtype_policy.name
        if in_float32 and _mixed(other):
            same = not _mixed(layer)
        if type(layer) is not type(other) or layer.name != other.name or not same:
            raise ValueError(
                f"A copy of {model.name!r} has another layer than the model's "
                f"{other.name!r}: {_described(layer)}, not {_described(other)}."
            )
    for variable, other in variable_pairs(copy, model):
        ours, theirs = map(ops.convert_to_numpy, (variable, other))
        if ours.tobytes() != theirs.tobytes():
            raise ValueError(
                f"A copy of {model.name!r} has other values in {other.path!r} than the "
                "model."
            )


def check_answers(copy, model):
    """Refuses a copy that answers otherwise than the model, asked the same probe inputs.

    A model that cannot be probed is not asked. Neither changes.

    Args:
        copy, model: Built `keras.Model`s that take the same inputs.

    Raises:
        ValueError: They differ; the layer is named at which they first do.
    """
    if answers_differ(copy, model):
        where = _first_different_layer(copy, model)
        at = f", first at the layer {where!r}" if where else ""
        raise ValueError(
            f"A copy of {model.name!r} answers otherwise than the model itself{at}. Keras "
            "must save and load all that a layer's answers depend on: its `get_config`, "
            "its weights, and its `save_own_variables` and `save_assets`."
        )


def answers_differ(copy, model, rounded=False, inputs=None):
    """Whether two models answer differently.

    Args:
        copy, model: Built `keras.Model`s that take the same inputs.
        rounded: Whether one of them computes in the model's mixed precision, and the other
            does not.
        inputs: What they are asked, in the model's own structure; by default probe inputs.
    """
    inputs = probe_inputs(model) if inputs is None else inputs
    theirs = None if inputs is None else _answers(model, inputs)
    if theirs is None:
        return False
    tolerance = _tolerance(model, rounded)
    if _within(_answers(copy, inputs), theirs, tolerance):
        return False
    # Some draw numbers that no state of the model tells.
    return _within(_answers(model, inputs), theirs, tolerance)


def _mixed(layer):
    return "mixed_" in layer.dtype_policy.name


def _pairs(copy, model, what, of):
    ours, theirs = of(copy), of(model)
    if len(ours) != len(theirs):
        raise ValueError(
            f"A copy of {model.name!r} has other {what} than the model: {len(ours)}, not "
            f"{len(theirs)}. The constructors of its classes must make all of them."
        )
    return zip(ours, theirs, strict=True)


def _described(layer):
    return f"{layer.name!r} of type {type(layer).__name__} and {layer.dtype_policy.name}"


def _answers(model, inputs):
    """Outputs as a list of arrays, the model's state untouched; None if it has none."""
    try:
        # Not the variables themselves, which a strategy may hold several times.
        trainable, others = (
            [ops.convert_to_tensor(x) for x in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        outputs, _ = model.stateless_call(trainable, others, inputs, training=False)
        return [ops.convert_to_numpy(x) for x in tree.flatten(outputs)]
    except Exception:  # The model's own code, on inputs that are no data.
        return None


def _tolerance(model, rounded):
    types = {x.compute_dtype for x in model._flatten_layers()}
    epsilons = {"bfloat16": 2**-7, "float16": 2**-10}
    epsilon = max(epsilons.get(str(x), 2**-20) for x in types)
    return epsilon * (_ROUNDED if rounded else _SAME)


def _within(ours, theirs, tolerance):
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    return all(_close(*pair, tolerance) for pair in zip(ours, theirs, strict=True))


def _close(ours, theirs, tolerance):
    if ours.shape != theirs.shape:
        return False
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(theirs.dtype)):
        return np.array_equal(ours, theirs)
    ours, theirs = ours.astype("float64"), theirs.astype("float64")
    finite = np.isfinite(theirs)
    if not np.array_equal(finite, np.isfinite(ours)):
        return False
    scale = np.max(np.abs(theirs[finite]), initial=0)
    return bool(np.all(np.abs(ours - theirs)[finite] <= tolerance * scale))


def _first_different_layer(copy, model):
    """The name of the layer whose outputs first differ, or None."""
    inputs = probe_inputs(model)
    ours, theirs = _heard(copy, inputs), _heard(model, inputs)
    for (_, outputs), (name, others) in zip(ours, theirs, strict=False):
        if not _within(outputs, others, _tolerance(model, rounded=False)):
            return name
    return None


def _heard(model, inputs):
    """(name, outputs) of each call of an innermost layer, in order."""
    with listening(x for x in model._flatten_layers() if not x._layers) as heard:
        _answers(model, inputs)
    arrays = []
    for layer, outputs in heard:
        with contextlib.suppress(Exception):
            found = [ops.convert_to_numpy(x) for x in tree.flatten(outputs)]
            arrays.append((layer.name, found))
    return arrays
