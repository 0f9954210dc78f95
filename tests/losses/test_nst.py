"""`nst` against the paper's formula, in NumPy and float64."""

import itertools

import numpy as np
import pytest

from keras_kd.losses import NeuronSelectivity, neuron_selectivity
from tests.losses.features import length, random_features
from tests.losses.logits import student_gradient

# More places than channels, of one model or of both; as many; fewer.
SHAPES = [
    ((5, 3, 3, 4), (5, 3, 3, 4)),
    ((3, 4, 2, 9), (3, 4, 2, 5)),
    ((3, 2, 2, 4), (3, 2, 2, 6)),
    ((2, 2, 2, 100), (2, 2, 2, 20)),
]


def expected(teacher, student):
    """Huang and Wang 2017 with the polynomial kernel, over all pairs of channels."""
    total = 0
    for t, s in zip(teacher, student, strict=True):
        t, s = channels(t), channels(s)
        total += kernel(t, t) + kernel(s, s) - 2 * kernel(t, s)
    return total / len(teacher)


def channels(maps):
    vectors = [maps[..., c].ravel() for c in range(maps.shape[-1])]
    return [v / length(v) if v.any() else v for v in vectors]


def kernel(xs, ys):
    return np.mean([np.dot(x, y) ** 2 for x, y in itertools.product(xs, ys)])


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes):
    teacher, student = random_features(*shapes)
    values = neuron_selectivity(teacher, student)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), expected(teacher, student), rtol=1e-12)
    found = NeuronSelectivity().compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-5)


def test_neither_order_nor_scale_nor_sign_of_channels_matter():
    teacher, student = random_features(*SHAPES[1])
    scale = np.linspace(-2, 3, 5)
    found = NeuronSelectivity().compute_loss(teacher, scale * student[..., ::-1])
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_channels_each_twice_are_the_same_distribution():
    for shapes in (SHAPES[0], SHAPES[3]):
        teacher, _ = random_features(*shapes)
        value = NeuronSelectivity().compute_loss(teacher, np.repeat(teacher, 2, axis=-1))
        np.testing.assert_allclose(value, 0, atol=1e-7)


@pytest.mark.parametrize("shapes", [SHAPES[0], SHAPES[3]], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, -1e4])
def test_constant_features(value, shapes):
    teacher = np.float32(random_features(*shapes)[0])
    student = np.full(shapes[1], value, "float32")
    loss = NeuronSelectivity()
    reference = expected(np.float64(teacher), np.float64(student))
    np.testing.assert_allclose(loss.compute_loss(teacher, student), reference, rtol=1e-5)
    np.testing.assert_allclose(loss.compute_loss(student, teacher), reference, rtol=1e-5)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


def test_maps_of_unknown_size():
    tf = pytest.importorskip("tensorflow")
    spec = tf.TensorSpec((None, None, None, 9))
    traced = tf.function(lambda t, s: neuron_selectivity(t, s)).get_concrete_function(
        spec, spec
    )
    for shape in ((2, 2, 2, 9), (2, 4, 4, 9)):
        teacher, student = random_features(shape, shape)
        values = traced(tf.constant(teacher, "float32"), tf.constant(student, "float32"))
        np.testing.assert_allclose(np.mean(values), expected(teacher, student), rtol=1e-5)
