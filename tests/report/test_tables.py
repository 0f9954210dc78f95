import dataclasses

import numpy as np
import pytest

from keras_kd.report.tables import (
    accuracy_table,
    class_table,
    cost_table,
    duration,
    notes,
)
from keras_kd.runs import reader
from keras_kd.tasks.scores import SCORES
from tests.runs.sample_run import (
    log_softmax,
    logits,
    make_run,
    make_seeds,
    make_task_run,
    wilson,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("tables") / "run")
    return reader.read(path).runs[None]


def column(table, name):
    place = table.header.index(name)
    return {row[0]: row[place] for row in table.rows}


def test_accuracies(run):
    labels, outputs = logits(200)
    table = accuracy_table([run])
    right = int(np.sum(outputs["student"].argmax(1) == labels))
    low, high = wilson(right, 200)
    assert column(table, "Accuracy, %")["student"] == (
        f"{right / 2:.2f} ({100 * low:.2f}–{100 * high:.2f})"
    )
    assert column(table, "Errors")["student"] == str(200 - right)
    assert column(table, "Taught by") == {
        "teacher": "given",
        "ta": "teacher",
        "student": "ta",
        "alone": "labels",
    }
    ours, ta = (log_softmax(outputs[x]) for x in ("student", "ta"))
    likelihood = np.mean(ours[np.arange(200), labels])
    assert column(table, "NLL, nats")["student"] == f"{-likelihood:.4f}"
    agreement = np.mean(ours.argmax(1) == ta.argmax(1))
    assert column(table, "Agreement, %")["student"] == f"{100 * agreement:.2f}"
    kl = np.mean(np.sum(np.exp(ta) * (ta - ours), axis=1))
    assert column(table, "KL, nats")["student"] == f"{kl:.4f}"
    assert column(table, "KL, nats")["alone"] == "–"
    ece = run["alone"].metrics.evaluation.calibration_error
    assert column(table, "ECE, %")["alone"] == f"{100 * ece:.2f}"


def test_over_seeds(tmp_path):
    runs = list(reader.read(make_seeds(tmp_path, (0, 1, 2))).runs.values())
    table = accuracy_table(runs)
    right = []
    for seed in range(3):
        labels, outputs = logits(200, seed)
        right.append(np.mean(outputs["student"].argmax(1) == labels))
    mean, deviation = 100 * np.mean(right), 100 * np.std(right, ddof=1)
    assert column(table, "Accuracy, %")["student"] == f"{mean:.2f} ± {deviation:.2f}"
    errors = 200 - 200 * np.array(right)
    shown = f"{np.mean(errors):.1f} ± {np.std(errors, ddof=1):.1f}"
    assert column(table, "Errors")["student"] == shown
    # The teacher is the same one whatever the seed.
    assert "±" not in column(table, "Accuracy, %")["teacher"]
    assert column(cost_table(runs, {}), "Training")["ta"] == "61 s ± 1 s"


def test_costs(run):
    table = cost_table([run], {"teacher": 12.345, "ta": 0.5})
    assert column(table, "Parameters")["teacher"] == "1,199,882"
    assert column(table, "MACs")["student"] == "50,500"
    assert column(table, "MACs, pure")["student"] == "50,000"
    assert column(table, "Latency, ms") == {
        "teacher": "12.3",
        "ta": "0.5",
        "student": "–",
        "alone": "–",
    }
    size = (run["ta"].folder / "model.keras").stat().st_size
    assert column(table, "File, kB")["ta"] == f"{size / 1000:.0f}"
    assert list(column(table, "Training").values()) == ["–", "60 s", "60 s", "60 s"]


def test_classes(run):
    labels, outputs = logits(200)
    table = class_table([run["student"], run["ta"]])
    predicted, taught = outputs["student"].argmax(1), outputs["ta"].argmax(1)
    for row in table.rows:
        of_class = labels == int(row[0])
        right = np.sum(of_class & (predicted == labels))
        assert row[1] == str(np.sum(of_class))
        assert row[2] == str(np.sum(of_class) - right)
        assert row[3] == f"{100 * right / np.sum(predicted == int(row[0])):.2f}"
        assert row[4].startswith(f"{100 * right / np.sum(of_class):.2f} (")
        assert row[5] == f"{100 * np.mean(taught[of_class] == labels[of_class]):.2f}"
    assert table.header[2] == "student: errors" and table.header[5] == "ta: accuracy, %"


