"""What a model answers where there are no labels."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.evaluation.unlabelled import answer_shape, decisions, linked_answers

X = np.random.default_rng(0).normal(size=(70, 4)).astype("float32")


def outputs(activation=None, positions=()):
    """The inputs themselves, as the outputs of one or more positions."""
    layers = [keras.Input((4,)), keras.layers.Activation(activation or "linear")]
    layers += [keras.layers.Reshape((*positions, -1))] if positions else []
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    "model, task, expected",
    [
        (outputs(), "multiclass", X.argmax(axis=1)),
        (outputs("softmax"), "multiclass", X.argmax(axis=1)),
        (outputs(None, (2,)), "multiclass", X.reshape(70, 2, 2).argmax(axis=-1)),
        (outputs("sigmoid"), "multilabel", X > 0),
        (outputs(None, (4,)), "binary", (X > 0)[..., None]),
        (outputs(), "regression", X),
    ],
)
def test_decisions_are_labels_of_the_task(model, task, expected):
    found = decisions(model, X, task)
    kinds = {"multiclass": "int64", "regression": "float32"}
    assert found.dtype == kinds.get(task, "uint8")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_probabilities_and_logits_are_told_apart(activation):
    log_probs = np.concatenate(
        [x.values[:, 0] for x in linked_answers(outputs(activation), X, "multiclass")]
    )
    shifted = X.astype("float64") - X.max(axis=1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_the_shape_of_a_functions_answer():
    def answer(x):
        return np.zeros((len(x), 7))

    function = kd.teachers.from_function(answer, name="f", version="1")
    one = kd.teachers.from_function(lambda x: answer(x)[:, 0], name="g", version="1")
    assert answer_shape(function, X) == (7,)
    assert answer_shape(one, X) == (1,)
    assert answer_shape(outputs(), X) == (4,)
