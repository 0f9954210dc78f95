"""`keras_kd.augment`: what makes views of images."""

from keras_kd.data.deform import Deform
from keras_kd.data.random_layers import RandomLayers
from keras_kd.data.random_views import Augmentation, random_bits

__all__ = ["Augmentation", "Deform", "RandomLayers", "random_bits"]
