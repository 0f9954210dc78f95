"""Which images a stage of a recipe is trained on, and as which views."""

import keras
import numpy as np
import pytest

from keras_kd.recipes import data as recipe_data
from keras_kd.recipes import recipe, zoo
from keras_kd.training import batch

LABELS = np.array([3, 1, 1, 2, 3, 1, 2, 3, 1, 1])
IMAGES = np.arange(10, dtype="uint8").reshape(10, 1, 1, 1)


def stage(write_recipe, keys, extra=""):
    loaded = recipe.load(write_recipe(extra, keys))
    return loaded, loaded.stage[0]


def chosen(write_recipe, keys, seed=0):
    images, labels = recipe_data.choose(
        stage(write_recipe, keys)[1], (IMAGES, LABELS), seed
    )
    rows = images.ravel().tolist()
    assert labels.tolist() == LABELS[rows].tolist()
    return rows


def test_all_images_by_default(write_recipe):
    images, labels = recipe_data.choose(
        stage(write_recipe, "")[1], (IMAGES, LABELS), seed=0
    )
    assert images is IMAGES and labels is LABELS


def test_classes(write_recipe):
    assert chosen(write_recipe, "classes = [2, 3]") == [0, 3, 4, 6, 7]
    with pytest.raises(ValueError, match="'first': `classes` must be .*Received: 7, of w"):
        chosen(write_recipe, "classes = [2, 7]")


def test_as_many_examples_of_each_class(write_recipe):
    draws = {seed: chosen(write_recipe, "examples = 4", seed) for seed in range(20)}
    for rows in draws.values():
        assert rows == sorted(set(rows))
        assert sorted(np.bincount(LABELS[rows])[1:]) == [1, 1, 2]
    assert draws[3] == chosen(write_recipe, "examples = 4", seed=3)
    # Every image has its turn.
    assert {row for rows in draws.values() for row in rows} == set(range(10))
    # Twos are two.
    rows = chosen(write_recipe, "examples = 8")
    assert np.bincount(LABELS[rows])[1:].tolist() == [3, 2, 3]
    with pytest.raises(ValueError, match="`examples` must be at most the 5 .*Received: 6"):
        chosen(write_recipe, "classes = [2, 3]\nexamples = 6")


def test_repeat(write_recipe):
    assert chosen(write_recipe, "classes = [2]\nrepeat = 3") == [3, 6] * 3


def test_hold_out():
    train, held_out = recipe_data.hold_out((IMAGES, LABELS), 3)
    assert [len(x) for x in train] == [7, 7]
    assert held_out[0].ravel().tolist() == [7, 8, 9]
    assert recipe_data.hold_out((IMAGES, LABELS), 0) == ((IMAGES, LABELS), None)


AUGMENTED = "augmentation = { views = 2, elastic_alpha = 0.0, stored = false }"


def pixels(dataset):
    """dict of the sums of an epoch's images, in order of their labels."""
    sums = {}
    for x, y, _ in map(keras.utils.unpack_x_y_sample_weight, dataset):
        inputs = batch.inputs_of(x)
        for image, label in zip(inputs.numpy(), y.numpy(), strict=True):
            sums[int(label)] = image
    return [sums[label] for label in sorted(sums)]


@pytest.mark.parametrize("stored", [False, True])
def test_with_a_teacher_and_without_the_same_views(
    write_recipe, mnist_sample, tmp_path, stored
):
    """So a student alone is trained on the pixels that a student with a teacher sees."""
    images = np.round(mnist_sample[0][0][:10] * 255).astype("uint8")
    arrays = images, np.arange(10)
    keys = "batch_size = 5\nviews = 2"
    extra = AUGMENTED.replace("false", str(stored).lower())
    loaded, section = stage(write_recipe, keys, extra)
    alone = recipe_data.TrainData(loaded, arrays, tmp_path).of(section)(None)
    keys += '\nlosses = [{ name = "kd" }]'
    loaded, section = stage(write_recipe, keys, extra)
    make = recipe_data.TrainData(loaded, arrays, tmp_path).of(section)
    teacher = zoo.build("mnist_fc_4")
    taught = make(teacher)
    assert batch.unpack(next(iter(make(teacher)))[0])[1] is not None
    epochs = [[pixels(dataset) for _ in range(3)] for dataset in (alone, taught)]
    np.testing.assert_array_equal(*epochs)
    assert np.array_equal(epochs[0][0], epochs[0][2])
    assert not np.array_equal(epochs[0][0], epochs[0][1])
    # Another teacher's outputs lie in another folder.
    make(zoo.build("mnist_fc_5"))
    assert len(list(tmp_path.glob("*/manifest.json"))) == 2


@pytest.mark.parametrize(
    "keys, message",
    [
        ("classes = [2, 7]", "'first': `classes` must be .* Received: 7"),
        ("examples = 11", "'first': `examples` must be at most the 10 "),
        ("batch_size = 11", "'first': `batch_size` must be at most the 10 .*: 11"),
        ("examples = 4\nrepeat = 2\nbatch_size = 9", "at most the 8 images .*: 9"),
    ],
)
def test_images_that_there_are_not_are_told_before_any_stage_begins(
    write_recipe, tmp_path, keys, message
):
    if "batch_size" not in keys:
        keys += "\nbatch_size = 2"
    loaded, _ = stage(write_recipe, keys)
    with pytest.raises(ValueError, match=message):
        recipe_data.TrainData(loaded, (IMAGES, LABELS), tmp_path)


def test_a_loss_on_features_has_its_teacher_live(write_recipe, mnist_sample, tmp_path):
    images = np.round(mnist_sample[0][0][:10] * 255).astype("uint8")
    keys = 'losses = [{ name = "fitnet", taps = ["hidden1", "hidden2"] }]\nbatch_size = 5'
    loaded, section = stage(write_recipe, keys)
    arrays = images, np.arange(10)
    make = recipe_data.TrainData(loaded, arrays, tmp_path).of(section)
    dataset = make(zoo.build("mnist_ta"))
    x, _ = next(iter(dataset))
    assert x.shape == (5, 28, 28, 1) and not list(tmp_path.glob("*/manifest.json"))


def test_a_loss_that_tells_examples_apart(write_recipe, mnist_sample, tmp_path):
    """Of layers, too, where the teacher runs live: each image has its number."""
    images = np.round(mnist_sample[0][0][:10] * 255).astype("uint8")
    keys = (
        'losses = [{ name = "crd", num_examples = 10, negatives = 4, '
        'taps = ["hidden1", "hidden2"] }]\nbatch_size = 5'
    )
    loaded, section = stage(write_recipe, keys)
    arrays = images, np.arange(10)
    make = recipe_data.TrainData(loaded, arrays, tmp_path).of(section)
    for x, y in make(zoo.build("mnist_ta")):
        np.testing.assert_array_equal(batch.index_of(x), y)
        wanted = images[y.numpy()].astype("float32") / 255
        np.testing.assert_array_equal(batch.inputs_of(x), wanted)


def test_one_view_is_not_the_image_as_it_is(write_recipe, mnist_sample, tmp_path):
    images = np.round(mnist_sample[0][0][:10] * 255).astype("uint8")
    teacher, epochs = zoo.build("mnist_fc_4"), []
    for views in (0, 1):
        keys = f'batch_size = 5\nlosses = [{{ name = "kd" }}]\nviews = {views}'
        loaded, section = stage(write_recipe, keys, AUGMENTED)
        data = recipe_data.TrainData(loaded, (images, np.arange(10)), tmp_path)
        epochs.append(pixels(data.of(section)(teacher)))
    assert not np.array_equal(*epochs)
