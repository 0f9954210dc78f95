"""What a recipe's stage becomes."""

import keras
import numpy as np
import pytest

from keras_kd.recipes import recipe, zoo
from keras_kd.report.recipe import as_toml
from tests.conftest import MINIMAL
from tests.recipes.test_recipe import GIVEN_ALONE


def first_weights(stage, seed):
    return stage.make(seed).student.get_weights()[0]


def test_stages_of_other_seeds_begin_with_other_weights(write_recipe):
    other = '[[stage]]\nname = "other"\nmodel = "mnist_student"\nepochs = 1\nseed = 1'
    first, second = recipe.load(write_recipe(stage=other)).stage
    assert first.seed_of(5) == 5
    # Also apart from those of a recipe whose seed is the stage's.
    seeds = {stage.seed_of(seed) for stage in (first, second) for seed in range(3)}
    assert len(seeds) == 6
    assert np.array_equal(first_weights(second, 5), first_weights(second, 5))
    assert not np.array_equal(first_weights(second, 5), first_weights(first, 5))


def test_dropout_of_a_stage(write_recipe):
    text = MINIMAL.format(extra="", stage="dropout = 0.125")
    with pytest.raises(ValueError, match="'first': `dropout` has no effect on 'mnist_s"):
        recipe.load(write_recipe(text=text)).stage[0].make(seed=0)
    text = text.replace("mnist_student", "mnist_teacher")
    student = recipe.load(write_recipe(text=text)).stage[0].make(seed=0).student
    assert [x.rate for x in student.layers if hasattr(x, "rate")] == [0.125, 0.125]


def test_ensemble(write_recipe):
    stage = """
[[stage]]
name = "second"
model = "mnist_fc_8"
epochs = 1
[[stage]]
name = "both"
ensemble = { models = ["first", "second"], weights = [1.0, 3.0], temperature = 2.0 }
"""
    loaded = recipe.load(write_recipe(stage=stage))
    chain = recipe.make_chain(loaded, None)
    first, second, both = [stage.student for stage in chain.stages]
    x = np.random.default_rng(0).uniform(size=(3, 28, 28, 1))

    def softened(model):
        return keras.ops.softmax(model(x) / 2.0).numpy()

    mean = 0.25 * softened(first) + 0.75 * softened(second)
    np.testing.assert_allclose(softened(both), mean, rtol=1e-5)
    loaded = recipe.load(write_recipe(stage=stage.replace('"first"', '"frist"')))
    with pytest.raises(ValueError, match=r"\(first, second\). Received: 'frist'"):
        recipe.make_chain(loaded, None)


def test_model_of_a_family(write_recipe):
    text = MINIMAL.format(extra="", stage="").replace("mnist_student", "mnist_fc_6_5")
    student = recipe.load(write_recipe(text=text)).stage[0].make(seed=0).student
    assert [layer.units for layer in student.layers[1:]] == [6, 5, 10]


@pytest.mark.parametrize("of_recipe", recipe.DTYPE_POLICIES)
@pytest.mark.parametrize("of_file", recipe.DTYPE_POLICIES)
def test_the_dtype_policy_of_a_file(write_recipe, tmp_path, of_recipe, of_file):
    """A file's layers keep theirs, so another in the recipe would have no effect."""
    keras.config.set_dtype_policy(of_file)
    try:
        zoo.build("mnist_fc_4").save(tmp_path / "mine.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    text = GIVEN_ALONE.replace("mnist/student", str(tmp_path / "mine.keras"))
    text = text.replace("batch_size", f'dtype_policy = "{of_recipe}"\nbatch_size')
    given = recipe.load(write_recipe(text=text))
    # Of students while they train: one that is given is none.
    recipe.make_chain(given, None)
    trained = recipe.load(write_recipe(text=text + "epochs = 1\n"))
    if of_recipe == of_file:
        (stage,) = recipe.make_chain(trained, None).stages
        assert stage.student.layers[-1].dtype_policy.name == of_file
        return
    with pytest.raises(ValueError) as error:
        recipe.make_chain(trained, None)
    message = str(error.value)
    assert "Stage 'given': `dtype_policy` has no effect on the layers of a file" in message
    assert f"dtype_policy={of_recipe!r}" in message and f"with {of_file}. " in message


def test_task(write_recipe):
    """It reaches the Stage, with losses and without."""
    text = MINIMAL.format(extra="", stage='task = "multiclass"')
    taught = '\nlosses = [{ name = "kd" }]\ntaught_by = "teacher"\n'
    loaded = recipe.load(write_recipe(text=text + taught))
    assert loaded.stage[0].make(seed=0).task == "multiclass"
    table = loaded.model_dump(**recipe.AS_JSON)
    again = recipe.load(write_recipe(text=as_toml(table)))
    assert again == loaded
    # On labels alone it says what is measured.
    assert recipe.load(write_recipe(text=text)).stage[0].make(seed=0).task == "multiclass"
