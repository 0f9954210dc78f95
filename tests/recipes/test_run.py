"""Recipes run to a folder, and go on there."""

import dataclasses
import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import data, datasets
from keras_kd.chain.stage_run import StageRun
from keras_kd.recipes import model_files, recipe
from keras_kd.recipes import run as recipe_run
from keras_kd.recipes import zoo
from keras_kd.recipes.recipe import Recipe
from keras_kd.runs.manifest import RunError


def of_small_networks(write_recipe):
    """The same, of small networks, whose files are soon written."""

    def write(*args, **kwargs):
        path = write_recipe(*args, **kwargs)
        path.write_text(path.read_text().replace("mnist_student", "mnist_fc_16"))
        return path

    return write


@pytest.fixture
def write_recipe(write_recipe):
    return of_small_networks(write_recipe)


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


def test_run(write_recipe, sample_data, tmp_path):
    zoo.build("mnist_cnn_4_8").save(tmp_path / "teacher.keras")
    loaded = recipe.load(write_recipe(text=chain_text(tmp_path / "teacher.keras")))
    run_dir = tmp_path / "run"
    result, accuracies = recipe_run.run(loaded, run_dir, verbose=0)
    assert [x.model for x in result.models] == ["teacher", "student", "alone"]
    rows = [line.split("|")[1:3] for line in accuracies.splitlines()[2:]]
    labels = [label.strip() for label, _ in rows]
    assert labels == ["student", "student, published", "alone"]
    assert rows[1][1].strip() == "96.63"
    resolved = json.loads((run_dir / "manifest.json").read_text())["recipe"]
    assert resolved["stage"][0]["losses"] == [{"name": "kd", "temperature": 4.0}]
    assert (run_dir / "accuracies.md").read_text() == accuracies + "\n"


def test_mixed_precision_in_training_and_float32_in_the_files(
    write_recipe, sample_data, tmp_path
):
    path = write_recipe(extra='dtype_policy = "mixed_bfloat16"')
    loaded = recipe.load(path)
    stage = loaded.stage[0].make(0, loaded.dtype_policy)
    assert stage.student.layers[1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    saved = keras.saving.load_model(tmp_path / "run" / "first" / "model.keras")
    for model in (saved, result.students["first"]):
        assert model.layers[1].compute_dtype == "float32"
    assert recipe.load(path, dtype_policy="float32").dtype_policy == "float32"
    with pytest.raises(ValueError, match="dtype_policy: no such dtype policy: 'bfloat16'"):
        recipe.load(path, dtype_policy="bfloat16")


def test_run_with_a_loss_on_features(write_recipe, sample_data, tmp_path):
    """Any loss with its arguments; layers of its own bridge 128 and 16 units."""
    zoo.build("mnist_cnn_4_8").save(tmp_path / "teacher.keras")
    text = chain_text(tmp_path / "teacher.keras").replace(
        '[{ name = "kd", temperature = 4.0 }]',
        '[{ name = "fitnet", taps = ["hidden1", "hidden2"] }, '
        '{ name = "rkd", angle_weight = 0.0, taps = [["hidden1", "hidden1"]] }]\n'
        "distillation_loss_weights = [1.0, 0.1]",
    )
    text = text.replace("mnist_student", "mnist_fc_8_16")
    loaded = recipe.load(write_recipe(text=text.replace("epochs = 2", "epochs = 1")))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert result.histories["student"]["distillation_loss"][0] > 0


def test_run_dense(write_recipe, sample_data, tmp_path):
    zoo.build("mnist_cnn_4_8").save(tmp_path / "teacher.keras")
    text = chain_text(tmp_path / "teacher.keras").replace("epochs = 2", "epochs = 1")
    text = text.replace('name = "alone"', 'name = "second"\nlosses = [{ name = "kd" }]')
    loaded = recipe.load(write_recipe(text="dense = true\ndrop_rate = 0.25\n" + text))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert result.models[-1].taught_by == "teacher, student"


def test_same_seed_same_bytes_and_paired_initial_weights(
    write_recipe, sample_data, tmp_path
):
    zoo.build("mnist_cnn_4_8").save(tmp_path / "teacher.keras")
    path = write_recipe(text=chain_text(tmp_path / "teacher.keras"))
    weights = {}
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        loaded = recipe.load(path, seed=seed)
        stages = [
            stage.make(seed, "float32").student.get_weights()[0] for stage in loaded.stage
        ]
        np.testing.assert_array_equal(*stages)
        result, _ = recipe_run.run(loaded, tmp_path / run, verbose=0)
        saved = zipfile.ZipFile(tmp_path / run / "student" / "model.keras")
        assert "model.weights.h5" in saved.namelist()
        weights[run] = [x.tobytes() for x in result.students["student"].get_weights()]
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_labels_out_of_range(write_recipe, sample_data, monkeypatch, tmp_path):
    few = keras.Sequential([keras.layers.Input((28, 28, 1)), keras.layers.Flatten()])
    few.add(keras.layers.Dense(4))
    monkeypatch.setitem(zoo.ARCHITECTURES, "mnist_fc_16", lambda: few)
    with pytest.raises(ValueError, match="labels must be in 0..3.* from 0 to 9"):
        recipe_run.run(recipe.load(write_recipe()), tmp_path / "run", verbose=0)


def test_held_out_labels_out_of_range(write_recipe, monkeypatch, tmp_path):
    """Told before the first stage is trained, not at the end of its first epoch."""

    def load_arrays(name, split, data_dir):
        labels = np.arange(100) % 10
        labels[-5:] = 10
        return np.zeros((100, 28, 28, 1), "uint8"), labels

    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data, "load_arrays", load_arrays)
    loaded = recipe.load(write_recipe("validation_examples = 5"))
    with pytest.raises(ValueError, match="'first': labels must be in 0..9.* from 0 to 10"):
        recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_teacher_that_does_not_fit(write_recipe, sample_data, make_model, tmp_path):
    make_model().save(tmp_path / "teacher.keras")
    loaded = recipe.load(write_recipe(text=chain_text(tmp_path / "teacher.keras")))
    with pytest.raises(ValueError, match=r"that `teacher` takes.*\(None, 4\).*28, 28, 1"):
        recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_images_are_held_out_to_choose_an_epoch_by(write_recipe, sample_data, tmp_path):
    text = """
dataset = "mnist"
batch_size = 40
validation_examples = {count}
[[stage]]
name = "student"
model = "mnist_fc_16"
epochs = 3
restore_best = true
monitor = "val_accuracy"
"""
    loaded = recipe.load(write_recipe(text=text.format(count=100)))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    accuracies = result.histories["student"]["val_accuracy"]
    assert result.models[0].best_epoch == np.argmax(accuracies) + 1
    # Of 100 images, and the table's of the test images.
    assert all(round(100 * x, 4) == round(100 * x) for x in accuracies)
    assert result.models[0].examples == 100
    loaded = recipe.load(write_recipe(text=text.format(count=10_000)))
    with pytest.raises(ValueError, match="less than the .* training images. .*10000"):
        recipe_run.run(loaded, tmp_path / "other", verbose=0)


