"""Recipes: read as data, refused with the place of what is wrong, run to a folder."""

import dataclasses
import json
import re

import keras
import pytest

from keras_kd.datasets.load import Own
from keras_kd.recipes import recipe, zoo
from keras_kd.recipes.sections import DataRecipe
from keras_kd.training import precision
from keras_kd.tuning.recipe import TunedRecipe
from tests.conftest import MINIMAL


def test_mnist_is_the_published_experiment():
    mnist = recipe.load("mnist")
    ta, direct, student, alone = mnist.stage
    assert (mnist.batch_size, mnist.teacher) == (256, "mnist/teacher")
    assert [x.model for x in mnist.stage] == [
        "mnist_ta", "mnist_student", "mnist_student", "mnist_student",
    ]  # fmt: skip
    assert [x.taught_by for x in mnist.stage] == [None, "teacher", "ta", None]
    for stage in (ta, direct, student):
        loss = stage.losses[0].make()
        assert loss.get_config() == {"temperature": 4.0, "form": "cross_entropy"}
        assert stage.student_loss_weight == 0.5
    assert [x.published_accuracy[-1] for x in (ta, student)] == [99.16, 98.70]
    assert {len(x.published_accuracy) for x in mnist.stage} == {0, 12}
    assert alone.losses == []
    for stage in mnist.stage:
        optimizer = stage.optimizer.make()
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert float(optimizer.learning_rate) == pytest.approx(0.001)
        assert stage.epochs == 12


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_is_valid(name):
    kind = TunedRecipe if name.endswith("_tune") else recipe.Recipe
    assert recipe.load(name, kind).stage


def test_overrides(write_recipe):
    loaded = recipe.load(write_recipe(), seed=7, batch_size=None, epochs=3)
    assert (loaded.seed, loaded.batch_size, loaded.stage[0].epochs) == (7, 50, 3)
    given = '[[stage]]\nname = "given"\nmodel = "ta.keras"\nepochs = 0'
    loaded = recipe.load(write_recipe(stage=given), epochs=3)
    assert [x.epochs for x in loaded.stage] == [3, 0]


