"""`ab` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import ActivationBoundaries, activation_boundaries
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [(8, 6), (3, 100), (4, 3, 3, 5)]


def expected(teacher, student, margin=1.0):
    """Heo et al. 2019: the sum over neurons, the mean over examples."""
    total = 0
    for t, s in zip(teacher.ravel(), student.ravel(), strict=True):
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(teacher)


@pytest.mark.parametrize("margin", [1.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, margin):
    teacher, student = random_features(shape, shape)
    values = activation_boundaries(teacher, student, margin=margin)
    assert values.shape == (len(teacher),)
    reference = expected(teacher, student, margin)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    loss = ActivationBoundaries(margin, scale=2.0)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, 2 * reference, rtol=1e-5)


def test_the_defaults_are_a_margin_of_1_and_3_thousandths():
    teacher, student = random_features(SHAPES[0], SHAPES[0])
    found = ActivationBoundaries().compute_loss(teacher, student)
    reference = 3 / 1000 * expected(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_the_last_pair_counts_fully_each_other_half_of_the_next():
    drawn = [random_features((4, n), (4, n), seed=n) for n in (5, 6, 7)]
    found = ActivationBoundaries(scale=1.0).compute_loss(*zip(*drawn, strict=True))
    parts = [expected(*pair) for pair in drawn]
    reference = parts[0] / 4 + parts[1] / 2 + parts[2]
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_a_teacher_of_zero_is_off_and_the_margin_is_enough():
    teacher = np.array([[0.0, 0.0, 1.0, 1.0]])
    student = np.array([[-1.0, -0.5, 1.0, 0.5]])
    found = ActivationBoundaries(scale=1.0).compute_loss(teacher, student)
    assert float(found) == 0.5**2 + 0.5**2


def test_only_signs_of_the_teacher_matter():
    teacher, student = random_features((5, 7), (5, 7))
    loss = ActivationBoundaries()
    values = [loss.compute_loss(x, student) for x in (teacher, np.sign(teacher) * 0.1)]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_a_larger_map_is_averaged():
    teacher, student = random_features((3, 4, 4, 2), (3, 2, 2, 2))
    averaged = teacher.reshape(3, 2, 2, 2, 2, 2).mean(axis=(2, 4))
    found = ActivationBoundaries(scale=1.0).compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(averaged, student), rtol=1e-6)


@pytest.mark.parametrize(
    "shapes", [((4, 7), (4, 3)), ((4, 3, 3, 7), (4, 3, 3, 2))], ids=str
)
def test_other_widths_go_through_a_connector(shapes):
    teacher, student = random_features(*shapes)
    loss = ActivationBoundaries(scale=1.0)
    loss.build(*shapes)
    assert loss.uses_batch_statistics
    linear, normalise = loss.layers
    rng = np.random.default_rng(1)
    kernel, gamma, beta = (
        rng.normal(size=size).astype("float32") for size in ((shapes[1][-1], 7), 7, 7)
    )
    linear.set_weights([kernel])
    normalise.set_weights([gamma, beta, *normalise.get_weights()[2:]])
    # As PyTorch's nn.BatchNorm2d in training.
    seen = np.einsum("...i,io->...o", student, np.float64(kernel))
    axes = tuple(range(seen.ndim - 1))
    seen = (seen - seen.mean(axis=axes)) / np.sqrt(seen.var(axis=axes) + 1e-5)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, seen * gamma + beta), rtol=1e-5)


def test_connectors_are_drawn_as_the_authors_draw_them():
    loss = ActivationBoundaries()
    loss.build((None, 50), (None, 400))
    (kernel,) = loss.layers[0].get_weights()
    assert kernel.shape == (400, 50)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 50), rtol=0.05)


def test_pairs_are_connected_where_needed():
    (t1, s1), (t2, s2) = (random_features((4, 5), (4, 5), seed=i) for i in (0, 1))
    loss = ActivationBoundaries(scale=1.0)
    both = loss.compute_loss([t1, t2], [s1, s2[:, :3]])
    seen = s2[:, :3] @ np.float64(loss.layers[0].kernel)
    seen = (seen - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + 1e-5)
    reference = expected(t1, s1) / 2 + expected(t2, seen)
    np.testing.assert_allclose(both, reference, rtol=1e-5)
    one = ActivationBoundaries()
    one.compute_loss([t1, t2], [s1, s2])
    assert not one.layers and not one.uses_batch_statistics


@pytest.mark.parametrize("count", [1, 2])
def test_small_batch(count):
    teacher, student = random_features((count, 5), (count, 5))
    found = ActivationBoundaries(scale=1.0).compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)
    found = ActivationBoundaries().compute_loss(teacher, student[:, :2])
    assert np.isfinite(found)


@pytest.mark.parametrize("width", [7, 3])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e4])
def test_constant_features(value, width):
    teacher, _ = random_features((5, 7), (5, 7))
    teacher, student = np.float32(teacher), np.full((5, width), value, "float32")
    loss = ActivationBoundaries(scale=1.0)
    found = loss.compute_loss(teacher, student)
    # Behind a connector, constant features are all zero.
    seen = np.full((5, 7), value if width == 7 else 0.0)
    np.testing.assert_allclose(found, expected(teacher, seen), rtol=1e-5)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    large = keras.ops.cast(np.full((2, 3), 1e4), dtype)
    loss = ActivationBoundaries(scale=1.0)
    value = loss.compute_loss(large, -large)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    exact = float(keras.ops.cast(large, "float32")[0, 0])
    np.testing.assert_allclose(float(value), 3 * (exact + 1) ** 2, rtol=1e-6)
    assert np.isfinite(student_gradient(loss, large, -large)).all()


@pytest.mark.parametrize("name", ["margin", "scale"])
@pytest.mark.parametrize("value", [0, -1, "1", float("inf")])
def test_bad_argument(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}` must be a finite number greater than 0"
    ):
        ActivationBoundaries(**{name: value})