def test_a_trained_model_is_given(write_recipe, sample_data, tmp_path):
    zoo.build("mnist_cnn_4_8").save(tmp_path / "ta.keras")
    stage = f"""
[[stage]]
name = "ta"
model = "{tmp_path / "ta.keras"}"
epochs = 0
[[stage]]
name = "student"
model = "mnist_fc_16"
epochs = 1
losses = [{{ name = "kd" }}]
"""
    text = 'dataset = "mnist"\nbatch_size = 50\n' + stage
    result, _ = recipe_run.run(
        recipe.load(write_recipe(text=text)), tmp_path / "run", verbose=0
    )
    assert [x.taught_by for x in result.models] == ["given", "ta"]


ENSEMBLE = """
dataset = "mnist"
batch_size = 50
dtype_policy = "mixed_bfloat16"
test_each_epoch = false
augmentation = { views = 2 }
[[stage]]
name = "first"
model = "mnist_fc_16"
epochs = 1
[[stage]]
name = "second"
model = "mnist_fc_16"
seed = 1
epochs = 1
[[stage]]
name = "both"
ensemble = { models = ["first", "second"] }
[[stage]]
name = "student"
model = "mnist_fc_8"
epochs = 3
losses = [{ name = "kd" }]
student_loss_weight = 0.0
"""


def test_an_ensemble_teaches_on_views_and_the_test_images_are_seen_once(
    write_recipe, sample_data, monkeypatch, tmp_path
):
    loaded = recipe.load(write_recipe(text=ENSEMBLE))
    whole, _ = recipe_run.run(loaded, tmp_path / "whole", verbose=0)
    assert [x.taught_by for x in whole.models] == ["labels", "labels", "given", "both"]
    assert not any("val" in key for x in whole.histories.values() for key in x)
    first, second, both = (whole.students[x] for x in ("first", "second", "both"))
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])
    # What is kept is of the trained models.
    x = np.random.default_rng(0).uniform(size=(3, 28, 28, 1))
    saved = keras.saving.load_model(tmp_path / "whole" / "both" / "model.keras")
    mean = sum(keras.ops.softmax(model(x) / 4.0) for model in (first, second)) / 2
    np.testing.assert_allclose(keras.ops.softmax(saved(x) / 4.0), mean, rtol=1e-5)
    assert not (tmp_path / "whole" / recipe_run.TEACHER_OUTPUTS).exists()

    # Stopped while the student learns, it goes on with the outputs that are kept.
    def stop(run, logs, end=StageRun.end_epoch):
        end(run, logs)
        if run.stage.name == "student" and run.epochs_done == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StageRun, "end_epoch", stop)
        recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert len(list((tmp_path / "run" / recipe_run.TEACHER_OUTPUTS).iterdir())) == 1
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert result.histories == whole.histories
    for name in ("both", "student"):
        a, b = (x.students[name].get_weights() for x in (whole, result))
        assert [x.tobytes() for x in a] == [x.tobytes() for x in b]
    assert not (tmp_path / "run" / recipe_run.TEACHER_OUTPUTS).exists()


