"""`fitnet` against the paper's formula, in NumPy and float64."""

import numpy as np
import pytest

from keras_kd.losses import FitNet, fitnet
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [(8, 6), (3, 100), (4, 3, 3, 5)]


def expected(teacher, student):
    """Romero et al. 2015, equation 3, as a mean over elements and without its 1/2."""
    pairs = zip(teacher.ravel(), student.ravel(), strict=True)
    return sum((t - s) ** 2 for t, s in pairs) / teacher.size


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape):
    teacher, student = random_features(shape, shape)
    values = fitnet(teacher, student)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), expected(teacher, student), rtol=1e-12)
    found = FitNet().compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-5)


def test_gradient_is_twice_the_difference_over_the_number_of_elements():
    teacher, student = random_features((5, 7), (5, 7))
    found = student_gradient(FitNet(), teacher, student)
    np.testing.assert_allclose(found, 2 * (student - teacher) / 35, rtol=1e-6)


@pytest.mark.parametrize(
    "shapes", [((4, 7), (4, 3)), ((4, 3, 3, 7), (4, 3, 3, 2))], ids=str
)
def test_other_widths_go_through_a_linear_regressor(shapes):
    teacher, student = random_features(*shapes)
    loss = FitNet()
    loss.build(*shapes)
    (layer,) = loss.layers
    kernel = np.random.default_rng(1).normal(size=(shapes[1][-1], 7)).astype("float32")
    layer.set_weights([kernel, np.arange(7.0)])
    seen = np.einsum("...i,io->...o", student, np.float64(kernel)) + np.arange(7.0)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, seen), rtol=1e-5)


def test_pairs_are_summed_and_projected_where_needed():
    (t1, s1), (t2, s2) = (random_features((4, 5), (4, 5), seed=i) for i in (0, 1))
    loss = FitNet()
    both = loss.compute_loss([t1, t2], [s1, s2[:, :3]])
    (layer,) = loss.layers
    seen = s2[:, :3] @ np.float64(layer.kernel)
    np.testing.assert_allclose(both, expected(t1, s1) + expected(t2, seen), rtol=1e-5)


def test_a_larger_map_is_averaged():
    teacher, student = random_features((3, 4, 4, 2), (3, 2, 2, 2))
    averaged = teacher.reshape(3, 2, 2, 2, 2, 2).mean(axis=(2, 4))
    found = FitNet().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(averaged, student), rtol=1e-6)


def test_batch_of_one_and_of_two():
    for count in (1, 2):
        teacher, student = random_features((count, 5), (count, 5))
        found = FitNet().compute_loss(teacher, student)
        np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_are_not_known(jit_compile):
    tf = pytest.importorskip("tensorflow")
    shapes = [tf.TensorSpec((None, None, 5, 2)), tf.TensorSpec((None, 3, 4, 2))]
    graph = tf.function(lambda t, s: fitnet(t, s), shapes, jit_compile=jit_compile)
    for height in (1, 2, 3, 5, 9):
        teacher, student = random_features((4, height, 5, 2), (4, 3, 4, 2))
        teacher, student = np.float32(teacher), np.float32(student)
        found = graph(teacher, student)
        np.testing.assert_allclose(found, fitnet(teacher, student), rtol=1e-5)
