import keras
import numpy as np
import pytest
from keras import ops

from keras_kd.losses.ops import (
    at_label,
    at_least_float32,
    bernoulli_kl,
    cross_entropy,
    kl_divergence,
    label_mask,
    log_odds,
    log_sigmoids,
    log_softmax,
    of_one_shape,
    where_labelled,
    without_label,
)


@pytest.mark.parametrize(
    "dtype, raised",
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_at_least_float32(dtype, raised):
    x = at_least_float32(np.ones(2, dtype))
    assert keras.backend.standardize_dtype(x.dtype) == raised


def test_log_softmax_at_a_temperature():
    logits = np.array([[2.0, 0.0, -4.0]])
    powers = np.exp(logits / 2.0)
    np.testing.assert_allclose(
        log_softmax(logits, 2.0), np.log(powers / powers.sum()), rtol=1e-12
    )


def test_divergence_and_cross_entropy():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.125, 0.125, 0.75]])
    kl = 0.5 * np.log(4) + 0.25 * np.log(2) - 0.25 * np.log(3)
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    np.testing.assert_allclose(kl_divergence(np.log(p), np.log(q)), [kl], rtol=1e-12)
    np.testing.assert_allclose(
        cross_entropy(np.log(p), np.log(q)), [entropy + kl], rtol=1e-12
    )


def test_divergence_of_nearly_equal_distributions_in_float32():
    teacher, student = np.random.default_rng(0).normal(size=(2, 200, 100)) / 20
    exact = kl_divergence(log_softmax(teacher), log_softmax(student))
    teacher, student = np.float32(teacher), np.float32(student)
    found = kl_divergence(log_softmax(teacher), log_softmax(student))
    np.testing.assert_allclose(found, exact, rtol=3e-5)


@pytest.mark.parametrize("y_true", [[2, 0], [[2], [0]], [[0.0, 0, 1], [1, 0, 0]]], ids=str)
def test_labelled_class(y_true):
    logits = keras.ops.convert_to_tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = label_mask(np.array(y_true), logits)
    np.testing.assert_array_equal(mask, [[False, False, True], [True, False, False]])
    np.testing.assert_array_equal(at_label(mask, logits), [3.0, 4.0])
    probs = np.exp(log_softmax(without_label(mask, logits)))
    e = np.exp(1)
    np.testing.assert_allclose(
        probs, np.array([[1, e, 0], [0, 1, e]]) / (1 + e), rtol=1e-6
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("known", [(None, None), (None, 3), (4, None)], ids=str)
def test_unknown_sizes_are_not_broadcast(known, jit_compile):
    tf = pytest.importorskip("tensorflow")
    spec = tf.TensorSpec(known)

    def difference(x, y):
        x, y = of_one_shape(x, y)
        return x - y

    graph = tf.function(difference, [spec, spec], jit_compile=jit_compile)
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_allclose(graph(x, y), x - y)
    for shape in ((1, 3), (4, 1), (1, 1), (2, 3)):
        if not all(size in (None, n) for size, n in zip(known, shape, strict=True)):
            continue
        part = y[: shape[0], : shape[1]]
        for pair in ((x, part), (part, x)):
            with pytest.raises((tf.errors.OpError, ValueError)):
                graph(*pair)


def test_labels_of_a_shape_that_is_not_known():
    tf = pytest.importorskip("tensorflow")
    logits = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    graph = tf.function(lambda y: label_mask(y, logits), [tf.TensorSpec((None, None))])
    expected = [[False, False, True], [True, False, False]]
    np.testing.assert_array_equal(graph(tf.constant([[2.0], [0.0]])), expected)
    np.testing.assert_array_equal(graph(tf.constant([[0.0, 0, 1], [1, 0, 0]])), expected)
    column = tf.function(lambda y: label_mask(y, logits), [tf.TensorSpec((None,))])
    with pytest.raises(tf.errors.OpError):
        column(tf.constant([2.0]))


def test_a_label_that_is_no_class_has_no_value():
    logits = keras.ops.convert_to_tensor([[1.0, 2.0], [4.0, 5.0], [1.0, 1.0]])
    mask = label_mask(np.array([-1, 0, 255]), logits)
    found = where_labelled(mask, keras.ops.ones(3))
    np.testing.assert_array_equal(found, [np.nan, 1.0, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_odds_keep_their_digits(dtype):
    """Next to 0 as many as there are; next to 1 as many as p has."""
    p = np.array([1e-30, 1e-7, 0.25, 0.5, 0.75, 1 - 2**-20]).astype(dtype)
    exact = np.log(np.float64(p)) - np.log1p(-np.float64(p))
    found = ops.convert_to_numpy(log_odds(p))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, rtol=1e-6 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(ops.sigmoid(found), p, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_log_odds_of_certain_answers_are_finite(dtype):
    found = ops.convert_to_numpy(log_odds(np.array([0, 1], dtype)))
    assert np.isfinite(found).all() and found[0] < -80 and found[1] > 16


def test_log_sigmoids():
    logits = np.array([-1e4, -30.0, 0.0, 2.0, 1e4])
    yes, no = map(ops.convert_to_numpy, log_sigmoids(logits, 2.0))
    np.testing.assert_allclose(yes, -np.logaddexp(0, -logits / 2), rtol=1e-12)
    np.testing.assert_allclose(no, -np.logaddexp(0, logits / 2), rtol=1e-12)


def test_bernoulli_divergence_is_zero_at_agreement_and_never_negative():
    logits = np.random.default_rng(0).normal(scale=5, size=4096).astype("float32")
    same = log_sigmoids(logits)
    assert float(ops.max(bernoulli_kl(same, same))) == 0
    almost = log_sigmoids(logits + 1e-4)
    assert float(ops.min(bernoulli_kl(same, almost))) >= 0
