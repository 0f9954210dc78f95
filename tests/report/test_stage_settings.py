"""How stages were trained, as a recipe's tables and the manifest say."""

from types import SimpleNamespace

import pytest

from keras_kd.report import stage_settings


def run_of(recipe, **stages):
    models = {
        name: SimpleNamespace(name=name, stage=SimpleNamespace(epochs=epochs))
        for name, epochs in stages.items()
    }
    return SimpleNamespace(manifest=SimpleNamespace(recipe=recipe)), models


RECIPE = {
    "batch_size": 256,
    "augmentation": {"views": 20},
    "stage": [
        {"name": "own", "model": "mnist/ta", "batch_size": 32, "views": 0, "repeat": 3},
        {"name": "plain", "model": "mnist_fc_8", "batch_size": None, "views": None},
    ],
}


def test_a_stages_own_settings_and_the_recipes():
    run, models = run_of(RECIPE, own=1, plain=1)
    for function, own, plain in (
        (stage_settings.batch_size, 32, 256),
        (stage_settings.views, 0, 20),
        (stage_settings.repeat, 3, 1),
        (stage_settings.start, "mnist/ta", None),
    ):
        assert function(run, models["own"]) == own
        assert function(run, models["plain"]) == plain


def test_a_run_of_no_recipe():
    run, models = run_of(None, mine=1)
    assert stage_settings.table(run, "mine") == {}
    assert stage_settings.batch_size(run, models["mine"]) is None
    assert stage_settings.views(run, models["mine"]) == 0


def test_given_models():
    _, models = run_of(None, trained=1, ensemble=0)
    assert stage_settings.is_given(models["ensemble"])
    assert not stage_settings.is_given(models["trained"])
    assert stage_settings.is_given(SimpleNamespace(stage=None))


@pytest.mark.parametrize(
    "chosen, words",
    [
        ((None, None), "all examples"),
        ((None, 1000), "1,000 examples"),
        (((3,), None), "all examples of the class 3"),
        (((1, 2), 40), "40 examples of the classes 1, 2"),
    ],
)
def test_examples_in_words(chosen, words):
    assert stage_settings.examples_in_words(chosen) == words


def test_what_is_held_out_in_words():
    assert stage_settings.held_out({"validation_examples": 5000}) == "5,000"
    assert stage_settings.held_out({"validation_examples": 0}) == ""
    # A share of own images, or a part that was given: the recipe does not tell which.
    own = {"path": "photos", "validation": 0.1}
    assert stage_settings.held_out({"dataset": own}) == "validation examples"
    assert stage_settings.held_out({"dataset": own | {"validation": 0.0}}) == ""
