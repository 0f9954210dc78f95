"""Steps are traced once; that training is Keras's own is shown in other files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.chain.stage import _LabelsAlone

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def two_outputs():
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"}
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("steps", [None, 1])
@pytest.mark.parametrize(
    "kind", ["Distiller", "MutualDistiller", "labels alone", "two outputs"]
)
def test_a_step_is_traced_once(make_model, vectors, monkeypatch, kind, steps):
    one, other = make_model(), make_model()
    model = {
        "Distiller": lambda: kd.Distiller(one, other, "kd"),
        "MutualDistiller": lambda: kd.MutualDistiller({"one": one, "other": other}),
        "labels alone": lambda: _LabelsAlone(one),
        "two outputs": lambda: _LabelsAlone(two_outputs()),
    }[kind]()
    x, y = vectors
    y, metrics = ({"a": y, "b": y}, None) if kind == "two outputs" else (y, ["accuracy"])
    traced = []

    def compute_metrics(*args, **kwargs):
        traced.append(not tf.executing_eagerly())
        return type(model).compute_metrics(model, *args, **kwargs)

    monkeypatch.setattr(model, "compute_metrics", compute_metrics)
    model.compile("adam", LOSS, metrics=metrics, steps_per_execution=steps)
    model.evaluate(x, y, verbose=0)
    assert traced == [True]
    model.fit(x, y, validation_data=(x, y), verbose=0)
    assert traced == [True] * 2
    # Anew, with what is not compiled.
    model.compile("adam", LOSS, metrics=metrics, steps_per_execution=steps)
    model.fit(x, y, verbose=0)
    assert traced == [True] * 3


class HalfBuilt(keras.Model):
    """It says that it is built, and one of its layers is not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(3)
        self.first.build((None, 4))
        self.built = True

    def call(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(
    "make",
    [HalfBuilt, lambda: keras.Sequential([keras.layers.Dense(3)])],
    ids=["half built", "unbuilt"],
)
def test_what_is_not_known_before_is_made_in_the_step(vectors, make):
    model = _LabelsAlone(make())
    model.compile("adam", LOSS)
    model.fit(*vectors, verbose=0)
    # Adam has two of its own, and two for each weight.
    assert len(model.optimizer.variables) == 2 + 2 * len(model.student.trainable_weights)
    assert all(np.any(x) for x in model.student.get_weights())
