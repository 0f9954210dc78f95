"""What each task takes as labels, and what it calls a difference."""

import numpy as np
import pytest

from keras_kd.tasks.known import TASKS, task_of_units
from keras_kd.tasks.task import MOST_CLASSES, Linked


@pytest.mark.parametrize(
    "task, labels, size, found, good",
    [
        ("multiclass", [[0, 2]], 3, [[0, 2]], [[True, True]]),
        ("multiclass", [[[0], [2]]], 3, [[0, 2]], [[True, True]]),
        ("multiclass", [[[0, 1, 0], [0, 1, 1]]], 3, [[1, 1]], [[True, False]]),
        ("multiclass", [[-1, 3]], 3, [[-1, 3]], [[False, False]]),
        ("multiclass", [[0.0, 2.0]], 3, [[0, 2]], [[True, True]]),
        ("binary", [[True, False]], 1, [[1, 0]], [[True, True]]),
        ("binary", [[[1], [2]]], 1, [[1, 2]], [[True, False]]),
        ("multilabel", [[[0, 1], [1, 0.5]]], 2, [[[0, 1], [1, 0.5]]], [[True, False]]),
        ("regression", [[1.5, np.nan]], 1, [[[1.5], [np.nan]]], [[True, False]]),
        ("regression", [[[1, 2]]], 2, [[[1.0, 2.0]]], [[True]]),
    ],
)
def test_labels(task, labels, size, found, good):
    labels, are_good = TASKS[task].labels(np.array(labels), size)
    np.testing.assert_array_equal(labels, found)
    np.testing.assert_array_equal(are_good, good)


@pytest.mark.parametrize(
    "task, labels, size",
    [
        ("multiclass", [[0.5, 1.0]], 3),
        ("multiclass", [[[0, 1], [1, 0]]], 3),
        ("binary", [[[0, 1], [1, 0]]], 1),
        ("binary", [[0.5]], 1),
        ("multilabel", [[0, 1]], 2),
        ("multilabel", [[[0, 1, 1]]], 2),
        ("regression", [[1.0, 2.0]], 2),
        ("regression", [["a"]], 1),
    ],
)
def test_labels_of_another_form(task, labels, size):
    assert TASKS[task].labels(np.array(labels), size) is None


def log_sigmoid(z):
    return -np.logaddexp(0, -np.asarray(z, "float64"))


def test_differences_and_divergence():
    ours = np.float32([[[0.5, -1.0], [2.0, 1.0]]])
    theirs = np.float32([[[0.1, 1.0], [3.0, 1.0]]])
    multiclass = [TASKS["multiclass"].link(x, "logits") for x in (ours, theirs)]
    assert TASKS["multiclass"].differ(*multiclass).tolist() == [[True, False]]
    multilabel = [TASKS["multilabel"].link(x, "logits") for x in (ours, theirs)]
    assert TASKS["multilabel"].differ(*multilabel).tolist() == [[0.5, 0.0]]
    p, q = np.exp(log_sigmoid(theirs)), np.exp(log_sigmoid(ours))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = TASKS["multilabel"].divergence(multilabel[1], multilabel[0])
    np.testing.assert_allclose(found, kl.mean(axis=-1), rtol=1e-5)
    values = [TASKS["regression"].link(x, "values") for x in (ours, theirs)]
    expected = np.mean((ours.astype("float64") - theirs) ** 2, axis=-1)
    np.testing.assert_allclose(TASKS["regression"].differ(*values), expected)


def test_what_a_picture_shows():
    z = np.float32([[[0.5], [-1.0]]])
    binary = TASKS["binary"]
    shown = binary.shown(binary.link(z, "logits"))
    np.testing.assert_allclose(shown, np.exp(log_sigmoid(z[..., 0])), rtol=1e-5)
    assert binary.shown(None, np.array([[1, 0]])).tolist() == [[1, 0]]
    several = TASKS["multilabel"]
    logits = Linked(np.zeros((1, 1, 3)), np.array([[[True, False, True]]]))
    assert several.shown(logits).tolist() == [[2]]


def test_a_yes_is_above_a_half_and_above_zero():
    for task in ("binary", "multilabel"):
        z = np.float32([[[0.0]], [[1e-6]], [[-1e-6]]])
        assert TASKS[task].link(z, "logits").decided.ravel().tolist() == [0, 1, 0]
        p = np.float32([[[0.5]], [[0.500001]], [[0.499999]]])
        assert TASKS[task].link(p, "probabilities").decided.ravel().tolist() == [0, 1, 0]


def test_of_many_classes_none_is_counted_by_itself():
    for classes in (MOST_CLASSES, MOST_CLASSES + 1):
        task = TASKS["multiclass"]
        linked = task.link(np.zeros((1, 2, classes), "float32"), "logits")
        sums = task.sums(np.zeros((1, 2), int), linked, np.ones((1, 2), bool), 1)
        assert ("hits" in sums) == (classes == MOST_CLASSES)


@pytest.mark.parametrize(
    "name, units, found",
    [
        (None, 1, None),
        (None, 2, "multiclass"),
        ("binary", 1, "binary"),
        ("binary", 2, "multiclass"),
        ("multiclass", 1, "binary"),
        ("multilabel", 1, "binary"),
        ("multilabel", 3, "multilabel"),
        ("regression", 1, "regression"),
    ],
)
def test_tasks_of_other_units(name, units, found):
    task = task_of_units(name, units)
    assert (task and task.name) == found
