"""Shift, rotation, scale, shear and elastic deformation of an image, read once."""

import functools
import math
import numbers

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.random_views import Augmentation, random_bits, shifted

# The words of random bits of an example; the elastic noise has those from _AFFINE_WORDS
# on. Each transform has its own, so that turning one off leaves the others as they were.
_DOWN, _RIGHT, _ANGLE, _SCALE, _SHEAR = range(5)
_AFFINE_WORDS = 5

# Places, and what they are summed of, are multiples of 1 / _GRID: exact in float32 up to
# 4,000 pixels, so that a sum has the same bits in whatever order a graph adds it.
_GRID = 1024


@keras.saving.register_keras_serializable(package="keras_kd")
class Deform(Augmentation):
    """Shift, rotation, scale, shear and elastic deformation, for digits and the like.

    All are composed into one map from places in the result to places in the image, which
    is read once, by bilinear interpolation; outside the image there are zeros. Rotation,
    scale and shear go about the image's centre. Each number is drawn uniformly. The
    defaults suit 28 x 28 digits. With every magnitude zero the result is the image, bit
    for bit.

    The elastic deformation is that of Simard et al.: displacements uniform in
    (-alpha, alpha), smoothed by a Gaussian of `elastic_sigma`. The noise is drawn every
    `elastic_sigma` pixels instead of every pixel, which leaves the smoothed field's
    covariance as it was (to 1 %), and goes on beyond the image, so that borders move as
    much as the middle. The root mean square displacement is alpha / (sqrt(12 pi) sigma),
    1.3 pixels at the defaults.

    Args:
        shift: Pixels, in both directions; up to `shift` each way.
        rotation: Degrees, up to `rotation` each way.
        scale: Size changes by a factor in 1 - scale .. 1 + scale; less than 1.
        shear: Rows move sideways by up to `shear` pixels for each pixel from the centre.
        elastic_alpha: Strength, in pixels before the smoothing.
        elastic_sigma: Width of the Gaussian in pixels, at least 1.

    Raises:
        ValueError: An argument is negative, NaN, infinite or no number, `scale` is 1 or
            more, or `elastic_sigma` less than 1.

    Example:

    ```python
    augment = Deform(rotation=15.0)
    view_3 = augment(images, indices, view=3, seed=0)
    ```

    Reference:
        Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks
        applied to visual document analysis", ICDAR; alpha 34 and sigma 4 there.
    """

    def __init__(
        self,
        *,
        shift=2.0,
        rotation=12.0,
        scale=0.15,
        shear=0.15,
        elastic_alpha=32.0,
        elastic_sigma=4.0,
    ):
        self.shift = _check_magnitude("shift", shift)
        self.rotation = _check_magnitude("rotation", rotation)
        self.scale = _check_magnitude("scale", scale)
        self.shear = _check_magnitude("shear", shear)
        self.elastic_alpha = _check_magnitude("elastic_alpha", elastic_alpha)
        self.elastic_sigma = _check_magnitude("elastic_sigma", elastic_sigma)
        if self.scale >= 1 or self.elastic_sigma < 1:
            raise ValueError(
                "`scale` must be less than 1, and `elastic_sigma` at least 1. "
                f"Received: scale={scale!r}, elastic_sigma={elastic_sigma!r}."
            )
        # Tables for 12 bits; a computed sine's last bit depends on the place in the batch.
        both_ways = np.linspace(-1, 1, 4096)
        angles = np.radians(self.rotation * both_ways)
        self._shifts = _table(self.shift * both_ways)
        self._cosines, self._sines = _table(np.cos(angles)), _table(np.sin(angles))
        self._inverse_scales = _table(1 / (1 + self.scale * both_ways))
        self._shears = _table(self.shear * both_ways)

    def transform(self, images, keys):
        height, width = images.shape[1:3]
        if height is None or width is None:
            raise ValueError(
                "`inputs` must have a static height and width; tf.ensure_shape gives them. "
                f"Received: shape {images.shape}."
            )
        down, right = self._affine(random_bits(keys, _AFFINE_WORDS), height, width)
        if self.elastic_alpha > 0:
            field = self._elastic(keys, height, width)
            down, right = down + field[:, 0], right + field[:, 1]
        return _interpolate(images, down, right)

    def _elastic(self, keys, height, width):
        """Displacements down and to the right, in pixels, (batch, 2, height, width)."""
        smooth_down = _smoothing(height, self.elastic_sigma)
        smooth_right = _smoothing(width, self.elastic_sigma)
        rows, columns = smooth_down.shape[1], smooth_right.shape[1]
        words = math.ceil(2 * rows * columns / 8)
        noise = tf.bitcast(random_bits(keys, words, first=_AFFINE_WORDS), tf.uint8)
        noise = tf.reshape(tf.cast(noise, tf.float32), (-1, words * 8)) * 2.0 - 255.0
        noise = tf.reshape(noise[:, : 2 * rows * columns], (-1, columns))
        field = tf.reshape(noise @ smooth_right.T, (-1, 2, rows, width))
        # A byte b taken as 2 b - 255 has a variance of (256**2 - 1) / 3, the paper's noise
        # one of 1/3 before the smoothing, which leaves 1 / (4 pi sigma**2) of it.
        unit = _UNIT**2 * math.sqrt(256**2 - 1)
        smoothed = self.elastic_alpha / (2 * math.sqrt(math.pi) * self.elastic_sigma)
        return _on_grid((smooth_down @ field) * (smoothed / unit))

    def _affine(self, bits, height, width):
        """Where each pixel of the result is in the image, two of (batch, height, width)."""
        drawn = tf.cast(shifted(bits, 52), tf.int32)[..., None, None]
        inverse_scale = tf.gather(self._inverse_scales, drawn[:, _SCALE])
        cosine = _on_grid(tf.gather(self._cosines, drawn[:, _ANGLE]) * inverse_scale)
        sine = _on_grid(tf.gather(self._sines, drawn[:, _ANGLE]) * inverse_scale)
        shear = tf.gather(self._shears, drawn[:, _SHEAR])
        centre = (height - 1) / 2, (width - 1) / 2
        y = (np.arange(height, dtype="float32") - centre[0])[:, None]
        x = np.arange(width, dtype="float32") - centre[1]
        shift_down = tf.gather(self._shifts, drawn[:, _DOWN]) + centre[0]
        shift_right = tf.gather(self._shifts, drawn[:, _RIGHT]) + centre[1]
        # Shear first, then rotation and scale.
        down = sine * x + ((_on_grid(sine * shear) + cosine) * y + shift_down)
        right = cosine * x + ((_on_grid(cosine * shear) - sine) * y + shift_right)
        return down, right

    def get_config(self):
        names = "shift rotation scale shear elastic_alpha elastic_sigma".split()
        return {name: getattr(self, name) for name in names}


