"""Knowledge distillation, Keras-native."""

import importlib
import sys
from pathlib import Path

__version__ = "0.1.0"

# Each public name, once, and the module that it is in, or that it is.
_PUBLIC = {
    "CacheError": "cache.files",
    "DistillationChain": "chain.chain",
    "Distiller": "training.distiller",
    "MutualDistiller": "training.mutual",
    "Stage": "chain.stage",
    "TeacherFreeLoss": "training.teacher_free",
    "augment": "data.augmentation",
    "born_again": "chain.generations",
    "cache_teacher": "cache.cache",
    "callbacks": "training.callbacks",
    "distill": "distillation.distill",
    "export": "exporters.export",
    "load_distiller": "training.loading",
    "losses": "losses",
    "planner": "recipes.planner",
    "quantization_aware": "exporters.fake_quantization",
    "students": "students",
    "teachers": "teachers",
    "testing": "testing",
    "with_index": "cache.index",
    "with_teacher_inputs": "cache.teacher_inputs",
    "with_teacher_outputs": "cache.given",
}
__all__ = list(_PUBLIC)
# TensorFlow is loaded for these alone, so that a Distiller on another backend needs none.
_LATER = {
    "CacheError",
    "augment",
    "cache_teacher",
    "distill",
    "export",
    "planner",
    "students",
    "with_index",
    "with_teacher_inputs",
    "with_teacher_outputs",
}


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name, module)


def __dir__():
    return ["__version__", *_PUBLIC]


def register():
    """Loads what Keras must know to read our files: every class that it saves by name."""
    for name in _PUBLIC.keys() - _LATER:
        getattr(sys.modules[__name__], name)


# Whoever imports the package may load a file next. Only the command line, which answers
# --help before Keras is there, registers later.
if Path(sys.argv[0]).stem != "keras-kd":
    register()
