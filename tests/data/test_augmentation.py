"""Views that depend on (example, view, seed) alone, and what they look like."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data import augmentation as module
from keras_kd.data.augmentation import Augmentation, Deform, RandomLayers, random_bits

NOTHING = dict(shift=0, rotation=0, scale=0, shear=0, elastic_alpha=0)
SIZE = 41
LAYERS = {
    "Brightness": {"factor": 0.3, "value_range": (0, 1)},
    "ColorDegeneration": {"factor": 0.5, "value_range": (0, 1)},
    "Contrast": {"factor": 0.5, "value_range": (0, 1)},
    "Crop": {"height": 6, "width": 5},
    "Erasing": {"factor": 1.0, "value_range": (0, 1)},
    "Flip": {},
    "Grayscale": {},
    "Hue": {"factor": 0.5, "value_range": (0, 1)},
    "Invert": {"factor": 0.5, "value_range": (0, 1)},
    "Perspective": {"factor": 1.0, "scale": 0.5},
    "Rotation": {"factor": 0.1},
    "Sharpness": {"factor": 0.5, "value_range": (0, 1)},
    "Translation": {"height_factor": 0.2, "width_factor": 0.2},
    "Zoom": {"height_factor": 0.3},
}


def random_layers(names=("Flip", "Rotation")):
    return RandomLayers([getattr(keras.layers, f"Random{x}")(**LAYERS[x]) for x in names])


@pytest.fixture(params=["Deform", "RandomLayers"])
def augment(request):
    return Deform() if request.param == "Deform" else random_layers()


@pytest.fixture
def images():
    return np.random.default_rng(0).random((12, 9, 8, 3), dtype="float32")


INDICES = np.arange(100, 112)


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


# Pure: (example, view, seed) and nothing else.


def test_place_in_the_batch_does_not_matter(augment, images):
    order = np.random.default_rng(1).permutation(12)
    permuted = augment(images[order], INDICES[order], 3, 0)
    np.testing.assert_array_equal(permuted, augment(images, INDICES, 3, 0).numpy()[order])


def test_size_of_the_batch_does_not_matter(augment, images):
    alone = [augment(images[i : i + 1], INDICES[i : i + 1], 3, 0)[0] for i in range(12)]
    np.testing.assert_array_equal(alone, augment(images, INDICES, 3, 0))


@pytest.mark.parametrize("batch_size", [None, 12])
def test_graph_equals_eager(augment, images, batch_size):
    signature = [
        tf.TensorSpec((batch_size, 9, 8, 3), tf.float32),
        tf.TensorSpec((batch_size,), tf.int64),
        tf.TensorSpec((), tf.int64),
    ]
    graph = tf.function(lambda x, i, v: augment(x, i, v, 7), input_signature=signature)
    eager = augment(images, INDICES, 3, 7)
    np.testing.assert_array_equal(graph(images, INDICES, 3), eager)


def test_tf_data_with_unknown_batch_size_equals_eager(augment, images):
    dataset = tf.data.Dataset.from_tensor_slices((images, INDICES)).batch(5)
    mapped = dataset.map(lambda x, i: augment(x, i, 3, 0), num_parallel_calls=2)
    assert mapped.element_spec.shape.as_list() == [None, 9, 8, 3]
    eager = augment(images, INDICES, 3, 0)
    np.testing.assert_array_equal(np.concatenate(list(mapped)), eager)


def test_what_ran_before_does_not_matter(augment, images):
    first = augment(images, INDICES, 3, 0)
    augment(images, INDICES, 4, 0)
    tf.random.set_seed(1)
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(augment(images, INDICES, 3, 0), first)


def test_a_large_batch_of_digits_in_a_graph(mnist_sample):
    (images, _), _ = mnist_sample
    graph = tf.function(lambda x, i: Deform()(x, i, 1, 0))
    indices = np.arange(len(images))
    eager = Deform()(images, indices, 1, 0)
    np.testing.assert_array_equal(graph(tf.constant(images), indices), eager)


def test_index_view_and_seed_each_give_another_image(augment, images):
    same = np.repeat(images[:1], 12, axis=0)
    first = augment(same, INDICES, 3, 0).numpy()
    assert len({image.tobytes() for image in first}) > 1
    for indices, view, seed in ((INDICES + 50, 3, 0), (INDICES, 4, 0), (INDICES, 3, 1)):
        assert np.any(augment(same, indices, view, seed) != first)


def test_a_view_for_each_example(augment, images):
    views = np.arange(12) % 3
    each = augment(images, INDICES, views, 0)
    for view in range(3):
        chosen = views == view
        together = augment(images, INDICES, view, 0)
        np.testing.assert_array_equal(each[chosen], together[chosen])


def test_integers_of_any_width(augment, images):
    expected = augment(images, INDICES, 3, 0)
    narrow = augment(images, INDICES.astype("int32"), tf.constant(3, tf.int8), np.int64(0))
    np.testing.assert_array_equal(narrow, expected)


def test_bytes_are_cast_and_not_rescaled(augment):
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 8, 3), dtype="uint8")
    from_bytes = augment(images, INDICES, 3, 0)
    assert from_bytes.dtype == "float32"
    from_floats = augment(images.astype("float32"), INDICES, 3, 0)
    np.testing.assert_array_equal(from_bytes, from_floats)


# The random numbers.


def keys(count):
    return tf.constant(np.arange(count, dtype="uint64"))


def test_words_are_those_of_splitmix64():
    # The published generator from seed 0.
    known = ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]
    assert [f"{x:016x}" for x in random_bits(keys(1), 3).numpy()[0]] == known


def test_a_word_does_not_depend_on_how_many_are_asked_for():
    words = random_bits(keys(4), 9).numpy()
    np.testing.assert_array_equal(random_bits(keys(4), 2, first=7), words[:, 7:])


class Bits(Augmentation):
    """Three words of each example, as numbers in [0, 1)."""

    def transform(self, images, keys):
        return tf.cast(random_bits(keys, 3), tf.float64) / 2.0**64

    def get_config(self):
        return {}


def uniform_draws():
    """(8 seeds, 8 views, 1000 examples, 3 words)."""
    images, indices = np.zeros((1000, 1, 1, 1), "float32"), np.arange(1000)
    return np.array(
        [[Bits()(images, indices, view, seed) for view in range(8)] for seed in range(8)]
    )


def test_draws_are_uniform():
    draws = uniform_draws()
    np.testing.assert_allclose(draws.mean(), 1 / 2, atol=3e-3)
    np.testing.assert_allclose(draws.var(), 1 / 12, rtol=1e-2)
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    expected = draws.size / 100
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    # Mean and standard deviation of chi squared with 99 degrees of freedom.
    assert abs(chi_squared - 99) < 4 * np.sqrt(2 * 99)


@pytest.mark.parametrize("axis", range(4), ids=["seed", "view", "index", "word"])
def test_neighbouring_draws_are_independent(axis):
    draws = np.moveaxis(uniform_draws(), axis, 0)
    correlation = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(draws[1:].size)


def test_no_two_examples_share_their_draws():
    draws = uniform_draws().reshape(-1, 3)
    assert len(np.unique(draws[:, 0])) == len(draws)


# What Deform does.


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


# Keras's layers.


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_is_pure_and_draws(name, images):
    augment = random_layers([name])
    same = np.repeat(images[:1], 12, axis=0)
    eager = augment(same, INDICES, 3, 0).numpy()
    graph = tf.function(lambda x, i: augment(x, i, 3, 0))
    np.testing.assert_array_equal(graph(tf.constant(same), INDICES), eager)
    assert len({image.tobytes() for image in eager}) > 1


def test_every_accepted_layer_is_tested():
    assert {f"Random{x}" for x in LAYERS} == {x.__name__ for x in module._LAYERS}


def test_flips_are_fair():
    ramp = np.broadcast_to(np.arange(4, dtype="float32")[:, None], (400, 1, 4, 1))
    augment = RandomLayers(keras.layers.RandomFlip("horizontal", seed=3))
    first = augment(ramp, np.arange(400), 0, 0)[:, 0, 0, 0]
    assert set(first.numpy()) == {0, 3}
    assert 160 < np.count_nonzero(first) < 240


def test_layers_draw_independently():
    ramp = np.broadcast_to(np.arange(4, dtype="float32")[:, None], (200, 1, 4, 1))
    twice = RandomLayers([keras.layers.RandomFlip("horizontal")] * 2)
    # Two flips that always agreed would undo each other.
    changed = twice(ramp, np.arange(200), 0, 0)[:, 0, 0, 0] != 0
    assert 70 < np.count_nonzero(changed) < 130


def test_the_given_layer_keeps_its_state(images):
    layer = keras.layers.RandomFlip(seed=3)
    state = layer.generator.state.numpy()
    RandomLayers(layer)(images, INDICES, 3, 0)
    np.testing.assert_array_equal(layer.generator.state, state)


# Saving.


def test_config_through_json(augment, images):
    text = json.dumps(keras.saving.serialize_keras_object(augment))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(augment)
    expected = augment(images, INDICES, 3, 0)
    np.testing.assert_array_equal(again(images, INDICES, 3, 0), expected)


def test_every_argument_is_in_the_config():
    arguments = dict(zip(Deform().get_config(), (1, 2, 0.3, 4, 5, 6), strict=True))
    assert Deform(**arguments).get_config() == arguments


# Bad input.


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


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 28, 28), (1, 2, 28, 28, 1)])
def test_rank_other_than_four(augment, shape):
    with pytest.raises(ValueError, match="`inputs` .*Received: shape .*28"):
        augment(np.zeros(shape, "float32"), np.arange(shape[0]), 0, 0)


def test_images_of_integers(augment):
    with pytest.raises(ValueError, match="`inputs` must .* Received: .* dtype int32"):
        augment(np.zeros((2, 4, 4, 1), "int32"), np.arange(2), 0, 0)


@pytest.mark.parametrize(
    "indices", [np.arange(11), np.arange(1), 5, np.zeros(12), [[1]] * 12]
)
def test_indices_that_do_not_fit(augment, images, indices):
    with pytest.raises(ValueError, match="`indices` must be an integer for each image"):
        augment(images, indices, 0, 0)


@pytest.mark.parametrize("view", [np.arange(11), 1.0, [[1]] * 12])
def test_view_that_does_not_fit(augment, images, view):
    with pytest.raises(ValueError, match="`view` must be one integer or"):
        augment(images, INDICES, view, 0)


@pytest.mark.parametrize("seed", [1.0, None, True, "1"])
def test_seed_that_is_no_integer(augment, images, seed):
    with pytest.raises(ValueError, match=f"`seed` must be an integer. .*seed={seed!r}"):
        augment(images, INDICES, 0, seed)


def test_one_index_does_not_serve_a_batch_of_unknown_size(augment, images):
    specs = [tf.TensorSpec((None, 9, 8, 3), tf.float32), tf.TensorSpec((None,), tf.int64)]
    graph = tf.function(lambda x, i: augment(x, i, 0, 0), input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`indices` must be as long"):
        graph(images, INDICES[:1])


def test_unknown_size_of_the_images():
    images = tf.TensorSpec((None, None, 8, 3), tf.float32)
    indices = tf.TensorSpec((None,), tf.int64)
    graph = tf.function(lambda x, i: Deform()(x, i, 0, 0))
    with pytest.raises(ValueError, match="static height and width"):
        graph.get_concrete_function(images, indices)


@pytest.mark.parametrize(
    "layers",
    [
        keras.layers.MixUp(),
        keras.layers.RandAugment(),
        keras.layers.Dense(1),
        keras.layers.RandomFlip,
        [keras.layers.RandomFlip(), None],
        [],
    ],
)
def test_layers_that_are_no_function_of_one_image(layers):
    with pytest.raises(ValueError, match="`layers` must be one or more of .*RandomFlip"):
        RandomLayers(layers)
