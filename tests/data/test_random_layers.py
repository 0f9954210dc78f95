"""Keras's random image layers as pure functions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data import random_layers as module
from keras_kd.data.augmentation import RandomLayers

INDICES = np.arange(100, 112)
LAYERS = {
    "Brightness": {"factor": 0.3, "value_range": (0, 1)},
    "ColorDegeneration": {"factor": 0.5, "value_range": (0, 1)},
    "Contrast": {"factor": 0.5, "value_range": (0, 1)},
    "Crop": {"height": 6, "width": 5},
    "Erasing": {"factor": 1.0, "value_range": (0, 1)},
    "Flip": {},
    "Grayscale": {},
    "Hue": {"factor": 0.5, "value_range": (0, 1)},
    "Invert": {"factor": 0.5, "value_range": (0, 1)},
    "Perspective": {"factor": 1.0, "scale": 0.5},
    "Rotation": {"factor": 0.1},
    "Sharpness": {"factor": 0.5, "value_range": (0, 1)},
    "Translation": {"height_factor": 0.2, "width_factor": 0.2},
    "Zoom": {"height_factor": 0.3},
}


def random_layers(names=("Flip", "Rotation")):
    return RandomLayers([getattr(keras.layers, f"Random{x}")(**LAYERS[x]) for x in names])


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_is_pure_and_draws(name, images):
    augment = random_layers([name])
    same = np.repeat(images[:1], 12, axis=0)
    eager = augment(same, INDICES, 3, 0).numpy()
    graph = tf.function(lambda x, i: augment(x, i, 3, 0))
    np.testing.assert_array_equal(graph(tf.constant(same), INDICES), eager)
    assert len({image.tobytes() for image in eager}) > 1


def test_every_accepted_layer_is_tested():
    assert {f"Random{x}" for x in LAYERS} == {x.__name__ for x in module._LAYERS}


def test_flips_are_fair():
    ramp = np.broadcast_to(np.arange(4, dtype="float32")[:, None], (400, 1, 4, 1))
    augment = RandomLayers(keras.layers.RandomFlip("horizontal", seed=3))
    first = augment(ramp, np.arange(400), 0, 0)[:, 0, 0, 0]
    assert set(first.numpy()) == {0, 3}
    assert 160 < np.count_nonzero(first) < 240


def test_layers_draw_independently():
    ramp = np.broadcast_to(np.arange(4, dtype="float32")[:, None], (200, 1, 4, 1))
    twice = RandomLayers([keras.layers.RandomFlip("horizontal")] * 2)
    # Two flips that always agreed would undo each other.
    changed = twice(ramp, np.arange(200), 0, 0)[:, 0, 0, 0] != 0
    assert 70 < np.count_nonzero(changed) < 130


def test_the_given_layer_keeps_its_state(images):
    layer = keras.layers.RandomFlip(seed=3)
    state = layer.generator.state.numpy()
    RandomLayers(layer)(images, INDICES, 3, 0)
    np.testing.assert_array_equal(layer.generator.state, state)


@pytest.mark.parametrize(
    "layers",
    [
        keras.layers.MixUp(),
        keras.layers.RandAugment(),
        keras.layers.Dense(1),
        keras.layers.RandomFlip,
        [keras.layers.RandomFlip(), None],
        [],
    ],
)
def test_layers_that_are_no_function_of_one_image(layers):
    with pytest.raises(ValueError, match="`layers` must be one or more of .*RandomFlip"):
        RandomLayers(layers)
