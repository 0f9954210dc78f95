"""scripts/evidence/evidence.py on small run folders: its numbers from what they hold."""

import importlib
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from keras_kd import data
from keras_kd.teachers import Ensemble
from tests.runs import sample_run
from tests.runs.sample_run import (
    change,
    checksums,
    log_softmax,
    logits,
    make_run,
    make_seeds,
    unfinish,
)

SCRIPTS = Path(__file__).parents[2] / "scripts" / "evidence"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def evidence():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("evidence")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    keras.utils.set_random_seed(0)
    # A single unit, as the sample's students have, may answer 0 to everything.
    wide = {name: (*x[:3], 400_000, x[4]) for name, x in sample_run.MODELS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_run, "MODELS", wide)
        return make_seeds(tmp_path_factory.mktemp("evidence") / "seeds", SEEDS)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (200, 8, 8, 1)).astype("uint8")


@pytest.fixture(autouse=True)
def sample_images(monkeypatch, images):
    """200 images of 8x8 with the run's labels; training images are the same, mirrored."""

    def load_arrays(name, split, data_dir):
        assert name == "mnist"
        return images[:, :, :: -1 if split == "train" else 1], logits(200)[0]

    monkeypatch.setattr(data, "load_arrays", load_arrays)


@pytest.fixture
def run(evidence):
    def run(*arguments):
        result = CliRunner().invoke(evidence.main, [str(x) for x in arguments])
        return result.exit_code, result.output

    return run


@pytest.fixture
def table(run):
    """The cells of what a command prints, by the row's first cell."""

    def table(*arguments):
        code, text = run(*arguments)
        assert code == 0, text
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines()
            if line.startswith("|")
        ]
        return {cells[0]: cells[1:] for cells in rows}

    return table


def errors_of(name, seed):
    labels, outputs = logits(200, seed)
    return int(np.sum(outputs[name].argmax(axis=1) != labels))


def shown(values, digits):
    """Mean and sample standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def test_curves(table, seeds, tmp_path):
    found = table("curves", seeds, "--output", tmp_path / "curves.png")
    accuracies = [1 - errors_of("student", seed) / 200 for seed in SEEDS]
    # As the sample's history is made.
    last = [100 * x for x in accuracies]
    first = [100 * (x - 0.2 + 0.2 * 0.4**3) for x in accuracies]
    assert found["after epoch"] == ["student (%)", "student, published"]
    assert found["1"] == [shown(first, 2), "80.00"]
    assert found["4"] == [shown(last, 2), "93.50"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_one_seed_and_as_svg(table, seeds, tmp_path):
    found = table("curves", seeds / "seed-1", "--output", tmp_path / "curves.svg")
    assert found["4"][0] == f"{100 - errors_of('student', 1) / 2:.2f}"
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_no_curves(run, tmp_path):
    path = make_run(tmp_path / "run", examples=30)
    recipe = {"stage": [{"name": "ta", "published_accuracy": []}]}
    change(path / "manifest.json", recipe=recipe)
    assert "has no published_accuracy" in run("curves", path)[1]
    change(path / "manifest.json", recipe=sample_run.RECIPE)
    unfinish(path, "student", "training")
    code, text = run("curves", path)
    assert code == 1 and "must have these models, finished: student" in text
    change(path / "manifest.json", recipe=None)
    assert "must be of a recipe, which tells the data set" in run("curves", path)[1]


def test_errors(table, seeds, tmp_path):
    single = make_run(tmp_path / "single", seed=5)
    found = table("errors", seeds, single, "--output", tmp_path / "errors.png")
    names = ["teacher", "ta", "student", "alone"]
    # Both folders are of the recipe mnist, which so tells nothing.
    assert list(found)[2:] == [f"{path}: {x}" for path in (seeds, single) for x in names]
    of_seeds = [errors_of("ta", seed) for seed in SEEDS]
    counts = ", ".join(map(str, of_seeds))
    assert found[f"{seeds}: ta"] == ["teacher", shown(of_seeds, 1), counts]
    alone = str(errors_of("alone", 5))
    assert found[f"{single}: alone"] == ["labels", alone, alone]
    # A given teacher is one, whatever the seeds.
    assert found[f"{seeds}: teacher"][2] == str(errors_of("teacher", 0))
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_one_folder_needs_no_name(table, seeds, tmp_path):
    other = make_run(tmp_path / "other", examples=30, recipe_name="other")
    found = table("errors", seeds)
    assert list(found)[2:] == ["teacher", "ta", "student", "alone"]
    found = table("errors", seeds, other)
    assert "mnist: student" in found and "other: student" in found


def test_picture_of_errors(evidence, monkeypatch):
    errors = importlib.import_module("errors")
    drawn = []

    def only_draw(name, alt, caption, draw, *inner, size):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *inner)
        drawn.append(figure)

    monkeypatch.setattr(errors.drawing, "drawn", only_draw)
    rows = [("ta", None, [20, 24, 20]), ("student", None, [40])]
    errors.errors_picture(rows, {"published": 30.0})
    errors.errors_picture(rows, {"published": 500.0})
    axes = drawn[0].axes[0]
    ta, ta_mean, student, student_mean, published = axes.lines
    np.testing.assert_array_equal(ta.get_xdata(), [20, 24, 20])
    # The third does not hide the first.
    assert ta.get_ydata()[0] == ta.get_ydata()[1] == 0 < ta.get_ydata()[2] < 0.33
    np.testing.assert_allclose(ta_mean.get_xdata(), [64 / 3, 64 / 3])
    np.testing.assert_array_equal(student.get_xydata(), [[40, 1]])
    assert list(published.get_xdata()) == [30, 30]
    assert [x.get_text() for x in axes.get_yticklabels()] == ["ta", "student"]
    texts = [x.get_text() for x in drawn[0].legends[0].get_texts()]
    assert texts == ["a seed", "mean", "published: 30"]
    assert axes.get_xscale() == "linear" and drawn[1].axes[0].get_xscale() == "log"


@pytest.mark.parametrize("line", ["Simard 2003", "=70", "Simard=many", "x=0"])
def test_bad_line(run, seeds, line):
    code, text = run("errors", seeds, "--line", line)
    assert code == 2 and "a number above 0" in text


def features(path, images):
    """The outputs of the hidden layer of the sample's models."""
    kernel, bias, *_ = keras.saving.load_model(path / "model.keras").get_weights()
    return np.maximum(images.reshape(len(images), -1) @ kernel + bias, 0)


