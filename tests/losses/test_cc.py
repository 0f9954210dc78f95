"""`cc` against the paper's formula, in NumPy and float64."""

import math

import keras
import numpy as np
import pytest

from keras_kd import testing
from keras_kd.losses import CorrelationCongruence, correlation_congruence
from tests.losses.features import SHAPES, length, random_features, rows
from tests.losses.logits import student_gradient


def expected(teacher, student, gamma=0.4, order=2, weight=None):
    """Peng et al. 2019: the terms of the series one by one, pair by pair."""
    weight = np.ones(len(teacher)) if weight is None else weight
    relative = weight / weight.mean()
    total = 0
    for i, j in np.ndindex(len(teacher), len(teacher)):
        gap = 0
        for sign, x in ((1, rows(teacher)), (-1, rows(student))):
            cosine = x[i] @ x[j] / (length(x[i]) * length(x[j]))
            series = [
                (2 * gamma * cosine) ** p / math.factorial(p) for p in range(order + 1)
            ]
            gap += sign * sum(series) / math.exp(2 * gamma)
        total += weight[i] * relative[j] * gap**2
    return total / len(teacher) ** 2


def expected_of_neighbours(teacher, student, weight=None):
    """RepDistiller's Correlation; each pair half to either example, weighed by both."""
    batch = len(teacher)
    weight = np.ones(batch) if weight is None else weight
    difference = np.abs(rows(teacher) - rows(student))
    pairs = [
        difference[i] @ difference[i + 1] * weight[i] * weight[i + 1] / weight.mean()
        for i in range(batch - 1)
    ]
    return np.mean(pairs)


@pytest.mark.parametrize("gamma, order", [(0.4, 2), (1.0, 1), (0.1, 4)])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes, gamma, order):
    teacher, student = random_features(*shapes)
    reference = expected(teacher, student, gamma, order)
    values = correlation_congruence(teacher, student, gamma=gamma, order=order)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-10)
    loss = CorrelationCongruence(gamma, order)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_defaults_are_the_papers():
    teacher, student = random_features((5, 7), (5, 3))
    found = CorrelationCongruence().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_many_terms_are_the_gaussian_kernel():
    sides = random_features((5, 7), (5, 3))
    kernels = []
    for x in sides:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernels.append([[np.exp(-0.4 * length(a - b) ** 2) for b in x] for a in x])
    found = CorrelationCongruence(order=12).compute_loss(*sides)
    reference = np.mean(np.subtract(*kernels) ** 2)
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_only_directions_relative_to_each_other_matter():
    teacher, student = random_features((5, 7), (5, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    found = CorrelationCongruence().compute_loss(3 * teacher, student @ turn * 0.1)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_batch_of_two():
    teacher, student = random_features((2, 7), (2, 3))
    found = CorrelationCongruence().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_weights_weigh_examples_and_partners():
    teacher, student = random_features((4, 7), (4, 3))
    weight = np.array([2.0, 1.0, 0.0, 3.0])
    reference = expected(teacher, student, weight=weight)
    for shaped in (weight, weight[:, None]):
        loss = CorrelationCongruence()
        found = loss.compute_loss(teacher, student, sample_weight=shaped)
        np.testing.assert_allclose(found, reference, rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, 1e4])
def test_constant_features(value):
    teacher = np.float32(random_features((4, 7), (4, 3))[0])
    student = np.full((4, 3), value, "float32")
    found = CorrelationCongruence().compute_loss(teacher, student)
    reference = expected(np.float64(teacher), np.float64(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    # Cosines of 1, -1 and 0 against cosines of 1.
    teacher = keras.ops.cast(1e4 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), dtype)
    student = keras.ops.cast(1e4 * np.ones((4, 5)), dtype)
    value = CorrelationCongruence().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    opposite, at_right_angles = 2 * 0.8, 0.8 + 0.8**2 / 2
    reference = (opposite**2 + 2 * at_right_angles**2) / 4 * np.exp(-1.6)
    np.testing.assert_allclose(float(value), reference, rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6), (2, 100), (4, 3, 3, 5)], ids=str)
def test_neighbours(shape):
    teacher, student = random_features(shape, shape)
    loss = CorrelationCongruence(form="neighbours")
    reference = expected_of_neighbours(teacher, student)
    np.testing.assert_allclose(loss.compute_loss(teacher, student), reference, rtol=1e-6)
    weight = np.arange(len(teacher)) + 0.5
    np.testing.assert_allclose(
        loss.compute_loss(teacher, student, sample_weight=weight),
        expected_of_neighbours(teacher, student, weight),
        rtol=1e-6,
    )


def test_neighbours_hold_to_the_contract_but_for_the_order():
    testing.check_distillation_loss(
        CorrelationCongruence(form="neighbours"),
        expected_failures={"check_batch_order": "compares neighbours"},
    )


def test_neighbours_in_a_batch_of_one():
    teacher, student = random_features((1, 7), (1, 7))
    loss = CorrelationCongruence(form="neighbours")
    assert float(loss.compute_loss(teacher, student)) == 0
    np.testing.assert_array_equal(student_gradient(loss, teacher, student), 0)


def test_neighbours_of_another_width():
    loss = CorrelationCongruence(form="neighbours")
    message = r"form='neighbours'\) compares .* element by element.*\(4, 7\).*\(4, 3\)"
    with pytest.raises(ValueError, match=message):
        loss.compute_loss(*random_features((4, 7), (4, 3)))


@pytest.mark.parametrize("arguments", [{"gamma": 1.0}, {"order": 3}], ids=str)
def test_arguments_without_effect(arguments):
    with pytest.raises(ValueError, match="`gamma` and `order` have no effect with form="):
        CorrelationCongruence(form="neighbours", **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gamma": 0.0}, "`gamma` must be a finite number greater than 0"),
        ({"gamma": "0.4"}, "`gamma` must be a finite number greater than 0"),
        ({"order": 0}, "`order` must be an integer, 1 or greater"),
        ({"order": 2.0}, "`order` must be an integer, 1 or greater"),
        ({"order": True}, "`order` must be an integer, 1 or greater"),
        ({"form": "rbf"}, "`form` must be one of 'gaussian', 'neighbours'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CorrelationCongruence(**arguments)
