"""Each score beside scikit-learn's, or a sum by hand; and of draws as of what is drawn."""

import numpy as np
import pytest
from sklearn import metrics

from keras_kd.evaluation.resampling import value
from keras_kd.tasks.known import TASKS
from keras_kd.tasks.scores import SCORES, calibration_error
from keras_kd.tasks.task import sums_of_classes


def log_sigmoid(z):
    return -np.logaddexp(0, -np.asarray(z, "float64"))


def of_task(task, labels, outputs, places=0, keep=None, kind="logits"):
    """The sums of examples, and what scores of ranks need."""
    task = TASKS[task]
    outputs = np.float32(outputs)
    found, good = task.labels(labels, outputs.shape[-1])
    keep = np.ones(outputs.shape[:2], bool) if keep is None else keep
    assert good[keep].all()
    answers = task.link(outputs, kind)
    return task.sums(found, answers, keep, places)


def score(name, arrays, rows=None, times=None):
    return value(SCORES[name], arrays, rows, times)


@pytest.fixture
def yes_or_no():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (300, 1, 3))
    # Rounded, so that many are equal; the labels are seen in them, and not always.
    logits = np.round(2 * rng.normal(size=labels.shape) + 2 * labels - 1, 1)
    return labels, np.float32(logits)


def test_several_labels(yes_or_no):
    labels, logits = yes_or_no
    arrays = of_task("multilabel", labels, logits)
    flat, scores = labels[:, 0], logits[:, 0]
    rows = {"label": flat, "logit": scores}
    predicted = (scores > 0).astype(int)
    assert score("accuracy", arrays) == pytest.approx(np.mean(predicted == flat))
    found = {
        "f1": metrics.f1_score(flat, predicted, average="macro"),
        "roc_auc": metrics.roc_auc_score(flat, scores, average="macro"),
        "average_precision": metrics.average_precision_score(flat, scores),
        "mean_iou": metrics.jaccard_score(flat, predicted, average="macro"),
    }
    for name, expected in found.items():
        assert score(name, arrays, rows) == pytest.approx(expected, rel=1e-9), name
    likelihood = np.where(flat == 1, log_sigmoid(scores), log_sigmoid(-scores))
    nll = score("negative_log_likelihood", arrays)
    assert nll == pytest.approx(-likelihood.mean(), rel=1e-6)


def test_one_unit(yes_or_no):
    labels, logits = yes_or_no
    labels, logits = labels[..., :1], logits[..., :1]
    arrays = of_task("binary", labels, logits)
    flat, scores = labels.ravel(), logits.ravel()
    rows = {"label": flat[:, None], "logit": scores[:, None]}
    predicted = scores > 0
    found = {
        "accuracy": metrics.accuracy_score(flat, predicted),
        "f1": metrics.f1_score(flat, predicted),
        "roc_auc": metrics.roc_auc_score(flat, scores),
        "average_precision": metrics.average_precision_score(flat, scores),
        "negative_log_likelihood": metrics.log_loss(
            flat, np.exp(log_sigmoid(scores)), labels=[0, 1]
        ),
    }
    for name, expected in found.items():
        assert score(name, arrays, rows) == pytest.approx(expected, rel=1e-6), name


def test_one_unit_is_two_classes(yes_or_no):
    labels, logits = yes_or_no
    labels, logits = labels[..., :1], logits[..., :1]
    binary = of_task("binary", labels, logits)
    both = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    multiclass = of_task("multiclass", labels[..., 0], both)
    for name in ("accuracy", "negative_log_likelihood", "calibration_error"):
        found = score(name, binary), score(name, multiclass)
        assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_probabilities_as_their_logits(yes_or_no):
    labels, logits = yes_or_no
    probabilities = 1 / (1 + np.exp(-logits.astype("float64")))
    for task, label in (("binary", labels[..., :1]), ("multilabel", labels)):
        size = label.shape[-1]
        a = of_task(task, label, logits[..., :size])
        b = of_task(task, label, probabilities[..., :size], kind="probabilities")
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5)


