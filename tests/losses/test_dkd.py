"""`dkd` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import DKD, dkd, soft_targets
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def kl(p, q):
    return np.sum(p * np.log(p / q))


def expected(teacher, student, labels, alpha, beta, temperature):
    """Zhao et al. 2022, example by example with probabilities."""
    values = []
    for t, s, label in zip(teacher, student, labels, strict=True):
        p, q = softmax64(t / temperature), softmax64(s / temperature)
        target = kl(np.array([p[label], 1 - p[label]]), np.array([q[label], 1 - q[label]]))
        p, q = np.delete(p, label), np.delete(q, label)
        values.append(alpha * target + beta * kl(p / p.sum(), q / q.sum()))
    return temperature**2 * np.array(values)


@pytest.mark.parametrize(
    "alpha, beta, temperature",
    [(1.0, 8.0, 4.0), (1.0, 0.5, 1.0), (0.0, 1.0, 4.0), (1.0, 0.0, 20.0)],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, alpha, beta, temperature):
    teacher, student, labels = random_logits(shape)
    reference = expected(teacher, student, labels, alpha, beta, temperature)
    settings = {"alpha": alpha, "beta": beta, "temperature": temperature}
    values = dkd(teacher, student, labels, **settings)
    np.testing.assert_allclose(values, reference, rtol=1e-9)
    for dtype, rtol in (("float64", 1e-6), ("float32", 2e-5)):
        found = DKD(**settings).compute_loss(
            teacher.astype(dtype), student.astype(dtype), labels
        )
        np.testing.assert_allclose(found, reference.mean(), rtol=rtol)


def test_defaults_are_mdistillers():
    teacher, student, labels = random_logits((5, 10))
    found = DKD().compute_loss(teacher, student, labels)
    reference = expected(teacher, student, labels, 1.0, 8.0, 4.0)
    np.testing.assert_allclose(found, reference.mean(), rtol=1e-6)


def test_soft_targets_are_its_special_case():
    """They weigh the other classes by 1 - p_y: hardly, where the teacher is sure."""
    teacher, student, labels = random_logits((6, 10))
    p = softmax64(teacher / 4)[np.arange(6), labels]
    target = dkd(teacher, student, labels, alpha=1.0, beta=0.0, temperature=4.0)
    others = dkd(teacher, student, labels, alpha=0.0, beta=1.0, temperature=4.0)
    np.testing.assert_allclose(
        target + (1 - p) * others, soft_targets(teacher, student, temperature=4.0)
    )


@pytest.mark.parametrize("how", ["column", "one-hot", "floats"])
def test_labels_in_other_shapes(how):
    teacher, student, labels = random_logits((5, 10))
    y_true = {
        "column": labels[:, None],
        "one-hot": np.eye(10)[labels],
        "floats": np.float32(labels),
    }
    np.testing.assert_array_equal(
        dkd(teacher, student, y_true[how]), dkd(teacher, student, labels)
    )


def test_one_value_for_each_position_of_a_sequence():
    teacher, student, labels = random_logits((2, 5, 10))
    values = dkd(teacher, student, labels)
    assert values.shape == (2, 5)
    np.testing.assert_allclose(values[1], dkd(teacher[1], student[1], labels[1]))


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    teacher, student, labels = random_logits((batch, 10))
    found = DKD().compute_loss(teacher, student, labels)
    reference = expected(teacher, student, labels, 1.0, 8.0, 4.0)
    np.testing.assert_allclose(found, reference.mean(), rtol=1e-6)


def test_zero_at_agreement_and_never_negative():
    teacher, student, labels = random_logits((512, 10))
    teacher = np.float32(teacher)
    assert float(DKD().compute_loss(teacher, teacher, labels)) == 0
    almost = teacher + np.float32(1e-4 * student)
    assert np.min(dkd(teacher, almost, labels)) >= 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, labels = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    loss = DKD(beta=0.5, temperature=1.0)
    values = dkd(teacher, student, labels, beta=0.5, temperature=1.0)
    # Teacher and student are each certain. First example: of the label, 2e4 apart; of the
    # others, (-1e4, 0) against (1e4, 0): 1e4. Second, labelled neither's choice: nothing in
    # the label, (-1e4, 1e4) against (1e4, -1e4) in the others. Third: both undecided.
    np.testing.assert_allclose(values, [2e4 + 0.5e4, 0.5 * 2e4, 0], rtol=1e-2)
    assert np.isfinite(student_gradient(loss, teacher, student, labels)).all()


def test_finite_for_identical_logits():
    same, labels = np.zeros((4, 10), "float32"), np.arange(4)
    assert float(DKD().compute_loss(same, same, labels)) == 0
    np.testing.assert_allclose(student_gradient(DKD(), same, same, labels), 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 1, 1), ()])
def test_labels_that_do_not_fit(shape):
    teacher, student, _ = random_logits((4, 10))
    with pytest.raises(ValueError, match="`y_true` must hold one label for each row"):
        DKD().compute_loss(teacher, student, np.zeros(shape, int))


def test_one_class_alone():
    one = np.zeros((4, 1))
    for refuses in (
        lambda: DKD().compute_loss(one, one, np.zeros(4, int)),
        lambda: DKD().build((None, 1), (None, 1)),
    ):
        with pytest.raises(ValueError, match="takes logits of two or more classes"):
            refuses()


@pytest.mark.parametrize("value", [-1, "4", None, True, float("nan"), [4.0]])
@pytest.mark.parametrize("name", ["alpha", "beta", "temperature"])
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number"):
        DKD(**{name: value})


def test_a_temperature_of_zero():
    with pytest.raises(ValueError, match="`temperature` must be a finite number greater"):
        DKD(temperature=0)


def test_more_than_one_pair_of_taps():
    with pytest.raises(ValueError, match="DKD compares one pair of outputs"):
        DKD(taps=[("a", "b"), ("c", "d")])
