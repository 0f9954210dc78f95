"""Tensor operations that losses share: `keras.ops` alone, so any backend runs them."""

import keras
from keras import ops


def at_least_float32(x):
    """`x` as a tensor, half precision raised to float32 and float64 left as it is.

    Sums of exponentials lose too many digits in 16 bits.
    """
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")


def log_softmax(logits, temperature=1.0):
    """Logarithm of `softmax(logits / temperature)` over the last axis.

    Taken in log space: finite for any finite logits, and unchanged by a constant added
    to all of them.

    Args:
        logits: (..., num_classes), raw, no softmax.
        temperature: T > 0.

    Returns:
        (..., num_classes), float32 (float64 for float64 logits).
    """
    return ops.log_softmax(at_least_float32(logits) / temperature, axis=-1)
