"""Names that fingerprints hold of our own modules: those that they had at first.

A class or function is told by its module and name, by Keras in a model's configuration,
and where a chain describes what is the user's. So a module that is moved keeps its name
here, and what users have on disk stays valid. Modules that are not listed have kept their
names, or hold nothing that a fingerprint tells.
"""

_FORMER = {
    "cache.cache": "teacher_cache",
    "cache.files": "cache_files",
    "cache.index": "example_index",
    "chain.chain": "chain",
    "chain.generations": "generations",
    "chain.stage": "stage",
    "data.augmentation": "data.augment",
    "data.deform": "data.augment",
    "data.random_layers": "data.augment",
    "data.random_views": "data.augment",
    "evaluation.evaluate": "evaluate",
    "evaluation.predictions": "predictions",
    "evaluation.profile": "profile",
    "evaluation.robustness": "robustness",
    "evaluation.similarity": "similarity",
    "evaluation.uncertainty": "uncertainty",
    "exporters.export": "exporters",
    "exporters.fake_quantization": "fake_quantization",
    "exporters.runtimes": "runtimes",
    "recipes.planner": "planner",
    "recipes.zoo": "zoo",
    "teachers.ensemble": "teachers",
    "teachers.saved_model": "teachers",
    "teachers.several": "teachers",
    "training.callbacks": "callbacks",
    "training.distiller": "distiller",
    "training.loading": "loading",
    "training.mutual": "mutual",
    "training.teacher_free": "teacher_free",
}


def former_name(module):
    """The name that a fingerprint holds for a module, ours or another's."""
    package, _, name = str(module).partition(".")
    is_ours = package == "keras_kd" and name
    return f"keras_kd.{_FORMER.get(name, name)}" if is_ours else module