@pytest.mark.parametrize(
    "extra, stage, message",
    [
        ("sed = 1", "", "  sed: unknown key"),
        ("tune = {}", "", "  tune: goes with keras-kd tune, not with a run"),
        ("seed = -1", "", "  seed: Input should be greater than or equal to 0"),
        ('seed = "1"', "", "  seed: Input should be a valid integer"),
        ("drop_rate = 0.5", "", "drop_rate goes with dense = true"),
        ("dense = true\ndrop_rate = 1.0", "", "drop_rate: Input should be less than 1"),
        ("", "epoch = 2", '  stage 1 ("first") > epoch: unknown key'),
        ("", 'losses = [{ name = "kdd" }]', "losses 1 > name: no such loss: 'kdd'"),
        ("", 'losses = [{ name = "kdd" }]', "did you mean 'kd'?"),
        (
            "",
            'losses = [{ name = "kd", temprature = 4 }]',
            'stage 1 ("first") > losses 1: The loss \'kd\' takes the arguments: temp',
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = 0 }]',
            "`temperature` must be a finite number greater than 0",
        ),
        ("", 'optimizer = { name = "adamm" }', "optimizer: not a Keras optimizer"),
        (
            "",
            'optimizer = { name = "adam", learning_rate = { schedule = "Cosine" } }',
            "optimizer: learning_rate: a table stands for a schedule of Keras. Rec",
        ),
        ("", 'losses = "kd"', "losses: Input should be a valid list"),
        (
            "",
            'task = "multilable"',
            '  stage 1 ("first") > task: no such task: \'multilable\'. Known: multiclass, '
            "binary, multilabel, regression; did you mean 'multilabel'?",
        ),
        ("", "task = 1", "task: Input should be a valid string"),
        *(
            ("", f'task = "{x}"', f"stage 'first' has task = '{x}', and the labels of mni")
            for x in ("binary", "multilabel", "regression")
        ),
        (
            "",
            'losses = [{ name = "fitnet", taps = ["conv1"] }]',
            "losses 1: `taps` must be a pair of layer names",
        ),
        ("", "student_loss_weight = 2", "student_loss_weight: Input should be less"),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecoy" } }]',
            "losses 1: temperature: a table stands for a schedule of Keras. Rec",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecay" } }]',
            "losses 1: temperature: not a schedule of Keras: .* missing 2 required",
        ),
        (
            "",
            'student_loss_weight = { schedule = "PolynomialDecay", '
            "initial_learning_rate = 2.0, decay_steps = 10 }",
            "`student_loss_weight` must be between 0 and 1 at every step, and is 2.0",
        ),
        (
            "",
            "distillation_loss_weights = [1.0, -1.0]",
            "distillation_loss_weights 2: Input should be greater than or equal to 0",
        ),
        ("augmentation = { shift = 1.0 }", "", "augmentation > views: Field required"),
        ("augmentation = { views = 0 }", "", "augmentation > views: Input should be gr"),
        (
            "augmentation = { views = 2, shift = -1.0 }",
            "",
            "augmentation: `shift` must be a finite number >= 0",
        ),
        (
            "augmentation = { views = 2, turn = 1.0 }",
            "",
            "augmentation: not what keras_kd.augment.Deform takes: .*'turn'",
        ),
        ("", "views = 3", "stage 'first' has views, which go with an augmentation table"),
        (
            "validation_examples = 5\ntest_each_epoch = false",
            "",
            "test_each_epoch goes without validation_examples",
        ),
        ("", "classes = []", 'stage 1 ("first") > classes: List should have at least 1'),
        ("", "repeat = 0", "repeat: Input should be greater than or equal to 1"),
        ("", "dropout = 1.0", "dropout: Input should be less than 1"),
        ("", "ensemble = { models = ['x'] }", "give one of `model` and `ensemble`"),
        (
            "",
            '[[stage]]\nname = "both"\nepochs = 2\nensemble = { models = ["first"] }',
            'stage 2 ("both"): an ensemble is not trained: leave out epochs',
        ),
        (
            "",
            '[[stage]]\nname = "given"\nmodel = "ta.keras"\nexamples = 5',
            'stage 2 ("given"): examples goes with epochs, of which there are none',
        ),
    ],
)
def test_names_what_is_wrong_and_where(write_recipe, extra, stage, message):
    with pytest.raises(ValueError) as caught:
        recipe.load(write_recipe(extra, stage))
    assert "mine.toml is not a valid recipe:" in str(caught.value)
    assert re.search(message, str(caught.value)) or message in str(caught.value)


@pytest.mark.parametrize("value", ["true", '"0.5"', "nan", "inf"])
@pytest.mark.parametrize(
    "extra, stage",
    [
        ("", "student_loss_weight = {}"),
        ("", "distillation_loss_weights = [{}]"),
        ("", "dropout = {}"),
        ("", "published_accuracy = [{}]"),
        ("dense = true\ndrop_rate = {}", ""),
        ("", 'optimizer = {{ name = "adam", learning_rate = {} }}'),
        ("", 'losses = [{{ name = "kd", temperature = {} }}]'),
    ],
)
def test_a_number_is_a_finite_number(write_recipe, extra, stage, value):
    path = write_recipe(extra.format(value), stage.format(value))
    with pytest.raises(ValueError, match="(number|finite)") as caught:
        recipe.load(path)
    (place,) = str(caught.value).splitlines()[1:]
    assert place.startswith(('  stage 1 ("first") > ', "  drop_rate: "))


