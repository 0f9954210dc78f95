"""Augmentation as a pure function of (example, view, seed).

Teacher and student must see the same crop of the same image (Beyer et al. 2022, "Knowledge
distillation: A good teacher is patient and consistent", https://arxiv.org/abs/2106.05237),
and what the teacher said of K views can be kept and replayed (Shen, Xing 2022, "A Fast
Knowledge Distillation Framework for Visual Recognition", https://arxiv.org/abs/2112.01528).
So every random number here is a hash of the seed, the example's index, the number of the
view and the number of the draw; there is no state.
"""

import abc
import numbers

import keras
import numpy as np
import tensorflow as tf

# SplitMix64's increment (2**64 over the golden ratio, odd).
_GAMMA = 0x9E3779B97F4A7C15


def _mix(x):
    """SplitMix64's finaliser: uint64 to uint64, one to one, each bit hangs on all."""
    # Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, shifted(x, shift)) * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, shifted(x, 31))


def shifted(x, shift):
    return tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64))


def _fold(key, number):
    """A new key of an old one and an int64 tensor."""
    return _mix(_mix(key) + tf.bitcast(number, tf.uint64) * tf.constant(_GAMMA, tf.uint64))


def random_bits(keys, count, first=0):
    """Words first, first + 1, ... of every example, each of 64 random bits.

    Args:
        keys: uint64, (batch,), as `Augmentation.transform` receives them.
        count: Words per example.
        first: Number of the first; word j is a function of the key and of j alone.

    Returns:
        uint64, (batch, count).
    """
    steps = [(j + 1) * _GAMMA % 2**64 for j in range(first, first + count)]
    return _mix(keys[:, None] + tf.constant(np.array(steps, "uint64")))


class Augmentation(abc.ABC):
    """Random images of an example that depend on (example, view, seed) and nothing else.

    Not on the batch the example is in, its place there, eager or graph, or what ran
    before: called twice, the bits are the same. A final class writes
    `transform(images, keys)` and `get_config`.
    """

    def __call__(self, inputs, indices, view, seed):
        """One view of each image.

        Args:
            inputs: Images, (batch, height, width, channels), floats or uint8. They are
                cast to float32, not rescaled, as in Keras's own image layers.
            indices: Integers, (batch,): the number of each example in its data set.
            view: Integer scalar, or integers (batch,): which view of the example.
            seed: Python integer; another seed gives other views.

        Returns:
            float32 images, as many; of the same size, unless a `RandomCrop` changes it.

        Raises:
            ValueError: A rank, dtype or length does not fit, or `seed` is no integer.
            tf.errors.InvalidArgumentError: A length known only in a running graph.
        """
        inputs = tf.convert_to_tensor(inputs)
        is_image = inputs.dtype.is_floating or inputs.dtype == tf.uint8
        if inputs.shape.rank != 4 or not is_image:
            raise ValueError(
                "`inputs` must be (batch, height, width, channels), floats or uint8. "
                f"Received: shape {inputs.shape}, dtype {inputs.dtype.name}."
            )
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
            raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}.")
        indices = _integers("indices", indices, inputs, ranks=(1,))
        view = _integers("view", view, inputs, ranks=(0, 1))
        key = tf.constant(int(seed) % 2**64, tf.uint64)
        for number in (indices, view):
            key = _fold(key, number)
        return self.transform(tf.cast(inputs, tf.float32), key)

    @abc.abstractmethod
    def transform(self, images, keys):
        """Images under the random numbers of their keys.

        Args:
            images: float32, (batch, height, width, channels).
            keys: uint64, (batch,); `random_bits` makes random numbers of them.
        """

    @abc.abstractmethod
    def get_config(self):
        """The constructor's arguments, as Keras serialises them."""

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def _integers(name, values, inputs, ranks):
    """`values` as int64, one for each image; a scalar is left a scalar."""
    values = tf.convert_to_tensor(values)
    lengths = (inputs.shape[0], values.shape[0] if values.shape.rank else None)
    if (
        not values.dtype.is_integer
        or values.shape.rank not in ranks
        or (None not in lengths and lengths[0] != lengths[1])
    ):
        scalar = "one integer or " if 0 in ranks else ""
        raise ValueError(
            f"`{name}` must be {scalar}an integer for each image, (batch,). Received: "
            f"{name} of shape {values.shape}, dtype {values.dtype.name}, with inputs of "
            f"shape {inputs.shape}."
        )
    if values.shape.rank == 1 and None in lengths:
        # One index would otherwise serve a whole batch by broadcasting.
        same_length = tf.debugging.assert_equal(
            tf.shape(values)[0],
            tf.shape(inputs)[0],
            message=f"`{name}` must be as long as the batch of `inputs`.",
        )
        # A graph would otherwise be free to use them before they are checked.
        with tf.control_dependencies([same_length]):
            values = tf.identity(values)
    return tf.cast(values, tf.int64)
