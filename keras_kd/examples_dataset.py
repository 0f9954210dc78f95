"""Examples in memory as a tf.data.Dataset: shuffled by number, gathered by the batch."""

import tensorflow as tf
from tensorflow import nest


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
    """

    def __init__(self, rows, gather):
        self._rows = rows
        self._gather = gather
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
        if num_parallel_calls is None:
            num_parallel_calls = 2
        rows = self._rows.batch(batch_size, drop_remainder=drop_remainder)
        examples = rows.map(
            self._gather, num_parallel_calls=num_parallel_calls, deterministic=deterministic
        )
        return without_autotune(examples.prefetch(2, name=name))

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
        return ExamplesDataset(rows, self._gather)

    def _one_example(self, row):
        examples = self._gather(row[tf.newaxis])
        return nest.map_structure(lambda tensor: tensor[0], examples)


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
            comes view 0 again. Iterating over a dataset made of this one counts, and so
            does each round of `repeat`.
        count: How many examples a view has.
    """
    if views == 1:
        return make_dataset(tf.zeros((), tf.int64))
    with tf.device("CPU:0"):
        counter = tf.Variable(0, trainable=False, dtype=tf.int64)

    def next_view(_):
        return make_dataset((counter.assign_add(1) - 1) % views)

    dataset = tf.data.Dataset.from_tensors(0).flat_map(next_view)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))
