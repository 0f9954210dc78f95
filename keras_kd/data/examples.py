"""Examples in memory as a tf.data.Dataset: shuffled by number, gathered by the batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import nest

# Methods of tf.data.Dataset that make another dataset of one, `shuffle` aside.
_TRANSFORMATIONS = (
    "apply batch bucket_by_sequence_length cache concatenate enumerate filter flat_map "
    "group_by_window ignore_errors interleave map padded_batch prefetch ragged_batch "
    "rebatch rejection_resample repeat scan shard skip snapshot sparse_batch take "
    "take_while unbatch unique window with_options"
).split()


class CountedApart(tf.data.Dataset):
    """A dataset with a state of its own, which no dataset that is made of it shares.

    What a method of it gives (`take`, `map`, `batch`, ...) is made anew from the start, so
    two parts of one dataset each count their own iterations.

    Args:
        make: Takes nothing, gives the dataset, with a new state each time.
    """

    has_views = True

    def __init__(self, make):
        self._make = make
        self._dataset = make()
        super().__init__(tf.data.experimental.to_variant(self._dataset))

    @property
    def element_spec(self):
        return self._dataset.element_spec

    def _inputs(self):
        return [self._dataset]

    def shuffle(self, buffer_size, seed=None, *args, **kwargs):
        """As `tf.data.Dataset.shuffle`; parts of what it gives have the same order."""
        if seed is None:
            # What tf.data would draw; it must not be drawn again for each part.
            _, seed = tf.compat.v1.get_seed(None)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        arguments = (buffer_size, seed, *args)
        return CountedApart(lambda: self._make().shuffle(*arguments, **kwargs))


def _anew(name):
    def method(self, *args, **kwargs):
        return CountedApart(lambda: getattr(self._make(), name)(*args, **kwargs))

    return method


for _name in _TRANSFORMATIONS:
    setattr(CountedApart, _name, _anew(_name))


class Held(NamedTuple):
    """What batches are gathered from.

    Attributes:
        arrays: A structure of NumPy arrays (examples, ...).
        make: `make(arrays, rows, take)` gives the batch of row numbers (batch,), where
            `take(array, rows)` takes rows of an array; on any backend.
    """

    arrays: Any
    make: Callable


class ExamplesDataset(tf.data.Dataset):
    """A dataset of single examples that is fast to shuffle and to batch.

    It is a `tf.data.Dataset` like any other. But where tf.data moves examples one by one,
    which is slower than a small student, here `shuffle`, `repeat`, `take`, `skip` and
    `shard` move their row numbers, and `batch` gathers whole batches by these. Any other
    transformation (`map`, `filter`, ...) gives a plain dataset of single examples, so it
    belongs after `batch`.

    Args:
        rows: A tf.data.Dataset of int64 row numbers.
        gather: Takes row numbers (batch,), gives the examples as a structure of tensors
            (batch, ...).
        held: The `Held` that it gathers from; None where they are no arrays in memory.

    Attributes:
        has_views: Whether each iteration gives another view of the examples.
        outputs_id: What tells the given outputs that the examples carry; see `mark`.
    """

    outputs_id = None

    def __init__(self, rows, gather, held=None):
        self.has_views = isinstance(rows, CountedApart)
        self._rows, self._gather, self._held = rows, gather, held
        self._examples = rows.map(self._one_example)
        super().__init__(tf.data.experimental.to_variant(self._examples))

    @property
    def element_spec(self):
        return self._examples.element_spec

    def _inputs(self):
        return [self._examples]

    def batch(
        self,
        batch_size,
        drop_remainder=False,
        num_parallel_calls=None,
        deterministic=None,
        name=None,
    ):
        """As `tf.data.Dataset.batch`; prepares the next batches while one is used."""
        rows = self._rows.batch(batch_size, drop_remainder=drop_remainder)
        batches = gathered(
            rows, self._gather, self._held, num_parallel_calls, deterministic, name
        )
        batches.outputs_id = self.outputs_id
        return batches

    def shuffle(self, *args, **kwargs):
        """As `tf.data.Dataset.shuffle`."""
        return self._with_rows(self._rows.shuffle(*args, **kwargs))

    def repeat(self, *args, **kwargs):
        """As `tf.data.Dataset.repeat`."""
        return self._with_rows(self._rows.repeat(*args, **kwargs))

    def take(self, *args, **kwargs):
        """As `tf.data.Dataset.take`."""
        return self._with_rows(self._rows.take(*args, **kwargs))

    def skip(self, *args, **kwargs):
        """As `tf.data.Dataset.skip`."""
        return self._with_rows(self._rows.skip(*args, **kwargs))

    def shard(self, *args, **kwargs):
        """As `tf.data.Dataset.shard`."""
        return self._with_rows(self._rows.shard(*args, **kwargs))

    def _with_rows(self, rows):
        return mark(ExamplesDataset(rows, self._gather, self._held), self.outputs_id)

    def _one_example(self, row):
        examples = self._gather(row[tf.newaxis])
        # There may be a weight without labels.
        return nest.map_structure(lambda x: None if x is None else x[0], examples)


class GatheredDataset(tf.data.Dataset):
    """Batches that may be gathered elsewhere, too: where a model is trained.

    It is a `tf.data.Dataset` like any other, and any transformation but `prefetch` and
    `repeat` gives a plain one.

    Args:
        batches: A tf.data.Dataset of batches.
        rows: One of the row numbers of each batch.
        held: The `Held` that they are gathered from.
    """

    outputs_id = None

    def __init__(self, batches, rows, held):
        self._batches, self.rows, self.held = batches, rows, held
        super().__init__(batches._variant_tensor)

    @property
    def element_spec(self):
        return self._batches.element_spec

    def _inputs(self):
        return [self._batches]

    def prefetch(self, *args, **kwargs):
        """As `tf.data.Dataset.prefetch`."""
        return self._each("prefetch", args, kwargs)

    def repeat(self, *args, **kwargs):
        """As `tf.data.Dataset.repeat`."""
        return self._each("repeat", args, kwargs)

    def _each(self, name, args, kwargs):
        batches, rows = (
            getattr(x, name)(*args, **kwargs) for x in (self._batches, self.rows)
        )
        return mark(GatheredDataset(batches, rows, self.held), self.outputs_id)


def gathered(
    rows, gather, held=None, num_parallel_calls=None, deterministic=None, name=None
):
    """Batches by the numbers of their rows; the next are prepared while one is used.

    Args:
        rows: A tf.data.Dataset of row numbers (batch,).
        gather, held: As `ExamplesDataset` takes them.
        num_parallel_calls, deterministic, name: As `tf.data.Dataset.batch` takes them.

    Returns:
        A `GatheredDataset` where they can be gathered elsewhere, too; it is made of the
        same `rows`, so that one goes on in the shuffle where the other was.
    """
    if num_parallel_calls is None:
        num_parallel_calls = 2
    examples = rows.map(gather, num_parallel_calls, deterministic)
    batches = without_autotune(examples.prefetch(2, name=name))
    # Views are counted apart.
    if held is None or isinstance(rows, CountedApart):
        return batches
    # Else tf.data reads ahead behind a `repeat`, and draws an order too many.
    return GatheredDataset(batches, without_autotune(rows), held)


def mark(dataset, outputs_id):
    """The dataset, which remembers what tells the given outputs that it carries.

    What is made of it has it among its `_inputs()`.
    """
    dataset.outputs_id = outputs_id
    if isinstance(dataset, ExamplesDataset):
        dataset._examples.outputs_id = outputs_id
    return dataset


def _of_examples(name):
    def method(self, *args, **kwargs):
        return getattr(self._examples, name)(*args, **kwargs)

    return method


for _name in set(_TRANSFORMATIONS) - {"apply", *vars(ExamplesDataset)}:
    # Made of single examples, which may have to be counted apart.
    setattr(ExamplesDataset, _name, _of_examples(_name))


def without_autotune(dataset):
    """The dataset with fixed numbers of threads and buffers.

    Each end of an iteration waits up to a second for tf.data's tuner to stop, which is
    half an epoch of a small student.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def rows_in_turn(views, count):
    """Row numbers of another view each time: row r is view r // count of example r % count.

    Args:
        views, count: As `views_in_turn` takes them.
    """

    def rows_of(view):
        return tf.data.Dataset.range(view * count, (view + 1) * count)

    return views_in_turn(rows_of, views, count)


def views_in_turn(make_dataset, views, count):
    """A dataset that gives another view each time it is iterated over.

    Args:
        make_dataset: Takes the view's number, an int64 scalar tensor, and gives a dataset.
        views: How many there are. The first iteration gives view 0; after the last view
            comes view 0 again. Each round of `repeat` counts. A dataset made of this one
            counts for itself, from view 0.
        count: How many examples a view has.
    """
    if views == 1:
        return make_dataset(tf.zeros((), tf.int64))
    return CountedApart(lambda: _with_counter(make_dataset, views, count))


def _with_counter(make_dataset, views, count):
    with tf.device("CPU:0"):
        counter = tf.Variable(0, trainable=False, dtype=tf.int64)

    def next_view(_):
        return make_dataset((counter.assign_add(1) - 1) % views)

    dataset = tf.data.Dataset.from_tensors(0).flat_map(next_view)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))