@pytest.mark.parametrize(
    "extra, stage, words",
    [
        ("dense = 1", "", "dense: Input should be a valid boolean"),
        ("", 'restore_best = "yes"', "restore_best: Input should be a valid boolean"),
        ("", "classes = [1.0]", "classes 1: Input should be a valid integer"),
        (
            "",
            "[[stage]]\nname = 'results.md'\nmodel = 'mnist_fc_8'\nepochs = 1",
            "> name: is the name of something else in a run folder",
        ),
        ("", "views = 3", "\n  stage 'first' has views, which go with an augment"),
        (
            "",
            'optimizer = { name = "adam", clipnorm = -1.0 }',
            "optimizer: clipnorm must be a finite number, 0 or greater. Received: -1.0",
        ),
        (
            "",
            'optimizer = { name = "adam", beta_1 = nan }',
            "optimizer: beta_1 must be a number that is 0 or greater, and less than 1. "
            "Received: nan",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecay", '
            'initial_learning_rate = 8.0, decay_steps = "ten" } }]',
            "temperature: CosineDecay > decay_steps must be a number. Received: 'ten'",
        ),
        (
            "",
            'optimizer = { name = "adam", learning_rate = { schedule = "CosineDecay", '
            "initial_learning_rate = nan, decay_steps = 10 } }",
            "learning_rate: CosineDecay > initial_learning_rate must be finite. Rec",
        ),
        (
            "",
            'optimizer = { name = "adam", learning_rate = { schedule = "CosineDecay", '
            "initial_learning_rate = -1.0, decay_steps = 10 } }",
            "optimizer: learning_rate must be a finite number, 0 or greater",
        ),
        *[
            (
                "",
                f'optimizer = {{ name = "{name}", {key} = {value} }}',
                f"optimizer: {key} must be a number that is 0 or greater, and less than 1",
            )
            for name, key, value in (
                ("adam", "beta_1", "2.0"),
                ("adam", "beta_2", "1"),
                ("sgd", "momentum", "-1"),
                ("rmsprop", "rho", "2"),
                ("adam", "ema_momentum", "1.0"),
            )
        ],
        (
            "",
            'optimizer = { name = "adam", epsilon = -1 }',
            "optimizer: epsilon must be a finite number, 0 or greater. Received: -1",
        ),
        (
            "",
            'optimizer = { name = "adam", epsilon = { schedule = "CosineDecay", '
            "initial_learning_rate = 0.1, decay_steps = 10 } }",
            "optimizer: epsilon must be a number; learning_rate takes a schedule",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecay", '
            "initial_learning_rate = 8.0, decay_steps = true } }]",
            "temperature: CosineDecay > decay_steps must be a number. Received: True",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecay", '
            "initial_learning_rate = 8.0, decay_steps = 0 } }]",
            "temperature: CosineDecay > decay_steps must be 1 or greater. Received: 0",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = 1e39 }]',
            "`temperature` must be a finite number greater than 0",
        ),
        (
            "",
            'losses = [{ name = "kd" }]\ndistillation_loss_weights = []',
            "distillation_loss_weights must hold one number for each of the 1 losses",
        ),
        (
            "",
            'losses = [{ name = "kd" }]\ndistillation_loss_weights = [0.0]',
            "distillation_loss_weights are all 0, so nothing would be distilled",
        ),
        ("", 'monitor = "val_accuracy"', "monitor goes with patience or restore_best"),
        ("", "classes = [3, 3]", "classes must differ. Received: [3, 3]"),
        ("", "classes = [-1]", "classes 1: Input should be greater than or equal to 0"),
        (
            "",
            "[[stage]]\nname = 'First'\nmodel = 'mnist_fc_8'\nepochs = 1",
            "the names 'first' and 'First' differ in capital letters alone",
        ),
        (
            "",
            "[[stage]]\nname = 'next '\nmodel = 'mnist_fc_8'\nepochs = 1",
            "the name 'next ' begins or ends with a space",
        ),
    ],
)
def test_what_is_no_such_value_is_refused_in_its_place(write_recipe, extra, stage, words):
    with pytest.raises(ValueError) as caught:
        recipe.load(write_recipe(extra, stage))
    assert words in str(caught.value)


def test_epochs_of_all_stages_are_one_or_more(write_recipe):
    with pytest.raises(ValueError, match="`epochs` must be an integer, 1 or greater"):
        recipe.load(write_recipe(), epochs=0)


