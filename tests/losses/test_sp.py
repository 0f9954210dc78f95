"""`sp` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import SimilarityPreserving, similarity_preserving
from tests.losses.features import SHAPES, length, random_features, rows
from tests.losses.logits import student_gradient


def expected(teacher, student, norm="l2"):
    """Tung and Mori 2019, equations 2 to 4: row by row, the Frobenius norm over b**2."""
    batch = len(teacher)
    matrices = []
    for x in map(rows, (teacher, student)):
        matrix = np.array([[np.dot(a, b) for b in x] for a in x])
        sizes = [length(row) if norm == "l2" else np.abs(row).sum() for row in matrix]
        matrices.append([row / size for row, size in zip(matrix, sizes, strict=True)])
    return np.linalg.norm(np.subtract(*matrices)) ** 2 / batch**2


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes, norm):
    teacher, student = random_features(*shapes)
    reference = expected(teacher, student, norm)
    values = similarity_preserving(teacher, student, norm=norm)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    found = SimilarityPreserving(norm).compute_loss(
        np.float32(teacher), np.float32(student)
    )
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_default_is_the_l2_norm():
    teacher, student = random_features((5, 7), (5, 3))
    found = SimilarityPreserving().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_only_similarities_matter():
    teacher, student = random_features((5, 7), (5, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    found = SimilarityPreserving().compute_loss(3 * teacher, student @ turn * 0.1)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_weight_is_a_number_of_times_in_the_batch(norm):
    teacher, student = random_features((4, 7), (4, 3))
    weight = np.array([2.0, 1.0, 0.0, 3.0])
    times = np.repeat(np.arange(4), weight.astype(int))
    # The sum over examples is divided by 4, not 6; and weights make rows of 4, not of 6,
    # whose norms are smaller.
    repeated = expected(teacher[times], student[times], norm) * 6 / 4
    repeated *= 6 / 4 if norm == "l2" else (6 / 4) ** 2
    for shaped in (weight, weight[:, None]):
        loss = SimilarityPreserving(norm)
        found = loss.compute_loss(teacher, student, sample_weight=shaped)
        np.testing.assert_allclose(found, repeated, rtol=1e-6)


def test_batch_of_two():
    teacher, student = random_features((2, 7), (2, 3))
    found = SimilarityPreserving().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_features(value, norm):
    teacher = np.float32(random_features((4, 7), (4, 3))[0])
    student = np.full((4, 3), value, "float32")
    loss = SimilarityPreserving(norm)
    if value:
        reference = expected(np.float64(teacher), np.float64(student), norm)
        np.testing.assert_allclose(
            loss.compute_loss(teacher, student), reference, rtol=1e-5
        )
    assert np.isfinite(student_gradient(loss, teacher, student)).all()
    assert np.isfinite(loss.compute_loss(student, teacher))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    # Two pairs of opposite examples: the teacher's rows are (1, -1, 0, 0) / sqrt(2), ...;
    # the student's are (1, 1, 1, 1) / 2.
    teacher = keras.ops.cast(1e4 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), dtype)
    student = keras.ops.cast(1e4 * np.ones((4, 5)), dtype)
    value = SimilarityPreserving().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    differences = np.array([0.5**0.5 - 0.5, -(0.5**0.5) - 0.5, -0.5, -0.5])
    np.testing.assert_allclose(float(value), np.mean(differences**2), rtol=1e-6)


@pytest.mark.parametrize("norm", ["L2", None, 2])
def test_bad_norm(norm):
    with pytest.raises(ValueError, match="`norm` must be one of 'l2', 'l1'"):
        SimilarityPreserving(norm)


def test_taps_are_in_the_config():
    config = SimilarityPreserving("l1", taps=("a", "b")).get_config()
    assert config == {"norm": "l1", "taps": [["a", "b"]]}
    assert SimilarityPreserving.from_config(config).taps == (("a", "b"),)
