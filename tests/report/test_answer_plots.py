from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_kd.evaluation.answers import Answers
from keras_kd.report import answer_plots
from keras_kd.report.answer_plots import confusion, reliability
from keras_kd.runs import reader
from tests.runs.sample_run import make_task_run


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Gives the figure in place of a `Picture`."""

    def only_draw(name, alt, caption, draw, *arguments, size=None):
        figure = Figure(layout="constrained")
        draw(figure, *arguments)
        return figure, caption

    monkeypatch.setattr(answer_plots, "drawn", only_draw)


def a_model(labels, predicted, confidence=None, class_name=str):
    if confidence is None:
        confidence = np.full(len(labels), 0.9)
    answers = Answers(
        np.array(labels),
        np.array(predicted),
        np.array(confidence, dtype="float32"),
        np.log(np.full(len(labels), 0.5, dtype="float32")),
    )
    return SimpleNamespace(name="student", answers=answers, class_name=class_name)


STYLE = {"student": {"color": "#000000", "marker": "o", "linestyle": "-"}}


def test_reliability():
    # Ten answers in the bin (0.2, 0.267], 3 right; eight at 1, 7 right; four at 0.5.
    confidence = [0.21] * 5 + [0.25] * 5 + [1.0] * 8 + [0.5] * 4
    right = [1, 1, 1] + [0] * 7 + [1] * 7 + [0] + [0] * 4
    model = a_model(np.zeros(22, int), 1 - np.array(right), confidence)
    figure, caption = reliability([model], STYLE, seed=3)
    line = figure.axes[0].lines[1]
    # The four at 0.5 are too few to be drawn, but are counted beneath.
    np.testing.assert_allclose(line.get_xydata(), [[0.23, 0.3], [1, 7 / 8]], rtol=1e-6)
    counts = figure.axes[1].patches[0].get_data().values
    expected = np.zeros(15)
    expected[[3, 7, 14]] = 10, 4, 8
    np.testing.assert_array_equal(counts, expected)
    assert caption.endswith("Of seed 3.")


def shown(figure):
    """dict of (row, column) to the number in that cell."""
    return {
        (int(x.get_position()[1]), int(x.get_position()[0])): int(x.get_text())
        for x in figure.axes[0].texts
    }


def test_confusion():
    labels, predicted = [0, 0, 0, 2, 2, 5], [0, 0, 2, 2, 0, 5]
    figure, caption = confusion(a_model(labels, predicted), "confusion_1")
    # Classes that do not occur have no row.
    ticks = [x.get_text() for x in figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "2", "5"]
    expected = {(0, 0): 2, (0, 1): 1, (1, 1): 1, (1, 0): 1, (2, 2): 1}
    assert shown(figure) == expected
    shaded = figure.axes[0].images[0].get_array()
    assert shaded.mask[0, 0] and not shaded.mask[0, 1]
    assert "most mistakes" not in caption


def test_confusion_of_classes_with_names():
    names = {0: "bag", 2: "a name of many letters", 5: "coat"}
    model = a_model([0, 2, 5], [0, 2, 0], class_name=names.get)
    figure, _ = confusion(model, "confusion_1")
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        assert [x.get_text() for x in labels] == ["bag", "a name of man…", "coat"]


def test_confusion_of_many_classes(monkeypatch):
    labels = np.arange(30)
    figure, _ = confusion(a_model(labels, (labels + 1) % 30), "confusion_1")
    assert not shown(figure) and len(figure.axes) == 2
    # A label as large as this makes no matrix of that size.
    monkeypatch.setattr(answer_plots, "_MOST_CLASSES", 2)
    labels, predicted = [10**12, 3, 4, 4, 7], [10**12, 3, 7, 7, 4]
    figure, caption = confusion(a_model(labels, predicted), "confusion_1")
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["4", "7"]
    assert shown(figure) == {(0, 1): 2, (1, 0): 1}
    assert "Of the 2 classes with the most mistakes." in caption


def test_reliability_of_many_answers_an_example(tmp_path):
    run = reader.read(make_task_run(tmp_path / "run", "multiclass", 2)).runs[None]
    figure, _ = reliability([run["student"]], STYLE, seed=None)
    counts = figure.axes[1].patches[0].get_data().values
    assert counts.sum() == 40 * 36
    values = reader.read(make_task_run(tmp_path / "values", "regression")).runs[None]
    assert reliability([values["student"]], STYLE, seed=None) is None
