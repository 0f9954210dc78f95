"""`nkd` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import NKD, nkd
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def expected(teacher, student, labels, gamma=1.5, temperature=1.0):
    """Yang et al. 2023, example by example with probabilities."""
    values = []
    for t, s, label in zip(teacher, student, labels, strict=True):
        target = -softmax64(t)[label] * np.log(softmax64(s)[label])
        p, q = (softmax64(np.delete(x, label) / temperature) for x in (t, s))
        values.append(target - gamma * temperature**2 * np.sum(p * np.log(q)))
    return np.array(values)


@pytest.mark.parametrize(
    "gamma, temperature", [(1.5, 1.0), (1.0, 4.0), (0.0, 1.0), (1.5, 20.0)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, gamma, temperature):
    teacher, student, labels = random_logits(shape)
    reference = expected(teacher, student, labels, gamma, temperature)
    values = nkd(teacher, student, labels, gamma=gamma, temperature=temperature)
    np.testing.assert_allclose(values, reference, rtol=1e-9)
    for dtype in ("float64", "float32"):
        found = NKD(gamma, temperature).compute_loss(
            teacher.astype(dtype), student.astype(dtype), labels
        )
        np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


def test_defaults():
    teacher, student, labels = random_logits((5, 10))
    found = NKD().compute_loss(teacher, student, labels)
    np.testing.assert_allclose(
        found, expected(teacher, student, labels, 1.5, 1.0).mean(), rtol=1e-5
    )


def test_least_where_the_others_have_the_teachers_ratios():
    teacher, _, labels = random_logits((5, 10))
    best = teacher + 30.0 * np.eye(10)[labels]
    least = np.min(nkd(teacher, best, labels) - nkd(teacher, teacher, labels))
    assert least < 0
    gradient = student_gradient(NKD(), teacher, best, labels)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


@pytest.mark.parametrize("how", ["column", "one-hot", "soft"])
def test_labels_in_other_shapes(how):
    teacher, student, labels = random_logits((5, 10))
    one_hot = np.eye(10)[labels]
    y_true = {"column": labels[:, None], "one-hot": one_hot, "soft": 0.6 * one_hot + 0.04}
    np.testing.assert_array_equal(
        nkd(teacher, student, y_true[how]), nkd(teacher, student, labels)
    )


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, labels = random_logits((2, 5, 10))
    values = nkd(teacher, student, labels)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], nkd(teacher[1], student[1], labels[1]))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, labels = random_logits((batch, 10))
    found = NKD().compute_loss(teacher, student, labels)
    reference = expected(teacher, student, labels)
    np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


def test_identical_even_logits():
    even, labels = np.zeros((4, 10), "float32"), np.arange(4)
    np.testing.assert_allclose(
        NKD().compute_loss(even, even, labels),
        np.log(10) / 10 + 1.5 * np.log(9),
        rtol=1e-6,
    )
    assert np.isfinite(student_gradient(NKD(), even, even, labels)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, labels = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    values = nkd(teacher, student, labels)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    # First: labelled as the teacher says, the student 2e4 away; of the others (-1e4, 0)
    # against (1e4, 0). Second: labelled 2, which neither says; (-1e4, 1e4) against
    # (1e4, -1e4). Third: three and two even classes.
    even = np.log(3) / 3 + 1.5 * np.log(2)
    np.testing.assert_allclose(values, [2e4 + 1.5 * 1e4, 1.5 * 2e4, even], rtol=1e-2)
    assert np.isfinite(student_gradient(NKD(), teacher, student, labels)).all()


def test_labels_that_do_not_fit():
    teacher, student, _ = random_logits((4, 10))
    with pytest.raises(ValueError, match="`y_true` must hold one label for each row"):
        NKD().compute_loss(teacher, student, np.zeros(5, int))


def test_one_class_alone():
    one = np.zeros((4, 1))
    for refuses in (
        lambda: NKD().compute_loss(one, one, np.zeros(4, int)),
        lambda: NKD().build((None, 1), (None, 1)),
    ):
        with pytest.raises(ValueError, match="takes logits of two or more classes"):
            refuses()


@pytest.mark.parametrize("value", [-1, "4", None, True, float("nan"), [4.0]])
@pytest.mark.parametrize("name", ["gamma", "temperature"])
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number"):
        NKD(**{name: value})


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="NKD compares one pair of outputs"):
        NKD(taps=[("a", "b"), ("c", "d")])
