"""Examples that are read when they are asked for train as arrays do."""

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.data import batches, scale
from keras_kd.data.rows import Rows, digest, select

X = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), "uint8")
Y = np.arange(40) % 3


class Table(Rows):
    """Rows of an array, which counts those that were read."""

    dtype = X.dtype

    def __init__(self, array):
        self._array, self.shape = array, array.shape
        self.most = tf.Variable(0, trainable=False)

    def gather(self, rows):
        self.most.assign(tf.maximum(self.most, tf.size(rows)))
        return tf.gather(self._array, rows)

    def part(self, rows):
        return Table(self._array[rows])

    def digest(self):
        return digest(self._array)


def test_they_are_read_as_an_array_is():
    rows = Table(X)
    assert len(rows) == 40 and rows.ndim == 4
    for key in (3, -1, slice(2, 9, 3), np.array([5, 5, 0])):
        np.testing.assert_array_equal(rows[key], X[key])
    np.testing.assert_array_equal(select(rows, [4, 2])[:], select(X, [4, 2]))
    scaled = scale(rows)
    assert scaled.dtype == np.float32 and scaled.shape == X.shape
    np.testing.assert_array_equal(scaled[:], scale(X))
    np.testing.assert_array_equal(scaled.part(np.array([7]))[0], scale(X)[7])
    assert digest(rows) == digest(X) == scaled.digest() != digest(X[::-1])


def test_batches_are_those_of_the_array():
    for (x, y), (a, b) in zip(
        batches(Table(X), Y, 7, shuffle=True, seed=3),
        batches(X, Y, 7, shuffle=True, seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


def test_a_cache_takes_them_and_reads_no_more_than_a_batch(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    teacher, rows = keras.Sequential(layers), Table(X)
    settings = {"dtype": "float32", "batch_size": 8, "verbose": 0}
    for folder in ({}, {"path": tmp_path / "cache"}, {"path": tmp_path / "cache"}):
        found = kd.cache_teacher(teacher, (scale(rows), Y), **settings, **folder)
        same = kd.cache_teacher(teacher, (scale(X), Y), **settings)
        pair = (x.shuffle(40, seed=1).batch(8) for x in (found, same))
        for one, other in zip(*pair, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)
    assert rows.most.numpy() == 8
    numbered = kd.with_index((scale(rows), Y)).batch(8)
    assert sum(1 for _ in numbered) == 5
