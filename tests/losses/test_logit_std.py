"""`logit_std` against the paper's algorithm, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import LogitStd, logit_std, soft_targets
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def expected(teacher, student, temperature=2.0, multiplier=4.0, unbiased=True):
    """Sun et al. 2024, algorithm 1, example by example with probabilities."""
    values = []
    for logits in zip(teacher, student, strict=True):
        z = [(x - np.mean(x)) / np.std(x, ddof=int(unbiased)) for x in logits]
        p, q = (softmax64(x / temperature) for x in z)
        values.append(multiplier * np.sum(p * np.log(p / q)))
    return np.array(values)


@pytest.mark.parametrize(
    "temperature, multiplier, unbiased",
    [(2.0, 4.0, True), (1.0, 1.0, True), (4.0, 9.0, True), (2.0, 4.0, False)],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, temperature, multiplier, unbiased):
    teacher, student, _ = random_logits(shape)
    reference = expected(teacher, student, temperature, multiplier, unbiased)
    loss = LogitStd(temperature, multiplier, unbiased)
    values = logit_std(teacher, student, **loss.get_config())
    np.testing.assert_allclose(values, reference, rtol=1e-6)
    for dtype in ("float64", "float32"):
        found = loss.compute_loss(teacher.astype(dtype), student.astype(dtype))
        np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_the_multiplier_is_the_squared_temperature_unless_given(temperature):
    teacher, student, _ = random_logits((5, 10))
    np.testing.assert_allclose(
        LogitStd(temperature).compute_loss(teacher, student),
        expected(teacher, student, temperature, temperature**2).mean(),
        rtol=1e-5,
    )


def test_defaults():
    teacher, student, _ = random_logits((5, 10))
    found = LogitStd().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student).mean(), rtol=1e-5)


def test_what_is_added_to_the_deviation():
    """Authors' code: 1e-7, which counts for nearly constant logits."""
    teacher, student = np.array([[1.0, 2.0, 4.0]]), np.array([[2e-7, 1e-7, -3e-7]])
    z = (student - student.mean()) / (student.std(ddof=1) + 1e-7)
    p = (teacher - teacher.mean()) / teacher.std(ddof=1)
    np.testing.assert_allclose(
        logit_std(teacher, student), soft_targets(p, z, temperature=2.0), rtol=1e-6
    )


def test_scale_and_shift_of_the_logits_change_nothing():
    teacher, student, _ = random_logits((5, 10))
    np.testing.assert_allclose(
        logit_std(30 * teacher, 0.1 * student - 5.0), logit_std(teacher, student), rtol=1e-5
    )


def test_standardized_logits_are_soft_targets():
    teacher, student, _ = random_logits((5, 10))
    teacher, student = (
        (x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True)
        for x in (teacher, student)
    )
    np.testing.assert_allclose(
        logit_std(teacher, student, temperature=3.0),
        soft_targets(teacher, student, temperature=3.0),
        rtol=1e-5,
    )


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, _ = random_logits((2, 5, 10))
    values = logit_std(teacher, student)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], logit_std(teacher[1], student[1]))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, _ = random_logits((batch, 10))
    found = LogitStd().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student).mean(), rtol=1e-5)


@pytest.mark.parametrize("which", ["teacher", "student", "both"])
def test_constant_logits_are_an_even_distribution(which):
    teacher, student, _ = random_logits((4, 10))
    p, q = (
        softmax64((x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) / 2)
        for x in (teacher, student)
    )
    if which in ("teacher", "both"):
        teacher, p = np.full((4, 10), 7.0), np.full((4, 10), 0.1)
    if which in ("student", "both"):
        student, q = np.full((4, 10), -7.0), np.full((4, 10), 0.1)
    found = LogitStd().compute_loss(teacher, student)
    reference = 4 * np.sum(p * np.log(p / q), axis=-1).mean()
    np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-12)
    assert np.isfinite(student_gradient(LogitStd(), teacher, student)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, _ = extreme_logits()
    reference = expected(teacher[:2], student[:2]).sum() / 3
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    value = LogitStd().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(float(value), reference, rtol=1e-5)
    assert np.isfinite(student_gradient(LogitStd(), teacher, student)).all()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_classes(count):
    few = np.zeros((4, count))
    for refuses in (
        lambda: LogitStd().compute_loss(few, few),
        lambda: LogitStd().build((None, count), (None, count)),
    ):
        with pytest.raises(ValueError, match="takes logits of three or more classes"):
            refuses()


@pytest.mark.parametrize("value", [0, -1, "4", True, float("nan"), [4.0]])
@pytest.mark.parametrize("name", ["temperature", "multiplier"])
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number greater"):
        LogitStd(**{name: value})


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_bad_unbiased(value):
    with pytest.raises(ValueError, match="`unbiased` must be one of True, False"):
        LogitStd(unbiased=value)


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="LogitStd compares one pair of outputs"):
        LogitStd(taps=[("a", "b"), ("c", "d")])
