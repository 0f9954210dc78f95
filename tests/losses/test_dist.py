"""`dist` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import DIST, dist
from tests.losses.logits import (
    SHAPES,
    extreme_logits,
    random_logits,
    softmax64,
    student_gradient,
)


def expected(teacher, student, beta=1.0, gamma=1.0, temperature=1.0):
    """Huang et al. 2022, with NumPy's own correlation in place of theirs."""
    p, q = softmax64(teacher / temperature), softmax64(student / temperature)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(
    "beta, gamma, temperature",
    [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 2.0, 4.0), (1.0, 1.0, 20.0)],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, beta, gamma, temperature):
    teacher, student, _ = random_logits(shape)
    # So much that 1e-8 in a denominator stays below the tolerance.
    teacher, student = teacher / 3, student / 3
    reference = expected(teacher, student, beta, gamma, temperature)
    loss = DIST(beta, gamma, temperature)
    for dtype in ("float64", "float32"):
        found = loss.compute_loss(teacher.astype(dtype), student.astype(dtype))
        np.testing.assert_allclose(found, reference, rtol=5e-4)
    if temperature == 1.0:
        np.testing.assert_allclose(found, reference, rtol=2e-5)


def test_defaults():
    teacher, student, _ = random_logits((9, 4))
    found = DIST().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-5)


def test_what_is_added_to_the_product_of_norms():
    """Authors' code: 1e-8, which counts where a class has little probability."""
    # One class of probability 1e-4 +- 1e-5: norms of deviations about 1e-5.
    p = np.array([[0.5, 0.4999, 1e-4], [0.6, 0.39989, 1.1e-4], [0.3, 0.69991, 0.9e-4]])
    q = p[[0, 2, 1]]
    parts = []
    for a, b in zip(p.T, q.T, strict=True):
        a, b = a - a.mean(), b - b.mean()
        parts.append(1 - a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b) + 1e-8))
    found = dist(np.log(p), np.log(q), beta=0.0)
    np.testing.assert_allclose(found, np.mean(parts), rtol=1e-6)
    # The sum would not tell without the third class.
    assert parts[2] < 1.05 < 1.4 < parts[1]


def test_positions_of_a_sequence_are_examples():
    teacher, student, _ = random_logits((2, 5, 10))
    weight = np.linspace(0.5, 2.0, 2)
    flat = (10, 10)
    np.testing.assert_allclose(
        dist(teacher, student, sample_weight=weight),
        dist(teacher.reshape(flat), student.reshape(flat), sample_weight=weight.repeat(5)),
        rtol=1e-9,
    )


def test_a_weight_of_two_is_the_example_twice():
    teacher, student, _ = random_logits((4, 6))
    twice = [0, 1, 2, 2, 3]
    for shape in ((4,), (4, 1)):
        weighted = DIST().compute_loss(
            teacher, student, sample_weight=np.array([1.0, 1, 2, 1]).reshape(shape)
        )
        repeated = DIST().compute_loss(teacher[twice], student[twice])
        np.testing.assert_allclose(4 * weighted, 5 * repeated, rtol=1e-5)


def test_an_example_of_weight_zero_is_left_out():
    teacher, student, _ = random_logits((4, 6))
    weight = np.array([1.0, 1, 0, 1])
    found = DIST().compute_loss(teacher, student, sample_weight=weight)
    rest = [0, 1, 3]
    np.testing.assert_allclose(
        4 * found, 3 * DIST().compute_loss(teacher[rest], student[rest]), rtol=1e-5
    )
    gradient = student_gradient(DIST(), teacher, student, sample_weight=weight)
    assert not gradient[2].any() and gradient[rest].any(axis=1).all()


def test_doubled_weights_double_the_value():
    teacher, student, _ = random_logits((4, 6))
    found = DIST().compute_loss(teacher, student, sample_weight=np.full(4, 2.0))
    np.testing.assert_allclose(found, 2 * DIST().compute_loss(teacher, student), rtol=1e-5)


