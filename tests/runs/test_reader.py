"""A run folder, read; and every way in which it can be wrong."""

import json
import pickle
import shutil

import numpy as np
import pytest

from keras_kd.runs import reader
from tests.runs.sample_run import (
    change,
    logits,
    make_run,
    make_seeds,
    make_task_run,
    unfinish,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", examples=60)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(made, tmp_path / "copy")


def only_run(path):
    return reader.read(path).runs[None]


def test_what_is_read(made):
    run = only_run(made)
    assert [x.name for x in run.models] == ["teacher", "ta", "student", "alone"]
    labels, outputs = logits(60)
    student = run["student"]
    np.testing.assert_array_equal(student.answers.labels, labels)
    np.testing.assert_array_equal(student.answers.predicted, outputs["student"].argmax(1))
    assert student.taught_by == ["ta"] and run["alone"].taught_by == []
    assert student.architecture == run["alone"].architecture == "small"
    assert run["teacher"].architecture is None
    assert student.metrics.macs == 50_500
    assert list(student.history) == [
        "epoch",
        "accuracy",
        "loss",
        "val_accuracy",
        "val_loss",
    ]
    assert student.history["epoch"] == [0, 1, 2, 3]
    index, images = student.disagreements
    differ = outputs["student"].argmax(1) != outputs["ta"].argmax(1)
    np.testing.assert_array_equal(index, np.flatnonzero(differ))
    assert images.shape == (len(index), 8, 8, 1)
    assert run["alone"].disagreements is None


def test_seeds_that_have_begun(tmp_path):
    make_seeds(tmp_path, seeds=(3, 5), examples=20)
    change(tmp_path / "manifest.json", seeds=[3, 4, 5])
    folder = reader.read(tmp_path)
    assert list(folder.runs) == [3, 5] and folder.manifest.kind == "seeds"
    assert folder.runs[5].path == tmp_path / "seed-5"


def test_no_seed_has_begun(tmp_path):
    make_seeds(tmp_path, seeds=(0,), examples=20)
    change(tmp_path / "manifest.json", seeds=[7])
    with pytest.raises(ValueError, match="No seed of .* has begun"):
        reader.read(tmp_path)


def test_an_unfinished_run(copy):
    unfinish(copy, "student", "training")
    unfinish(copy, "alone", "waiting")
    run = only_run(copy)
    assert [run.done(x) for x in ("teacher", "ta", "student", "alone")] == [1, 1, 0, 0]
    assert len(run["student"].history["val_accuracy"]) == 2
    assert run["alone"].history == {}


def test_a_run_that_has_just_begun(copy):
    for name in ("teacher", "ta", "student", "alone"):
        unfinish(copy, name, "waiting")
    assert not only_run(copy).done("teacher")


def test_no_run_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run folder .*nowhere"):
        reader.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no manifest.json in it. One is made by"):
        reader.read(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not a JSON file"),
        ("[]", "is not what this version of keras_kd writes"),
        ('{"kind": "other"}', "expected tags: 'run', 'seeds', 'tune'"),
    ],
)
def test_a_manifest_of_something_else(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        reader.read(tmp_path)


def test_a_search_is_no_run(copy):
    change(copy / "manifest.json", kind="tune")
    with pytest.raises(ValueError, match="folder of a search, whose table is trials.md"):
        reader.read(copy)


def test_a_later_format(copy):
    change(copy / "manifest.json", format=2)
    with pytest.raises(ValueError, match="manifest.json is not .* run > format: "):
        reader.read(copy)


@pytest.mark.parametrize("name", ["../student", "/etc", "..", "", "a\nb"])
def test_names_that_are_paths(copy, name):
    stages = json.loads((copy / "manifest.json").read_text())["stages"]
    stages[1]["name"] = name
    change(copy / "manifest.json", stages=stages)
    with pytest.raises(ValueError, match="stages > 1 > name: .*not a path"):
        reader.read(copy)


def test_a_teacher_that_is_none_of_the_run(copy):
    stages = json.loads((copy / "manifest.json").read_text())["stages"]
    stages[0]["taught_by"] = ["student"]
    change(copy / "manifest.json", stages=stages)
    with pytest.raises(ValueError, match="stage 'ta': repeated, or taught by none before"):
        reader.read(copy)


@pytest.mark.parametrize(
    "file, part",
    [
        ("metrics.json", "metrics"),
        ("answers.csv", "answers"),
        ("history.csv", "history"),
        ("disagreements.npz", "disagreements"),
    ],
)
def test_a_file_that_is_missing_or_another(copy, file, part):
    path = copy / "student" / file
    with path.open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(ValueError, match=f"student/{file} is not the file that the run"):
        getattr(only_run(copy)["student"], part)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"student/{file} is missing"):
        getattr(only_run(copy)["student"], part)


def test_the_teachers_files_are_checked_too(copy):
    (copy / "teacher" / "model.keras").write_text("another")
    with pytest.raises(ValueError, match="teacher/model.keras is not the file"):
        only_run(copy)["teacher"].file("model.keras")


def forget_checksums(path):
    manifest = json.loads((path / "manifest.json").read_text())
    for model in (manifest["teacher"], *manifest["stages"]):
        model["files"] = {name: "" for name in model["files"]}
    change(path / "manifest.json", **manifest)


