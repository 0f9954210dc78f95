"""The table, the picture and the recipe that a search leaves, of trials made up here."""

import random

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_kd.recipes import recipe
from keras_kd.tuning import report
from keras_kd.tuning.recipe import TunedRecipe
from keras_kd.tuning.search import Trial


@pytest.fixture(scope="module")
def tuned():
    return recipe.load("mnist_tune", TunedRecipe)


def trial(tuned, number, objective, epochs=None, loss="kd", **values):
    losses = next(x for x in tuned.dimensions if x.name == "loss").values
    values = {
        "ta.model": "mnist_cnn_4_8",
        "loss": losses[loss],
        "temperature": 2.5,
        "student_loss_weight": 0.25,
        "learning_rate": 0.001234,
    } | values
    return Trial(number, values, objective, epochs)


def trials(tuned):
    dkd = trial(tuned, 3, 0.98, loss="dkd, beta = 2.0", learning_rate=0.01)
    del dkd.values["temperature"]
    return [trial(tuned, 1, 0.9712), trial(tuned, 2, None), dkd, trial(tuned, 4, 0.98)]


def test_ranked(tuned):
    found = report.ranked(tuned, trials(tuned))
    assert [x.number for x in found] == [3, 4, 1, 2]
    table = tuned.tune.model_copy(update={"objective": "val_loss"})
    least = tuned.model_copy(update={"tune": table})
    found = report.ranked(least, trials(tuned))
    assert [x.number for x in found] == [1, 3, 4, 2]


def test_table(tuned):
    lines = report.table(tuned, trials(tuned)).splitlines()
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "trial", "loss", "ta.model", "temperature", "student_loss_weight",
        "learning_rate", "val_accuracy",
    ]  # fmt: skip
    wide = "`mnist_cnn_4_8`"
    assert cells[2] == ["3", "`dkd, beta = 2.0`", wide, "-", "0.25", "0.01", "0.9800"]
    assert cells[5] == ["2", "`kd`", wide, "2.5", "0.25", "0.001234", "failed"]
    table = tuned.tune.model_copy(update={"strategy": "hyperband"})
    banded = tuned.model_copy(update={"tune": table})
    text = report.table(banded, [trial(tuned, 1, 0.5, epochs=2)])
    assert text.splitlines()[2].split("|")[-3:-1] == ["        2 ", "         0.5000 "]


def test_best_recipe(tuned, write_recipe):
    text = report.best_recipe(tuned, trials(tuned)[2])
    assert text.startswith(
        "# Trial 3 of a search over the held-out images: val_accuracy 0.9"
    )
    ta, student = recipe.load(write_recipe(text=text)).stage
    assert ta.model == "mnist_cnn_4_8" and student.student_loss_weight == 0.25
    assert student.losses[0].make().get_config()["beta"] == 2.0
    # Of a key that is not searched nothing changes.
    assert (student.epochs, student.model) == (3, "mnist_fc_64_64")


def test_picture(tuned, monkeypatch):
    figures = []
    draw = report._draw
    monkeypatch.setattr(
        report, "_draw", lambda figure, *x: (figures.append(figure), draw(figure, *x))
    )
    picture = report.picture(tuned, trials(tuned))
    assert picture.caption == "A point is a trial; the star is the best one. 1 failed."
    axes = {x.get_xlabel(): x for x in figures[0].axes}
    assert list(axes) == [x.name for x in tuned.dimensions]
    points = {
        name: [
            (*line.get_xdata(), *line.get_ydata(), line.get_marker()) for line in x.lines
        ]
        for name, x in axes.items()
    }
    # The second of the equals has a point like the others.
    assert points["learning_rate"] == [
        (0.001234, 0.9712, "o"), (0.001234, 0.98, "o"), (0.01, 0.98, "*"),
    ]  # fmt: skip
    assert points["temperature"] == [(2.5, 0.9712, "o"), (2.5, 0.98, "o")]
    assert [x for x, *_ in points["loss"]] == [0, 0, 2]
    labels = [x.get_text() for x in axes["loss"].get_xticklabels()]
    assert labels == ["kd", "logit_std", "dkd, beta = 2.0"]
    assert axes["learning_rate"].get_xscale() == "log"
    low, high = axes["student_loss_weight"].get_xlim()
    assert low < 0 and high > 0.9


def many(tuned, count=24):
    """Made-up trials, to look at."""
    draw = random.Random(0)
    found = []
    for number in range(1, count + 1):
        values = {}
        for dimension in tuned.dimensions:
            if isinstance(dimension.values, dict):
                values[dimension.name] = draw.choice(list(dimension.values.values()))
            else:
                ends = np.log(max(dimension.values.min, 1e-3)), np.log(dimension.values.max)
                values[dimension.name] = float(np.exp(draw.uniform(*ends)))
        found.append(Trial(number, values, 0.95 + 0.03 * draw.random()))
    return found


def test_nothing_lies_on_anything(tuned, monkeypatch):
    """Labels at the axes of neighbouring panels, or of one axis, do not touch."""
    figures, draw = [], report._draw
    monkeypatch.setattr(
        report, "_draw", lambda figure, *x: (figures.append(figure), draw(figure, *x))
    )
    report.picture(tuned, many(tuned))
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = []
    for axes in figure.axes:
        texts.append(axes.xaxis.label)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    # A turned label's own box is larger than the label.
    boxes = [x.get_window_extent(renderer) for x in texts if not x.get_rotation()]
    assert len(boxes) > 40
    touching = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not touching
