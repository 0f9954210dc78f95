"""What fingerprints call our modules does not change when these are moved."""

import importlib

import keras
import pytest

import keras_kd as kd
from keras_kd.runs.descriptions import described
from keras_kd.models import former_names
from keras_kd.models.fingerprints import _architecture
from keras_kd.models.former_names import former_name


def test_of_others_and_of_what_was_not_moved():
    for name in ("builtins", "keras.layers", "keras_kd", "keras_kd.losses._kd", "", None):
        assert former_name(name) == name


@pytest.mark.parametrize("module", former_names._FORMER)
def test_every_module_of_the_table_is_there(module):
    importlib.import_module(f"keras_kd.{module}")


def modules(config):
    """All that stand under "module" in a configuration."""
    if isinstance(config, dict):
        own = {x for key, x in config.items() if key == "module"}
        return own.union(*map(modules, config.values()))
    return set().union(*map(modules, config)) if isinstance(config, list) else set()


def test_models_of_our_own_classes(make_model):
    ensemble = kd.teachers.Ensemble([make_model(), make_model()])
    several = kd.teachers.Several({"a": make_model(), "b": make_model()})
    for model in (ensemble, several):
        found = {x for x in modules(_architecture(model)) if x.startswith("keras_kd")}
        assert found == {"keras_kd.teachers"}


def test_what_a_chain_describes():
    assert described(kd.cache_teacher)["function"] == "keras_kd.teacher_cache.cache_teacher"
    loss = kd.TeacherFreeLoss()
    assert "keras_kd" not in str(described(loss))
    assert keras.saving.get_registered_name(type(loss)) == "keras_kd>TeacherFreeLoss"
