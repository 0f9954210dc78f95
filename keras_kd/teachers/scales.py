"""How a teacher of images wants its pixels, which the data have in [0, 1]."""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice
from keras_kd.models.symbolic import input_shapes
from keras_kd.teachers.preprocessed import Preprocessed

# Of ImageNet's training images, red, green, blue: as `keras.applications` has them.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BGR_MEAN = (103.939, 116.779, 123.68)


def _reversed(images):
    return ops.flip(images, axis=-1)


# Each a function that gives new layers, for pixels in [0, 1]. With channels in threes alone
# where there is a number for each.
_STEPS = {
    "unit": lambda: [],
    "bytes": lambda: [keras.layers.Rescaling(255.0)],
    "symmetric": lambda: [keras.layers.Rescaling(2.0, offset=-1.0)],
    "imagenet": lambda: [
        keras.layers.Normalization(mean=_MEAN, variance=[x * x for x in _DEVIATION])
    ],
    "bgr": lambda: [
        keras.layers.Rescaling(255.0),
        _reversed,
        keras.layers.Normalization(mean=_BGR_MEAN, variance=[1.0] * 3),
    ],
}
# What each is, for whoever reads it; the smaller numbers first.
SCALES = {
    "unit": "[0, 1]",
    "symmetric": "[-1, 1]",
    "imagenet": "[0, 1] minus ImageNet's mean, by its deviation",
    "bgr": "[0, 255] in the order blue, green, red, minus ImageNet's mean",
    "bytes": "[0, 255], as they are in the files",
}
_OF_COLOURS = ("imagenet", "bgr")


def names_for(channels):
    """The scales that images of so many channels can have, a list."""
    return [x for x in SCALES if channels == 3 or x not in _OF_COLOURS]


def scaled(teacher, scale, input_shape=None):
    """A teacher that takes images in [0, 1], and sees them in its own scale and size.

    The scales are those of the modes of `keras.applications`: "symmetric" is "tf",
    "imagenet" is "torch", "bgr" is "caffe"; its EfficientNets take "bytes".

    Args:
        teacher: A built `keras.Model` of images.
        scale: A key of `SCALES`.
        input_shape: (height, width, channels) of what it is given. Defaults to the
            teacher's own.

    Returns:
        The teacher itself, where nothing is to be done; else a
        `keras_kd.teachers.Preprocessed`.

    Raises:
        ValueError: There is no such scale, or not for so many channels, or the teacher
            does not take one image.
    """
    known = input_shapes(teacher)
    own = known[0][1:] if known else (None, None, None)
    given = tuple(own if input_shape is None else input_shape)
    if len(known) > 1 or len(own) != 3 or len(given) != 3:
        raise ValueError(
            "`scale` goes with a teacher of images. Received: "
            f"{teacher.name!r}, which takes {', '.join(map(str, known))}."
        )
    if None in given:
        raise ValueError(
            f"`input_shape` must be given: {teacher.name!r} takes images of any size."
        )
    check_choice("scale", scale, tuple(names_for(given[-1])))
    steps = _STEPS[scale]()
    if None not in own[:2] and own[:2] != given[:2]:
        # Of larger images it changes little, and no LiteRT file has it.
        is_smaller = own[0] < given[0] or own[1] < given[1]
        steps.insert(0, keras.layers.Resizing(*own[:2], antialias=is_smaller))
    if not steps and None in own:
        # So that the size of what it answers is known, too.
        steps = [keras.layers.Identity()]
    return Preprocessed(teacher, steps, given) if steps else teacher
