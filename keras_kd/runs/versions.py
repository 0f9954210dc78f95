"""Versions that a run or a cache was made with, beside those of this process."""

import importlib
import platform

import keras_kd

_PACKAGES = ("keras", "tensorflow", "numpy")


def versions():
    """dict of keras_kd, Python and the packages that compute to their versions."""
    # Not what is installed under these names: TensorFlow comes under others, too.
    found = {name: importlib.import_module(name).__version__ for name in _PACKAGES}
    return {"keras_kd": keras_kd.__version__, "python": platform.python_version()} | found


def changed(found):
    """In which versions something was made that are others here, as a phrase.

    Args:
        found: dict of names to versions, as `versions` gives it, or a part of it.

    Returns:
        "keras 3.14.0 (3.15.0 here), numpy 2.1 (2.4 here)", say; "" where all are the same.
    """
    here = versions()
    others = [name for name in here if found.get(name, here[name]) != here[name]]
    return ", ".join(f"{name} {found[name]} ({here[name]} here)" for name in others)
