"""Augmentation as a pure function of (example, view, seed).

Teacher and student must see the same crop of the same image (Beyer et al. 2022, "Knowledge
distillation: A good teacher is patient and consistent", https://arxiv.org/abs/2106.05237),
and what the teacher said of K views can be kept and replayed (Shen, Xing 2022, "A Fast
Knowledge Distillation Framework for Visual Recognition", https://arxiv.org/abs/2112.01528).
So every random number here is a hash of the seed, the example's index, the number of the
view and the number of the draw; there is no state.
"""

import abc
import functools
import math
import numbers

import keras
import numpy as np
import tensorflow as tf

# SplitMix64's increment (2**64 over the golden ratio, odd).
_GAMMA = 0x9E3779B97F4A7C15


def _mix(x):
    """SplitMix64's finaliser: uint64 to uint64, one to one, each bit hangs on all."""
    # Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, _shifted(x, shift)) * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, _shifted(x, 31))


def _shifted(x, shift):
    return tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64))


def _fold(key, number):
    """A new key of an old one and an int64 tensor."""
    return _mix(_mix(key) + tf.bitcast(number, tf.uint64) * tf.constant(_GAMMA, tf.uint64))


def random_bits(keys, count, first=0):
    """Words first, first + 1, ... of every example, each of 64 random bits.

    Args:
        keys: uint64, (batch,), as `Augmentation.transform` receives them.
        count: Words per example.
        first: Number of the first; word j is a function of the key and of j alone.

    Returns:
        uint64, (batch, count).
    """
    steps = [(j + 1) * _GAMMA % 2**64 for j in range(first, first + count)]
    return _mix(keys[:, None] + tf.constant(np.array(steps, "uint64")))


class Augmentation(abc.ABC):
    """Random images of an example that depend on (example, view, seed) and nothing else.

    Not on the batch the example is in, its place there, eager or graph, or what ran
    before: called twice, the bits are the same. A final class writes
    `transform(images, keys)` and `get_config`.
    """

    def __call__(self, inputs, indices, view, seed):
        """One view of each image.

        Args:
            inputs: Images, (batch, height, width, channels), floats or uint8. They are
                cast to float32, not rescaled, as in Keras's own image layers.
            indices: Integers, (batch,): the number of each example in its data set.
            view: Integer scalar, or integers (batch,): which view of the example.
            seed: Python integer; another seed gives other views.

        Returns:
            float32 images, as many; of the same size, unless a `RandomCrop` changes it.

        Raises:
            ValueError: A rank, dtype or length does not fit, or `seed` is no integer.
            tf.errors.InvalidArgumentError: A length known only in a running graph.
        """
        inputs = tf.convert_to_tensor(inputs)
        is_image = inputs.dtype.is_floating or inputs.dtype == tf.uint8
        if inputs.shape.rank != 4 or not is_image:
            raise ValueError(
                "`inputs` must be (batch, height, width, channels), floats or uint8. "
                f"Received: shape {inputs.shape}, dtype {inputs.dtype.name}."
            )
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
            raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}.")
        indices = _integers("indices", indices, inputs, ranks=(1,))
        view = _integers("view", view, inputs, ranks=(0, 1))
        key = tf.constant(int(seed) % 2**64, tf.uint64)
        for number in (indices, view):
            key = _fold(key, number)
        return self.transform(tf.cast(inputs, tf.float32), key)

    @abc.abstractmethod
    def transform(self, images, keys):
        """Images under the random numbers of their keys.

        Args:
            images: float32, (batch, height, width, channels).
            keys: uint64, (batch,); `random_bits` makes random numbers of them.
        """

    @abc.abstractmethod
    def get_config(self):
        """The constructor's arguments, as Keras serialises them."""

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def _integers(name, values, inputs, ranks):
    """`values` as int64, one for each image; a scalar is left a scalar."""
    values = tf.convert_to_tensor(values)
    lengths = (inputs.shape[0], values.shape[0] if values.shape.rank else None)
    if (
        not values.dtype.is_integer
        or values.shape.rank not in ranks
        or (None not in lengths and lengths[0] != lengths[1])
    ):
        scalar = "one integer or " if 0 in ranks else ""
        raise ValueError(
            f"`{name}` must be {scalar}an integer for each image, (batch,). Received: "
            f"{name} of shape {values.shape}, dtype {values.dtype.name}, with inputs of "
            f"shape {inputs.shape}."
        )
    if values.shape.rank == 1 and None in lengths:
        # One index would otherwise serve a whole batch by broadcasting.
        same_length = tf.debugging.assert_equal(
            tf.shape(values)[0],
            tf.shape(inputs)[0],
            message=f"`{name}` must be as long as the batch of `inputs`.",
        )
        # A graph would otherwise be free to use them before they are checked.
        with tf.control_dependencies([same_length]):
            values = tf.identity(values)
    return tf.cast(values, tf.int64)


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
        drawn = tf.cast(_shifted(bits, 52), tf.int32)[..., None, None]
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


