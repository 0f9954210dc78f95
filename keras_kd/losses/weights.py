"""How an example's weight counts in the mean over a batch."""

from keras import ops

from keras_kd.losses.ops import fits_shape, of_one_shape, of_shape


def weighted_mean(values, sample_weight=None):
    """Keras's `sum_over_batch_size`: the sum of weighted values over their number.

    Args:
        values: (batch, ...).
        sample_weight: As `weights_of` takes it, or None.

    Raises:
        ValueError: `sample_weight` has another shape; nothing is broadcast over examples.
    """
    if sample_weight is not None:
        weights = weights_of(values, sample_weight)
        # What has no weight is nothing, be it NaN.
        values = ops.where(ops.equal(weights, 0), 0.0, values * weights)
    return ops.mean(values)


def weights_of(values, sample_weight):
    """`sample_weight` in the shape of the values, or with axes of 1 after the first.

    Args:
        values: (batch, ...).
        sample_weight: (batch,), Keras's (batch, 1), or the values' own shape, with or
            without a last axis of 1.

    Raises:
        ValueError: `sample_weight` has another shape.
    """
    sample_weight = ops.cast(sample_weight, values.dtype)
    shape, received = tuple(values.shape), tuple(sample_weight.shape)
    is_column = len(received) == 2 and received[1] == 1
    if fits_shape(received, shape) and not (is_column and shape[1] is None):
        return of_one_shape(values, sample_weight)[1]
    if len(shape) > 1 and fits_shape(received, (*shape, 1)):
        column = ops.expand_dims(values, -1)
        return ops.squeeze(of_one_shape(column, sample_weight)[1], -1)
    if not any(fits_shape(received, x) for x in (shape[:1], (shape[0], 1))):
        raise ValueError(
            "`sample_weight` must hold one weight for each example, or for each value of "
            f"shape {shape}. Received: a shape of {received}."
        )
    # One weight per example, over all of its values.
    sample_weight = of_shape(ops.reshape(sample_weight, (-1,)), ops.shape(values)[:1])
    return ops.reshape(sample_weight, (-1,) + (1,) * (len(shape) - 1))
