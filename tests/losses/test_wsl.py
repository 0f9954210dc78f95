"""`wsl` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import WSL, wsl
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def expected_weights(teacher, student, labels):
    """Zhou et al. 2021: 1 - exp(-student's cross-entropy / teacher's)."""
    rows = np.arange(len(labels))
    teacher_hard = -np.log(softmax64(teacher)[rows, labels])
    student_hard = -np.log(softmax64(student)[rows, labels])
    return 1 - np.exp(-student_hard / (teacher_hard + 1e-7))


def cross_entropy64(teacher, student):
    return -np.sum(softmax64(teacher) * np.log(softmax64(student)), axis=-1)


def expected(teacher, student, labels, temperature=2.0):
    soft = cross_entropy64(teacher / temperature, student / temperature)
    return expected_weights(teacher, student, labels) * temperature**2 * soft


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, temperature):
    teacher, student, labels = random_logits(shape)
    reference = expected(teacher, student, labels, temperature)
    values = wsl(teacher, student, labels, temperature=temperature)
    np.testing.assert_allclose(values, reference, rtol=1e-9)
    for dtype in ("float64", "float32"):
        found = WSL(temperature).compute_loss(
            teacher.astype(dtype), student.astype(dtype), labels
        )
        np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


def test_default():
    teacher, student, labels = random_logits((5, 10))
    found = WSL().compute_loss(teacher, student, labels)
    np.testing.assert_allclose(
        found, expected(teacher, student, labels, 2.0).mean(), rtol=1e-5
    )


def test_the_weight_is_a_constant_to_the_gradient():
    teacher, student, labels = random_logits((5, 10))
    p, q = softmax64(teacher / 3.0), softmax64(student / 3.0)
    # T**2 times the gradient of the cross-entropy, (q - p) / T, of a mean over 5.
    weight = expected_weights(teacher, student, labels)[:, None]
    np.testing.assert_allclose(
        student_gradient(WSL(3.0), teacher, student, labels),
        weight * 3.0 * (q - p) / 5,
        rtol=1e-6,
        atol=1e-9,
    )


def test_weight_of_a_student_as_sure_as_the_teacher():
    """1 - 1 / e, whatever the label; more where it is less sure, less where more."""
    teacher, _, labels = random_logits((5, 10))
    right = np.eye(10)[labels]
    soft = [
        wsl(teacher, student, labels) / cross_entropy64(teacher / 2, student / 2) / 4
        for student in (teacher - right, teacher, teacher + right)
    ]
    np.testing.assert_allclose(soft[1], 1 - np.exp(-1), rtol=1e-5)
    assert np.all(soft[0] > soft[1]) and np.all(soft[1] > soft[2])


@pytest.mark.parametrize("how", ["column", "one-hot"])
def test_labels_in_other_shapes(how):
    teacher, student, labels = random_logits((5, 10))
    y_true = {"column": labels[:, None], "one-hot": np.eye(10)[labels]}[how]
    np.testing.assert_array_equal(
        wsl(teacher, student, y_true), wsl(teacher, student, labels)
    )


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, labels = random_logits((2, 5, 10))
    values = wsl(teacher, student, labels)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], wsl(teacher[1], student[1], labels[1]))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, labels = random_logits((batch, 10))
    found = WSL().compute_loss(teacher, student, labels)
    reference = expected(teacher, student, labels)
    np.testing.assert_allclose(found, reference.mean(), rtol=1e-5)


def test_identical_even_logits():
    even, labels = np.zeros((4, 10), "float32"), np.arange(4)
    np.testing.assert_allclose(
        WSL().compute_loss(even, even, labels),
        4 * (1 - np.exp(-1)) * np.log(10),
        rtol=1e-6,
    )
    np.testing.assert_allclose(student_gradient(WSL(), even, even, labels), 0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, labels = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    values = wsl(teacher, student, labels, temperature=1.0)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    # First: the teacher is right and certain, the student as certain of another: weight 1.
    # Second: both are as wrong, so 1 - 1 / e. Third: both even. Soft: 2e4, 2e4, log(3).
    same = 1 - np.exp(-1)
    np.testing.assert_allclose(values, [2e4, same * 2e4, same * np.log(3)], rtol=1e-2)
    assert np.isfinite(student_gradient(WSL(), teacher, student, labels)).all()


def test_both_right_and_certain():
    certain, labels = np.float32([[1e4, -1e4, 0]]), [0]
    assert float(WSL().compute_loss(certain, certain, labels)) == 0
    assert np.isfinite(student_gradient(WSL(), certain, certain, labels)).all()


def test_labels_that_do_not_fit():
    teacher, student, _ = random_logits((4, 10))
    with pytest.raises(ValueError, match="`y_true` must hold one label for each row"):
        WSL().compute_loss(teacher, student, np.zeros(5, int))


def test_one_class_alone():
    one = np.zeros((4, 1))
    for refuses in (
        lambda: WSL().compute_loss(one, one, np.zeros(4, int)),
        lambda: WSL().build((None, 1), (None, 1)),
    ):
        with pytest.raises(ValueError, match="takes logits of two or more classes"):
            refuses()


@pytest.mark.parametrize("value", [0, -1, "4", None, True, float("nan"), [4.0]])
def test_bad_temperature(value):
    with pytest.raises(ValueError, match="`temperature` must be a finite number greater"):
        WSL(value)


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="WSL compares one pair of outputs"):
        WSL(taps=[("a", "b"), ("c", "d")])
