"""Model cards, from sample run folders."""

import json
import subprocess
import sys

import keras
import pytest
import yaml

from keras_kd.report import card
from keras_kd.runs import reader
from keras_kd.teachers import Ensemble
from tests.report.test_devices import device_file, exports
from tests.runs.sample_run import change, make_run, make_task_run
from tests.runs.test_reader import forget_checksums


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", examples=40)


def front_matter(text):
    empty, head, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


def test_front_matter_is_what_hubs_read(folder):
    text = card.card(folder, "student", title="mine", license="apache-2.0")
    head = front_matter(text)
    assert head["license"] == "apache-2.0" and head["library_name"] == "keras"
    assert "knowledge-distillation" in head["tags"]
    assert head["datasets"] == ["ylecun/mnist"]
    (entry,) = head["model-index"]
    (result,) = entry["results"]
    (metric,) = result["metrics"]
    metrics = json.loads((folder / "student" / "metrics.json").read_text())
    accuracy = metrics["evaluation"]["accuracy"]
    assert entry["name"] == "mine" and metric["type"] == "accuracy"
    assert metric["value"] == pytest.approx(accuracy, abs=1e-6)


def test_what_it_was_taught_by_and_on_what(folder):
    text = card.card(folder, "student")
    assert "license" not in front_matter(text)
    assert "student was taught by ta. ta was taught by teacher. teacher was given" in text
    assert "Yann LeCun, Corinna Cortes and Christopher Burges" in text
    assert "SoftTargets" in text or "kd" in text
    alone = card.card(folder, "alone")
    assert "alone learned from the labels alone." in alone
    manifest = json.loads((folder / "manifest.json").read_text())
    for stage in manifest["stages"]:
        if stage["name"] == "alone":
            stage["epochs"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = card.card(folder, "alone")
    assert "alone was given to the run, trained before." in given


def test_data_of_the_users_own(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["dataset"] = {"path": "my/photos", "test": 0.2}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = card.card(folder, "student")
    assert "tested on data of its user's own, 'photos'; their licence is not" in text
    assert "datasets" not in front_matter(text)
    named = card.card(folder, "student", dataset="me/photos", data_license="cc0-1.0")
    assert front_matter(named)["datasets"] == ["me/photos"] and "user's own" not in named


def test_the_class_that_is_most_often_wrong(tmp_path):
    folder = make_run(tmp_path / "run", examples=200)
    metrics = json.loads((folder / "alone" / "metrics.json").read_text())
    accuracies = {x["label"]: x["accuracy"] for x in metrics["evaluation"]["per_class"]}
    lowest = min(accuracies.values())
    assert sorted(accuracies.values())[1] > lowest
    (label,) = (x for x, accuracy in accuracies.items() if accuracy == lowest)
    text = card.card(folder, "alone")
    assert f"Most often wrong is class {label}:\n{100 * lowest:.2f} % right" in text
    assert "Classes, in" not in text
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["class_names"] = [f"*{x}*" for x in "abcdefghij"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = card.card(folder, "alone")
    assert f"Most often wrong is class \\*{'abcdefghij'[label]}\\*:" in text
    assert "Classes, in the outputs' order: \\*a\\*, \\*b\\*," in text


def test_exported_files_are_in_it(folder):
    files = [
        device_file("teacher", None, 4000, 1.0),
        device_file("student", "int8", 40, 0.1),
    ]
    (folder / "exports.json").write_text(json.dumps(exports(*files)))
    text = card.card(folder, "student")
    assert "open\\_file('student-int8.tflite')" in text or "student-int8.tflite" in text
    assert "LiteRT, int8" in text and "100.0×" in text


def test_names_mark_up_nothing(folder):
    title = 'x"\nlicense: mit\n# <script>'
    text = card.card(folder, "student", title=title, license="apache-2.0")
    head = front_matter(text)
    assert head["license"] == "apache-2.0"
    assert "<script>" not in text.split("---\n", 2)[2]


def test_write_card_keeps_what_is_there(folder):
    path = card.write_card(folder, "student")
    assert path == folder / "student" / "README.md"
    path.write_text("my own words")
    with pytest.raises(FileExistsError, match="may hold what you wrote"):
        card.write_card(folder, "student")
    assert path.read_text() == "my own words"
    card.write_card(folder, "student", overwrite=True)
    assert "knowledge-distillation" in path.read_text()


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("nobody", {}, "no finished model 'nobody'. Finished: 'teacher', 'ta', 'student'"),
        ("student", {"dataset": "mine"}, "for runs that do not tell; this one is on mnist"),
    ],
)
def test_refused(folder, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        card.card(folder, name, **arguments)


def test_macs_that_are_unknown(folder):
    forget_checksums(folder)
    for path in folder.glob("*/metrics.json"):
        change(path, macs=None, pure_macs=None)
    assert "an unknown number of MACs." in card.card(folder, "student")


def changed(folder, name, table=None, fields=None, recipe=None, metrics=None):
    """The sample run, in which a stage, its table of the recipe, its metrics say this."""
    manifest = json.loads((folder / "manifest.json").read_text())
    stage = next(x for x in manifest["stages"] if x["name"] == name)
    own = next(x for x in manifest["recipe"]["stage"] if x["name"] == name)
    stage.update(fields or {})
    own.update(table or {})
    manifest["recipe"].update(recipe or {})
    if metrics:
        change(folder / name / "metrics.json", **metrics)
        del stage["files"]["metrics.json"]
    change(folder / "manifest.json", **manifest)
    return card.card(folder, name)


def test_a_stage_with_settings_of_its_own(folder):
    own = {"batch_size": 50, "seed": 3, "examples": 100, "classes": [4, 2], "repeat": 10}
    text = changed(folder, "student", own, recipe={"augmentation": {"views": 8}})
    assert "- Batch size: 50\n" in text and "- Seed: 0 (and 3, the stage's own)\n" in text
    assert "of one training, with seed 0 (and 3, the stage's own).\n" in text
    assert (
        "- Training examples: 100 examples of the classes 2, 4, each 10 times in an epoch, "
        "in 8 augmented views\n"
    ) in text
    others = card.card(folder, "alone")
    assert "- Batch size: 256\n" in others and "- Seed: 0\n" in others
    assert "- Training examples: all examples, in 8 augmented views\n" in others


def test_the_default_weight_of_the_labels_is_told(folder):
    text = changed(folder, "student", fields={"student_loss_weight": None})
    assert "- Weight of the labels' loss: 0.5\n" in text
    assert "Weight of the labels" not in card.card(folder, "alone")


@pytest.mark.parametrize(
    "fields, metrics, words",
    [
        ({}, {}, "4"),
        ({"restore_best": True}, {"best_epoch": 2}, "4, of which the best was kept (af"),
        (
            {"patience": 1},
            {"best_epoch": 2, "epochs": 3},
            "3 of at most 4, of which the last was kept (the best was after 2)",
        ),
    ],
)
def test_epochs(folder, fields, metrics, words):
    assert f"- Epochs: {words}" in changed(folder, "student", None, fields, None, metrics)


@pytest.mark.parametrize(
    "recipe, words",
    [
        ({}, "- The test examples were looked at after every epoch, for the curve;"),
        ({"test_each_epoch": False}, "- The test examples were looked at once, when the"),
        ({"validation_examples": 100}, None),
    ],
)
def test_when_the_test_examples_were_looked_at(folder, recipe, words):
    text = changed(folder, "student", recipe=recipe)
    assert words in text if words else "were looked at" not in text


def test_a_given_model_was_not_trained_in_the_run(folder):
    """Its card says nothing of the run's training, which was none of it."""
    changed(folder, "alone", fields={"epochs": 0})
    for name in ("teacher", "alone"):
        text = card.card(folder, name)
        assert f"{name} was given to the run, trained before." in text
        assert "\nTested on MNIST, " in text and "Trained and tested" not in text
        assert "It was not trained in the run, which does not say how it was." in text
        for word in ("Epochs:", "Batch size:", "Seed:", "Optimizer:", "of one training"):
            assert f"- {word}" not in text and f" {word} " not in text
        assert "were looked at" not in text


def test_an_ensemble_tells_its_members(folder):
    changed(
        folder,
        "ta",
        {"model": None, "ensemble": {"models": ["teacher"], "temperature": 4.0}},
        {"epochs": 0, "losses": [], "taught_by": []},
    )
    text = card.card(folder, "student")
    assert (
        "student was taught by ta. ta is the ensemble of teacher. teacher was given to"
    ) in text
    assert "ta was given" not in text


def test_its_code_loads_an_ensemble(folder):
    """In a process that knows Keras alone before; and its members are named."""
    path = folder / "teacher" / "model.keras"
    image = (28, 28, 1)
    members = []
    for name in "first", "second":
        layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        members.append(keras.Sequential([keras.layers.Input(image), *layers], name=name))
    Ensemble(members).save(path)
    forget_checksums(folder)
    text = card.card(folder, "teacher")
    assert "It is the ensemble of the models 'first' and 'second'." in text
    code = text.split("```python\n")[1].split("```")[0]
    assert "import keras_kd  # " in code
    before = "import numpy as np\ninputs = np.zeros((2, 28, 28, 1))\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{before}{code}print(answers.shape)"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("(2,)\n"), done.stderr
    assert "import keras_kd" not in card.card(folder, "student")


def test_a_stage_that_went_on_from_a_file(folder):
    text = changed(folder, "alone", {"model": "before.keras"})
    assert "alone learned from the labels alone. Its first weights were those of" in text
    assert "- First weights: before.keras\n" in text


@pytest.mark.parametrize(
    "task, places, kind, metric, code",
    [
        ("regression", 0, "A model of 10 values: ", "mean_absolute_error", "answers = "),
        ("multilabel", 0, "10 labels, each a yes or no of its own", "accuracy", "> 0  #"),
        ("multiclass", 2, "classes for each pixel", "mean_iou", "outputs.argmax(axis=-1)"),
        ("binary", 2, "A yes or no for each pixel", "mean_iou", "outputs > 0  # a yes"),
    ],
)
def test_of_another_task(tmp_path, task, places, kind, metric, code):
    run = make_task_run(tmp_path / "run", task, places)
    text = card.card(run, "student", dataset="mine")
    front = yaml.safe_load(text.split("---")[1])
    assert front["metrics"] == [metric]
    measured = reader.read(run).runs[None]["student"].metrics.evaluation
    (result,) = front["model-index"][0]["results"][0]["metrics"]
    assert result["type"] == metric
    assert result["value"] == pytest.approx(measured.scores[metric].value, abs=1e-6)
    assert kind in text and code in text
    assert ("Its confidence is off" in text) == (task != "regression")
    assert ("It always answers one" in text) == (task == "multiclass")
    assert "Most often wrong" not in text
