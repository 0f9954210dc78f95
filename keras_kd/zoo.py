"""Architectures by name, each ending in logits.

The three of the published MNIST experiment, and a small student that has feature maps to
compare; convolutions are unpadded. Layers that a loss may tap have names of their own:
conv1, pool1, conv2, pool2, hidden1, hidden2, logits.
"""

import keras
from keras import layers

MNIST_SHAPE = (28, 28, 1)
NUM_CLASSES = 10


def cnn(filters, dropout, name="cnn"):
    """Two convolutions, each with a max-pool, then a dense layer of 128.

    Args:
        filters: Two integers, the widths of the convolutions.
        dropout: Rate before and after the dense layer, in [0, 1).
        name: The model's name.

    Returns:
        A built `keras.Sequential` from (batch, 28, 28, 1) in [0, 1] to (batch, 10)
        logits, with weights drawn from Keras's global random state.
    """
    first, second = filters
    return keras.Sequential(
        [
            layers.Input(MNIST_SHAPE),
            layers.Conv2D(first, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(2, strides=1, name="pool1"),
            layers.Conv2D(second, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, strides=2, name="pool2"),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(128, activation="relu", name="hidden1"),
            layers.Dropout(dropout),
            layers.Dense(NUM_CLASSES, name="logits"),
        ],
        name=name,
    )


def fully_connected(units, name="fully_connected"):
    """Dense layers on the flattened image.

    Args:
        units: The widths of the hidden layers, a sequence of integers.
        name: The model's name.

    Returns:
        A model as `cnn` returns it.
    """
    hidden = [
        layers.Dense(width, activation="relu", name=f"hidden{i + 1}")
        for i, width in enumerate(units)
    ]
    return keras.Sequential(
        [
            layers.Input(MNIST_SHAPE),
            layers.Flatten(),
            *hidden,
            layers.Dense(NUM_CLASSES, name="logits"),
        ],
        name=name,
    )


def small_cnn(filters, name="small_cnn"):
    """A strided convolution, then a depthwise-separable one, a max-pool and the logits.

    Args:
        filters: Two integers, the widths of the convolutions, "conv1" and "conv2". With the
            teacher's widths its maps can be compared channel by channel.
        name: The model's name.

    Returns:
        A model as `cnn` returns it.
    """
    first, second = filters
    return keras.Sequential(
        [
            layers.Input(MNIST_SHAPE),
            layers.Conv2D(first, 3, strides=2, activation="relu", name="conv1"),
            layers.SeparableConv2D(second, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES, name="logits"),
        ],
        name=name,
    )


ARCHITECTURES = {
    "mnist_teacher": lambda: cnn((32, 64), 0.5, name="mnist_teacher"),
    "mnist_ta": lambda: cnn((16, 32), 0.25, name="mnist_ta"),
    "mnist_small_cnn": lambda: small_cnn((32, 64), name="mnist_small_cnn"),
    "mnist_student": lambda: fully_connected((784, 784), name="mnist_student"),
}


def names():
    """The architectures that `build` takes, as a list of strings."""
    return list(ARCHITECTURES)


def build(name):
    """A freshly initialised model by name; `keras.utils.set_random_seed` fixes it.

    Raises:
        ValueError: `name` is not one of `names()`.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, ARCHITECTURES))}. "
            f"Received: name={name!r}."
        )
    return ARCHITECTURES[name]()