def cka(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = x @ x.T, y @ y.T
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


def test_fidelity(table, seeds, images):
    found = table("fidelity", seeds, "--examples", 150)
    assert list(found)[2:] == ["ta", "student", "alone"]
    assert found["alone"][0] == "labels" and found["alone"][2:5] == ["–"] * 3
    agreement, kl, alike = [], [], []
    few = images[:150] / 255.0
    for seed in SEEDS:
        outputs = logits(200, seed)[1]
        ours, others = log_softmax(outputs["student"]), log_softmax(outputs["ta"])
        agreement.append(100 * np.mean(ours.argmax(1) == others.argmax(1)))
        kl.append(np.mean(np.sum(np.exp(others) * (others - ours), axis=1)))
        folder = seeds / f"seed-{seed}"
        alike.append(cka(*(features(folder / x, few) for x in ("ta", "student"))))
    counts = [errors_of("student", seed) for seed in SEEDS]
    expected = ["ta", shown(counts, 1), shown(agreement, 2), shown(kl, 4), shown(alike, 3)]
    assert found["student"][:-1] == expected
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", found["student"][-1])


def test_fidelity_to_an_ensemble(table, seeds, tmp_path):
    run_dir = shutil.copytree(seeds / "seed-0", tmp_path / "run")
    members = [
        keras.saving.load_model(run_dir / name / "model.keras") for name in ("ta", "alone")
    ]
    members[1].name = "other"
    Ensemble(members).save(run_dir / "teacher" / "model.keras")
    teacher = {"state": "done", "files": checksums(run_dir / "teacher")}
    change(run_dir / "manifest.json", teacher=teacher)
    found = table("fidelity", run_dir)
    assert found["ta"][4] == "–" and found["ta"][2] != "–"
    assert float(found["student"][4]) > 0


def test_robustness(table, seeds, images):
    found = table("robustness", seeds, "--models", "teacher,student", "--examples", 120)
    assert found["accuracy (%)"] == ["teacher", "student"]
    assert len(found) == 2 + 1 + 4 + 3 + 4
    labels, few = logits(200)[0][:120], images[:120] / np.float32(255)
    up = np.concatenate([few[:, 1:], np.zeros_like(few[:, :1])], axis=1)
    down = np.concatenate([np.zeros_like(few[:, :1]), few[:, :-1]], axis=1)
    left = np.concatenate([few[:, :, 1:], np.zeros_like(few[:, :, :1])], axis=2)
    right = np.concatenate([np.zeros_like(few[:, :, :1]), few[:, :, :-1]], axis=2)
    plain, moved = [], []
    for seed in SEEDS:
        path = seeds / f"seed-{seed}" / "student" / "model.keras"
        model = keras.saving.load_model(path)
        for x, kept in [(few, plain), *((x, moved) for x in (up, down, left, right))]:
            kept.append(np.mean(model.predict_on_batch(x).argmax(axis=1) == labels))
    assert found["none"][1] == f"{100 * np.mean(plain):.2f}"
    assert found["shift 1 px"][1] == f"{100 * np.mean(moved):.2f}"


def test_robustness_of_an_unknown_model(run, seeds):
    code, text = run("robustness", seeds, "--models", "student,nobody")
    assert code == 1 and "Received: nobody." in text and "teacher, ta, student" in text


@pytest.fixture
def hinton_seeds(tmp_path, monkeypatch, images):
    keras.utils.set_random_seed(0)
    models = {
        "teacher": (["given"], "big", 8.0, 1_000_000, 1_000_000),
        "student_alone": ([], "small", 5.0, 1_000_000, 1_000_000),
    }
    for name in ("student", "student_without_3s", "student_7s_and_8s"):
        models[name] = (["teacher"], "small", 6.0, 1_000_000, 1_000_000)
    monkeypatch.setattr(sample_run, "MODELS", models)
    return make_seeds(tmp_path / "hinton", (0, 1))


def left_after(found_on, scores, labels, classes):
    """Errors on `scores` with the shift that is best for `found_on`, by trying each."""
    added = np.isin(np.arange(10), classes)

    def errors(scores, shift):
        return int(np.sum((scores + shift * added).argmax(axis=1) != labels))

    ends = []
    for row, label in zip(found_on, labels, strict=True):
        given, other = np.where(added, row, -99), np.where(added, -99, row)
        if label in (given.argmax(), other.argmax()):
            ends.append(other.max() - given.max())
    ends = np.sort(ends)
    # Beyond the ends: no shift where that is in it.
    below = 0 if ends[0] > 0 else ends[0] - 1
    above = 0 if ends[-1] < 0 else ends[-1] + 1
    middles = [below, *(ends[1:] + ends[:-1]) / 2, above]
    return errors(scores, min(middles, key=lambda x: (errors(found_on, x), abs(x))))


def test_hinton(table, hinton_seeds, images):
    found = table("hinton", hinton_seeds)
    labels = logits(200)[0]
    counts = [errors_of("student", seed) for seed in (0, 1)]
    row = found["distilled student: errors"]
    assert row[0] == "74" and row[3] == ", ".join(map(str, counts))
    assert row[1] == f"{np.mean(counts):.1f} ± {np.std(counts, ddof=1):.1f}"
    assert row[2] == f"{np.mean(counts) / 74:.2f}"
    given = errors_of("teacher", 0)
    assert found["teacher, two layers of 1200: errors"][3] == f"{given}, {given}"
    test = images / np.float32(255)
    expected = {key: [] for key in ("errors", "threes", "test", "training", "both")}
    for seed in (0, 1):
        folder = hinton_seeds / f"seed-{seed}"
        model, others = (
            keras.saving.load_model(folder / name / "model.keras").predict_on_batch
            for name in ("student_without_3s", "student_7s_and_8s")
        )
        scores, training = model(test), model(test[:, :, ::-1])
        wrong = scores.argmax(axis=1) != labels
        expected["errors"].append(np.sum(wrong))
        expected["threes"].append(np.sum(wrong[labels == 3]))
        expected["test"].append(left_after(scores, scores, labels, [3]))
        expected["training"].append(left_after(training, scores, labels, [3]))
        scores, training = others(test), others(test[:, :, ::-1])
        expected["both"].append(left_after(training, scores, labels, [7, 8]) / 2)
    texts = {key: ", ".join(map(str, x)) for key, x in expected.items()}
    assert texts["test"] != texts["training"]
    assert found["no 3s in the transfer set: errors"][3] == texts["errors"]
    before = found["no 3s in the transfer set: errors on threes"]
    assert before[3] == texts["threes"] and before[0] == "133"
    on_test = "no 3s, bias found on the test images, as in the paper"
    assert found[f"{on_test}: errors"][3] == texts["test"]
    shift = found[f"{on_test}: added to it"]
    assert shift[0] == "+3.5" and re.fullmatch(r"[+-]\d\.\d, [+-]\d\.\d", shift[3])
    on_training = "bias found on the training images: errors"
    assert found[f"no 3s, {on_training}"][3] == texts["training"]
    assert found[f"7s and 8s only, {on_training}, %"][3] == texts["both"]


def test_hinton_of_another_run(run, seeds):
    code, text = run("hinton", seeds)
    assert code == 1
    assert "student_alone, student_without_3s, student_7s_and_8s." in text
