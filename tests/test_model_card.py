"""Model cards, from sample run folders."""

import json

import pytest
import yaml

from keras_kd import model_card
from tests.sample_run import change, make_run
from tests.test_report_devices import device_file, exports
from tests.test_run_reader import forget_checksums


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", examples=40)


def front_matter(text):
    empty, head, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


def test_front_matter_is_what_hubs_read(folder):
    text = model_card.card(folder, "student", title="mine", license="apache-2.0")
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
    text = model_card.card(folder, "student")
    assert "license" not in front_matter(text)
    assert "student was taught by ta. ta was taught by teacher. teacher was given" in text
    assert "Yann LeCun, Corinna Cortes and Christopher Burges" in text
    assert "SoftTargets" in text or "kd" in text
    alone = model_card.card(folder, "alone")
    assert "alone learned from the labels alone." in alone
    manifest = json.loads((folder / "manifest.json").read_text())
    for stage in manifest["stages"]:
        if stage["name"] == "alone":
            stage["epochs"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = model_card.card(folder, "alone")
    assert "alone was given to the run, trained before." in given


def test_the_class_that_is_most_often_wrong(tmp_path):
    folder = make_run(tmp_path / "run", examples=200)
    metrics = json.loads((folder / "alone" / "metrics.json").read_text())
    accuracies = {x["label"]: x["accuracy"] for x in metrics["evaluation"]["per_class"]}
    lowest = min(accuracies.values())
    assert sorted(accuracies.values())[1] > lowest
    (label,) = (x for x, accuracy in accuracies.items() if accuracy == lowest)
    text = model_card.card(folder, "alone")
    assert f"Most often wrong is class {label}:\n{100 * lowest:.2f} % right" in text


def test_exported_files_are_in_it(folder):
    files = [
        device_file("teacher", None, 4000, 1.0),
        device_file("student", "int8", 40, 0.1),
    ]
    (folder / "exports.json").write_text(json.dumps(exports(*files)))
    text = model_card.card(folder, "student")
    assert "open\\_file('student-int8.tflite')" in text or "student-int8.tflite" in text
    assert "LiteRT, int8" in text and "100.0×" in text


def test_names_mark_up_nothing(folder):
    title = 'x"\nlicense: mit\n# <script>'
    text = model_card.card(folder, "student", title=title, license="apache-2.0")
    head = front_matter(text)
    assert head["license"] == "apache-2.0"
    assert "<script>" not in text.split("---\n", 2)[2]


def test_write_card_keeps_what_is_there(folder):
    path = model_card.write_card(folder, "student")
    assert path == folder / "student" / "README.md"
    path.write_text("my own words")
    with pytest.raises(FileExistsError, match="may hold what you wrote"):
        model_card.write_card(folder, "student")
    assert path.read_text() == "my own words"
    model_card.write_card(folder, "student", overwrite=True)
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
        model_card.card(folder, name, **arguments)


def test_macs_that_are_unknown(folder):
    forget_checksums(folder)
    for path in folder.glob("*/metrics.json"):
        change(path, macs=None, pure_macs=None)
    assert "unknown MACs (half of" in model_card.card(folder, "student")
