"""A loss among replicas: each has its part of the batch, and their gradients are summed."""

import keras
from keras import ops


def replica_count():
    """How many replicas of the model are trained at once; 1 without a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def scaled(loss):
    """This replica's part of the mean over the whole batch, of the mean over its own part.

    Keras's losses come like this, so that the sum of all replicas' gradients is the
    gradient of the mean.
    """
    count = replica_count()
    return loss if count == 1 else loss * (1 / count)


def unscaled(loss):
    """The inverse of `scaled`."""
    count = replica_count()
    return loss if count == 1 else loss * count


def zero_if_empty(value, batch_size):
    """What a replica has made of its part of the batch, 0 where that has no example.

    A last batch that is smaller may leave a replica without; its means are NaN.
    """
    if replica_count() == 1:
        return value
    return ops.where(batch_size > 0, value, ops.zeros_like(value))
