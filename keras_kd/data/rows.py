"""Examples that are read when they are asked for, by their numbers."""

import abc
import functools
import hashlib
import math

import numpy as np
import tensorflow as tf


class Rows(abc.ABC):
    """Examples in a fixed order, of one shape, that need not be in memory.

    They stand where an array (examples, ...) could: `kd.cache_teacher`, `kd.with_index` and
    `keras_kd.data.batches` shuffle their numbers, and read those of a batch alone.

    Attributes:
        shape: (examples, ...), as of an array.
        dtype: A NumPy dtype.
    """

    shape: tuple
    dtype: np.dtype

    @abc.abstractmethod
    def gather(self, rows):
        """The examples of these numbers, a tensor (batch, ...); in a graph, too.

        Args:
            rows: int64 tensor (batch,).
        """

    @abc.abstractmethod
    def part(self, rows):
        """`Rows` of these alone.

        Args:
            rows: Integers (n,), NumPy; each as often as it is there.
        """

    @abc.abstractmethod
    def digest(self):
        """What tells these examples from others, a string of hexadecimal digits."""

    def __len__(self):
        return self.shape[0]

    def mapped(self, function, dtype):
        """The same through a function of a batch, `Rows` of another dtype.

        Args:
            function: Of tensors (batch, ...), gives a tensor of the same shape, in a graph.
            dtype: What it gives.
        """
        return _Mapped(self, function, np.dtype(dtype))

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def nbytes(self):
        """What the examples would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows):
        """As of a NumPy array, for one number, a slice, or an array of numbers."""
        numbers = np.arange(len(self))[rows]
        found = self._compiled(tf.constant(np.atleast_1d(numbers), tf.int64)).numpy()
        return found if np.ndim(numbers) else found[0]

    @functools.cached_property
    def _compiled(self):
        # Eagerly each of a batch would be read from Python, at a fiftieth of the speed.
        numbers = tf.TensorSpec([None], tf.int64)
        return tf.function(self.gather, input_signature=[numbers])


class _Mapped(Rows):
    """What a function makes of other rows, batch by batch."""

    def __init__(self, rows, function, dtype):
        self._rows, self._function = rows, function
        self.shape, self.dtype = rows.shape, dtype

    def gather(self, rows):
        return self._function(self._rows.gather(rows))

    def _compiled(self, rows):
        # TensorFlow rounds a division otherwise in a graph.
        return self._function(self._rows._compiled(rows))

    def part(self, rows):
        return _Mapped(self._rows.part(rows), self._function, self.dtype)

    def digest(self):
        return self._rows.digest()


def constant(x):
    """An array as a tensor on the host; `Rows` as they are."""
    if isinstance(x, Rows):
        return x
    # Whole on the GPU it would have to come back for every batch.
    with tf.device("CPU:0"):
        return tf.constant(x)


def gather(x, rows):
    """The rows of these numbers, of a tensor or of `Rows`."""
    return x.gather(rows) if isinstance(x, Rows) else tf.gather(x, rows)


def as_array(x):
    """`Rows` as they are, anything else as a NumPy array."""
    return x if isinstance(x, Rows) else np.asarray(x)


def spread(count, most):
    """Numbers of at most `most` of `count` examples, evenly apart, the first and the last.

    A user's own come class by class, so that the first of them are of one class.
    """
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def select(x, rows):
    """The examples of these numbers, NumPy integers, of an array or of `Rows`."""
    return x.part(np.asarray(rows)) if isinstance(x, Rows) else x[rows]


def digest(x):
    """What tells an array's, or `Rows`', examples from others."""
    return x.digest() if isinstance(x, Rows) else hashlib.sha256(x.tobytes()).hexdigest()
