"""A family for sequences of numbers."""

import keras
from keras import layers

from keras_kd.students.blocks import halvings, normalized

_MOST_HALVINGS = 4


def sequence_cnn(input_shape, output_shape, width, columns=None):
    """Separable convolutions in time on channels that are normalised each by itself.

    The time is halved up to four times, and its average taken; its length may be None.
    """
    inputs = keras.Input(input_shape, name="sequences")
    x = layers.Normalization(name="normalization", dtype="float32")(inputs)
    x = layers.Conv1D(width, 5, padding="same", use_bias=False, name="stem_conv")(x)
    x = normalized(x, "stem")
    count = _MOST_HALVINGS if input_shape[0] is None else halvings(input_shape[0])
    for block in range(1, max(1, min(count, _MOST_HALVINGS)) + 1):
        x = layers.SeparableConv1D(
            2 * width,
            5,
            strides=2 if count else 1,
            padding="same",
            use_bias=False,
            name=f"block{block}_conv",
        )(x)
        x = normalized(x, f"block{block}")
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(*output_shape, name="outputs")(x))
