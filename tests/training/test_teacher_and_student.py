"""Which models can be trained together."""

import keras
import numpy as np
import pytest

from keras_kd.training.teacher_and_student import check_models, check_peers


@pytest.mark.parametrize("unknown", [(None, 4), (3, None)])
def test_unknown_dimensions_fit_any(make_model, unknown):
    inputs = keras.Input(batch_shape=(unknown[0], unknown[1] or 4))
    student = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    check_models(make_model(), student)


def shared_norm(**arguments):
    return keras.layers.BatchNormalization(center=False, scale=False, **arguments)


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=(20, 4)))
    return layer


class Draws(keras.layers.Layer):
    """A layer of a user's own with a seed, and a count of its calls in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x, training=False):
        if not training:
            return x
        self.count.assign(self.count + 1)
        return x + keras.random.normal((4,), seed=self.seeds)


def frozen(layer):
    layer.trainable = False
    return layer


MOVED = {
    "statistics": shared_norm,
    "spectral": lambda: frozen(keras.layers.SpectralNormalization(keras.layers.Dense(4))),
    "own": Draws,
    "own, frozen": lambda: frozen(Draws()),
}
STILL = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "frozen statistics": lambda: frozen(shared_norm()),
    "adapted": adapted,
    "no dropout": lambda: keras.layers.Dropout(0.0),
    "frozen": lambda: frozen(keras.layers.Dense(4)),
}


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.shared, self.last = layer, keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.last(self.shared(x, training=training))


def functional(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))


def nested(layer):
    inputs = keras.Input((4,))
    return keras.Sequential([inputs, functional(layer), keras.layers.Dense(3)])


def unbuilt(layer):
    return keras.Sequential([layer, keras.layers.Dense(3)])


def subclassed(layer):
    model = Subclassed(layer)
    # Not every layer takes `training`.
    layer_call = layer.__class__.call
    if "training" not in layer_call.__code__.co_varnames:
        model.call = lambda x, training=None: model.last(layer(x))
    model(np.zeros((1, 4)))
    return model


@pytest.mark.parametrize("make", [functional, nested, subclassed, unbuilt])
@pytest.mark.parametrize("kind", [*MOVED, *STILL])
def test_state_that_training_moves_is_not_shared(kind, make):
    layer = (MOVED | STILL)[kind]()
    teacher, student = functional(layer), make(layer)
    before = [keras.ops.convert_to_numpy(v) for v in teacher.variables]
    if kind in MOVED:
        with pytest.raises(ValueError, match="state training changes.*Shared: .*/"):
            check_models(teacher, student)
        with pytest.raises(ValueError, match="share state that training changes"):
            check_peers(functional(layer), student)
    else:
        check_models(teacher, student)
        check_peers(functional(layer), student)
    # It was only looked at.
    for value, v in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(value, v)