def test_no_weight_at_all():
    teacher, student, _ = random_logits((4, 6))
    nothing = np.zeros(4)
    assert float(DIST().compute_loss(teacher, student, sample_weight=nothing)) == 0
    gradient = student_gradient(DIST(), teacher, student, sample_weight=nothing)
    np.testing.assert_array_equal(gradient, 0)


def test_weights_that_do_not_fit():
    teacher, student, _ = random_logits((4, 6))
    with pytest.raises(ValueError, match="`sample_weight` must hold one weight for each"):
        DIST().compute_loss(teacher, student, sample_weight=np.ones(3))


def test_batch_of_one_is_the_relation_of_classes_alone():
    teacher, student, _ = random_logits((1, 10))
    p, q = softmax64(teacher[0]), softmax64(student[0])
    np.testing.assert_allclose(
        DIST().compute_loss(teacher, student), 2 - np.corrcoef(p, q)[0, 1], rtol=1e-5
    )
    both = student_gradient(DIST(), teacher, student)
    np.testing.assert_allclose(both, student_gradient(DIST(gamma=0.0), teacher, student))


def test_batch_of_two():
    """Between two examples, a class correlates by 1 or by -1."""
    teacher, student, _ = random_logits((2, 10))
    teacher, student = teacher / 3, student / 3
    rises = [np.diff(softmax64(x), axis=0)[0] > 0 for x in (teacher, student)]
    np.testing.assert_allclose(
        DIST(beta=0.0).compute_loss(teacher, student),
        2 * np.mean(rises[0] != rises[1]),
        rtol=1e-3,
    )


@pytest.mark.parametrize("same", ["examples", "classes", "both models"])
def test_finite_where_nothing_varies(same):
    teacher, student, _ = np.float32(random_logits((4, 10))[:2] + (np.zeros((4, 10)),))
    if same == "examples":
        teacher, student = teacher[[0] * 4], student[[0] * 4]
    elif same == "classes":
        teacher, student = np.zeros((2, 4, 10), "float32")
    else:
        student = teacher
    value = float(DIST().compute_loss(teacher, student))
    assert -1e-6 <= value <= 4 and np.isfinite(value)
    assert np.isfinite(student_gradient(DIST(), teacher, student)).all()
    if same == "classes":
        assert value == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_extreme_logits(dtype):
    teacher, student, _ = extreme_logits()
    teacher, student = (keras.ops.cast(x, dtype) for x in (teacher, student))
    value = DIST().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    # p = (1, 0, 0), (0, 1, 0), even: q = (0, 1, 0), (1, 0, 0), even. Of examples r is
    # -1/2, -1/2 and 0; of classes, (1, 0, 1/3) against (0, 1, 1/3) and the same again,
    # -13/14, and (0, 0, 1/3) against itself, 1.
    inter, intra = (1.5 + 1.5 + 1) / 3, (27 / 14 + 27 / 14 + 0) / 3
    np.testing.assert_allclose(float(value), inter + intra, rtol=1e-5)
    assert np.isfinite(student_gradient(DIST(), teacher, student)).all()


@pytest.mark.parametrize("value", [-1, "4", None, True, float("nan"), [4.0]])
@pytest.mark.parametrize("name", ["beta", "gamma", "temperature"])
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number"):
        DIST(**{name: value})


def test_several_outputs_are_refused():
    several = [keras.ops.zeros((4, 10))] * 2
    with pytest.raises(ValueError, match="DIST compares one output of each model"):
        DIST().compute_loss(several, several)
    with pytest.raises(ValueError, match="DIST compares one output of each model"):
        DIST().build([(None, 10)] * 2, (None, 10))
    with pytest.raises(ValueError, match="DIST compares one pair of outputs"):
        DIST(taps=[("a", "b"), ("c", "d")])
