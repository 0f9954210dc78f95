"""`logit_mse` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import LogitMSE, logit_mse
from tests.losses.logits import SHAPES, extreme_logits, random_logits, student_gradient


def expected(teacher, student, form):
    """Ba and Caruana 2014, equation 1, example by example; or its mean over classes."""
    sums = np.array([np.dot(t - s, t - s) for t, s in zip(teacher, student, strict=True)])
    return sums / 2 if form == "half_sum" else sums / teacher.shape[-1]


@pytest.mark.parametrize("form", ["mean", "half_sum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, form):
    teacher, student, _ = random_logits(shape)
    reference = expected(teacher, student, form)
    values = logit_mse(teacher, student, form=form)
    np.testing.assert_allclose(values, reference, rtol=1e-12)
    for dtype, rtol in (("float64", 1e-6), ("float32", 1e-5)):
        found = LogitMSE(form).compute_loss(teacher.astype(dtype), student.astype(dtype))
        np.testing.assert_allclose(found, reference.mean(), rtol=rtol)


def test_the_default_is_the_mean():
    teacher, student, _ = random_logits((5, 10))
    found = LogitMSE().compute_loss(teacher, student)
    np.testing.assert_allclose(found, np.square(teacher - student).mean(), rtol=1e-6)


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, _ = random_logits((2, 5, 10))
    values = logit_mse(teacher, student)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], logit_mse(teacher[1], student[1]))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, _ = random_logits((batch, 10))
    found = LogitMSE().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student, "mean").mean(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, _ = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    value = LogitMSE().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    # 2e4 apart in 2, 2 and 3 of 3 classes; bfloat16 holds 1e4 as 9984.
    np.testing.assert_allclose(float(value), 4e8 * 7 / 9, rtol=1e-2)
    assert np.isfinite(student_gradient(LogitMSE(), teacher, student)).all()


@pytest.mark.parametrize("form", ["sum", None, 1, ["mean"]])
def test_bad_form(form):
    with pytest.raises(ValueError, match="`form` must be one of 'mean', 'half_sum'"):
        LogitMSE(form)


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="LogitMSE compares one pair of outputs"):
        LogitMSE(taps=[("a", "b"), ("c", "d")])


def test_taps_are_in_the_config():
    config = LogitMSE("half_sum", taps=("a", "b")).get_config()
    assert config == {"form": "half_sum", "taps": [["a", "b"]]}
    assert LogitMSE.from_config(config).taps == (("a", "b"),)
