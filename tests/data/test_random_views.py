"""Views that depend on (example, view, seed) alone, whatever makes them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.augmentation import Augmentation, Deform, random_bits
from tests.data.test_random_layers import random_layers


@pytest.fixture(params=["Deform", "RandomLayers"])
def augment(request):
    return Deform() if request.param == "Deform" else random_layers()


INDICES = np.arange(100, 112)


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


def test_config_through_json(augment, images):
    text = json.dumps(keras.saving.serialize_keras_object(augment))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(augment)
    expected = augment(images, INDICES, 3, 0)
    np.testing.assert_array_equal(again(images, INDICES, 3, 0), expected)


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
