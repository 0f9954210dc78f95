"""Mends the biases of classes that the transfer set lacked, or had too much of.

A student distilled without examples of a class knows it from the teacher's soft targets,
but answers it too rarely; one number added to that class's bias mends most of it.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 3.
"""

import dataclasses

import keras
import numpy as np

from keras_kd.losses.arguments import is_finite_number
from keras_kd.models.copies import copy_model
from keras_kd.models.taps import find_layer, logits_layer


@dataclasses.dataclass(frozen=True)
class BiasShift:
    """A number to add to the logits of some classes.

    Attributes:
        classes: The classes, a tuple.
        value: The number.
        errors: How many errors are left with it, on the examples it was found on.
    """

    classes: tuple
    value: float
    errors: int


def best_shift(predictions, classes):
    """The number that, added to the logits of the given classes, leaves fewest errors.

    It is exact: an example's answer changes only where the number makes up for what its
    best other class is ahead of its best given class, so all numbers between two
    neighbouring ones of these are equally good. Of the best interval the middle is taken,
    of several such the one whose middle is nearest to 0, then the lesser. An interval
    without end gives 0 if that is in it, else the number 1 from its end.

    The answer is for the examples it is found on: found on test examples, as in the paper,
    it makes the test errors look fewer than those of other examples will be.

    Args:
        predictions: `keras_kd.evaluation.predictions.Predictions` on labelled examples.
        classes: Class numbers, one or more, but not all of the model's.

    Returns:
        A `BiasShift`.

    Raises:
        ValueError: `classes` holds something else.
    """
    scores, labels = predictions.log_probs.astype("float64"), predictions.labels
    given = np.zeros(scores.shape[1], dtype=bool)
    classes = _check_classes(classes, len(given))
    given[list(classes)] = True
    best_given, given_right = _best(scores, labels, np.flatnonzero(given))
    best_other, other_right = _best(scores, labels, np.flatnonzero(~given))
    # One that is wrong either way has no say.
    counts = given_right != other_right
    behind = (best_other - best_given)[counts]
    ends, places = np.unique(behind, return_inverse=True)
    # Errors in the interval below the first end, then what passing each end changes.
    change = np.bincount(places, weights=np.where(given_right[counts], -1, 1))
    errors = np.sum(~other_right) + np.concatenate([[0], np.cumsum(change)])
    edges = np.concatenate([[-np.inf], ends, [np.inf]])
    best = np.flatnonzero(errors == errors.min())
    middles = [_middle(edges[i], edges[i + 1]) for i in best]
    value = min(middles, key=lambda x: (abs(x), x))
    return BiasShift(classes, float(value), int(errors.min()))


def _best(scores, labels, classes):
    """Of these classes each example's largest score, and whether it is the label's."""
    places = np.argmax(scores[:, classes], axis=1)
    return scores[np.arange(len(labels)), classes[places]], classes[places] == labels


def _middle(low, high):
    if np.isfinite(low) and np.isfinite(high):
        return (low + high) / 2
    if low < 0 < high:
        return 0.0
    return low + 1 if np.isfinite(low) else high - 1


def with_shift(model, shift):
    """A copy of a model, a number added to the biases of some of its classes.

    Args:
        model: A Functional or Sequential model whose logits are a Dense layer's.
        shift: A `BiasShift`, as `best_shift` finds it.

    Returns:
        A `keras.Model`; `model` is left as it is.

    Raises:
        ValueError: The logits are made otherwise, without biases or with an activation
            other than a softmax, or the model has no such class.
    """
    name, _ = logits_layer(model)
    layer = find_layer(model, name)
    plain = (keras.activations.linear, keras.activations.softmax)
    if layer.bias is None or layer.activation not in plain:
        raise ValueError(
            f"The layer {name!r} of {model.name!r} must have biases, and no activation or "
            f"a softmax. Received: use_bias={layer.bias is not None}, activation="
            f"{keras.activations.serialize(layer.activation)!r}."
        )
    classes = list(_check_classes(shift.classes, layer.units))
    if not is_finite_number(shift.value):
        raise ValueError(f"`shift` must be a finite number. Received: {shift.value!r}.")
    copy = copy_model(model)
    bias = find_layer(copy, name).bias
    values = keras.ops.convert_to_numpy(bias).copy()
    values[classes] += shift.value
    bias.assign(values)
    return copy


def _check_classes(classes, count):
    """Class numbers as a sorted tuple; else a ValueError."""
    found = np.unique(np.asarray(classes))
    is_integer = np.issubdtype(found.dtype, np.integer)
    if not is_integer or not 1 <= len(found) < count or found[0] < 0 or found[-1] >= count:
        raise ValueError(
            f"`classes` must be some of the model's class numbers, 0 to {count - 1}, and "
            f"not all of them. Received: {classes!r}."
        )
    return tuple(found.tolist())