def test_schedules(write_recipe):
    stage = """
        losses = [
            { name = "kd", temperature = { schedule = "CosineDecay", \
                initial_learning_rate = 8.0, decay_steps = 20, alpha = 0.25 } },
            { name = "logit_mse" },
        ]
        student_loss_weight = { schedule = "PolynomialDecay", \
            initial_learning_rate = 1.0, decay_steps = 10, end_learning_rate = 0.5 }
        distillation_loss_weights = [0.9, { schedule = "PiecewiseConstantDecay", \
            boundaries = [5], values = [0.0, 1.0] }]
    """.replace("\\\n", "")
    made = recipe.load(write_recipe(stage=stage)).stage[0].make(seed=0)
    temperature = made.distillation_losses[0].temperature
    assert [float(temperature(x)) for x in (0, 20)] == [8.0, 2.0]
    assert float(made.student_loss_weight(5)) == 0.75
    first, second = made.distillation_loss_weights
    assert (first, float(second(5)), float(second(6))) == (0.9, 0.0, 1.0)


def test_schedule_of_the_learning_rate(write_recipe):
    stage = """
        optimizer = { name = "adam", learning_rate = { schedule = "CosineDecay", \
            initial_learning_rate = 0.25, decay_steps = 10 } }
    """.replace("\\\n", "")
    optimizer = recipe.load(write_recipe(stage=stage)).stage[0].make(seed=0).optimizer
    assert float(optimizer.learning_rate) == 0.25
    optimizer.iterations.assign(5)
    assert float(optimizer.learning_rate) == pytest.approx(0.125)


def test_unknown_model_and_data_set(write_recipe):
    text = MINIMAL.format(extra="", stage="")
    with pytest.raises(ValueError, match="no such model .*did you mean 'mnist_student'"):
        recipe.load(write_recipe(text=text.replace("mnist_student", "mnist_studet")))
    with pytest.raises(ValueError, match="stage 1 .*> model: mnist_fc takes 1 to 4 widths"):
        recipe.load(write_recipe(text=text.replace("mnist_student", "mnist_fc_0")))
    with pytest.raises(ValueError, match="dataset: no such data set: 'cifar'"):
        recipe.load(write_recipe(text=text.replace('"mnist"', '"cifar"')))


def test_batch_size_of_a_stage(write_recipe):
    for stage, ours in (("", False), ("batch_size = 7", True)):
        loaded = recipe.load(write_recipe(stage=stage))
        expected = 7 if ours else loaded.batch_size
        assert loaded.batch_size != 7
        assert loaded.batch_size_of(loaded.stage[0]) == expected


def test_views_of_a_stage(write_recipe):
    extra = "augmentation = { views = 4, rotation = 5.0, elastic_alpha = 0.0 }"
    for stage, views in (("", 4), ("views = 9", 9), ("views = 0", 1)):
        loaded = recipe.load(write_recipe(extra, stage))
        found, augment = loaded.views_of(loaded.stage[0])
        assert found == views and (augment is None) == (stage == "views = 0")
        if augment:
            assert (augment.rotation, augment.elastic_alpha) == (5.0, 0.0)
    loaded = recipe.load(write_recipe())
    assert loaded.views_of(loaded.stage[0]) == (1, None)


def test_no_stage(write_recipe):
    with pytest.raises(ValueError, match="stage: Field required"):
        recipe.load(write_recipe(text='dataset = "mnist"\nbatch_size = 1\n'), epochs=2)


def test_not_toml(write_recipe):
    with pytest.raises(ValueError, match=r"mine.toml is not a TOML file.*line 1"):
        recipe.load(write_recipe(text="dataset: mnist"))


def test_no_such_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe 'mnits'. Known: .*mnist, mn"):
        recipe.load("mnits")
    with pytest.raises(FileNotFoundError, match="no recipe file .*gone.toml"):
        recipe.load(tmp_path / "gone.toml")


GIVEN_ALONE = """
dataset = "mnist"
batch_size = 50
[[stage]]
name = "given"
model = "mnist/student"
"""


def test_overrides_hold_for_stages_with_their_own(write_recipe):
    path = write_recipe(stage="batch_size = 20")
    assert recipe.load(path).stage[0].batch_size == 20
    loaded = recipe.load(path, batch_size=30, epochs=3)
    assert loaded.batch_size_of(loaded.stage[0]) == 30 and loaded.stage[0].epochs == 3
    given = GIVEN_ALONE.replace("[[stage]]", "", 1)
    text = path.read_text() + "[[stage]]" + given.split("batch_size = 50")[1]
    loaded = recipe.load(write_recipe(text=text), batch_size=30)
    assert [loaded.batch_size_of(x) for x in loaded.stage] == [30, 30]


