"""Keras's own random image layers as pure functions of (example, view, seed)."""


import keras
import tensorflow as tf

from keras_kd.data.random_views import Augmentation, random_bits

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