def test_pixels():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (5, 60))
    # Class 3 is neither a label nor an answer.
    labels[labels == 3] = 255
    logits = np.float32(rng.normal(size=(5, 60, 4)) - [0, 0, 0, 99])
    keep = labels != 255
    task = TASKS["multiclass"]
    arrays = task.sums(labels, task.link(logits, "logits"), keep, 2)
    flat, predicted = labels[keep], logits[keep].argmax(-1)
    expected = metrics.jaccard_score(flat, predicted, average="macro", labels=[0, 1, 2])
    assert score("mean_iou", arrays) == pytest.approx(expected)
    assert score("accuracy", arrays) == pytest.approx(np.mean(flat == predicted))
    expected = metrics.f1_score(flat, predicted, average="macro", labels=[0, 1, 2])
    assert score("f1", arrays) == pytest.approx(expected)
    log_probs = logits - np.log(np.exp(logits.astype("float64")).sum(-1, keepdims=True))
    nll = -log_probs[keep][np.arange(len(flat)), flat].mean()
    assert score("negative_log_likelihood", arrays) == pytest.approx(nll, rel=1e-6)
    assert score("perplexity", arrays) == pytest.approx(np.exp(nll), rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_values(outputs):
    rng = np.random.default_rng(2)
    labels = rng.normal(5, 2, (200, outputs))
    answers = np.float32(labels + rng.normal(0, [1, 2, 3][:outputs], labels.shape))
    arrays = of_task("regression", labels[:, None], answers[:, None])
    error = labels - answers
    expected = {
        "mean_absolute_error": metrics.mean_absolute_error(labels, answers),
        "root_mean_squared_error": np.sqrt(np.mean(error**2)),
        "r2": metrics.r2_score(labels, answers),
    }
    for name, wanted in expected.items():
        assert score(name, arrays) == pytest.approx(wanted, rel=1e-6), name
    of_examples = np.abs(error).mean(axis=1)
    worst = score("worst_percentile", arrays, {"error": of_examples})
    assert worst == pytest.approx(np.percentile(of_examples, 99))


def test_what_is_not_defined_is_no_number():
    labels, logits = np.ones((4, 1, 1), int), np.float32([[[1]], [[2]], [[3]], [[-4]]])
    rows = {"label": labels[:, 0], "logit": logits[:, 0]}
    assert np.isnan(score("roc_auc", of_task("binary", labels, logits), rows))
    constant = of_task("regression", 3.0 * labels, logits)
    assert np.isnan(score("r2", constant))


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "accuracy", "f1"])
def test_a_draw_is_scored_as_the_examples_that_are_drawn(name, yes_or_no):
    labels, logits = yes_or_no
    drawn = np.random.default_rng(3).integers(0, 300, (4, 300))
    times = np.stack([np.bincount(x, minlength=300) for x in drawn])
    rows = {"label": labels[:, 0], "logit": logits[:, 0]}
    found = score(name, of_task("multilabel", labels, logits), rows, times)
    for got, chosen in zip(found, drawn, strict=True):
        picked = {key: x[chosen] for key, x in rows.items()}
        arrays = of_task("multilabel", labels[chosen], logits[chosen])
        assert got == pytest.approx(score(name, arrays, picked))


def test_of_worst_percentiles_drawn():
    errors = np.random.default_rng(4).exponential(size=200)
    times = np.random.default_rng(5).integers(0, 3, (2, 200))
    found = score("worst_percentile", {}, {"error": errors}, times)
    expected = [np.percentile(np.repeat(errors, x), 99) for x in times]
    np.testing.assert_allclose(found, expected)


def error_of(confidence, right):
    confidence, right = np.reshape(confidence, (-1, 1)), np.reshape(right, (-1, 1))
    keep = np.ones(right.shape, bool)
    sums = sums_of_classes(right, confidence, np.zeros(right.shape), keep)
    return calibration_error({key: x.sum(axis=0) for key, x in sums.items()})


def test_calibration_error_is_taken_bin_by_bin():
    # Of 15 bins the 3rd is (2/15, 3/15], the 12th (11/15, 12/15], the 15th (14/15, 1].
    confidence = np.array([0.14, 0.2, 0.74, 0.78, 0.8, 1.0])
    right = np.array([True, False, True, True, False, True])
    by_hand = abs(1 - 0.34) + abs(2 - 2.32) + abs(1 - 1.0)
    assert error_of(confidence, right) == pytest.approx(by_hand / 6)


def test_an_edge_belongs_to_the_bin_below():
    # 0.8 is the upper edge of a bin, and the next number above it is in the next one.
    above = np.nextafter(0.8, 1)
    assert error_of([0.8, 0.75], [False, True]) == pytest.approx(0.55 / 2)
    assert error_of([above, 0.75], [False, True]) == pytest.approx(1.05 / 2)


def test_a_calibrated_model():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 200_000)
    right = rng.uniform(size=200_000) < confidence
    assert error_of(confidence, right) < 0.005
    assert error_of(confidence**2, right) > 0.05


def test_how_values_are_shown():
    assert SCORES["accuracy"].shown(0.98765) == "98.77"
    assert SCORES["mean_absolute_error"].shown(0.98765) == "0.9877"
    assert SCORES["mean_absolute_error"].shown(12345.678) == "12,345.7"
    assert SCORES["r2"].shown(None) == "–"
    assert (SCORES["r2"].sign, SCORES["perplexity"].sign) == (1, -1)
