"""Recipes: read as data, refused with the place of what is wrong, run to a folder."""

import json
import re
import zipfile

import keras
import numpy as np
import pytest

from keras_kd import data, recipe, zoo

MINIMAL = """
dataset = "mnist"
batch_size = 50
{extra}
[[stage]]
name = "first"
model = "mnist_student"
epochs = 1
{stage}
"""


@pytest.fixture
def write(tmp_path):
    def write(extra="", stage="", text=None):
        path = tmp_path / "mine.toml"
        path.write_text(text or MINIMAL.format(extra=extra, stage=stage))
        return path

    return write


@pytest.fixture
def sample_data(monkeypatch, mnist_sample):
    """The shipped sample in place of the prepared data set."""

    def load_arrays(name, split, data_dir):
        images, labels = mnist_sample[split == "test"]
        return np.round(images * 255).astype("uint8"), labels

    monkeypatch.setattr(data, "prepare", lambda *args: None)
    monkeypatch.setattr(data, "load_arrays", load_arrays)


def test_mnist_is_the_published_experiment():
    mnist = recipe.load("mnist")
    ta, student, alone = mnist.stage
    assert (mnist.batch_size, mnist.teacher) == (256, "mnist/teacher")
    assert [x.model for x in mnist.stage] == [
        "mnist_ta", "mnist_student", "mnist_student",
    ]  # fmt: skip
    for stage in (ta, student):
        loss = stage.losses[0].make()
        assert loss.get_config() == {"temperature": 4.0, "form": "cross_entropy"}
        assert stage.student_loss_weight == 0.5
        assert stage.published_accuracy[-1] in (99.16, 98.70)
        assert len(stage.published_accuracy) == 12
    assert alone.losses == []
    for stage in mnist.stage:
        optimizer = stage.optimizer.make()
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert float(optimizer.learning_rate) == pytest.approx(0.001)
        assert stage.epochs == 12


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_is_valid(name):
    assert recipe.load(name).stage


def test_overrides(write):
    loaded = recipe.load(write(), seed=7, batch_size=None, epochs=3)
    assert (loaded.seed, loaded.batch_size, loaded.stage[0].epochs) == (7, 50, 3)


@pytest.mark.parametrize(
    "extra, stage, message",
    [
        ("sed = 1", "", "  sed: unknown key"),
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
        ("", 'losses = "kd"', "losses: Input should be a valid list"),
        (
            "",
            'losses = [{ name = "fitnet", taps = ["conv1"] }]',
            "losses 1: `taps` must be a pair of layer names",
        ),
        ("", "student_loss_weight = 2", "student_loss_weight: Input should be less"),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecoy" } }]',
            "losses 1: a table stands for a schedule of Keras. Received: schedule = 'Cosi",
        ),
        (
            "",
            'losses = [{ name = "kd", temperature = { schedule = "CosineDecay" } }]',
            "losses 1: not a schedule of Keras: .* missing 2 required",
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
    ],
)
def test_names_what_is_wrong_and_where(write, extra, stage, message):
    with pytest.raises(ValueError) as caught:
        recipe.load(write(extra, stage))
    assert "mine.toml is not a valid recipe:" in str(caught.value)
    assert re.search(message, str(caught.value)) or message in str(caught.value)


def test_schedules(write):
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
    made = recipe.load(write(stage=stage)).stage[0].make(seed=0)
    temperature = made.distillation_losses[0].temperature
    assert [float(temperature(x)) for x in (0, 20)] == [8.0, 2.0]
    assert float(made.student_loss_weight(5)) == 0.75
    first, second = made.distillation_loss_weights
    assert (first, float(second(5)), float(second(6))) == (0.9, 0.0, 1.0)


def test_unknown_model_and_data_set(write):
    text = MINIMAL.format(extra="", stage="")
    with pytest.raises(ValueError, match="no such model .*did you mean 'mnist_student'"):
        recipe.load(write(text=text.replace("mnist_student", "mnist_studet")))
    with pytest.raises(ValueError, match="dataset: no such data set: 'cifar'"):
        recipe.load(write(text=text.replace('"mnist"', '"cifar"')))


def test_no_stage(write):
    with pytest.raises(ValueError, match="stage: Field required"):
        recipe.load(write(text='dataset = "mnist"\nbatch_size = 1\n'), epochs=2)


def test_not_toml(write):
    with pytest.raises(ValueError, match=r"mine.toml is not a TOML file.*line 1"):
        recipe.load(write(text="dataset: mnist"))


def test_no_such_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe 'mnits'. Known: mnist, mnist_t"):
        recipe.load("mnits")
    with pytest.raises(FileNotFoundError, match="no recipe file .*gone.toml"):
        recipe.load(tmp_path / "gone.toml")


def test_load_model(tmp_path, make_model):
    make_model().save(tmp_path / "mine.keras")
    assert recipe.load_model(tmp_path / "mine.keras").count_params() > 0
    with pytest.raises(FileNotFoundError, match="no model 'mnist/tacher'"):
        recipe.load_model("mnist/tacher")
    with pytest.raises(ValueError, match="'mnist/../../tests' leads out of the folder"):
        recipe.load_model("mnist/../../tests")


@pytest.mark.parametrize("content", [b"", b"not a model", "truncated"])
def test_not_a_model_file(tmp_path, make_model, content):
    path = tmp_path / "wrong.keras"
    if content == "truncated":
        make_model().save(path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="wrong.keras could not be loaded as a Keras"):
        recipe.load_model(path)