# Keras's layers that draw all their random numbers from the seed they are given. Not
# AugMix, RandAugment, ColorJitter: they draw from their own state; CutMix, MixUp: they mix
# examples; ElasticTransform, GaussianBlur, Posterization, Saturation: they round
# differently in a graph; Shear: it does not take its own config (Keras 3.15).
_LAYERS = [
    getattr(keras.layers, f"Random{name}")
    for name in (
        "Brightness ColorDegeneration Contrast Crop Erasing Flip Grayscale Hue Invert "
        "Perspective Rotation Sharpness Translation Zoom"
    ).split()
]


@keras.saving.register_keras_serializable(package="keras_kd")
class RandomLayers(Augmentation):
    """Keras's own random image layers, one after the other, made pure functions.

    A layer's own `seed` plays no part. Images are transformed one by one (`tf.map_fn`), so
    that each has its own random numbers.

    Args:
        layers: A layer, or a list in the order in which they are applied, for instance
            `[RandomFlip("horizontal"), RandomTranslation(0.1, 0.1)]`.

    Raises:
        ValueError: There is no layer, or one that is no function of a seed and one image;
            the message names those that are.
    """

    def __init__(self, layers):
        layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
        # Exactly these: a subclass may draw in its own way.
        if not layers or any(type(layer) not in _LAYERS for layer in layers):
            names = ", ".join(layer.__name__ for layer in _LAYERS)
            raise ValueError(
                f"`layers` must be one or more of keras.layers' {names}. "
                f"Received: layers={layers!r}."
            )
        # Copies for tf.data: a model's own layers stay with Keras's backend.
        self.layers = [type(layer).from_config(layer.get_config()) for layer in layers]
        for layer in self.layers:
            layer.backend.set_backend("tensorflow")

    def transform(self, images, keys):
        def transform_one(image_and_key):
            image, key = image_and_key
            seeds = _SeedsOfKey(key)
            image = image[None]
            for layer in self.layers:
                drawn = layer.get_random_transformation(image, training=True, seed=seeds)
                image = layer.transform_images(image, drawn, training=True)
            return tf.cast(image[0], tf.float32)

        return tf.map_fn(transform_one, (images, keys), fn_output_signature=tf.float32)

    def get_config(self):
        return {"layers": keras.saving.serialize_keras_object(self.layers)}


class _SeedsOfKey(keras.random.SeedGenerator):
    """Hands Keras's random functions one seed after the other, all hashed from a key."""

    # No super().__init__: it would make a variable for the state.
    def __init__(self, key):
        self._key = key
        self._draws = 0

    def next(self, ordered=True):
        bits = random_bits(self._key[None], count=1, first=self._draws)
        self._draws += 1
        return tf.bitcast(bits[0, 0], tf.int32)
