"""What a student must know of its inputs before it is trained."""

import keras
import numpy as np

# What Keras's layer divides by at the least, and what it can hold the square of.
_LEAST, _MOST = keras.config.epsilon(), float(np.finfo("float32").max) ** 0.5


def prepare(model, x):
    """Adapts a student's normalisation to training inputs; other students stay as they are.

    Of each column, or channel, the mean and the deviation of what is finite. One that does
    not vary is divided by its own size, not by 0.

    Args:
        model: A model of a family with a layer "normalization": "mlp" or "sequence_cnn".
        x: Array (n, ...) of training inputs, of the model's input shape.

    Returns:
        `model`.

    Raises:
        ValueError: `x` is of another shape or empty, or a column's numbers are too small or
            too large for float32.
    """
    layers = [y for y in model.layers if isinstance(y, keras.layers.Normalization)]
    if not layers:
        return model
    (layer,) = layers
    x = np.asarray(x)
    wanted = model.input_shape[1:]
    fits = x.ndim == len(wanted) + 1 and len(x) > 0
    if not fits or any(
        w not in (None, n) for w, n in zip(wanted, x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"`x` must be training inputs of the shape {(None, *wanted)}. Received: an "
            f"array of shape {x.shape}."
        )
    x = x.reshape(-1, x.shape[-1])
    mean, deviation = np.array([_of_column(x[:, i]) for i in range(x.shape[1])]).T
    wrong = np.flatnonzero((deviation < _LEAST) | (deviation > _MOST))
    if len(wrong):
        raise ValueError(
            f"`x` must have numbers of a size that float32 computes with: column "
            f"{wrong[0] + 1} has a deviation of {deviation[wrong[0]]:.3g}, and "
            f"{_LEAST:.0e} to {_MOST:.0e} are taken. Give it in another unit."
        )
    layer.adapt_mean.assign(mean.reshape(layer.adapt_mean.shape))
    layer.adapt_variance.assign((deviation**2).reshape(layer.adapt_variance.shape))
    layer.finalize_state()
    return model


def _of_column(values):
    """Mean and deviation of the finite ones, in float64; (0, 1) of none."""
    values = values[np.isfinite(values)].astype("float64")
    if not len(values):
        return 0.0, 1.0
    mean, deviation = values.mean(), values.std()
    # What is left of equal numbers is rounding.
    if deviation <= np.finfo("float32").eps * abs(mean):
        deviation = max(abs(mean), 1.0)
    return mean, deviation
