"""What a model answers where there are no labels."""

import keras
import numpy as np

from keras_kd.evaluation.asking import Asking
from keras_kd.tasks.find import ACTIVATIONS
from keras_kd.tasks.heads import alone


def answer_shape(model, x):
    """The shape of the model's answer to one example, a tuple.

    Args:
        model: A `keras.Model` with one output.
        x: Its inputs, of which the first is asked where the model does not say it.
    """
    shape = getattr(model, "output_shape", None)
    if isinstance(shape, tuple) and None not in shape[1:]:
        return shape[1:]
    answer = alone(model(keras.ops.convert_to_tensor(x[:1]), training=False))
    # A function may give a number for each example.
    return tuple(answer.shape[1:]) or (1,)


def linked_answers(model, x, task, batch_size=64):
    """Yields the model's answers to each batch of inputs, a `keras_kd.tasks.task.Linked`.

    Args:
        model: A `keras.Model` with one output.
        x: Its inputs, an array or `keras_kd.data.rows.Rows`.
        task: What the output means, a key of `keras_kd.tasks.find.ACTIVATIONS`.
        batch_size: Examples that are asked at once.

    Raises:
        ValueError: The model does not take the inputs, or answers with what is not finite.
    """
    # None of them is looked at.
    shape = _label_shape(model, x, task)
    asking = Asking(model, None, None, "examples", task, None, False)
    for first in range(0, len(x), batch_size):
        batch = x[first : first + batch_size]
        labels = np.zeros((len(batch), *shape), "int64")
        for _, answers, _ in asking.answers([(batch, labels)]):
            yield answers


def decisions(model, x, task, batch_size=64):
    """What a model answers, in the form of labels of its task.

    Args:
        model, x, task, batch_size: As `linked_answers` takes them.

    Returns:
        Class numbers, int64 (n, ...); of each unit yes (1) or no (0), uint8
        (n, ..., size); or values, float32.
    """
    dtype = {"softmax": "int64", "sigmoid": "uint8", None: "float32"}[ACTIVATIONS[task]]
    found = [np.asarray(a.decided) for a in linked_answers(model, x, task, batch_size)]
    shape = _label_shape(model, x, task)
    return np.concatenate(found).astype(dtype).reshape(len(x), *shape)


def _label_shape(model, x, task):
    """Of one example: of classes there is one label for all units, else one for each."""
    shape = answer_shape(model, x)
    return shape[:-1] if ACTIVATIONS[task] == "softmax" else shape
