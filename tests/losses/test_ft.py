"""`ft` against the paper's formula, in NumPy and float64."""

import numpy as np
import pytest

from keras_kd.losses import FactorTransfer, factor_transfer
from tests.losses.features import length, random_features
from tests.losses.logits import student_gradient

SHAPES = [
    ((8, 3, 3, 6), (8, 3, 3, 6)),
    ((5, 4, 2, 7), (5, 4, 2, 3)),
    ((2, 2, 2, 100), (2, 2, 2, 9)),
]


def expected(teacher, student, p1=2, p2=1):
    """Kim et al. 2018, as a mean over elements, of factors over channels."""
    total = 0
    for t, s in zip(teacher, student, strict=True):
        factors = [sum(x[..., c] ** p1 for c in range(x.shape[-1])).ravel() for x in (t, s)]
        t, s = (f / length(f) if f.any() else f for f in factors)
        total += sum(abs(a - b) ** p2 for a, b in zip(t, s, strict=True)) / len(t)
    return total / len(teacher)


@pytest.mark.parametrize("p1, p2", [(2, 1), (1, 2)])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes, p1, p2):
    teacher, student = random_features(*shapes)
    values = factor_transfer(teacher, student, p1=p1, p2=p2)
    assert values.shape == (len(teacher),)
    reference = expected(teacher, student, p1, p2)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    loss = FactorTransfer(p1, p2)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_defaults_are_2_and_1():
    teacher, student = random_features(*SHAPES[0])
    found = FactorTransfer().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("p2", [1, 2])
def test_factors_of_all_channels(p2):
    # As the authors' code has it: each element is a place of its own.
    teacher, student = random_features(*SHAPES[0])
    found = FactorTransfer(None, p2).compute_loss(teacher, student)
    elements = (x.reshape(len(x), -1, 1, 1) for x in (teacher, student))
    np.testing.assert_allclose(found, expected(*elements, p1=1, p2=p2), rtol=1e-6)


def test_factors_of_all_channels_need_as_many():
    message = r"channel by channel.*\(5, 4, 2, 7\).*\(5, 4, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        FactorTransfer(p1=None).compute_loss(*random_features(*SHAPES[1]))


@pytest.mark.parametrize("p1", [1, 2, None])
@pytest.mark.parametrize("value", [0.0, -1e4])
def test_constant_features(value, p1):
    teacher = np.float32(random_features(*SHAPES[0])[0])
    student = np.full_like(teacher, value)
    loss = FactorTransfer(p1)
    if p1 is not None:
        reference = expected(np.float64(teacher), np.float64(student), p1)
        found = loss.compute_loss(teacher, student)
        np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert np.isfinite(loss.compute_loss(student, teacher))
    for target in (teacher, student):
        assert np.isfinite(student_gradient(loss, target, student)).all()


@pytest.mark.parametrize("value", [0, "2", 1.5, True])
@pytest.mark.parametrize("name", ["p1", "p2"])
def test_bad_power(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be one of 1, 2.*{name}={value!r}"):
        FactorTransfer(**{name: value})
