"""How an example's weight counts in the mean over a batch."""

from keras import ops

from keras_kd.losses.ops import fits_shape, of_shape


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
        sample_weight: (batch,), Keras's (batch, 1), or the values' own shape, with axes of
            1 after the first, and with or without a last axis of 1. Of values (batch,) it
            may have one for each position of an example: their mean counts.

    Raises:
        ValueError: `sample_weight` has another shape.
    """
    sample_weight = ops.cast(sample_weight, values.dtype)
    shape, received = tuple(values.shape), tuple(sample_weight.shape)
    if len(received) == len(shape) + 1 > 2 and fits_shape(received[-1:], (1,)):
        column = of_shape(sample_weight, (*ops.shape(sample_weight)[:-1], 1))
        return weights_of(values, column[..., 0])
    # An axis of 1 stands for all of the values along it, but for the first.
    sizes = [s if r != 1 or k == 0 else 1 for k, (r, s) in enumerate(zip(received, shape))]
    if len(received) == len(shape) and fits_shape(received, sizes):
        known = zip(sizes, ops.shape(values), strict=True)
        return of_shape(sample_weight, [1 if s == 1 else size for s, size in known])
    is_of_examples = received[1:] in ((), (1,)) or len(shape) == 1
    if not received or not fits_shape(received[:1], shape[:1]) or not is_of_examples:
        raise ValueError(
            "`sample_weight` must hold one weight for each example, or for each value of "
            f"shape {shape}. Received: a shape of {received}."
        )
    # One weight per example, over all of its values.
    sample_weight = of_shape(weights_of_examples(sample_weight), ops.shape(values)[:1])
    return ops.reshape(sample_weight, (-1,) + (1,) * (len(shape) - 1))


def weights_of_examples(sample_weight):
    """One weight for each example, (batch,): the mean of those of its positions."""
    rows = ops.reshape(sample_weight, (ops.shape(sample_weight)[0], -1))
    return ops.mean(rows, axis=1)


def kept_positions(sample_weight, outputs):
    """Where outputs have a weight: bool, with as many axes as the outputs, the last of 1.

    Args:
        sample_weight: As `weights_of` takes it, or None.
        outputs: (batch, ..., size).

    Returns:
        None where nothing can be left out: there are no weights, or they are of other
        positions than the outputs'.
    """
    if sample_weight is None:
        return None
    weights = ops.convert_to_tensor(sample_weight)
    received, positions = tuple(weights.shape), tuple(outputs.shape)[:-1]
    if len(received) == len(positions) + 1 > 2 and received[-1] == 1:
        weights, received = weights[..., 0], received[:-1]
    if not fits_shape(received[:1], positions[:1]):
        # As is said where the mean is taken.
        return None
    if len(received) == 1 or received[1:] == (1,):
        weights = of_shape(ops.reshape(weights, (-1,)), ops.shape(outputs)[:1])
        weights = ops.reshape(weights, (-1,) + (1,) * len(positions))
        return ops.not_equal(weights, 0)
    sizes = [1 if r == 1 else s for r, s in zip(received, positions)]
    if len(received) != len(positions) or not fits_shape(received, sizes):
        return None
    # Nothing is broadcast where sizes are known only when the model runs.
    known = zip(sizes, ops.shape(outputs)[:-1], strict=True)
    weights = of_shape(weights, [1 if s == 1 else size for s, size in known])
    return ops.expand_dims(ops.not_equal(weights, 0), axis=-1)


def without_left_out(sample_weight, *outputs):
    """Outputs that are zero where they have no weight.

    What is there, be it NaN, then moves neither a loss's value nor a gradient.

    Args:
        sample_weight: As `weights_of` takes it, or None.
        *outputs: Tensors (batch, ..., size), of float32 or more.
    """
    kept = [kept_positions(sample_weight, x) for x in outputs]
    return [
        x if k is None else ops.where(k, x, 0.0)
        for x, k in zip(outputs, kept, strict=True)
    ]


def labels_without_left_out(sample_weight, y_true, outputs):
    """Labels that are a class, 0, where the outputs have no weight, whatever was there.

    Args:
        sample_weight: As `weights_of` takes it, or None.
        y_true: Integer labels (batch, ...), with or without a last axis of 1, or one-hot.
        outputs: (batch, ..., num_classes).
    """
    kept = kept_positions(sample_weight, outputs)
    if kept is None:
        return y_true
    y_true = ops.convert_to_tensor(y_true)
    if len(y_true.shape) == len(outputs.shape) - 1:
        kept = kept[..., 0]
    return ops.where(kept, y_true, ops.zeros_like(y_true))
