"""Knowledge distillation, Keras-native."""

import importlib

from keras_kd import callbacks as callbacks
from keras_kd import losses as losses
from keras_kd import teachers as teachers
from keras_kd import testing as testing
from keras_kd.generations import born_again as born_again
from keras_kd.chain import DistillationChain as DistillationChain
from keras_kd.stage import Stage as Stage
from keras_kd.distiller import Distiller as Distiller
from keras_kd.loading import load_distiller as load_distiller
from keras_kd.mutual import MutualDistiller as MutualDistiller
from keras_kd.teacher_free import TeacherFreeLoss as TeacherFreeLoss

__version__ = "0.1.0"

# TensorFlow is loaded for these alone, so that a Distiller on another backend needs none.
_LATER = {
    "cache_teacher": "keras_kd.teacher_cache",
    "CacheError": "keras_kd.cache_files",
    "with_index": "keras_kd.example_index",
    "augment": "keras_kd.data.augment",
    "planner": "keras_kd.planner",
    "export": "keras_kd.exporters",
    "quantization_aware": "keras_kd.fake_quantization",
}


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    return getattr(module, name, module)


def __dir__():
    return [*globals(), *_LATER]
