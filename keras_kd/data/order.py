"""Training data in an order that hangs on a seed alone, and that can be gone on with."""

import functools

import keras
import numpy as np
from keras import tree

from keras_kd.evaluation.labelled import BATCH_SIZE


def in_order(data, seed, steps=None):
    """Data that `fit` would shuffle, shuffled by a seed.

    Args:
        data: What `fit` takes as x; of arrays x, (x, y) or (x, y, sample_weight). A
            `tf.data.Dataset` shuffles itself, or does not.
        seed: list of integers.
        steps: `steps_per_epoch`; None: an epoch is one pass.

    Returns:
        Arrays as batches of 32, as Keras makes them, in another order each pass; a
        `keras.utils.PyDataset` whose batches are in another order each pass, as far as
        their number is known; other data as they are. With `steps` they have no end.
    """
    if isinstance(data, keras.utils.PyDataset):
        return ShuffledBatches(data, seed, steps)
    arrays = as_arrays(data)
    if arrays is not None:
        import tensorflow as tf

        x, y, weights = arrays
        # tf.data takes no None.
        given = [part for part in arrays if part is not None]
        examples = tf.data.Dataset.from_tensor_slices(tuple(given))
        number = int(np.random.default_rng(seed).integers(2**31))
        count = len(tree.flatten(x)[0])
        data = examples.shuffle(count, seed=number).batch(BATCH_SIZE)
        if y is None and weights is not None:
            data = data.map(lambda x, weights: (x, None, weights))
    if steps and is_dataset(data):
        # Keras would end an epoch where the data end.
        return data.repeat()
    return data


def as_arrays(data):
    """(x, y, sample_weight) of data that are arrays, None for what there is not.

    Args:
        data: What `fit` takes; x, (x, y) or (x, y, sample_weight), of arrays of any
            library, and of lists, tuples and dicts of them.

    Returns:
        The parts as NumPy arrays, in tuples where they were in lists, which tf.data would
        stack; or None, where the data are no arrays.

    Raises:
        ValueError: There is no example.
    """
    parts = (data,)
    if isinstance(data, tuple) and 1 <= len(data) <= 3:
        parts = data
    arrays = [x for x in tree.flatten(parts) if x is not None]
    if parts[0] is None or not all(hasattr(x, "shape") for x in arrays) or not arrays:
        return None
    parts = (*tree.lists_to_tuples(tree.map_structure(_as_numpy, parts)), None, None)[:3]
    if any(x.shape[:1] == (0,) for x in tree.flatten(parts[0])):
        raise ValueError("`train_data` holds no examples, so nothing would be trained.")
    return parts


def _as_numpy(array):
    return None if array is None else np.asarray(array)


def behind(data, steps):
    """What is left of data without an end when so many steps have been taken.

    Args:
        data: What `in_order` gave with `steps`.
        steps: How many batches were taken.
    """
    if isinstance(data, ShuffledBatches):
        data.first = steps
        return data
    return data.skip(steps) if steps else data


class ShuffledBatches(keras.utils.PyDataset):
    """A PyDataset whose batches are in another order each pass, by nothing but a seed.

    Args:
        data: The `keras.utils.PyDataset`.
        seed: list of integers.
        steps: As `in_order` takes it.

    Attributes:
        epoch: The one whose order is next, from 0.
        first: With `steps`, how many batches of the endless sequence lie behind.
    """

    def __init__(self, data, seed, steps=None):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.epoch, self.first = data, 0, 0
        self._seed, self._steps, self._order = seed, steps, None

    @property
    def num_batches(self):
        return None if self._steps else self.data.num_batches

    def __getitem__(self, index):
        count = self.data.num_batches
        if self._steps and count is not None:
            a_pass, index = divmod(self.first + index, count)
            return self.data[int(self._order_of(a_pass)[index])]
        if self._steps:
            return self.data[self.first + index]
        return self.data[index if self._order is None else int(self._order[index])]

    def _order_of(self, a_pass):
        return _permutation((*self._seed, a_pass), self.data.num_batches)

    def on_epoch_begin(self):
        self.data.on_epoch_begin()
        if self.num_batches is not None:
            self._order = self._order_of(self.epoch)

    def on_epoch_end(self):
        self.data.on_epoch_end()


# Two passes, where several threads read ahead.
@functools.lru_cache(maxsize=4)
def _permutation(seed, count):
    return np.random.default_rng(seed).permutation(count)


def is_dataset(data):
    """Whether it is a `tf.data.Dataset`."""
    import tensorflow as tf

    return isinstance(data, tf.data.Dataset)
