"""What a recipe's stage becomes."""

import keras
import numpy as np
import pytest

from keras_kd.datasets.parts import Parts
from keras_kd.recipes import recipe, zoo
from keras_kd.recipes.sections import ApplicationRecipe
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


# What "auto" is hangs on the machine: tests/training/test_precision.py.
POLICIES = [x for x in recipe.DTYPE_POLICIES if x != "auto"]


@pytest.mark.parametrize("of_recipe", POLICIES)
@pytest.mark.parametrize("of_file", POLICIES)
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


def test_an_application_of_keras():
    made = ApplicationRecipe.of("applications/MobileNetV3Small")
    assert made == {"application": "MobileNetV3Small"}
    assert ApplicationRecipe.of("mnist/teacher") == "mnist/teacher"
    table = {"application": "MobileNetV3Small", "alpha": 0.25}
    model = ApplicationRecipe.model_validate(table).make((32, 32, 1), (3,))
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 1), (None, 3))
    with pytest.raises(ValueError, match="`aplha` is no argument.*alpha, minimalistic"):
        ApplicationRecipe.model_validate({"application": "MobileNetV3Small", "aplha": 1})


@pytest.mark.parametrize(
    "model, parameters",
    [
        # Of 3 columns and their being known, by hand: 6 * 4 + 4, 4 * 4 + 4, 4 + 1; and
        # three means and variances and a count.
        ('{ family = "mlp", width = 4 }', 53 + 7),
        ('{ family = "mlp", max_parameters = "70" }', 53 + 7),
        ('"applications/MobileNetV3Small"', None),
        ('{ application = "MobileNetV3Small", alpha = 0.25 }', None),
    ],
)
def test_a_model_in_the_shape_of_the_data(write_recipe, model, parameters):
    stage = f"""
dataset = {{ path = "rows.csv" }}
batch_size = 8
[[stage]]
name = "student"
model = {model}
epochs = 1
"""
    loaded = recipe.load(write_recipe(text=stage))
    assert recipe.load(write_recipe(text=as_toml(loaded.model_dump(**recipe.AS_JSON))))
    with pytest.raises(ValueError, match="its size is that of the data"):
        recipe.make_chain(loaded, None)
    x = np.random.default_rng(0).normal(5.0, 2.0, (50, 3)).astype("float32")
    parts = Parts((x, x[:, 0]), None, (x, x[:, 0]), None, "table", "regression")
    if parameters is None:
        x = np.zeros((50, 32, 32, 3), "uint8")
        parts = Parts((x, np.arange(50) % 4), None, (x, None), tuple("abcd"))
    (made,) = recipe.make_chain(loaded, None, parts).stages
    if parameters is None:
        assert made.student.output_shape == (None, 4)
        return
    assert made.student.count_params() == parameters
    # Untrained, its values are about those of the labels.
    answers = made.student.predict(x, verbose=0)
    assert answers.shape == (50, 1) and abs(np.mean(answers) - 5.0) < 6.0
    (normal,) = [k for k in made.student.layers if k.name == "normalization"]
    np.testing.assert_allclose(normal.mean.numpy().ravel(), x.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    "model, message",
    [
        ('{ family = "mpl", width = 4 }', "no such family: 'mpl'.*did you mean 'mlp'"),
        ('{ family = "mlp" }', "give its width, or limits"),
        ('{ family = "mlp", width = 4, max_macs = 9 }', "give its width, or limits"),
        ('{ family = "mlp", max_bytes = "9 kilos" }', "`max_bytes`"),
        ('{ application = "MobilNet" }', "must be one of keras.applications"),
        ('"applications/MobileNetV3Smal"', "Did you mean 'MobileNetV3Small'"),
    ],
)
def test_a_model_that_is_none(write_recipe, model, message):
    text = MINIMAL.format(extra="", stage="").replace('"mnist_student"', model)
    with pytest.raises(ValueError, match=f"(?s)stage 1.*model.*{message}"):
        recipe.load(write_recipe(text=text))