def _on_grid(values):
    return tf.round(values * _GRID) * (1 / _GRID)


def _table(values):
    return (np.round(values * _GRID) / _GRID).astype("float32")


def _check_magnitude(name, value):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"`{name}` must be a finite number >= 0. Received: {name}={value!r}."
        )
    return float(value)


# What `_smoothing` holds instead of 1.
_UNIT = 128


@functools.lru_cache
def _smoothing(size, sigma):
    """Gaussian weights from a grid of noise to pixels, (size, grid), that keep variance.

    Whole numbers, `_UNIT` times the weights: on noise of 8 bits, every sum that two
    products with this matrix meet stays below 2**24 and is exact in float32, in whichever
    order a matrix product adds.
    """
    # In units of sigma; 3 of them beyond the image.
    grid = np.arange(-3, math.ceil((size - 1) / sigma) + 4)
    weights = np.exp(-((np.arange(size)[:, None] / sigma - grid) ** 2) / 2)
    weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
    return np.round(_UNIT * weights).astype("float32")


def _interpolate(images, down, right):
    """Images read at real-valued places, (batch, height, width) each; zeros outside."""
    batch, channels = tf.shape(images)[0], tf.shape(images)[3]
    height, width = images.shape[1:3]
    # A border of zeros: whatever lies outside is moved onto it.
    padded = tf.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    down = tf.clip_by_value(down + 1.0, 0.0, height + 1.0)
    right = tf.clip_by_value(right + 1.0, 0.0, width + 1.0)
    top, left = tf.floor(down), tf.floor(right)
    below, beside = (down - top)[..., None], (right - left)[..., None]
    # A pixel and its right neighbour as one complex number: two gathers instead of four.
    pairs = tf.reshape(tf.complex(padded[:, :, :-1], padded[:, :, 1:]), (-1, channels))
    row = width + 2
    offsets = tf.range(batch)[:, None, None] * ((height + 3) * row)
    places = tf.cast(top, tf.int32) * row + tf.cast(left, tf.int32) + offsets
    upper, lower = tf.gather(pairs, places), tf.gather(pairs, places + row)
    upper, lower = (
        tf.math.real(x) + beside * (tf.math.imag(x) - tf.math.real(x))
        for x in (upper, lower)
    )
    return tf.ensure_shape(upper + below * (lower - upper), images.shape)
