"""Examples that carry their number in the data set, for losses that tell them apart."""

import tensorflow as tf

from keras_kd.cache.examples import ArrayExamples, StreamedExamples
from keras_kd.training import batch


def with_index(dataset):
    """Puts beside each example its number in the data set: 0, 1, 2, ...

        train_ds = with_index((images, labels))
        distiller.fit(train_ds.shuffle(60_000).batch(256), epochs=12)

    Losses that remember examples need it (`needs_index`, contrastive representation
    distillation for one). The number travels inside x (see `keras_kd.training.batch`);
    teacher and student do not see it. What `cache_teacher` returns carries it already.

    Args:
        dataset: Single examples, before `shuffle` and `batch`, in a fixed order: x, (x, y)
            or (x, y, sample_weight). Either NumPy arrays (examples, ...) in a tuple, or a
            finite tf.data.Dataset.

    Returns:
        A tf.data.Dataset of single examples, to shuffle, batch and `fit`. Of arrays, it
        shuffles their numbers and gathers whole batches; put `map` after `batch`.

    Raises:
        ValueError: `dataset` is something else, or carries numbers already.

    Example:

    >>> import numpy as np
    >>> for x, y in with_index((np.zeros((5, 2)), np.ones(5))).skip(3).batch(2):
    ...     print(batch.index_of(x).numpy(), batch.inputs_of(x).shape, y.shape)
    [3 4] (2, 2) (2,)
    """
    if not isinstance(dataset, tf.data.Dataset):
        return ArrayExamples(dataset).join()
    spec = dataset.element_spec
    if batch.index_of(spec[0] if isinstance(spec, tuple) else spec) is not None:
        raise ValueError(
            "`dataset` carries the examples' numbers already, as what cache_teacher and "
            "with_index return does. Give it to `fit` as it is, shuffled and in batches."
        )
    return StreamedExamples(dataset).with_index()
