"""Architectures by name, each ending in logits.

The three of the published MNIST experiment, a small student that has feature maps to
compare, and one for devices; convolutions are unpadded, but for the last of that one.
Layers that a loss may tap have names of their own: conv1, pool1, conv2, pool2, conv3,
conv4, hidden1, hidden2, logits.

Families have their widths in the name: "mnist_cnn_24_48", "mnist_fc_64_64",
"mnist_small_cnn_16_32", "mnist_device_cnn_8_16_24_32".
"""

import dataclasses
import difflib
import re
from collections.abc import Callable

import keras
from keras import layers

MNIST_SHAPE = (28, 28, 1)
NUM_CLASSES = 10

# A convolution of this many filters on as many has 38 million weights.
WIDEST = 2048


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


def dropout_net(units, name="dropout_net"):
    """Dense layers with dropout and weight constraints, as in Hinton et al.

    A fifth of the pixels and half of the hidden units are dropped, and the squared length
    of each hidden unit's incoming weights is at most 15.

    Args:
        units: The widths of the hidden layers, a sequence of integers.
        name: The model's name.

    Returns:
        A model as `cnn` returns it.

    Reference:
        Hinton, Srivastava, Krizhevsky, Sutskever, Salakhutdinov 2012, "Improving neural
        networks by preventing co-adaptation of feature detectors",
        https://arxiv.org/abs/1207.0580, appendix A.
    """
    hidden = []
    for i, width in enumerate(units):
        constraint = keras.constraints.MaxNorm(15**0.5, axis=0)
        dense = layers.Dense(
            width, activation="relu", kernel_constraint=constraint, name=f"hidden{i + 1}"
        )
        hidden += [dense, layers.Dropout(0.5)]
    return keras.Sequential(
        [
            layers.Input(MNIST_SHAPE),
            layers.Flatten(),
            layers.Dropout(0.2),
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


def device_cnn(filters, name="device_cnn"):
    """A strided convolution, then three depthwise-separable ones, for small devices.

    Separable convolutions take about a ninth of the operations of ordinary ones (Howard et
    al., 2017, "MobileNets", https://arxiv.org/abs/1704.04861). There is no batch
    normalisation, so `keras_kd.quantization_aware` takes the model as it is.

    Args:
        filters: Four integers, the widths of the convolutions, "conv1" to "conv4".
        name: The model's name.

    Returns:
        A model as `cnn` returns it.
    """
    first, second, third, fourth = filters
    return keras.Sequential(
        [
            layers.Input(MNIST_SHAPE),
            layers.Conv2D(first, 3, strides=2, activation="relu", name="conv1"),
            layers.SeparableConv2D(second, 3, activation="relu", name="conv2"),
            layers.SeparableConv2D(third, 3, activation="relu", name="conv3"),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(
                fourth, 3, padding="same", activation="relu", name="conv4"
            ),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES, name="logits"),
        ],
        name=name,
    )


ARCHITECTURES = {
    "mnist_teacher": lambda: cnn((32, 64), 0.5, name="mnist_teacher"),
    "mnist_ta": lambda: cnn((16, 32), 0.25, name="mnist_ta"),
    "mnist_small_cnn": lambda: small_cnn((32, 64), name="mnist_small_cnn"),
    "mnist_device_cnn": lambda: device_cnn((16, 32, 48, 64), name="mnist_device_cnn"),
    "mnist_dropout_net": lambda: dropout_net((1200, 1200), name="mnist_dropout_net"),
    "mnist_student": lambda: fully_connected((784, 784), name="mnist_student"),
}


def cnn_dropout(filters):
    """The rate for `cnn` of these widths: conv2's width / 128, 0.5 at most.

    The published rates, 0.5 at (32, 64) and 0.25 at (16, 32), are on this line.
    """
    return min(0.5, filters[-1] / 128)


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures of one kind, of any widths.

    Attributes:
        make: A function of the widths, a tuple of integers, and the model's name.
        counts: How many widths it takes, a range.
        fixed: How many layers with weights come after those of the given widths.
        example: A name.
    """

    make: Callable
    counts: range
    fixed: int
    example: str

    def takes(self, widths):
        return len(widths) in self.counts and max(widths) <= WIDEST


FAMILIES = {
    "mnist_cnn": Family(
        lambda filters, name: cnn(filters, cnn_dropout(filters), name),
        counts=range(2, 3),
        fixed=2,
        example="mnist_cnn_24_48",
    ),
    "mnist_fc": Family(
        fully_connected, counts=range(1, 5), fixed=1, example="mnist_fc_64_64"
    ),
    "mnist_small_cnn": Family(
        small_cnn, counts=range(2, 3), fixed=1, example="mnist_small_cnn_16_32"
    ),
    "mnist_device_cnn": Family(
        device_cnn, counts=range(4, 5), fixed=1, example="mnist_device_cnn_8_16_24_32"
    ),
}


def names():
    """The architectures of fixed widths that `build` takes, as a list of strings."""
    return list(ARCHITECTURES)


def build(name):
    """A freshly initialised model by name; `keras.utils.set_random_seed` fixes it.

    Args:
        name: One of `names()`, or a family's name with its widths, "mnist_cnn_24_48".

    Raises:
        ValueError: As `check`.
    """
    check(name)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    family, text = _split(name)
    return FAMILIES[family].make(_widths(family, text), name=name)


def check(name):
    """`name`, if `build` takes it.

    Raises:
        ValueError: There is no such architecture or family, or not with these widths.
    """
    if isinstance(name, str) and name in ARCHITECTURES:
        return name
    family, text = _split(name)
    if family is None:
        near = difflib.get_close_matches(str(name), _near(str(name)), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        examples = ", ".join(family.example for family in FAMILIES.values())
        raise ValueError(
            f"no such model in keras_kd.recipes.zoo: {name!r}{hint} Known: "
            f"{', '.join(ARCHITECTURES)}, and with widths of your own, as in {examples}"
        )
    if _widths(family, text) is None:
        counts = FAMILIES[family].counts
        count = counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        raise ValueError(
            f"{family} takes {count} widths, each a whole number from 1 to {WIDEST} after "
            f"an underscore, for instance {FAMILIES[family].example}. Received: {name!r}"
        )
    return name


def family_name(family, widths):
    """The name under which `build` makes a family's model of these widths."""
    return "_".join([family, *map(str, widths)])


def family_of(model):
    """The family that a model's layers are of, whatever their names and dropout.

    Args:
        model: A built `keras.Model`.

    Returns:
        `(family, widths)`, a key of `FAMILIES` and a tuple of integers; or None.
    """
    if model.input_shape[1:] != MNIST_SHAPE:
        return None
    functions = _functions(model)
    found = [config.get("filters", config.get("units")) for _, config in functions]
    found = [width for width in found if width is not None]
    for name, family in FAMILIES.items():
        widths = tuple(found[: -family.fixed])
        if family.takes(widths):
            if functions == _functions(family.make(widths, name=name)):
                return name, widths
    return None


# What a layer's configuration says of what it computes.
_FUNCTION = (
    "filters units kernel_size pool_size strides padding data_format dilation_rate groups "
    "depth_multiplier activation use_bias"
).split()


def _functions(model):
    """Of each layer the class and what it computes; not whether it drops anything."""
    functions = []
    for layer in model.layers:
        if not isinstance(layer, (layers.InputLayer, layers.Dropout)):
            config = layer.get_config()
            kept = {key: config[key] for key in _FUNCTION if key in config}
            functions.append((type(layer), kept))
    return functions


def _split(name):
    """A name as (family, the text of its widths), or (None, None)."""
    for family in FAMILIES:
        if isinstance(name, str) and (name + "_").startswith(family + "_"):
            return family, name[len(family) + 1 :]
    return None, None


def _widths(family, text):
    """A tuple of integers, or None if they are not what the family takes."""
    parts = text.split("_")
    # One spelling for each model: no sign, no leading zero.
    if not all(re.fullmatch("[1-9][0-9]{0,3}", part) for part in parts):
        return None
    widths = tuple(map(int, parts))
    return widths if FAMILIES[family].takes(widths) else None


def _near(name):
    """Names that a mistaken one may stand for: the families' with its widths, too."""
    text = re.search("[0-9_]*$", name)[0].strip("_")
    families = [family for family in FAMILIES if _widths(family, text)]
    return [*ARCHITECTURES, *(family_name(family, [text]) for family in families)]
