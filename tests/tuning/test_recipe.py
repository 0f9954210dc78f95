"""The table [tune]: what it may say, and the recipe of a trial."""

import pytest

from keras_kd.recipes import recipe
from keras_kd.tuning import recipe as tune_recipe
from keras_kd.tuning.recipe import TunedRecipe

TUNED = """
dataset = "mnist"
batch_size = 40
validation_examples = 100
[[stage]]
name = "ta"
model = "mnist_fc_16"
epochs = 1
[[stage]]
name = "student"
model = "mnist_fc_8"
epochs = 2
taught_by = "ta"
losses = [{ name = "kd", temperature = 4.0, form = "cross_entropy" }]
[stage.optimizer]
name = "adam"
learning_rate = { schedule = "CosineDecay", initial_learning_rate = 0.1, decay_steps = 9 }
[tune]
trials = 3
[tune.space]
temperature = { min = 1, max = 8.0, sampling = "log" }
learning_rate = [0.001, 0.01]
ta.model = ["mnist_fc_16", "mnist_fc_32"]
loss = ["kd", { name = "dkd", beta = 2.0 }, "logit_mse"]
"""


@pytest.fixture
def load(write_recipe):
    def load(*change):
        text = TUNED
        if change:
            assert text.count(change[0]) == 1
            text = text.replace(*change)
        return recipe.load(write_recipe(text=text), TunedRecipe)

    return load


def test_what_is_searched(load):
    tuned = load()
    assert tuned.judged == "student"
    found = {x.name: (x.stage, x.key) for x in tuned.dimensions}
    # Choices first, as a temperature hangs on the loss.
    assert list(found) == ["ta.model", "loss", "temperature", "learning_rate"]
    assert found["ta.model"] == ("ta", "model") and found["loss"] == ("student", "loss")


def test_values_of_a_trial(load):
    tuned = load()
    dimensions = {x.name: x for x in tuned.dimensions}
    assert dimensions["temperature"].value(3.33333) == 3.333
    assert dimensions["temperature"].value(8.0000001) == 8.0
    assert dimensions["learning_rate"].value("0.01") == 0.01
    dkd = dimensions["loss"].value("dkd, beta = 2.0")
    assert dkd == {"name": "dkd", "beta": 2.0}
    values = {"temperature": 3.333, "loss": dkd, "learning_rate": 0.01}
    made = tuned.with_values(values | {"ta.model": "mnist_fc_32"})
    assert type(made) is recipe.Recipe
    ta, student = made.stage
    assert ta.model == "mnist_fc_32" and student.model == "mnist_fc_8"
    loss = student.losses[0].make().get_config()
    assert (loss["temperature"], loss["beta"]) == (3.333, 2.0)
    config = student.optimizer.make().get_config()["learning_rate"]["config"]
    assert (config["initial_learning_rate"], config["decay_steps"]) == (0.01, 9)
    # Its own arguments stay with the recipe's own loss.
    own = tuned.with_values({"loss": dimensions["loss"].value("kd"), "temperature": 2.0})
    assert own.stage[1].losses[0].make().get_config() == {
        "temperature": 2.0, "form": "cross_entropy",
    }  # fmt: skip
    # What has no temperature is left without.
    other = tuned.with_values({"loss": {"name": "logit_mse"}, "temperature": 2.0})
    assert "temperature" not in other.stage[1].losses[0].model_extra


def test_a_trial_has_the_task_of_its_stage(load):
    tuned = load('taught_by = "ta"', 'taught_by = "ta"\ntask = "multiclass"')
    made = tuned.with_values({"temperature": 2.0, "loss": {"name": "kd"}})
    assert [x.task for x in made.stage] == [None, "multiclass"]


def test_labels(load):
    dimensions = {x.name: x for x in load().dimensions}
    for name, dimension in dimensions.items():
        if name != "temperature":
            for label, value in dimension.values.items():
                assert dimension.label(value) == label
    assert dimensions["temperature"].label(3.333) == "3.333"


