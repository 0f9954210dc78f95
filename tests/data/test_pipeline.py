"""Arrays through tfds.load, and batches of them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data import batches, load_arrays, pipeline, scale
from keras_kd.data.idx import DataError
from keras_kd.data.sources import prepare_dataset

IMAGES = np.arange(10, dtype="uint8").reshape(10, 1, 1, 1)
LABELS = np.arange(10)


def labels_of(dataset):
    return np.concatenate([labels for _, labels in dataset]).tolist()


def test_load_arrays(sample, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "DATASETS", {"mnist": sample})
    prepare_dataset(sample, tmp_path, folder)
    images, labels = load_arrays("mnist", "test", tmp_path)
    assert images.dtype == "uint8" and images.shape == (100, 28, 28, 1)
    assert np.bincount(labels).tolist() == [10] * 10
    again, _ = load_arrays("mnist", "test", tmp_path)
    np.testing.assert_array_equal(again, images)


def test_load_arrays_needs_a_prepared_folder(tmp_path):
    with pytest.raises(DataError, match="run: keras-kd data prepare mnist"):
        load_arrays("mnist", "train", tmp_path)


def test_unreadable_records(sample, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "DATASETS", {"mnist": sample})
    prepare_dataset(sample, tmp_path, folder)
    (shard,) = (tmp_path / "mnist" / "3.0.1").glob("*test.tfrecord*")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read .*keras-kd data prepare mnist"):
        load_arrays("mnist", "test", tmp_path)


def test_images_are_scaled():
    ((x, _),) = batches(np.full((2, 1, 1, 1), 255, "uint8"), [0, 1], 2)
    assert x.dtype == "float32" and x.numpy().max() == 1.0


def test_scale_is_the_same_for_arrays_and_tensors():
    images = np.arange(256, dtype="uint8")
    scaled = scale(images)
    assert scaled.dtype == np.float32 and scaled.min() == 0 and scaled.max() == 1
    assert scaled.tobytes() == scale(tf.constant(images)).numpy().tobytes()


def test_in_order_by_default():
    dataset = batches(IMAGES, LABELS, 4)
    assert [len(y) for _, y in dataset] == [4, 4, 2]
    assert labels_of(dataset) == list(range(10))


def test_drop_remainder():
    assert [len(y) for _, y in batches(IMAGES, LABELS, 4, drop_remainder=True)] == [4, 4]


def test_shuffle_is_whole_and_new_each_epoch_and_seeded():
    def two_epochs(seed):
        dataset = batches(IMAGES, LABELS, 5, shuffle=True, seed=seed)
        return labels_of(dataset), labels_of(dataset)

    first, second = two_epochs(seed=1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert two_epochs(seed=1) == (first, second)
    assert two_epochs(seed=2) != (first, second)


def test_another_view_each_epoch():
    def augment(inputs, indices, view, seed):
        seen.append(seed)
        shift = 10 * tf.cast(indices, tf.float32) + 100 * tf.cast(view, tf.float32)
        return 255 * inputs + shift[:, None, None, None]

    seen = []
    dataset = batches(
        IMAGES,
        LABELS,
        4,
        shuffle=True,
        seed=1,
        drop_remainder=True,
        views=2,
        augment=augment,
        augment_seed=7,
    )
    assert int(dataset.cardinality()) == 2
    for epoch in range(3):
        for images, labels in dataset:
            # Image, number and label are one.
            expected = 11 * labels.numpy() + 100 * (epoch % 2)
            np.testing.assert_allclose(images.numpy().ravel(), expected, atol=1e-4)
    assert set(seen) == {7}


def test_images_stay_with_their_labels():
    for x, y in batches(IMAGES, LABELS, 3, shuffle=True, seed=0):
        np.testing.assert_allclose(x[:, 0, 0, 0] * 255, y, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"at least 1 .* 10. Received.*={batch_size}"):
        batches(IMAGES, LABELS, batch_size, drop_remainder=True)


def test_one_batch_may_hold_everything():
    assert [len(y) for _, y in batches(IMAGES, LABELS, 11)] == [10]


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="Received: 10 images and 9 labels"):
        batches(IMAGES, LABELS[:9], 2)
