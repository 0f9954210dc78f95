"""Images of files, decoded when they are asked for."""

import hashlib

import numpy as np
import tensorflow as tf

from keras_kd.data.rows import Rows

# What TensorFlow decodes rightly; of a BMP it leaves the palette out.
SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageFiles(Rows):
    """Images in files as uint8 (n, height, width, channels), none of them in memory.

    Of another size an image is cut to the shape that is wanted, about its middle, and
    scaled with the edges of pixels smoothed (antialiased).

    Args:
        paths: A list of n.
        image_size: (height, width).
        channels: 1 or 3.
        digests: Hexadecimal strings that tell the files' bytes, a list of n.
    """

    dtype = np.dtype("uint8")

    def __init__(self, paths, image_size, channels, digests):
        self.paths, self.digests = list(map(str, paths)), list(digests)
        self.shape = (len(self.paths), *image_size, channels)
        with tf.device("CPU:0"):
            self._paths = tf.constant(self.paths)

    def gather(self, rows):
        return tf.map_fn(
            self._read,
            tf.gather(self._paths, rows),
            fn_output_signature=tf.TensorSpec(self.shape[1:], tf.uint8),
            parallel_iterations=16,
        )

    def part(self, rows):
        paths, digests = ([x[row] for row in rows] for x in (self.paths, self.digests))
        return ImageFiles(paths, self.shape[1:3], self.shape[3], digests)

    def digest(self):
        text = "\n".join([str(self.shape), *self.digests])
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, path):
        image = decode(tf.io.read_file(path), self.shape[3])
        return fitted(image, self.shape[1:3])


def decode(content, channels=0):
    """An image of uint8 (height, width, channels) of a file's bytes."""
    return tf.io.decode_image(content, channels=channels, expand_animations=False)


def fitted(image, image_size):
    """An image in another size, cut to its shape, bytes (height, width, channels)."""
    height, width = image_size
    size = tf.shape(image)[:2]

    def scaled():
        # As large a part of the middle as has the shape.
        scale = tf.reduce_min(tf.cast(size, tf.float64) / [height, width])
        part = tf.cast(tf.round(scale * tf.constant([height, width], tf.float64)), tf.int32)
        part = tf.clip_by_value(part, 1, size)
        start = (size - part) // 2
        cut = tf.slice(image, [start[0], start[1], 0], [part[0], part[1], -1])
        made = tf.image.resize(cut, image_size, antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(made), 0, 255), tf.uint8)

    same = tf.reduce_all(size == [height, width])
    return tf.ensure_shape(
        tf.cond(same, lambda: image, scaled), (height, width, image.shape[-1])
    )
