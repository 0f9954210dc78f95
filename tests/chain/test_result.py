"""Chains of every task: what is measured of each model is what its answers say."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from keras_kd import DistillationChain, Stage
from keras_kd.report.gain import comparisons
from keras_kd.runs import reader

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
IMAGES = RNG.uniform(size=(24, 8, 8, 1)).astype("float32")
WORDS = RNG.integers(1, 9, (40, 7)) * (np.arange(7) < RNG.integers(2, 8, (40, 1)))
MAPS = (IMAGES[..., 0] * 2.999).astype("int64")
MAPS[:, :2] = 255


def vectors(width, units, activation=None):
    layers = [keras.layers.Dense(width, "relu"), keras.layers.Dense(units, activation)]
    return keras.Sequential([keras.layers.Input((6,)), *layers])


def pixels(width, units, activation=None):
    layers = [keras.layers.Conv2D(width, 3, padding="same", activation="relu")]
    layers += [keras.layers.Conv2D(units, 1, activation=activation)]
    return keras.Sequential([keras.layers.Input((8, 8, 1)), *layers])


def tokens(width, units):
    layers = [keras.layers.Embedding(9, width, mask_zero=True), keras.layers.Dense(units)]
    return keras.Sequential([keras.layers.Input((7,), dtype="int32"), *layers])


IGNORES = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
# (inputs, labels), the models, what stages are given, task and the score that counts.
CASES = {
    "binary": (
        (X, (X.sum(axis=1) > 0).astype("int32")),
        lambda width: vectors(width, 1),
        {"task": "binary"},
        ("binary", "accuracy"),
    ),
    "multilabel": (
        (X, (X[:, :3] > 0).astype("float32")),
        lambda width: vectors(width, 3, "sigmoid"),
        {},
        ("multilabel", "accuracy"),
    ),
    "regression": (
        (X, X[:, :2] * 3 + 5),
        lambda width: vectors(width, 2),
        {"task": "regression", "distillation_losses": "logit_mse"},
        ("regression", "mean_absolute_error"),
    ),
    "pixels": (
        (IMAGES, MAPS),
        lambda width: pixels(width, 3),
        {"loss": IGNORES, "metrics": []},
        ("multiclass", "mean_iou"),
    ),
    "edges": (
        (IMAGES, (IMAGES > 0.5).astype("float32")),
        lambda width: pixels(width, 1, "sigmoid"),
        {"task": "binary"},
        ("binary", "mean_iou"),
    ),
    "tokens": (
        (WORDS, WORDS % 4),
        lambda width: tokens(width, 4),
        {"metrics": []},
        ("multiclass", "accuracy"),
    ),
}


def fit(name, folder=None, **more):
    keras.utils.set_random_seed(0)
    data, make, given, _ = CASES[name]
    taught = {"distillation_losses": "kd"} | given
    alone = {key: x for key, x in given.items() if key != "distillation_losses"}
    stages = [
        Stage("big", make(16), 1, **alone),
        Stage("ta", make(8), 1, taught_by="big", **taught),
        Stage("student", make(4), 1, taught_by="ta", **taught),
    ]
    chain = DistillationChain(None, stages)
    return chain.fit(data, data, run_dir=folder, verbose=0, **more)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
@pytest.mark.parametrize("name", CASES)
def test_a_chain_of_each_task(tmp_path, name):
    result = fit(name, tmp_path / "run")
    (x, y), _, _, (task, counts) = CASES[name]
    run = reader.read(tmp_path / "run").runs[None]
    for row in result.models:
        found = row.evaluation
        assert (found.task, found.counts) == (task, counts)
        answers = np.array(result.students[row.model](x))
        wanted = expected(name, y, answers, x)
        assert found.scores[counts].value == pytest.approx(wanted, rel=1e-4)
        read = run[row.model].metrics.evaluation
        assert read.scores[counts].value == found.scores[counts].value
        assert read.scores[counts].interval == found.scores[counts].interval
    fidelity = result.models[2].evaluation.fidelity
    assert fidelity.teacher == "ta" and (fidelity.rmse is None) == (task != "regression")
    assert ("errors in 48" in result.table()) == (name == "binary")
    has_pictures = run["student"].pictures is not None
    assert has_pictures == (name in ("pixels", "edges"))


def expected(name, y, answers, x):
    if name == "regression":
        return metrics.mean_absolute_error(y, answers)
    if name in ("binary", "multilabel"):
        yes = answers > (0 if name == "binary" else 0.5)
        return np.mean(yes == y.reshape(yes.shape))
    if name == "edges":
        return metrics.jaccard_score(y.ravel(), answers.ravel() > 0.5, zero_division=0)
    keep = y != 255 if name == "pixels" else x != 0
    predicted = answers.argmax(axis=-1)[keep]
    if name == "tokens":
        return np.mean(predicted == y[keep])
    return metrics.jaccard_score(y[keep], predicted, average="macro", labels=[0, 1, 2])


@pytest.mark.filterwarnings("ignore:`task` is taken as")
def test_a_finished_run_is_read_as_it_was_measured(tmp_path):
    first = fit("edges", tmp_path / "run")
    again = fit("edges", tmp_path / "run")
    assert [x.to_dict() for x in again.models] == [x.to_dict() for x in first.models]
    assert (tmp_path / "run" / "student" / "answers.npz").is_file()
    assert not (tmp_path / "run" / "student" / "answers.csv").exists()


@pytest.mark.parametrize("form", ["arrays", "weights", "tf.data"])
def test_positions_without_a_weight_count_in_nothing(form):
    x, y = IMAGES, np.where(MAPS == 255, 0, MAPS)
    weights = (MAPS != 255).astype("float32")
    data = (x, y, weights)
    if form == "tf.data":
        data = tf.data.Dataset.from_tensor_slices(data).batch(10)
    if form == "arrays":
        y = MAPS
        data = (x, y)
    loss = IGNORES if form == "arrays" else None
    keras.utils.set_random_seed(0)
    stage = Stage("s", pixels(4, 3), 1, loss=loss, metrics=[])
    (row,) = DistillationChain(None, [stage]).fit(data, data, verbose=0).models
    assert row.evaluation.answers == 24 * 6 * 8
    predicted = np.array(stage.student(x)).argmax(axis=-1)
    right = (predicted == y)[MAPS != 255]
    assert row.evaluation.accuracy == pytest.approx(right.mean())


def test_the_given_teacher_is_of_what_it_teaches(tmp_path):
    """Of one linear unit nothing else would say it."""
    (x, y), *_ = CASES["regression"]
    teacher = vectors(8, 1)
    stage = Stage("s", vectors(4, 1), 1, "logit_mse", task="regression")
    result = DistillationChain(teacher, [stage]).fit((x, y[:, 0]), (x, y[:, 0]), verbose=0)
    assert [row.evaluation.task for row in result.models] == ["regression"] * 2


def test_a_label_that_is_none_is_told_before_training(tmp_path):
    keras.utils.set_random_seed(0)
    stage = Stage("s", pixels(4, 3), 1, metrics=[])
    chain = DistillationChain(None, [stage])
    data = (IMAGES, MAPS)
    with pytest.raises(ValueError, match="Stage 's': .*label 255 of example 0, position 0"):
        chain.fit(data, data, run_dir=tmp_path, verbose=0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["stages"][0]["state"] == "waiting"


@pytest.mark.parametrize("units", [(1, 2), (2, 1)])
def test_one_unit_against_two(tmp_path, units):
    """They say the same, are measured alike and compared."""
    (x, y), *_ = CASES["binary"]
    teacher, student = (vectors(8, k) for k in units)
    stage = Stage("s", student, 1, "kd", task={1: "binary"}.get(units[1]))
    chain = DistillationChain(teacher, [stage])
    result = chain.fit((x, y), (x, y), run_dir=tmp_path / "run", verbose=0)
    probabilities = []
    for model in (teacher, student):
        z = np.array(model(x)).astype("float64")
        z = z[:, 1] - z[:, 0] if z.shape[1] == 2 else z[:, 0]
        probabilities.append(1 / (1 + np.exp(-z)))
    p, q = probabilities
    for row, yes in zip(result.models, probabilities, strict=True):
        assert row.accuracy == pytest.approx(np.mean((yes > 0.5) == y))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    fidelity = result.models[1].evaluation.fidelity
    assert fidelity.kl == pytest.approx(kl.mean(), rel=1e-4)
    assert fidelity.agreement == pytest.approx(np.mean((p > 0.5) == (q > 0.5)))
    loss = result.histories["s"]["distillation_loss"][0]
    assert loss > 0


def test_masks_that_only_some_models_have_are_told(caplog, tmp_path):
    """Their scores are over other positions, and no verdict is made of them."""

    def tagger(mask_zero):
        layers = [keras.layers.Embedding(9, 3, mask_zero=mask_zero), keras.layers.Dense(4)]
        return keras.Sequential([keras.layers.Input((7,), dtype="int32"), *layers])

    keras.utils.set_random_seed(0)
    (x, y), *_ = CASES["tokens"]
    stages = [
        Stage("s", tagger(False), 1, "kd", metrics=[]),
        Stage("alone", tagger(False), 1, metrics=[]),
        Stage("masked", tagger(True), 1, metrics=[]),
    ]
    chain = DistillationChain(tagger(True), stages)
    chain.fit((x, y), (x, y), run_dir=tmp_path / "run", verbose=0)
    counted = np.count_nonzero(x)
    message = f"s was measured on {x.size} answers and teacher on {counted}"
    assert message in caplog.text and "masked was measured" not in caplog.text
    found = comparisons([reader.read(tmp_path / "run").runs[None]])
    assert [x.baseline for x in found] == ["alone"]
