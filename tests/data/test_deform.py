"""What Deform's views look like."""

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data import deform as module
from keras_kd.data.augmentation import Deform

INDICES = np.arange(100, 112)
NOTHING = dict(shift=0, rotation=0, scale=0, shear=0, elastic_alpha=0)
SIZE = 41


def displacements(augment, count=2000, view=0, seed=0):
    """Where each pixel comes from minus where it is, (count, 2, SIZE, SIZE)."""
    # Bilinear interpolation of a ramp returns the place at which it is read.
    ramp = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), axis=-1)
    images = np.broadcast_to(ramp.astype("float32"), (count, SIZE, SIZE, 2))
    places = augment(images, np.arange(count), view, seed)
    return np.moveaxis(places - ramp, -1, 1)


def matrices(augment):
    """The linear part of each example's map, (count, 2, 2), rows and columns (y, x)."""
    moved, middle = displacements(augment), SIZE // 2
    here = moved[:, :, middle, middle]
    np.testing.assert_allclose(here, 0, atol=1e-5)
    down, right = moved[:, :, middle + 1, middle], moved[:, :, middle, middle + 1]
    return np.eye(2) + np.stack([down, right], axis=-1)


def assert_uniform(values, low, high):
    """Against the range, mean and standard deviation of a uniform distribution."""
    tolerance = 3 * (high - low) / np.sqrt(len(values))
    assert low - 2e-3 <= values.min() < low + tolerance
    assert high + 2e-3 >= values.max() > high - tolerance
    np.testing.assert_allclose(values.mean(), (low + high) / 2, atol=tolerance / 3)
    np.testing.assert_allclose(values.std(), (high - low) / np.sqrt(12), atol=tolerance / 3)


def test_a_large_batch_of_digits_in_a_graph(mnist_sample):
    (images, _), _ = mnist_sample
    graph = tf.function(lambda x, i: Deform()(x, i, 1, 0))
    indices = np.arange(len(images))
    eager = Deform()(images, indices, 1, 0)
    np.testing.assert_array_equal(graph(tf.constant(images), indices), eager)


def test_zero_magnitudes_are_the_identity(images):
    np.testing.assert_array_equal(Deform(**NOTHING)(images, INDICES, 3, 0), images)


def test_shift_is_the_same_for_every_pixel_and_uniform():
    moved = displacements(Deform(**NOTHING | {"shift": 2.0}))[:, :, 5:-5, 5:-5]
    np.testing.assert_allclose(np.ptp(moved, axis=(2, 3)), 0, atol=1e-4)
    for axis in range(2):
        assert_uniform(moved[:, axis, 0, 0], -2, 2)


def test_rotation_turns_about_the_centre():
    found = matrices(Deform(**NOTHING | {"rotation": 12.0}))
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), [np.eye(2)] * 2000, atol=5e-3)
    angles = np.degrees(np.arctan2(found[:, 0, 1], found[:, 0, 0]))
    assert_uniform(angles, -12, 12)


def test_scale_is_the_same_in_both_directions():
    found = matrices(Deform(**NOTHING | {"scale": 0.15}))
    np.testing.assert_allclose(found[:, [0, 1], [1, 0]], 0, atol=1e-5)
    np.testing.assert_allclose(found[:, 0, 0], found[:, 1, 1], atol=1e-5)
    assert_uniform(1 / found[:, 0, 0], 0.85, 1.15)


def test_shear_moves_rows_sideways():
    found = matrices(Deform(**NOTHING | {"shear": 0.15}))
    np.testing.assert_allclose(found[:, 0], [[1, 0]] * 2000, atol=1e-5)
    np.testing.assert_allclose(found[:, 1, 1], 1, atol=1e-5)
    assert_uniform(found[:, 1, 0], -0.15, 0.15)


def test_all_at_once_shear_then_rotate_then_scale():
    def matrix(**magnitudes):
        return matrices(Deform(**NOTHING | magnitudes))

    together = matrix(shear=0.3, rotation=30, scale=0.3)
    apart = matrix(scale=0.3) @ matrix(rotation=30) @ matrix(shear=0.3)
    np.testing.assert_allclose(together, apart, atol=5e-3)


