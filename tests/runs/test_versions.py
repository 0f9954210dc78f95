"""Versions of this process, and in which others something was made."""

import platform

import keras
import numpy as np

import keras_kd
from keras_kd.runs.versions import changed, versions


def test_versions_of_this_process():
    found = versions()
    assert found["keras_kd"] == keras_kd.__version__
    assert found["python"] == platform.python_version()
    assert (found["keras"], found["numpy"]) == (keras.__version__, np.__version__)


def test_what_is_another_here():
    assert changed(versions()) == changed({}) == changed({"another": "1"}) == ""
    found = changed(versions() | {"keras": "3.0.1", "keras_kd": "0.0.1"})
    assert found == (
        f"keras_kd 0.0.1 ({keras_kd.__version__} here), "
        f"keras 3.0.1 ({keras.__version__} here)"
    )
