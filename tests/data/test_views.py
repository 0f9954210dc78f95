"""Views that are made once."""

import numpy as np
import tensorflow as tf

from keras_kd.data.augmentation import Deform
from keras_kd.data.views import stored_views


def test_they_are_the_views_of_the_augmentation_in_bytes():
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), "uint8")
    augment = Deform(shift=1.0)
    stored = stored_views(images, augment, views=3, seed=5, batch_size=3)
    indices, view = tf.constant([6, 0, 3], tf.int64), tf.constant([2, 0, 1], tf.int64)
    inputs = tf.constant(images, tf.float32) / 255.0
    expected = augment(tf.gather(inputs, indices), indices, view, seed=5).numpy()
    found = stored(None, indices, view, seed=5).numpy()
    assert np.max(np.abs(found - expected)) <= 0.5001 / 255
    np.testing.assert_array_equal(np.round(found * 255) / np.float32(255), found)
    one = stored(None, indices, tf.constant(1, tf.int64), seed=5)
    np.testing.assert_array_equal(one[2], found[2])


def test_overshoot_does_not_wrap_around():
    def brighter(inputs, indices, view, seed):
        return inputs * 2.0 - 0.5

    images = np.array([[[[0]]], [[[255]]]], "uint8")
    stored = stored_views(images, brighter, views=1, seed=0)
    found = stored(None, tf.constant([0, 1], tf.int64), tf.constant(0, tf.int64), 0)
    assert found.numpy().ravel().tolist() == [0.0, 1.0]
