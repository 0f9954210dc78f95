"""`at` against the paper's formula, in NumPy and float64."""

import numpy as np
import pytest

from keras_kd.losses import AttentionTransfer, attention_transfer
from tests.losses.features import length, random_features
from tests.losses.logits import student_gradient

SHAPES = [
    ((8, 3, 3, 6), (8, 3, 3, 6)),
    ((5, 4, 2, 7), (5, 4, 2, 3)),
    ((2, 2, 2, 100), (2, 2, 2, 9)),
]


def expected(teacher, student, p=2):
    """Zagoruyko and Komodakis 2017, equation 2, squared, as the authors' code has it."""
    total = 0
    for t, s in zip(teacher, student, strict=True):
        maps = [np.sum(np.abs(x) ** p, axis=-1).ravel() for x in (t, s)]
        difference = np.subtract(*(q / length(q) for q in maps))
        total += np.mean(difference**2)
    return total / len(teacher)


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes, p):
    teacher, student = random_features(*shapes)
    values = attention_transfer(teacher, student, p=p)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), expected(teacher, student, p), rtol=1e-12)
    loss = AttentionTransfer(p)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, expected(teacher, student, p), rtol=1e-5)


def test_the_default_is_the_square():
    teacher, student = random_features(*SHAPES[0])
    found = AttentionTransfer().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_only_where_matters():
    teacher, student = random_features(*SHAPES[1])
    found = AttentionTransfer().compute_loss(3 * teacher, -0.1 * student[..., ::-1])
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_features(value, p):
    teacher = np.float32(random_features(*SHAPES[1])[0])
    student = np.full((5, 4, 2, 3), value, "float32")
    loss = AttentionTransfer(p)
    if value:
        found = loss.compute_loss(teacher, student)
        reference = expected(np.float64(teacher), np.float64(student), p)
        np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert np.isfinite(loss.compute_loss(student, teacher))
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


@pytest.mark.parametrize("value", [0, -1, 0.5, 0.99, "2", None, float("inf"), True])
def test_bad_power(value):
    with pytest.raises(ValueError, match="`p` must be a finite number, 1 or greater"):
        AttentionTransfer(value)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 40.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_powers_have_gradients_at_zero_and_do_not_overflow(p, scale):
    features = np.maximum(np.random.default_rng(0).normal(size=(2, 4, 3, 3, 5)), 0)
    features[1, 0] = 0
    teacher, student = np.float32(features)
    loss = AttentionTransfer(p)
    found = float(loss.compute_loss(teacher, scale * student))
    # Float64 has room for these powers; maps are the same at any scale.
    maps = [np.mean(np.float64(x) ** p, axis=-1).reshape(4, -1) for x in features]
    units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in maps]
    np.testing.assert_allclose(found, np.square(units[0] - units[1]).mean(), rtol=1e-4)
    assert np.isfinite(student_gradient(loss, teacher, np.float32(scale * student))).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 5)])
def test_maps_of_one_place(size):
    shapes = (None, *size, 3), (None, 1, 1, 4)
    for pair in (shapes, shapes[::-1]):
        with pytest.raises(ValueError, match="the same whatever the student answers"):
            AttentionTransfer().build(*pair)