@pytest.mark.parametrize("sigma", [1.0, 2.5, 4.0])
def test_elastic_field_is_smoothed_noise_of_the_paper(sigma):
    augment = Deform(**NOTHING | {"elastic_alpha": 8.0 * sigma, "elastic_sigma": sigma})
    field = displacements(augment, count=500)[:, :, 10:-10, 10:-10]
    # Noise in (-alpha, alpha) on each pixel, smoothed by a Gaussian of sum 1.
    gaussian = np.exp(-((np.arange(-30, 31) / sigma) ** 2) / 2)
    rms = 8.0 * sigma / np.sqrt(3) * np.sum(gaussian**2) / np.sum(gaussian) ** 2
    np.testing.assert_allclose(field.std(axis=(0, 2, 3)), rms, rtol=0.04)
    for distance in (1, 3):
        pairs = field[..., distance:].ravel(), field[..., :-distance].ravel()
        expected = np.exp(-(distance**2) / (4 * sigma**2))
        np.testing.assert_allclose(np.corrcoef(*pairs)[0, 1], expected, atol=0.03)


def test_elastic_fields_are_independent():
    augment = Deform(**NOTHING | {"elastic_alpha": 16.0})
    fields = [displacements(augment, 2000, view)[:, :, 20, 20] for view in (0, 1)]
    values = np.concatenate([*fields, fields[0][np.arange(2000) - 1]], axis=1)
    correlations = np.corrcoef(values.T) - np.eye(6)
    assert np.abs(correlations).max() < 4 / np.sqrt(2000)


@pytest.mark.parametrize("sigma", [1.0, 1.3, 4.0, 7.7, 30.0])
def test_smoothing_sums_are_exact_in_float32(sigma):
    weights = module._smoothing(224, sigma)
    np.testing.assert_array_equal(weights, np.round(weights))
    assert 255 * weights.sum(axis=1).max() ** 2 < 2**24


def test_interpolation_is_bilinear_with_zeros_outside():
    image = np.random.default_rng(0).random((1, 5, 6, 2), dtype="float32")
    places = np.random.default_rng(1).uniform(-2, 7, (2, 1, 5, 6)).astype("float32")
    found = module._interpolate(tf.constant(image), *places)
    # Each pixel counts by how near it is, at most one pixel away.
    near = [
        np.maximum(0, 1 - np.abs(place[0, ..., None] - np.arange(size)))
        for place, size in zip(places, (5, 6), strict=True)
    ]
    expected = np.einsum("hwi,hwj,ijc->hwc", *near, image[0])
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_digits_stay_digits(mnist_sample):
    (images, _), _ = mnist_sample
    views = Deform()(images, np.arange(len(images)), 0, 0).numpy()
    assert views.min() >= 0 and views.max() <= 1
    ink = views.sum(axis=(1, 2, 3)) / images.sum(axis=(1, 2, 3))
    assert 0.4 < ink.min() and ink.max() < 2


def test_every_argument_is_in_the_config():
    arguments = dict(zip(Deform().get_config(), (1, 2, 0.3, 4, 5, 6), strict=True))
    assert Deform(**arguments).get_config() == arguments


@pytest.mark.parametrize("name", Deform().get_config())
def test_bad_magnitude(name):
    for value in (-1.0, float("nan"), float("inf"), "1", None, True):
        message = f"`{name}` must be a finite .* Received: {name}={value!r}"
        with pytest.raises(ValueError, match=message):
            Deform(**{name: value})


@pytest.mark.parametrize("name, value", [("scale", 1), ("elastic_sigma", 0.5)])
def test_magnitude_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
        Deform(**{name: value})


def test_unknown_size_of_the_images():
    images = tf.TensorSpec((None, None, 8, 3), tf.float32)
    indices = tf.TensorSpec((None,), tf.int64)
    graph = tf.function(lambda x, i: Deform()(x, i, 0, 0))
    with pytest.raises(ValueError, match="static height and width"):
        graph.get_concrete_function(images, indices)