@pytest.mark.parametrize(
    "override",
    [{"epochs": 2}, {"batch_size": 9}, {"seed": 1}, {"dtype_policy": "mixed_bfloat16"}],
)
def test_overrides_of_what_is_not_trained(write_recipe, override):
    path = write_recipe(text=GIVEN_ALONE)
    assert recipe.load(path, **dict.fromkeys(override)).stage[0].epochs == 0
    (name,) = override
    with pytest.raises(ValueError, match=f"trains no stage, so {name} would have no eff"):
        recipe.load(path, **override)


def test_a_policy_that_is_left_to_the_machine(write_recipe, tmp_path, monkeypatch):
    """A run that was begun elsewhere keeps its own; what is asked for is obeyed."""
    monkeypatch.setattr(precision, "_has_accelerator", lambda: False)
    monkeypatch.setattr(precision, "_has_bfloat16_instructions", lambda: False)
    path = write_recipe(extra='dtype_policy = "auto"')
    assert recipe.load(path).dtype_policy == "float32"
    assert recipe.load(path, run_dir=tmp_path / "new").dtype_policy == "float32"
    begun = {"format": 1, "kind": "run", "recipe": {"dtype_policy": "mixed_bfloat16"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(begun))
    again = recipe.load(path, run_dir=tmp_path / "run")
    assert again.dtype_policy == again.model_dump()["dtype_policy"] == "mixed_bfloat16"
    for asked in ("mixed_bfloat16", "mixed_float16", "float32"):
        loaded = recipe.load(path, run_dir=tmp_path / "run", dtype_policy=asked)
        assert loaded.dtype_policy == asked
    # What the file says itself is not the machine's to choose, nor the folder's.
    path = write_recipe(extra='dtype_policy = "mixed_float16"')
    assert recipe.load(path, run_dir=tmp_path / "run").dtype_policy == "mixed_float16"


def test_auto_asks_nothing_of_a_file(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_has_accelerator", lambda: True)
    path = write_recipe(extra='dtype_policy = "auto"')
    assert recipe.load(path).dtype_policy == "mixed_bfloat16"
    zoo.build("mnist_fc_4").save(tmp_path / "own.keras")
    path.write_text(path.read_text().replace("mnist_student", f"{tmp_path}/own.keras"))
    loaded = recipe.load(path)
    assert loaded.dtype_policy == "float32"
    assert recipe.make_chain(loaded, None).stages[0].epochs == 1


def test_own_data_are_a_table(write_recipe):
    path = write_recipe(stage="restore_best = true")
    own = '{ path = "photos", image_size = [96, 64], test = 0.2, skip_unreadable = true }'
    path.write_text(path.read_text().replace('"mnist"', own))
    loaded = recipe.load(path)
    assert loaded.dataset.make() == Own("photos", (96, 64), None, 0.1, 0.2, True)
    assert set(DataRecipe.model_fields) == {x.name for x in dataclasses.fields(Own)}
    # A tenth is held out, so an epoch can be chosen by it.
    assert loaded.holds_out
    again = recipe.Recipe.model_validate(loaded.model_dump(**recipe.AS_JSON))
    assert again == loaded


@pytest.mark.parametrize(
    ("table", "extra", "message"),
    [
        ('{ path = "a", size = 3 }', "", "dataset > size: unknown key"),
        ("{ test = 0.1 }", "", "dataset > path: Field required"),
        ('{ path = "a", test = 1.0 }', "", "dataset > test: Input should be less than 1"),
        ('{ path = "a", channels = 4 }', "", "dataset > channels: Input should be 1 or 3"),
        ('{ path = "a", image_size = [96] }', "", "dataset > image_size"),
        ('{ path = "a" }', "validation_examples = 5", "say dataset.validation"),
        ('{ path = "a" }', "test_each_epoch = false", "goes without validation_examples"),
    ],
)
def test_own_data_that_are_not_so(write_recipe, table, extra, message):
    path = write_recipe(extra)
    path.write_text(path.read_text().replace('"mnist"', table))
    with pytest.raises(ValueError, match=message):
        recipe.load(path)