def test_a_run_goes_on_only_as_the_same_recipe(write_recipe, sample_data, tmp_path):
    path, folder = write_recipe(), tmp_path / "run"
    first, _ = recipe_run.run(recipe.load(path), folder, verbose=0, name="mine")
    again, _ = recipe_run.run(recipe.load(path), folder, verbose=0, name="mine")
    assert again.histories == first.histories
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe_name"] == "mine" and manifest["recipe"]["batch_size"] == 50
    with pytest.raises(RunError, match="recipe > batch_size: 50 in the run, 25 now"):
        recipe_run.run(recipe.load(path, batch_size=25), folder, verbose=0, name="mine")


@pytest.fixture
def photos(tmp_path, mnist_sample):
    """The sample's first three digits, as a folder of images for each."""
    images, labels = mnist_sample[0]
    for number in np.flatnonzero(labels < 3):
        path = tmp_path / "photos" / "abc"[labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, np.round(images[number] * 255), scale=False)
    return tmp_path / "photos"


OWN = """
dataset = {{ path = "{path}", validation = 0.2, test = 0.2 }}
batch_size = 16

[[stage]]
name = "teacher_of_own"
model = "mnist_fc_16"
epochs = 2
restore_best = true

[[stage]]
name = "student"
model = "mnist_fc_4"
epochs = 2
losses = [{{ name = "kd" }}]
taught_by = "teacher_of_own"
"""


def test_own_images_train_as_arrays_of_them_do(write_recipe, photos, tmp_path):
    loaded = recipe.load(write_recipe(text=OWN.format(path=photos)))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    files = datasets.load(loaded.dataset.make())
    # The same recipe on the same images in memory.
    in_memory = dataclasses.replace(
        files,
        **{
            part: (getattr(files, part)[0][:], getattr(files, part)[1])
            for part in ("train", "validation", "test")
        },
    )
    again, _ = _with_parts(loaded, in_memory, tmp_path / "memory")
    for name, model in result.students.items():
        for a, b in zip(
            model.get_weights(), again.students[name].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert result.models[0].evaluation.examples == len(files.test[1])
    assert set(files.class_names) == set("abc")


def _with_parts(loaded, parts, folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recipe_run.recipe_data, "load", lambda *_, **__: parts)
        return recipe_run.run(loaded, folder, verbose=0)


def test_a_run_is_of_the_images_that_it_was_begun_with(write_recipe, photos, tmp_path):
    loaded = recipe.load(write_recipe(text=OWN.format(path=photos)))
    recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert recipe_run.run(loaded, tmp_path / "run", verbose=0)
    changed = next((photos / "a").iterdir())
    keras.utils.save_img(changed, np.full((28, 28, 1), 9), scale=False)
    with pytest.raises(RunError, match="data"):
        recipe_run.run(loaded, tmp_path / "run", verbose=0)


def test_a_shipped_teacher_that_is_not_there_is_trained_first(
    write_recipe, sample_data, tmp_path, monkeypatch
):
    """As from an installed wheel, outside a clone; and it is kept."""
    monkeypatch.setattr(model_files, "SHIPPED_MODELS", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trained = recipe.load(write_recipe())
    monkeypatch.setattr(recipe, "load", lambda name: trained)
    # Where there is no cluster a command gives this one.
    as_commands = {"strategy": tf.distribute.get_strategy()}
    loaded = Recipe.model_validate(trained.model_dump() | {"teacher": "mnist/teacher"})
    with monkeypatch.context() as once:
        once.setattr(recipe_run, "make_chain", stop_at_the_second_call())
        with pytest.raises(InterruptedError):
            recipe_run.run(loaded, tmp_path / "run", verbose=0, **as_commands)
    kept = tmp_path / "cache" / "keras_kd" / "mnist_teacher" / "first" / "model.keras"
    before = kept.stat().st_mtime_ns
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0, **as_commands)
    assert [x.model for x in result.models] == ["teacher", "first"]
    assert kept.stat().st_mtime_ns == before


def stop_at_the_second_call():
    called = []

    def make(*args):
        called.append(args)
        if len(called) == 2:
            raise InterruptedError
        return recipe.make_chain(*args)

    return make


UNLABELLED = """
dataset = {{ path = "{path}", labels = false, validation = 0.2, test = 0.2 }}
batch_size = 8
teacher = "{teacher}"
teacher_scale = "{scale}"
[[stage]]
name = "student"
model = {{ family = "separable_cnn", width = 2 }}
epochs = 1
losses = [{{ name = "kd" }}]
student_loss_weight = {weight}
restore_best = true
"""


def test_without_labels_right_is_what_the_teacher_answers(write_recipe, tmp_path):
    """The teacher wants bytes, and its data are in [0, 1]: it sees them as it wants."""
    inputs = keras.Input((6, 6, 1))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    teacher = keras.Model(inputs, keras.layers.Dense(2)(mean))
    teacher.set_weights([np.float32([[-1, 1]]), np.float32([127.5, -127.5])])
    teacher.save(tmp_path / "t.keras")
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1)).astype("uint8")
    np.savez(tmp_path / "data.npz", x=images)
    given = {"path": tmp_path / "data.npz", "teacher": tmp_path / "t.keras"}
    given |= {"scale": "bytes", "weight": 0.0}
    loaded = recipe.load(write_recipe(text=UNLABELLED.format(**given)))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    teacher, student = result.models
    assert teacher.accuracy == 1.0 and student.evaluation.fidelity.agreement < 1.0
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert written["labels_of"] == "teacher"
    labels = np.loadtxt(
        tmp_path / "run" / "teacher" / "answers.csv", delimiter=",", skiprows=1
    )[:, 1]
    held_out = datasets.load(loaded.dataset.make()).test[0]
    np.testing.assert_array_equal(labels, held_out.mean(axis=(1, 2, 3)) > 127.5)
    given["weight"] = 0.5
    loaded = recipe.load(write_recipe(text=UNLABELLED.format(**given)))
    with pytest.raises(ValueError, match="the data have no labels, so it must have"):
        recipe_run.run(loaded, tmp_path / "other", verbose=0)


