"""Data sets of TFDS: their splits, features and classes, and what is not there."""

import urllib.error

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_kd.data.idx import DataError
from keras_kd.datasets import prepared
from keras_kd.datasets.load import Own, load
from tests.datasets.conftest import pixels_of

features = tfds.features
IMAGES = [pixels_of(k, (6, 8)) for k in range(60)]


def store(folder, name, of, splits, config=None):
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=folder,
        config=config,
        features=features.FeaturesDict(of),
        split_datasets={x: iter(enumerate(some)) for x, some in splits.items()},
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    label = features.ClassLabel(names=["cat", "dog"])
    images = [{"image": x, "label": k % 2} for k, x in enumerate(IMAGES)]
    of = {"image": features.Image(shape=(6, 8, 3)), "label": label}
    splits = {"train": images[:40], "test": images[40:50], "extra": images[50:]}
    store(folder, "pets", of, splits)
    texts = [{"text": f"text {k}", "label": k % 2} for k in range(40)]
    store(folder, "words", {"text": features.Text(), "label": label}, {"train": texts}, "a")
    store(folder, "sizes", {"age": features.Scalar(np.int64)}, {"train": [{"age": 3}]})
    return folder


def quiet(dataset, data_dir, **arguments):
    return load(dataset, data_dir, announce=lambda line: None, **arguments)


def test_images_in_their_splits(data_dir):
    lines = []
    found = load("tfds:pets", data_dir, announce=lines.append)
    assert found.class_names == ("cat", "dog") and found.kind == "images"
    assert found.test[0].shape == (10, 6, 8, 3) and found.test[0].dtype == np.uint8
    for x, label in zip(*found.test, strict=True):
        row = next(k for k, image in enumerate(IMAGES) if (image == x).all())
        assert 40 <= row < 50 and label == row % 2
    assert len(found.train[0]) + len(found.validation[0]) == 40
    assert "extra of pets are left out" in lines[0] and "into memory" in lines[1]
    scaled = quiet("tfds:pets", data_dir, like=(4, 4, 1))
    assert scaled.train[0].shape[1:] == (4, 4, 1)
    assert quiet(Own("tfds:pets", labels=False), data_dir).train[1] is None


def test_texts_of_a_config(data_dir):
    found = quiet("tfds:words/a", data_dir)
    assert (found.kind, found.task) == ("text", "multiclass")
    for x, label in zip(*found.train, strict=True):
        assert int(bytes((x[x > 0] - 1).tolist()).split()[1]) % 2 == label


def test_what_cannot_be_had(data_dir, monkeypatch):
    def closed(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(prepared.urllib.request, "urlopen", closed)
    for name, message in (
        ("nonsense", "TFDS has no nonsense: Dataset nonsense not found. Prepare it"),
        ("cifar10", "cifar10 is not prepared in .*no network.*tfds build cifar10"),
        ("kaggle:x/y", "takes NAME or NAME/CONFIG"),
        ("sizes", "must have an image or a text"),
    ):
        with pytest.raises(DataError, match=message):
            quiet(f"tfds:{name}", data_dir)
    monkeypatch.setattr(prepared, "_MOST_BYTES", 6 * 8 * 3 * 50 - 1)
    with pytest.raises(DataError, match="more than .* are not read into memory"):
        quiet("tfds:pets", data_dir)
