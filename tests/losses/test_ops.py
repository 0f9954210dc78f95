import keras
import numpy as np
import pytest

from keras_kd.losses.ops import (
    at_label,
    at_least_float32,
    cross_entropy,
    kl_divergence,
    label_mask,
    log_softmax,
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
