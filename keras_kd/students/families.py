"""The families by name, and their models."""

import dataclasses
import difflib
from collections.abc import Callable

from keras_kd.losses.arguments import check_integer
from keras_kd.students.images import mobilenet_v3, separable_cnn
from keras_kd.students.pixels import unet
from keras_kd.students.sequences import sequence_cnn
from keras_kd.students.tables import mlp
from keras_kd.students.texts import byte_cnn

# A convolution of this many filters on as many has 4 million weights.
WIDEST = 2048


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures of one kind, of any width.

    Attributes:
        make: A function of `(input_shape, output_shape, width, columns)`, without the
            batch, to a built `keras.Model` with linear outputs.
        kind: What its inputs are, as `keras_kd.datasets.load` names it.
        inputs: What `input_shape` holds, in words; as many as the words are its dimensions.
        unknown: Which of them may be None: of how many first ones the size is free.
        pixels: Whether it answers for each pixel.
        proportional: Whether all that it computes on is a multiple of the width, so that
            parameters and MACs are polynomials of it; else it is rounded.
        integers: Whether its inputs are numbers of a vocabulary.
        quantization: The smallest that keeps a model's answers, as `keras_kd.export` takes
            it.
        least: The smallest width that is exported.
    """

    make: Callable
    kind: str
    inputs: str
    unknown: int = 0
    pixels: bool = False
    proportional: bool = True
    integers: bool = False
    quantization: str = "int8"
    least: int = 1


# The best of a kind first.
FAMILIES = {
    "separable_cnn": Family(separable_cnn, "images", "height, width, channels"),
    "mobilenet_v3": Family(
        mobilenet_v3, "images", "height, width, channels", proportional=False
    ),
    "unet": Family(unet, "images", "height, width, channels", unknown=2, pixels=True),
    # An int8 file has one step for all columns or channels, in which small ones are lost.
    # Of products of single numbers the converter makes what is no dense layer any more.
    "mlp": Family(mlp, "table", "columns", quantization="dynamic", least=2),
    "byte_cnn": Family(byte_cnn, "text", "length", integers=True),
    "sequence_cnn": Family(
        sequence_cnn, "sequences", "time, channels", unknown=1, quantization="dynamic"
    ),
}


def names():
    """The families that `build` takes, as a list of strings."""
    return list(FAMILIES)


def for_kind(kind, pixels=False):
    """The families for a kind of data, as a list of names, the best first.

    Args:
        kind: "images", "table", "text" or "sequences", as `keras_kd.datasets.load` says it.
        pixels: Whether each pixel of an image has an answer of its own.

    Raises:
        ValueError: There is none.
    """
    found = [k for k, v in FAMILIES.items() if (v.kind, v.pixels) == (kind, bool(pixels))]
    if not found:
        kinds = ", ".join(dict.fromkeys(repr(x.kind) for x in FAMILIES.values()))
        raise ValueError(
            f"`kind` must be one of {kinds}, and `pixels` goes with 'images'. Received: "
            f"kind={kind!r}, pixels={pixels!r}."
        )
    return found


def check_family(name):
    """`name`, if it is a family's.

    Raises:
        ValueError: There is no such family.
    """
    if isinstance(name, str) and name in FAMILIES:
        return name
    near = difflib.get_close_matches(str(name), FAMILIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`family` must be one of {', '.join(map(repr, FAMILIES))}. Received: "
        f"family={name!r}.{hint}"
    )


def build(family, input_shape, output_shape, width, columns=None, name=None):
    """A freshly initialised model of a family; `keras.utils.set_random_seed` fixes it.

    Args:
        family: One of `names()`.
        input_shape: Without the batch: of images (height, width, channels), of a table
            (columns,), of texts (length,), of sequences (time, channels).
        output_shape: Without the batch: (answers,); of "unet" (height, width, answers).
        width: How wide the narrowest layers are, an integer from 1 to `WIDEST`; of
            "mobilenet_v3" 100 times its alpha.
        columns: Of a table, a sequence of what has an attribute `categories`: a tuple of
            as many as there are, or None of a number. Defaults to None, all are numbers.
        name: The model's. Defaults to the family's and the width.

    Returns:
        A built functional `keras.Model`. Inputs are float32, images in [0, 1], texts int32:
        bytes plus 1, and 0 for padding. Outputs are linear: logits, or values.

    Raises:
        ValueError: There is no such family, or it does not take these shapes or columns.
    """
    kind = FAMILIES[check_family(family)]
    taken = kind.inputs, kind.unknown
    input_shape = _check_shape(family, "input_shape", input_shape, *taken)
    given = ("height, width, answers", kind.unknown) if kind.pixels else ("answers", 0)
    output_shape = _check_shape(family, "output_shape", output_shape, *given)
    if kind.pixels and output_shape[:2] != input_shape[:2]:
        raise ValueError(
            f"`output_shape` of the family {family!r} must have the size of `input_shape`, "
            f"{input_shape[:2]}. Received: output_shape={output_shape}."
        )
    width = check_integer("width", width, least=1)
    if width > WIDEST:
        raise ValueError(f"`width` must be at most {WIDEST}. Received: width={width}.")
    _check_columns(family, columns, input_shape)
    model = kind.make(input_shape, output_shape, width, columns)
    model.name = name or f"{family}_{width}"
    return model


def _check_shape(family, argument, shape, words, free):
    words = words.split(", ")
    try:
        sizes = tuple(shape)
    except TypeError:
        sizes = ()
    whole = [
        x is None and i < free or isinstance(x, int) and not isinstance(x, bool) and x > 0
        for i, x in enumerate(sizes)
    ]
    if len(sizes) != len(words) or not all(whole):
        may_be = f"; {' and '.join(words[:free])} may be None" if free else ""
        raise ValueError(
            f"`{argument}` of the family {family!r} must be ({', '.join(words)}"
            f"{',' if len(words) == 1 else ''}), whole numbers of 1 and more{may_be}; the "
            f"batch is left out. Received: {argument}={shape!r}."
        )
    return sizes


def _check_columns(family, columns, input_shape):
    if columns is None:
        return
    if FAMILIES[family].kind != "table":
        raise ValueError(
            f"`columns` go with tables, and the family {family!r} takes none: leave them "
            "out."
        )
    if len(columns) != input_shape[0]:
        raise ValueError(
            f"`columns` must be as many as `input_shape` says, {input_shape[0]}. Received: "
            f"{len(columns)}."
        )
