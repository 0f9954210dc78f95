"""What several families are made of."""

from keras import layers

# Of the averages that inference normalises with: they follow soon, as a student may see but
# a few hundred steps.
MOMENTUM = 0.9


def convolution(x, filters, name, strides=1, size=3):
    """A convolution, batch normalisation and ReLU; an export folds the three into one."""
    x = layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return normalized(x, name)


def separable(x, filters, name, strides=1):
    """A depthwise convolution, then a pointwise one, each as in `convolution`.

    Together they take about a ninth of the operations of an ordinary one (Howard et al.,
    2017, "MobileNets", https://arxiv.org/abs/1704.04861).
    """
    x = layers.DepthwiseConv2D(
        3, strides, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = normalized(x, f"{name}_depthwise")
    return convolution(x, filters, name, size=1)


def normalized(x, name):
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def halvings(size, least=4):
    """How often a size is halved until it is less than twice `least`."""
    count = 0
    while size >= 2 * least:
        size, count = size // 2, count + 1
    return count