# An untrained student may answer with numbers in [0, 1].
@pytest.mark.filterwarnings("ignore:The outputs of 'student' are taken as logits")
def test_a_yes_or_no_of_two_classes(write_recipe, tmp_path):
    inputs = keras.Input((6, 6, 1))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    teacher = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(mean))
    teacher.set_weights([np.float32([[20]]), np.float32([-10])])
    teacher.save(tmp_path / "t.keras")
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1)).astype("uint8")
    labels = (images.mean(axis=(1, 2, 3)) > 127.5).astype("int64")
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    given = {"path": tmp_path / "data.npz", "teacher": tmp_path / "t.keras"}
    text = UNLABELLED.format(**given, scale="unit", weight=0.5)
    text = text.replace("labels = false, ", "") + 'task = "binary"\n'
    loaded = recipe.load(write_recipe(text=text))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert result.models[0].accuracy == 1.0
    labels[::4] = 2
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        recipe_run.run(loaded, tmp_path / "other", verbose=0)


def test_values_without_labels_are_learned_in_their_size(write_recipe, tmp_path):
    """About 1,000 and 35: outputs that begin at 0 would not come near in an epoch."""
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    teacher.set_weights([np.float32([[35.0], [0.0], [0.0]]), np.float32([1000.0])])
    teacher.save(tmp_path / "t.keras")
    x = np.random.default_rng(0).normal(size=(300, 3)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x)
    text = f"""
dataset = {{ path = "{tmp_path}/data.npz", labels = false }}
batch_size = 16
teacher = "{tmp_path}/t.keras"
[[stage]]
name = "student"
model = {{ family = "mlp", width = 8 }}
epochs = 1
task = "regression"
losses = [{{ name = "logit_mse" }}]
student_loss_weight = 0.0
"""
    result, _ = recipe_run.run(recipe.load(write_recipe(text=text)), tmp_path / "run")
    score = result.models[1].evaluation.scores["mean_absolute_error"]
    assert score.value < 60


def test_a_stage_that_nobody_teaches_is_told_before_any_is_trained(write_recipe):
    second = """
[[stage]]
name = "second"
model = "mnist_fc_8"
epochs = 1
losses = [{ name = "kd" }]
"""
    loaded = recipe.load(write_recipe(stage=second))
    with pytest.raises(ValueError, match="'second' has losses and no teacher.*taught_by"):
        recipe.make_chain(loaded, None)
    named = second + 'taught_by = "first"\n'
    assert recipe.make_chain(recipe.load(write_recipe(stage=named)), None).stages
