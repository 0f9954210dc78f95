"""The best shift of biases, against trying every one; and a model that has it."""

import keras
import numpy as np
import pytest

from keras_kd.evaluation.class_bias import BiasShift, best_shift, with_shift
from keras_kd.evaluation.predictions import Predictions, predict


def predictions(logits, labels):
    logits = np.asarray(logits, dtype="float64")
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(
        "model", np.asarray(labels), logits.argmax(1), log_probs.astype("float32")
    )


def errors(logits, labels, classes, shift):
    moved = np.array(logits, dtype="float64")
    moved[:, list(classes)] += shift
    return int(np.sum(moved.argmax(axis=1) != labels))


# Two classes; class 1 is behind by these, so ahead when more is added.
BEHIND = {
    # Label 1 from 2 on, label 0 up to 5: right between.
    "one interval": ([2, 5], [1, 0], 3.5, 0),
    # Right in (1, 2) and in (4, 6): the first is nearer to 0.
    "two intervals": ([1, 2, 4, 6], [1, 0, 1, 0], 1.5, 1),
    # At 3 one becomes right and another wrong: which, at 3 itself, a tie would settle.
    "an end that changes two": ([1, 3, 3, 5], [1, 1, 0, 0], 2.0, 1),
    "without end above": ([2, 3], [1, 1], 4.0, 0),
    "without end below": ([-2, -3], [0, 0], -4.0, 0),
    "without end, 0 in it": ([2, 3], [0, 0], 0.0, 0),
}


@pytest.mark.parametrize("behind, labels, expected, left", BEHIND.values(), ids=BEHIND)
def test_by_hand(behind, labels, expected, left):
    logits = [[x, 0.0] for x in behind]
    shift = best_shift(predictions(logits, labels), [1])
    assert shift == BiasShift((1,), pytest.approx(expected, abs=1e-5), left)


def test_an_example_wrong_either_way_has_no_say():
    logits = [[2.0, 0, -50], [3, 0, -50], [5, 0, -50]]
    shift = best_shift(predictions(logits, [1, 2, 0]), [1])
    assert shift == BiasShift((1,), pytest.approx(3.5, abs=1e-5), 1)
    nobody = best_shift(predictions(logits, [2, 2, 2]), [1])
    assert nobody == BiasShift((1,), 0.0, 3)


def test_of_two_equally_near_the_lesser():
    # Right in (-3, -1), in (1, 3), and wrong by one between.
    logits = [[x, 0.0] for x in (-3, -1, 1, 3)]
    shift = best_shift(predictions(logits, [1, 0, 1, 0]), [1])
    assert shift.value == pytest.approx(-2, abs=1e-5)


@pytest.mark.parametrize("classes", [(3,), (1, 4), (0, 2, 3, 4)])
def test_no_other_shift_is_better(classes):
    rng = np.random.default_rng(len(classes))
    logits, labels = 3 * rng.normal(size=(300, 5)), rng.integers(5, size=300)
    logits[np.arange(300), labels] += 4
    logits[:, list(classes)] -= 5
    shift = best_shift(predictions(logits, labels), classes)
    assert shift.classes == classes
    assert errors(logits, labels, classes, shift.value) == shift.errors
    tried = [errors(logits, labels, classes, x) for x in np.linspace(-20, 20, 4001)]
    assert min(tried) >= shift.errors and min(tried) < errors(logits, labels, classes, 0)


@pytest.mark.parametrize("classes", [[], [0, 1, 2], [3], [-1], [0.5], "1"])
def test_refused_classes(classes):
    with pytest.raises(ValueError, match="`classes` must be some .* 0 to 2, and not all"):
        best_shift(predictions(np.eye(3), [0, 1, 2]), classes)


@pytest.mark.parametrize("last", [None, "softmax"])
def test_model_with_the_shift(last, make_model, vectors):
    model = make_model()
    if last:
        model = keras.Sequential([keras.layers.Input((4,)), model, keras.layers.Softmax()])
    before = model.get_weights()
    copy = with_shift(model, BiasShift((0, 2), -1.5, 0))
    for old, new in zip(before, copy.get_weights(), strict=True):
        added = np.array([-1.5, 0, -1.5]) if old.shape == (3,) else 0.0
        np.testing.assert_array_equal(new, (old + added).astype("float32"))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    log_probs = predict(model, [vectors]).log_probs + [-1.5, 0, -1.5]
    expected = log_probs - np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(predict(copy, [vectors]).log_probs, expected, atol=1e-5)


def test_found_shift_in_the_model(make_model, vectors):
    model = make_model()
    given = predict(model, [vectors])
    shift = best_shift(given, [1])
    mended = predict(with_shift(model, shift), [vectors])
    assert np.sum(mended.predicted != mended.labels) == shift.errors
    assert shift.errors < np.sum(given.predicted != given.labels)


def test_refused_models():
    def model(**arguments):
        layers = [keras.layers.Dense(2), keras.layers.Dense(3, name="last", **arguments)]
        return keras.Sequential([keras.layers.Input((4,)), *layers], name="model")

    with pytest.raises(ValueError, match="'last' of 'model' must have biases.*bias=False"):
        with_shift(model(use_bias=False), BiasShift((0,), 1.0, 0))
    with pytest.raises(ValueError, match="activation='relu'"):
        with_shift(model(activation="relu"), BiasShift((0,), 1.0, 0))
    with pytest.raises(ValueError, match="`classes` must be some"):
        with_shift(model(), BiasShift((3,), 1.0, 0))
    with pytest.raises(ValueError, match="`shift` must be a finite number. Received: nan"):
        with_shift(model(), BiasShift((0,), float("nan"), 0))


def test_the_shifted_model_keeps_its_other_state(vectors):
    x, _ = vectors
    norm = keras.layers.Normalization()
    norm.adapt(1000 * x + 5)
    layers = [keras.Input((4,)), norm, keras.layers.Dense(4), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    shifted = with_shift(model, BiasShift((1,), 0.5, 0))
    np.testing.assert_allclose(
        shifted(1000 * x) - model(1000 * x), np.tile([0, 0.5, 0], (len(x), 1)), atol=1e-5
    )