def test_classes_by_their_names(run):
    named = dataclasses.replace(run["student"], class_names=list("abcdefg"))
    numbers = [row[0] for row in class_table([run["student"]]).rows]
    assert numbers == [str(k) for k in range(10)]
    names = [row[0] for row in class_table([named]).rows]
    assert names == [*"abcdefg", "7", "8", "9"]


def test_the_worst_of_many_classes(run, monkeypatch):
    monkeypatch.setattr("keras_kd.report.tables.MOST_CLASSES", 3)
    every = [row.errors for row in run["alone"].metrics.evaluation.per_class]
    rows = class_table([run["alone"]]).rows
    assert [int(row[2]) for row in rows] == sorted(every, reverse=True)[:3]


@pytest.mark.parametrize(
    "seconds, words",
    [(0.4, "0 s"), (119, "119 s"), (150, "2.5 min"), (7199, "120.0 min"), (9000, "2.5 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    "task, places, titles, fidelity",
    [
        (
            "multilabel",
            0,
            ["Accuracy, %", "F1, %", "ROC AUC", "AP", "NLL, nats", "ECE, %"],
            ["Agreement, %", "KL, nats"],
        ),
        (
            "regression",
            0,
            ["MAE", "RMSE", "R²", "Worst percent"],
            ["RMSE to teacher"],
        ),
        (
            "multiclass",
            2,
            ["Mean IoU, %", "Accuracy, %", "NLL, nats", "ECE, %"],
            ["Agreement, %", "KL, nats"],
        ),
        (
            "binary",
            2,
            ["Mean IoU, %", "Accuracy, %", "F1, %", "NLL, nats", "ECE, %"],
            ["Agreement, %", "KL, nats"],
        ),
    ],
)
def test_scores_of_another_task(tmp_path, task, places, titles, fidelity):
    run = reader.read(make_task_run(tmp_path / "run", task, places)).runs[None]
    table = accuracy_table([run])
    assert table.header == ["Model", "Taught by", *titles, *fidelity]
    measured = run["student"].metrics.evaluation
    first = measured.scores[measured.counts]
    shown = SCORES[measured.counts].shown
    low, high = first.interval
    cell = f"{shown(first.value)} ({shown(low)}–{shown(high)})"
    assert column(table, titles[0])["student"] == cell
    close = column(table, fidelity[0])
    assert close["alone"] == "–" != close["student"]
    text = " ".join(notes([run]))
    words = SCORES[measured.counts].words
    assert text.startswith(f"In brackets is the 95 % bootstrap interval of the {words}.")
    assert ("agreement is how often" in text) == (task != "regression")


def test_another_task_over_seeds(tmp_path):
    runs = [
        reader.read(make_task_run(tmp_path / f"{seed}", "regression", seed=seed)).runs[None]
        for seed in (0, 1, 2)
    ]
    values = [
        x["alone"].metrics.evaluation.scores["mean_absolute_error"].value for x in runs
    ]
    cell = column(accuracy_table(runs), "MAE")["alone"]
    assert cell == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_classes_of_pixels_and_labels(tmp_path):
    run = reader.read(make_task_run(tmp_path / "pixels", "multiclass", 2)).runs[None]
    table = class_table([run["student"], run["teacher"]])
    assert table.header[4:] == ["IoU, %", "teacher: IoU, %"]
    rows = run["student"].metrics.evaluation.per_class
    assert column(table, "IoU, %") == {
        str(x.label): f"{100 * x.iou:.2f}" for x in rows
    }
    labels = reader.read(make_task_run(tmp_path / "labels", "multilabel")).runs[None]
    table = class_table([labels["student"], labels["alone"]])
    assert table.header[4:] == ["recall, %", "alone: recall, %"]
    values = reader.read(make_task_run(tmp_path / "values", "regression")).runs[None]
    assert class_table([values["student"]]).rows == []


def test_without_labels_the_teacher_says_what_is_right(run):
    said = "The data have no labels: right is what the teacher answers"
    assert said not in " ".join(notes([run]))
    manifest = run.manifest.model_copy(update={"labels_of": "teacher"})
    assert notes([dataclasses.replace(run, manifest=manifest)])[0].startswith(said)
