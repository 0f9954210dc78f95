"""A family for images with an answer for each pixel."""

import keras
from keras import layers

from keras_kd.students.blocks import convolution, halvings, separable

_MOST_LEVELS = 3


def unet(input_shape, output_shape, width, columns=None):
    """A small separable U-Net (Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597).

    The maps are halved up to three times, with twice as many each time, and doubled again;
    on the way up they are added to those of their size, not put beside them, which takes
    half of the operations. Where the size is not known (None) the images' must be divisible
    by 8.
    """
    known = [x for x in input_shape[:2] if x is not None]
    levels = min([_MOST_LEVELS, *(halvings(x) for x in known)])
    inputs = keras.Input(input_shape, name="images")
    x = convolution(inputs, width, "stem")
    skips = []
    for level in range(1, levels + 1):
        skips.append(x)
        x = separable(x, width * 2**level, f"down{level}", strides=2)
        x = separable(x, width * 2**level, f"down{level}_more")
    for level in range(levels, 0, -1):
        skip = skips.pop()
        # Before the maps are doubled there are fewer pixels to compute.
        x = convolution(x, width * 2 ** (level - 1), f"up{level}_narrow", size=1)
        x = layers.UpSampling2D(name=f"up{level}_double")(x)
        x = _cut(x, skip, f"up{level}_cut")
        x = layers.Add(name=f"up{level}_add")([x, skip])
        x = separable(x, width * 2 ** (level - 1), f"up{level}")
    outputs = layers.Conv2D(output_shape[-1], 1, name="outputs")(x)
    return keras.Model(inputs, outputs)


def _cut(x, like, name):
    """Without the last row or column that the doubling of a rounded half added."""
    over = [
        0 if wanted is None else has - wanted
        for has, wanted in zip(x.shape[1:3], like.shape[1:3], strict=True)
    ]
    if not any(over):
        return x
    return layers.Cropping2D(((0, over[0]), (0, over[1])), name=name)(x)
