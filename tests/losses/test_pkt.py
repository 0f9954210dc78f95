"""`pkt` against the authors' formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import (
    ProbabilisticKnowledgeTransfer,
    probabilistic_knowledge_transfer,
)
from tests.losses.features import SHAPES, length, random_features, rows
from tests.losses.logits import student_gradient


def expected(teacher, student):
    """Passalis and Tefas 2018, equations 4 to 8, their 1e-7, and their mean over pairs."""
    p, q = (np.array([neighbours(a, x) for a in x]) for x in map(rows, (teacher, student)))
    return np.mean(p * np.log((p + 1e-7) / (q + 1e-7)))


def neighbours(a, others):
    cosines = [a @ b / ((length(a) + 1e-7) * (length(b) + 1e-7)) for b in others]
    similarity = (np.array(cosines) + 1) / 2
    return similarity / similarity.sum()


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes):
    teacher, student = random_features(*shapes)
    reference = expected(teacher, student)
    values = probabilistic_knowledge_transfer(teacher, student)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-9)
    teacher, student = np.float32(teacher), np.float32(student)
    found = ProbabilisticKnowledgeTransfer().compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=2e-5)


def test_short_vectors_are_not_quite_of_length_one():
    # The authors' 1e-7 makes of a cosine of 1 one of 1 / (1 + 1e-7 / 1e-6)**2.
    teacher, student = random_features((5, 7), (5, 3))
    found = probabilistic_knowledge_transfer(teacher, 1e-6 * student)
    reference = expected(teacher, 1e-6 * student)
    np.testing.assert_allclose(np.mean(found), reference, rtol=1e-9)
    assert abs(reference / expected(teacher, student) - 1) > 1e-2


def test_batch_of_two():
    teacher, student = random_features((2, 7), (2, 3))
    found = ProbabilisticKnowledgeTransfer().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-5)


def test_a_weight_is_a_number_of_times_in_the_batch():
    teacher, student = random_features((4, 7), (4, 3))
    weight = np.array([2.0, 1.0, 0.0, 3.0])
    times = np.repeat(np.arange(4), weight.astype(int))
    # The sum over examples is divided by 4, not 6, and so is that of a probability.
    repeated = expected(teacher[times], student[times]) * (6 / 4) ** 2
    for shaped in (weight, weight[:, None]):
        loss = ProbabilisticKnowledgeTransfer()
        found = loss.compute_loss(teacher, student, sample_weight=shaped)
        np.testing.assert_allclose(found, repeated, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    # The teacher's similarities to itself and the opposite are 1, 0; the student's 1, 1.
    teacher = keras.ops.cast([[1e4, 0.0], [-1e4, 0.0]], dtype)
    student = keras.ops.cast([[1e4, 1e4, 0.0], [1e4, 1e4, 0.0]], dtype)
    value = ProbabilisticKnowledgeTransfer().compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(float(value), np.log(2) / 2, rtol=1e-5)
    for inputs in ((teacher, student), (student, teacher)):
        gradient = student_gradient(ProbabilisticKnowledgeTransfer(), *inputs)
        assert np.isfinite(gradient).all()


def test_an_example_of_zeros_has_no_gradient():
    teacher, student = random_features((4, 7), (4, 3))
    student[2] = 0
    gradient = student_gradient(ProbabilisticKnowledgeTransfer(), teacher, student)
    assert np.any(gradient[0]) and not np.any(gradient[2])
    np.testing.assert_allclose(
        ProbabilisticKnowledgeTransfer().compute_loss(teacher, student),
        expected(teacher, student),
        rtol=1e-5,
    )
