"""Views of images, made once."""

import numpy as np
import tensorflow as tf

from keras_kd.data.pipeline import scale


def stored_views(images, augment, views, seed, batch_size=1000):
    """An augmentation whose views are made now, and kept in memory as bytes.

    A student of few layers takes less time for a batch than the batch's deformation does.
    Pixels are rounded to the 256 values of bytes, for teacher and student alike.

    Args:
        images: uint8, (n, height, width, channels).
        augment, views, seed: As `keras_kd.cache_teacher` takes them; `augment` gets images
            in [0, 1] and leaves their size as it is.
        batch_size: How many images are deformed at once.

    Returns:
        A function of (inputs, indices, view, seed) like `augment`, which reads nothing but
        the numbers; view must be less than `views`. It holds views * n images.
    """
    count = len(images)
    stored = np.empty((views * count, *images.shape[1:]), "uint8")

    @tf.function
    def make(inputs, indices, view):
        bytes_ = tf.round(255.0 * augment(scale(inputs), indices, view, seed))
        return tf.cast(tf.clip_by_value(bytes_, 0.0, 255.0), tf.uint8)

    for view in tf.range(views, dtype=tf.int64):
        for first in range(0, count, batch_size):
            batch = images[first : first + batch_size]
            numbers = tf.range(first, first + len(batch), dtype=tf.int64)
            start = int(view) * count + first
            stored[start : start + len(batch)] = make(tf.constant(batch), numbers, view)
    with tf.device("CPU:0"):
        stored = tf.constant(stored)

    def look_up(inputs, indices, view, seed):
        return scale(tf.gather(stored, view * count + indices))

    return look_up