def test_answers_of_other_data(copy):
    forget_checksums(copy)
    path = copy / "student" / "answers.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="has 59 answers, but metrics.json .* 60 examples"):
        _ = only_run(copy)["student"].answers


@pytest.mark.parametrize("text", ["", "epoch\nx\n", "epoch,loss\n1\n", "epoch\n"])
def test_a_history_of_no_numbers(copy, text):
    forget_checksums(copy)
    (copy / "student" / "history.csv").write_text(text)
    with pytest.raises(ValueError, match="history.csv is not a table of numbers"):
        _ = only_run(copy)["student"].history


@pytest.mark.parametrize("value", [-0.1, 1.5, "high", float("nan")])
def test_metrics_out_of_range(copy, value):
    forget_checksums(copy)
    path = copy / "student" / "metrics.json"
    evaluation = json.loads(path.read_text())["evaluation"] | {"accuracy": value}
    change(path, evaluation=evaluation)
    with pytest.raises(ValueError, match="metrics.json is not .* evaluation > accuracy: "):
        _ = only_run(copy)["student"].metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_that_are_not_finite(copy, value):
    forget_checksums(copy)
    path = copy / "student" / "metrics.json"
    evaluation = json.loads(path.read_text())["evaluation"]
    change(path, evaluation=evaluation | {"negative_log_likelihood": value})
    with pytest.raises(ValueError, match="negative_log_likelihood: .*finite number"):
        _ = only_run(copy)["student"].metrics


IMAGES = np.zeros((2, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    "arrays",
    [
        {"index": np.array([0, 1])},
        {"index": np.array([0, 1]), "images": IMAGES[:1]},
        {"index": np.array([0, 60]), "images": IMAGES},
        {"index": np.array([-1, 1]), "images": IMAGES},
        {"index": np.array([0.0, 1.0]), "images": IMAGES},
        {"index": np.array([0, 1]), "images": IMAGES[0]},
    ],
)
def test_images_of_no_test_examples(copy, arrays):
    forget_checksums(copy)
    np.savez(copy / "student" / "disagreements.npz", **arrays)
    with pytest.raises(ValueError, match="disagreements.npz does not hold im|hold index"):
        _ = only_run(copy)["student"].disagreements


class Trap:
    """What would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(copy, monkeypatch):
    forget_checksums(copy)
    hit = []
    monkeypatch.setattr(pickle, "load", lambda *_, **__: hit.append(1))
    for kind in ("array", "file"):
        path = copy / "student" / "disagreements.npz"
        if kind == "array":
            np.savez(path, index=np.array([Trap()]), images=IMAGES)
        else:
            path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match="does not hold index and images"):
            _ = only_run(copy)["student"].disagreements
    assert not hit


def test_sums_and_pictures(tmp_path):
    run = reader.read(make_task_run(tmp_path / "run", "multiclass", 2)).runs[None]
    student = run["student"]
    assert student.answers.examples == 40 and student.answers.task.name == "multiclass"
    index, images = student.disagreements
    assert len(index) == len(images) == 4
    assert {x: y.shape for x, y in student.pictures.items()} == {
        "label": (4, 6, 6), "teacher": (4, 6, 6), "student": (4, 6, 6)
    }  # fmt: skip
    assert run["alone"].pictures is None


@pytest.mark.parametrize("change_of", ["one is missing", "another size", "words"])
def test_pictures_that_do_not_go_together(tmp_path, change_of):
    folder = make_task_run(tmp_path / "run", "multiclass", 2)
    path = folder / "student" / "disagreements.npz"
    arrays = dict(np.load(path))
    if change_of == "one is missing":
        del arrays["label"]
    elif change_of == "another size":
        arrays["label"] = arrays["label"][:, :3]
    else:
        arrays["label"] = arrays["label"].astype(str)
    np.savez(path, **arrays)
    forget_checksums(tmp_path / "run")
    with pytest.raises(ValueError, match="but pictures of .* that do not go together"):
        _ = reader.read(tmp_path / "run").runs[None]["student"].pictures


def test_scores_of_earlier_versions(made):
    """Their folders have none, and what they have is scored."""
    found = reader.read(made).runs[None]["student"].metrics.evaluation
    assert (found.task, found.places, found.counts) == ("multiclass", 0, "accuracy")
    assert found.scores["accuracy"].value == found.accuracy
    assert found.scores["accuracy"].interval == found.accuracy_interval
    assert found.scores["negative_log_likelihood"].value == found.negative_log_likelihood
    assert found.is_right_or_wrong


@pytest.mark.parametrize(
    "scores", [{}, {"of_a_later_version": {"value": 1.0}}, {"r2": {"value": None}}]
)
def test_no_score_that_counts(tmp_path, scores):
    path = make_task_run(tmp_path / "run", "regression")
    metrics = path / "student" / "metrics.json"
    evaluation = json.loads(metrics.read_text())["evaluation"]
    change(metrics, evaluation=evaluation | {"scores": scores})
    forget_checksums(path)
    with pytest.raises(ValueError, match="metrics.json is not what .* score"):
        _ = reader.read(path).runs[None]["student"].metrics