def test_code_in_a_model_file_does_not_run(tmp_path):
    layers = [keras.layers.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="could not be loaded.*Lambda.*safe") as refused:
        recipe.load_model(tmp_path / "lambda.keras")
    # Keras's own advice.
    assert "safe_mode=False" not in str(refused.value)


def chain_text(teacher):
    return f"""
dataset = "mnist"
batch_size = 40
teacher = "{teacher}"
[[stage]]
name = "student"
model = "mnist_student"
epochs = 2
losses = [{{ name = "kd", temperature = 4.0 }}]
published_accuracy = [96.63]
[[stage]]
name = "alone"
model = "mnist_student"
epochs = 2
"""


def test_run(write, sample_data, tmp_path):
    zoo.build("mnist_ta").save(tmp_path / "teacher.keras")
    loaded = recipe.load(write(text=chain_text(tmp_path / "teacher.keras")))
    run_dir = tmp_path / "run"
    result, accuracies = recipe.run(loaded, run_dir, verbose=0)
    assert [x.model for x in result.models] == ["teacher", "student", "alone"]
    rows = [line.split("|")[1:3] for line in accuracies.splitlines()[2:]]
    labels = [label.strip() for label, _ in rows]
    assert labels == ["student", "student, published", "alone"]
    assert rows[1][1].strip() == "96.63"
    resolved = json.loads((run_dir / "recipe.json").read_text())
    assert resolved["stage"][0]["losses"] == [{"name": "kd", "temperature": 4.0}]
    assert (run_dir / "accuracies.md").read_text() == accuracies + "\n"


def test_mixed_precision_in_training_and_float32_in_the_files(
    write, sample_data, tmp_path
):
    path = write(extra='dtype_policy = "mixed_bfloat16"')
    loaded = recipe.load(path)
    stage = loaded.stage[0].make(0, loaded.dtype_policy)
    assert stage.student.layers[1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    result, _ = recipe.run(loaded, tmp_path / "run", verbose=0)
    saved = keras.saving.load_model(tmp_path / "run" / "first" / "model.keras")
    for model in (saved, result.students["first"]):
        assert model.layers[1].compute_dtype == "float32"
    assert recipe.load(path, dtype_policy="float32").dtype_policy == "float32"
    with pytest.raises(ValueError, match="dtype_policy: no such dtype policy: 'bfloat16'"):
        recipe.load(path, dtype_policy="bfloat16")


def test_run_with_a_loss_on_features(write, sample_data, tmp_path):
    """Any loss with its arguments; layers of its own bridge 128 and 784 units."""
    zoo.build("mnist_ta").save(tmp_path / "teacher.keras")
    text = chain_text(tmp_path / "teacher.keras").replace(
        '[{ name = "kd", temperature = 4.0 }]',
        '[{ name = "fitnet", taps = ["hidden1", "hidden2"] }, '
        '{ name = "rkd", angle_weight = 0.0, taps = [["hidden1", "hidden1"]] }]\n'
        "distillation_loss_weights = [1.0, 0.1]",
    )
    loaded = recipe.load(write(text=text.replace("epochs = 2", "epochs = 1")))
    result, _ = recipe.run(loaded, tmp_path / "run", verbose=0)
    assert result.histories["student"]["distillation_loss"][0] > 0


def test_run_dense(write, sample_data, tmp_path):
    zoo.build("mnist_ta").save(tmp_path / "teacher.keras")
    text = chain_text(tmp_path / "teacher.keras").replace("epochs = 2", "epochs = 1")
    text = text.replace('name = "alone"', 'name = "second"\nlosses = [{ name = "kd" }]')
    loaded = recipe.load(write(text="dense = true\ndrop_rate = 0.25\n" + text))
    result, _ = recipe.run(loaded, tmp_path / "run", verbose=0)
    assert result.models[-1].taught_by == "teacher, student"


def test_same_seed_same_bytes_and_paired_initial_weights(write, sample_data, tmp_path):
    zoo.build("mnist_ta").save(tmp_path / "teacher.keras")
    path = write(text=chain_text(tmp_path / "teacher.keras"))
    weights = {}
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        loaded = recipe.load(path, seed=seed)
        stages = [
                stage.make(seed, "float32").student.get_weights()[0]
                for stage in loaded.stage
            ]
        np.testing.assert_array_equal(*stages)
        result, _ = recipe.run(loaded, tmp_path / run, verbose=0)
        saved = zipfile.ZipFile(tmp_path / run / "student" / "model.keras")
        assert "model.weights.h5" in saved.namelist()
        weights[run] = [x.tobytes() for x in result.students["student"].get_weights()]
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_labels_out_of_range(write, sample_data, monkeypatch, tmp_path):
    few = keras.Sequential([keras.layers.Input((28, 28, 1)), keras.layers.Flatten()])
    few.add(keras.layers.Dense(4))
    monkeypatch.setitem(zoo.ARCHITECTURES, "mnist_student", lambda: few)
    with pytest.raises(ValueError, match="labels must be in 0..3.* from 0 to 9"):
        recipe.run(recipe.load(write()), tmp_path / "run", verbose=0)


def test_teacher_that_does_not_fit(write, sample_data, make_model, tmp_path):
    make_model().save(tmp_path / "teacher.keras")
    loaded = recipe.load(write(text=chain_text(tmp_path / "teacher.keras")))
    with pytest.raises(ValueError, match=r"that `teacher` takes.*\(None, 4\).*28, 28, 1"):
        recipe.run(loaded, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
