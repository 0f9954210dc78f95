"""Knowledge distillation, Keras-native."""

from keras_kd import losses as losses
from keras_kd.chain import DistillationChain as DistillationChain
from keras_kd.chain import Stage as Stage
from keras_kd.distiller import Distiller as Distiller
from keras_kd.distiller import load_distiller as load_distiller

__version__ = "0.1.0"
