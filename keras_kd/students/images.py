"""Families for images with one answer."""

import warnings

import keras
from keras import layers

from keras_kd.students.blocks import MOMENTUM, convolution, halvings, separable

# From here on the first convolution halves the image; a smaller one has no pixels to lose.
_LARGE = 64
# What MobileNetV3 is made for: it halves an image five times.
_LEAST_OF_MOBILENET = 32


def separable_cnn(input_shape, output_shape, width, columns=None):
    """A convolution, then depthwise-separable ones, down to maps of about 4x4 to 7x7.

    Each time that the maps are halved there are twice as many; two blocks follow on those
    of one size.
    """
    inputs = keras.Input(input_shape, name="images")
    count = halvings(min(input_shape[:2]))
    first = int(min(input_shape[:2]) >= _LARGE)
    x = convolution(inputs, width, "stem", strides=1 + first)
    for level in range(first, count):
        width *= 2
        x = separable(x, width, f"level{level + 1}_down", strides=2)
        x = separable(x, width, f"level{level + 1}")
    if count == 0:
        x = separable(x, 2 * width, "level1")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(*output_shape, name="outputs")(x))


def mobilenet_v3(input_shape, output_shape, width, columns=None):
    """`keras.applications.MobileNetV3Small`, untrained, of alpha = width / 100."""
    if min(input_shape[:2]) < _LEAST_OF_MOBILENET:
        raise ValueError(
            f"`family` 'mobilenet_v3' takes images of {_LEAST_OF_MOBILENET} x "
            f"{_LEAST_OF_MOBILENET} pixels and more. Received: input_shape={input_shape}. "
            "Take 'separable_cnn', or larger images."
        )
    with warnings.catch_warnings():
        # Keras expects three channels or one; without its weights any number is as good.
        warnings.filterwarnings("ignore", message="This model usually expects")
        model = keras.applications.MobileNetV3Small(
            input_shape,
            alpha=width / 100,
            weights=None,
            classes=output_shape[0],
            classifier_activation=None,
            include_preprocessing=False,
        )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # As in `blocks`; Keras's 0.999 takes thousands of steps.
            layer.momentum = MOMENTUM
    return model
