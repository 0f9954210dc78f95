"""The pictures, by what is in them before they are drawn."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_kd.report import plots
from keras_kd.report.plots import curves, pareto
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
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("plots") / "run")
    return reader.read(path).runs[None]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    path = make_seeds(tmp_path_factory.mktemp("plots"), (0, 1, 2))
    return list(reader.read(path).runs.values())


@pytest.fixture
def axes(monkeypatch):
    """A function that draws a picture and gives its axes, without making files of it."""

    def draw(function, *arguments):
        kept = {}

        def only_draw(name, alt, caption, draw, *inner, size=None):
            figure = Figure(layout="constrained")
            draw(figure, *inner)
            kept["axes"] = figure.axes
            return caption

        monkeypatch.setattr(plots, "drawn", only_draw)
        caption = function(*arguments)
        return kept["axes"][0], caption

    return draw


def points(axes):
    """(x, y, below, above) of each error bar."""
    found = []
    for container in axes.containers:
        line, _, (bars,) = container.lines
        ((_, low), (_, high)) = bars.get_segments()[0]
        (x,), (y,) = line.get_data()
        found.append((x, y, y - low, high - y))
    return np.array(found)


COSTS = {"teacher": 1000, "ta": 100, "student": 10, "alone": 10}


def test_pareto_of_one_seed(axes, run):
    drawn, caption = axes(pareto, [run], COSTS, "macs", "MACs")
    assert drawn.get_xscale() == "log" and drawn.get_xlabel() == "MACs"
    found = points(drawn)
    for row, model in zip(found, run.models, strict=True):
        counted = model.metrics.evaluation
        low, high = counted.accuracy_interval
        assert row[1] == pytest.approx(100 * counted.accuracy)
        assert row[2] == pytest.approx(100 * (counted.accuracy - low))
        assert row[3] == pytest.approx(100 * (high - counted.accuracy))
    np.testing.assert_allclose(found[:3, 0], [1000, 100, 10])
    # Beside the student of the same cost, not upon it.
    assert 10.5 < found[3, 0] < 15
    assert "95 % intervals" in caption and "side by side" in caption


def test_the_line_joins_what_no_cheaper_model_equals(axes, run):
    accuracy = {x.name: 100 * x.metrics.evaluation.accuracy for x in run.models}
    assert accuracy["teacher"] > accuracy["alone"]
    costs = {"teacher": 20, "ta": 30, "student": 40, "alone": 10}
    drawn, _ = axes(pareto, [run], costs, "macs", "MACs")
    best, expected = -1, []
    for name in sorted(costs, key=costs.get):
        if accuracy[name] > best:
            best = accuracy[name]
            expected.append((costs[name], best))
    assert 2 <= len(expected) < 4
    np.testing.assert_allclose(drawn.lines[0].get_xydata(), expected)
    # Costs so near each other are not drawn over decades.
    assert drawn.get_xscale() == "linear"


def test_pareto_over_seeds(axes, seeds):
    drawn, caption = axes(pareto, seeds, COSTS, "macs", "MACs")
    accuracies = []
    for seed in range(3):
        labels, outputs = logits(200, seed)
        accuracies.append(100 * np.mean(outputs["ta"].argmax(1) == labels))
    _, mean, below, above = points(drawn)[1]
    assert mean == pytest.approx(np.mean(accuracies))
    assert below == pytest.approx(np.std(accuracies, ddof=1)) == above
    assert "standard deviations over the seeds" in caption


def test_models_without_a_cost_are_left_out(axes, run):
    drawn, caption = axes(pareto, [run], {"ta": 3.0}, "latency", "latency (ms)")
    assert len(points(drawn)) == 1 and "side by side" not in caption
    assert pareto([run], {}, "latency", "latency (ms)") is None


def test_curves(axes, run):
    published = {"student": [90.0, 91.0], "gone": [1.0]}
    drawn, caption = axes(curves, [run], published)
    assert drawn.get_ylabel() == "validation accuracy (%)"
    ta, student, paper, alone = drawn.lines
    np.testing.assert_array_equal(ta.get_xdata(), [1, 2, 3, 4])
    history = run["alone"].history["val_accuracy"]
    np.testing.assert_allclose(alone.get_ydata(), 100 * np.array(history))
    np.testing.assert_array_equal(paper.get_xydata(), [[1, 90], [2, 91]])
    # Told apart without colour.
    looks = {(x.get_marker(), x.get_linestyle()) for x in (ta, student, alone)}
    assert len(looks) == 3
    assert paper.get_markerfacecolor() == "white" and "hollow markers" in caption


@pytest.mark.parametrize("held_out, label", [(0, "test"), (500, "validation")])
def test_curves_name_their_data(axes, tmp_path, held_out, label):
    path = make_run(tmp_path / "run", examples=30)
    change(path / "manifest.json", recipe={"validation_examples": held_out})
    drawn, caption = axes(curves, [reader.read(path).runs[None]], {})
    assert drawn.get_ylabel() == f"{label} accuracy (%)"
    assert caption.startswith(f"{label.capitalize()} accuracy of every stage")


def test_curves_over_seeds(axes, seeds):
    drawn, caption = axes(curves, seeds, {})
    values = 100 * np.array([run["alone"].history["val_accuracy"] for run in seeds])
    np.testing.assert_allclose(drawn.lines[2].get_ydata(), values.mean(axis=0))
    band = drawn.collections[2].get_paths()[0].vertices[:, 1]
    for edge in (values.min(axis=0), values.max(axis=0)):
        assert all(np.isclose(band, x).any() for x in edge)
    assert "mean over the seeds" in caption and "hollow" not in caption


def test_curves_of_other_metrics(axes, tmp_path):
    path = make_run(tmp_path, examples=20)
    for name in ("ta", "student", "alone"):
        (path / name / "history.csv").write_text("epoch,loss,val_loss\n0,2,1\n1,1,0.5\n")
    manifest = reader.read(path).manifest.model_dump(mode="json")
    for stage in manifest["stages"]:
        del stage["files"]["history.csv"]
    change(path / "manifest.json", **manifest)
    run = reader.read(path).runs[None]
    drawn, _ = axes(curves, [run], {"student": [90.0]})
    assert drawn.get_ylabel() == "validation loss" and len(drawn.lines) == 3
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), [1, 0.5])


def test_no_curves_yet(tmp_path):
    path = make_run(tmp_path, examples=20)
    for name in ("ta", "student", "alone"):
        unfinish(path, name, "waiting")
    assert curves([reader.read(path).runs[None]], {}) is None


def test_a_file_of_each_kind(run):
    before = matplotlib.rcParams["font.size"]
    picture = pareto([run], COSTS, "macs", "MACs")
    assert picture.name == "accuracy_macs"
    assert picture.svg.startswith(b"<?xml") and picture.png.startswith(b"\x89PNG")
    assert matplotlib.rcParams["font.size"] == before
    assert pareto([run], COSTS, "macs", "MACs").svg == picture.svg


@pytest.mark.parametrize("task, way", [("regression", "down"), ("multilabel", "up")])
def test_pareto_of_another_score(axes, tmp_path, task, way):
    run = reader.read(make_task_run(tmp_path / "run", task)).runs[None]
    costs = {"teacher": 100, "student": 10, "alone": 11}
    drawn, caption = axes(pareto, [run], costs, "macs", "MACs")
    measured = [x.metrics.evaluation for x in run.models]
    scored = [x.scores[x.counts] for x in measured]
    scale = 1 if task == "regression" else 100
    ends = [(x.value, x.value - x.interval[0], x.interval[1] - x.value) for x in scored]
    expected = scale * np.array(ends)
    np.testing.assert_allclose(points(drawn)[:, 1:], expected)
    assert f"against MACs; {way} and to the left is better" in caption
    words = {"regression": "mean absolute error", "multilabel": "accuracy (%)"}
    assert drawn.get_ylabel() == words[task]
    # The one alone costs more than the student, and is worse.
    front = drawn.lines[0].get_ydata()
    np.testing.assert_allclose(front, [expected[1][0], expected[0][0]])
