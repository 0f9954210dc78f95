"""`ttm` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import TTM, soft_targets, ttm
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def expected(teacher, student, exponent=0.1, weighted=False):
    """Zheng and Yang 2024, with powers of probabilities."""
    powers = softmax64(teacher) ** exponent
    power_sum = powers.sum(axis=-1)
    p, q = powers / power_sum[:, None], softmax64(student)
    divergence = np.sum(p * np.log(p / q), axis=-1)
    return power_sum * divergence if weighted else divergence


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("exponent", [0.1, 0.25, 1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, exponent, weighted):
    teacher, student, _ = random_logits(shape)
    reference = expected(teacher, student, exponent, weighted)
    values = ttm(teacher, student, exponent=exponent, weighted=weighted)
    np.testing.assert_allclose(values, reference, rtol=1e-9)
    loss = TTM(exponent, weighted)
    for dtype in ("float64", "float32"):
        found = loss.compute_loss(teacher.astype(dtype), student.astype(dtype))
        np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


def test_defaults():
    teacher, student, _ = random_logits((5, 10))
    found = TTM().compute_loss(teacher, student)
    np.testing.assert_allclose(
        found, expected(teacher, student, 0.1, False).mean(), rtol=1e-5
    )


def test_it_is_soft_targets_with_a_temperature_for_the_teacher_alone():
    teacher, student, _ = random_logits((5, 10))
    np.testing.assert_allclose(
        ttm(teacher, student, exponent=0.25),
        soft_targets(teacher / 4, student, temperature=1.0),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        ttm(teacher, student, exponent=1.0), soft_targets(teacher, student, temperature=1.0)
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_zero_where_the_student_is_the_transformed_teacher(weighted):
    teacher, _, _ = random_logits((5, 10))
    loss = TTM(0.25, weighted)
    np.testing.assert_allclose(loss.compute_loss(teacher, teacher / 4), 0, atol=1e-6)
    gradient = student_gradient(loss, teacher, teacher / 4)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_promises_at_agreement_are_those_of_exponent_one():
    for exponent, promise in ((1.0, True), (0.5, False), (2.0, False)):
        loss = TTM(exponent)
        assert loss.zero_at_agreement is loss.smallest_at_agreement is promise


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, _ = random_logits((2, 5, 10))
    values = ttm(teacher, student, weighted=True)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], ttm(teacher[1], student[1], weighted=True))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, _ = random_logits((batch, 10))
    found = TTM(weighted=True).compute_loss(teacher, student)
    reference = expected(teacher, student, weighted=True)
    np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_even_logits(weighted):
    even = np.zeros((4, 10), "float32")
    loss = TTM(weighted=weighted)
    np.testing.assert_allclose(loss.compute_loss(even, even), 0, atol=1e-5)
    np.testing.assert_allclose(student_gradient(loss, even, even), 0, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype, weighted):
    teacher, student, _ = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    values = ttm(teacher, student, weighted=weighted)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    # 1e4 / 10 is still certain, so its power sum is 1; the student is 2e4 away.
    np.testing.assert_allclose(values, [2e4, 2e4, 0], rtol=1e-2, atol=1e-5)
    loss = TTM(weighted=weighted)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


@pytest.mark.parametrize("value", [0, -1, "4", None, True, float("nan"), [4.0]])
def test_bad_exponent(value):
    with pytest.raises(ValueError, match="`exponent` must be a finite number greater"):
        TTM(value)


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_bad_weighted(value):
    with pytest.raises(ValueError, match="`weighted` must be one of True, False"):
        TTM(weighted=value)


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="TTM compares one pair of outputs"):
        TTM(taps=[("a", "b"), ("c", "d")])