@pytest.mark.parametrize(
    "tried, label",
    [
        ('{ family = "separable_cnn", width = 8 }', "separable_cnn, width = 8"),
        ('{ application = "MobileNetV3Small" }', "MobileNetV3Small"),
        ('"applications/MobileNetV3Small"', "applications/MobileNetV3Small"),
    ],
)
def test_a_model_in_the_shape_of_the_data_is_tried(load, tried, label):
    assert not load().is_sized_by_data
    tuned = load('"mnist_fc_32"]', f"{tried}]")
    assert tuned.is_sized_by_data
    values = next(x for x in tuned.dimensions if x.name == "ta.model").values
    assert list(values) == ["mnist_fc_16", label]
    assert tuned.with_values({"ta.model": values[label]}).is_sized_by_data
    assert not tuned.with_values({"ta.model": "mnist_fc_16"}).is_sized_by_data


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("validation_examples = 100", "", "tune: a search needs validation_examples"),
        ("trials = 3", "", "tune: random needs trials"),
        ("trials = 3", 'trials = 3\nstrategy = "hyperband"', "leave out trials"),
        ("trials = 3", 'trials = 3\nstrategy = "grid"', "tune > strategy: Input should be"),
        ("trials = 3", 'trials = 3\nobjective = "loss"', "tune > objective: must be a met"),
        ("trials = 3", 'trials = 3\nstage = "x"', "of a stage. Received: 'x'. Known: ta, "),
        ("trials = 3", "trails = 3", "tune > trails: unknown key"),
        ("temperature = {", "temprature = {", "did you mean 'temperature'?"),
        ("temperature = {", "ta.temperature = [1, 2] #", "stage 'ta' has no losses"),
        ("min = 1,", "min = 0,", 'temperature: sampling = "log" goes with min > 0'),
        ("min = 1,", "min = 9,", "tune > space > temperature: min must be less than max"),
        ("min = 1,", "", "tune > space > temperature > min: Field required"),
        (
            '"log" }',
            '"lag" }',
            "tune > space > temperature > sampling: Input should be 'li",
        ),
        ('8.0, sampling = "log"', "inf", "temperature > max: Input should be a finite"),
        ("[0.001, 0.01]", "[0.001]", "learning_rate: a list must have two values or more"),
        ("[0.001, 0.01]", "[0.001, 1e-3]", "space > learning_rate: names a value twice"),
        ("[0.001, 0.01]", '["a", "b"]', "learning_rate: takes numbers, or min and max"),
        ('["mnist_fc_16", "mnist_fc_32"]', "{ min = 1, max = 2 }", "takes a list of names"),
        ('"mnist_fc_32"]', '{ family = "mlp" }]', "is refused: give its width, or limits"),
        ('"mnist_fc_32"]', '"fc_x"]', "ta.model: 'fc_x' is refused: no such model"),
        ('"logit_mse"', '"kdd"', "did you mean 'kd'?"),
        ("beta = 2.0", "bata = 2.0", "takes the arguments"),
        ("loss = [", "student_loss_weight = [0.5, 1.5] #", "1.5 is refused: Input should"),
        ("loss = [", "distillation = [", "space > distillation: nothing that can be"),
    ],
)
def test_refused(load, old, new, message):
    with pytest.raises(ValueError) as error:
        load(old, new)
    assert message in str(error.value)


def test_a_loss_without_temperature_and_a_schedule_without_a_start(load, write_recipe):
    text = TUNED.replace('name = "kd", temperature = 4.0, form = "cross_entropy"', "{}")
    text = text.replace("losses = [{ {} }]", 'losses = [{ name = "logit_mse" }]')
    text = text.replace("loss = [", "student_loss_weight = [0.1, 0.2] #")
    with pytest.raises(ValueError, match="no loss of stage 'student' has a temperature"):
        recipe.load(write_recipe(text=text), TunedRecipe)
    old = 'schedule = "CosineDecay", initial_learning_rate = 0.1, decay_steps = 9'
    new = 'schedule = "PiecewiseConstantDecay", boundaries = [5], values = [0.1, 0.01]'
    with pytest.raises(ValueError, match="PiecewiseConstantDecay has no initial_learning"):
        load(old, new)


def test_takes_temperature(load):
    ta, student = load().stage
    assert tune_recipe.takes_temperature(student)
    assert not tune_recipe.takes_temperature(ta)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "temperature = {",
            "student.temperature = [1, 2]\ntemperature = {",
            "space > temperature: is the same as student.temperature, of stage 'student'",
        ),
        (
            "learning_rate = [",
            "student.learning_rate = [0.1, 0.2]\nlearning_rate = [",
            "is the same as student.learning_rate",
        ),
        (
            '"kd", { name = "dkd", beta = 2.0 }',
            '{ name = "kd", temperature = 2.0 }, { name = "kd", temperature = 3.0 }',
            "space > loss: kd, temperature = 2.0 has a temperature, which temperature sear",
        ),
        (
            '"kd", { name = "dkd", beta = 2.0 }',
            '"kd", { name = "dkd", temperature = 2.0 }',
            "space > loss: dkd, temperature = 2.0 has a temperature",
        ),
        (
            '["kd", { name = "dkd", beta = 2.0 }, "logit_mse"]',
            '["logit_mse", { name = "pkt", taps = ["logits", "logits"] }]',
            "space > temperature: no loss of space > loss has one",
        ),
        (
            '"kd", { name = "dkd", beta = 2.0 }',
            '"kd", { name = "kd", temperature = 4.0, form = "cross_entropy" }',
            "has a temperature, which",
        ),
        (
            '{ name = "dkd", beta = 2.0 }',
            '"dkd", { name = "dkd", beta = 8.0 }',
            "dkd and dkd, beta = 8.0 are the same loss",
        ),
    ],
)
def test_what_would_have_no_effect(load, old, new, message):
    with pytest.raises(ValueError) as error:
        load(old, new)
    assert message in str(error.value)


def test_losses_with_temperatures_of_their_own(load):
    """Where the temperature is not searched they are different losses."""
    tuned = load(
        'temperature = { min = 1, max = 8.0, sampling = "log" }\n'
        'learning_rate = [0.001, 0.01]\nta.model = ["mnist_fc_16", "mnist_fc_32"]\n'
        'loss = ["kd", { name = "dkd", beta = 2.0 }, "logit_mse"]',
        'loss = ["kd", { name = "kd", temperature = 2.0 }]',
    )
    (dimension,) = tuned.dimensions
    assert list(dimension.values) == ["kd", "kd, temperature = 2.0"]
