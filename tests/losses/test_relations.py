"""What all losses between the examples of a batch share."""

import numpy as np
import pytest

from keras_kd import losses
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

RELATIONS = [cls for cls in losses.LOSSES.values() if issubclass(cls, losses.RelationLoss)]


@pytest.fixture(params=RELATIONS, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.mark.parametrize(
    "teacher_shape, student_shape, message",
    [
        ((8, 4), (7, 4), r"must have outputs of the same batch.*\(8, 4\).*\(7, 4\)"),
        ((8, 4), (1, 4), r"must have outputs of the same batch"),
        ((8, 4), (8,), r"takes outputs of shape \(batch, ..., size\).*\(8, 4\).*\(8,\)"),
    ],
)
def test_bad_shapes(cls, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        cls().compute_loss(np.ones(teacher_shape), np.ones(student_shape))
    with pytest.raises(ValueError, match=message):
        cls().build(teacher_shape, student_shape)


def test_unknown_sizes_are_no_bad_shapes(cls):
    cls().build((None, 4, None, 3), (None, 7))


@pytest.mark.parametrize("shape", [(3,), (1,), (3, 4), (1, 4)])
def test_bad_sample_weight(cls, shape):
    teacher, student = random_features((4, 2), (4, 2))
    with pytest.raises(ValueError, match=r"`sample_weight` must hold one .* \(4,\)"):
        cls().compute_loss(teacher, student, sample_weight=np.ones(shape))


def test_a_batch_of_one_has_no_relations(cls):
    teacher, student = random_features((1, 7), (1, 3))
    assert float(cls().compute_loss(teacher, student)) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(student_gradient(cls(), teacher, student)).all()


def test_weights_doubled_double_the_loss(cls):
    teacher, student = random_features((5, 7), (5, 3))
    weight = np.array([0.5, 1.0, 0.0, 2.0, 1.0])
    once, twice = (
        cls().compute_loss(teacher, student, sample_weight=scale * weight)
        for scale in (1, 2)
    )
    assert float(once) > 0
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


@pytest.mark.parametrize("weight", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)], ids=str)
def test_weights_that_leave_no_pair(cls, weight):
    teacher, student = random_features((3, 7), (3, 3))
    found = cls().compute_loss(teacher, student, sample_weight=np.array(weight))
    assert float(found) == pytest.approx(0, abs=1e-9)
    gradient = student_gradient(cls(), teacher, student, None, np.array(weight))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_features(cls, value):
    teacher, _ = random_features((4, 7), (4, 3))
    student = np.full((4, 3), value, "float32")
    assert np.isfinite(cls().compute_loss(np.float32(teacher), student))
    assert np.isfinite(student_gradient(cls(), np.float32(teacher), student)).all()
    assert np.isfinite(cls().compute_loss(student, np.float32(teacher)))


def test_more_than_one_pair_of_taps(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__} compares one pair of outputs"):
        cls(taps=[("a", "b"), ("c", "d")])


def test_taps_are_in_the_config(cls):
    config = cls(taps=("a", "b")).get_config()
    assert config["taps"] == [["a", "b"]]
    assert cls.from_config(config).taps == (("a", "b"),)
