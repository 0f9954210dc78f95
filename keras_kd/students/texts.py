"""A family for texts."""

import keras
from keras import layers, ops

# Each byte of UTF-8 plus 1, and 0 for padding.
_NUMBERS = 257
_BLOCKS = 3


def byte_cnn(input_shape, output_shape, width, columns=None):
    """Embedded bytes through separable convolutions, of which the largest values are taken.

    Padding is zero on the way in and after each convolution, as what lies beyond a text is,
    and no value is below zero: so no answer hangs on how much of it there is.
    """
    inputs = keras.Input(input_shape, dtype="int32", name="bytes")
    mask = ops.expand_dims(ops.cast(inputs > 0, "float32"), axis=-1)
    x = layers.Embedding(_NUMBERS, width, name="embedding")(inputs)
    x = layers.Multiply(name="without_padding")([x, mask])
    for block in range(1, _BLOCKS + 1):
        x = layers.SeparableConv1D(
            2 * width, 5, padding="same", activation="relu", name=f"block{block}"
        )(x)
        if block < _BLOCKS:
            x = layers.MaxPooling1D(2, padding="same", name=f"block{block}_pool")(x)
            mask = layers.MaxPooling1D(2, padding="same", name=f"block{block}_mask")(mask)
        x = layers.Multiply(name=f"block{block}_without_padding")([x, mask])
    x = layers.GlobalMaxPooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(*output_shape, name="outputs")(x))
