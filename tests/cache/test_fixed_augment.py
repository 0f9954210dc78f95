"""What hangs on chance, on company or on time is no augmentation of a cache."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.cache.fixed_augment import fix_augment

IMAGES = np.random.default_rng(0).random((20, 6, 6, 1)).astype("float32")
RNG = np.random.default_rng(1)
LAYERS = [keras.layers.RandomBrightness(0.5, value_range=(0, 1), seed=x) for x in (1, None)]
STRENGTH = {"value": tf.Variable(2.0), "calls": 0}


def count(x):
    STRENGTH["calls"] += 1
    return x + STRENGTH["calls"]


RANDOM = {
    "flip": lambda x: tf.image.random_flip_left_right(x),
    "flip with a seed": lambda x: tf.image.random_flip_left_right(x, seed=1),
    "brightness": lambda x: tf.image.random_brightness(x, 0.1),
    "coin": lambda x: tf.cond(tf.random.uniform(()) < 0.5, lambda: x, lambda: x + 1),
    "layer with a seed": lambda x: LAYERS[0](x, training=True),
    "layer": lambda x: LAYERS[1](x, training=True),
    "NumPy": lambda x: x + np.float32(np.random.normal()),
    "Python": lambda x: x + random.random(),
    "function of NumPy": lambda x: tf.ensure_shape(
        tf.numpy_function(lambda y: y + np.float32(RNG.random()), [x], tf.float32), x.shape
    ),
    "counter": count,
}
TOGETHER = {
    "mean": lambda x: x - tf.reduce_mean(x),
    "neighbour": lambda x: (x + tf.roll(x, 1, 0)) / 2,
    "order": lambda x: tf.random.experimental.stateless_shuffle(x, [1, 2]),
    "place": lambda x: tf.image.stateless_random_brightness(x, 0.1, [1, 2])
    + tf.random.stateless_uniform(tf.shape(x), [1, 2]),
}


def fix(augment, views=1):
    return fix_augment(augment, IMAGES, views, seed=0)


def of_inputs(function):
    return lambda inputs, indices, view, seed: function(inputs)


@pytest.mark.parametrize("name", RANDOM)
def test_chance_is_refused(name):
    with pytest.raises(ValueError, match="`augment` must be a function of its arguments"):
        fix(of_inputs(RANDOM[name]))


@pytest.mark.parametrize("name", TOGETHER)
def test_company_is_refused(name):
    with pytest.raises(ValueError, match="`augment` must make the view of an example of"):
        fix(of_inputs(TOGETHER[name]))


@pytest.mark.parametrize("name", ["flip", "mean"])
@pytest.mark.parametrize("path", [None, "cache"])
def test_a_cache_blames_augment(tmp_path, path, name):
    layers = [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    augment = of_inputs((RANDOM | TOGETHER)[name])
    with pytest.raises(ValueError, match="`augment` must .* Received: of_inputs"):
        kd.cache_teacher(
            keras.Sequential(layers),
            (IMAGES, np.zeros(20)),
            path and tmp_path / path,
            augment=augment,
            verbose=0,
        )


def test_later_views_are_looked_at():
    def augment(inputs, indices, view, seed):
        random = tf.image.random_brightness(inputs, 0.1)
        return tf.where(view[:, None, None, None] == 0, inputs, random)

    fix(augment, views=1)
    with pytest.raises(ValueError, match="function of its arguments"):
        fix(augment, views=4)


def test_each_row_has_its_own_view():
    def augment(inputs, indices, view, seed):
        return inputs + tf.cast(view[0], tf.float32)

    with pytest.raises(ValueError, match="of its row of `indices` and of `view`"):
        fix(augment, views=3)


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda x: x[::2], r"one view of each example.*\(8, 6, 6, 1\) of 16"),
        (lambda x: tf.reduce_sum(x), "one view of each example"),
        (lambda x: x * STRENGTH["value"], "which reads the variables"),
    ],
)
def test_other_results_are_refused(function, reason):
    with pytest.raises(ValueError, match=reason):
        fix(of_inputs(function))


@pytest.mark.parametrize(
    "augment",
    [
        of_inputs(lambda x: x),
        of_inputs(lambda x: tf.cast(255 * x, tf.uint8)),
        of_inputs(lambda x: x * np.nan),
        lambda x, indices, view, seed: x
        + tf.cast(indices + 100 * view + seed, tf.float32)[:, None, None, None],
        lambda x, indices, view, seed: tf.map_fn(
            lambda e: tf.image.stateless_random_brightness(e[0], 0.5, e[1]),
            (x, tf.stack([indices, view], 1)),
            fn_output_signature=tf.float32,
        ),
        kd.augment.Deform(),
    ],
    ids=["same", "bytes", "nan", "numbers", "drawn for each", "Deform"],
)
def test_functions_of_the_arguments_are_taken(augment):
    fixed = fix(augment, views=3)
    rows, view = np.array([3, 17, 4]), np.array([2, 0, 1])
    numbers = (tf.constant(rows), tf.constant(view))
    expected = augment(tf.constant(IMAGES[rows]), *numbers, 0)
    found = fixed(tf.constant(IMAGES[rows]), *numbers, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_a_function_reads_is_fixed_and_shapes_stay_known():
    read = {"factor": 2.0}
    fixed = fix(of_inputs(lambda x: read["factor"] * x))
    read["factor"] = 3.0

    @tf.function
    def in_graph(inputs, numbers):
        found = fixed(inputs, numbers, numbers, 0)
        assert found.shape == (4, 6, 6, 1)
        return found

    found = in_graph(IMAGES[:4], np.arange(4))
    np.testing.assert_allclose(found, 2 * IMAGES[:4])


def test_inputs_in_a_dict():
    first = {"a": IMAGES, "b": (IMAGES[:, 0],)}
    fixed = fix_augment(of_inputs(lambda x: x | {"a": x["a"] + 1}), first, 1, 0)
    numbers = tf.range(20, dtype=tf.int64)
    found = fixed(tf.nest.map_structure(tf.constant, first), numbers, numbers, 0)
    np.testing.assert_allclose(found["a"], IMAGES + 1)
