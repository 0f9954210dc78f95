"""The original files: whole ones are read, any other is refused by name."""

import gzip
import shutil

import numpy as np
import pytest

from keras_kd.data.idx import DATASETS, DataError

NAME = "train-labels-idx1-ubyte"


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the sample's folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copied")


def unzip(path):
    content = gzip.decompress(path.read_bytes())
    path.unlink()
    path.with_suffix("").write_bytes(content)


def test_gzipped_or_not(sample, copied):
    zipped = sample.read(copied)
    for path in list(copied.glob("*.gz")):
        unzip(path)
    raw = sample.read(copied)
    for split, count in (("train", 400), ("test", 100)):
        images, labels = zipped[split]
        assert images.shape == (count, 28, 28) and labels.shape == (count,)
        assert np.bincount(labels).tolist() == [count // 10] * 10
        np.testing.assert_array_equal(raw[split][0], images)
        np.testing.assert_array_equal(raw[split][1], labels)


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))
def test_counts_and_classes(dataset):
    assert dataset.counts == {"train": 60_000, "test": 10_000}
    assert len(set(dataset.class_names)) == 10
    assert len({file.md5 for file in dataset.files}) == 4


def test_missing_folder(sample, tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        sample.read(tmp_path / "nowhere")


def test_missing_file(sample, copied):
    (copied / f"{NAME}.gz").unlink()
    with pytest.raises(DataError, match=rf"{NAME} is missing \(with or without .gz\)"):
        sample.read(copied)


def test_one_flipped_bit(sample, copied):
    unzip(copied / f"{NAME}.gz")
    content = bytearray((copied / NAME).read_bytes())
    content[100] ^= 1
    (copied / NAME).write_bytes(content)
    with pytest.raises(DataError, match=f"{NAME} is damaged: its MD5 is"):
        sample.read(copied)


def test_short_file(sample, copied):
    unzip(copied / f"{NAME}.gz")
    (copied / NAME).write_bytes((copied / NAME).read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{NAME} holds 407 bytes, not 408"):
        sample.read(copied)


@pytest.mark.parametrize("damage", ["cut", "not gzip", "bad checksum"])
def test_broken_gzip(sample, copied, damage):
    path = copied / f"{NAME}.gz"
    content = path.read_bytes()
    broken = {
        "cut": content[:-20],
        "not gzip": b"<html>404</html>",
        "bad checksum": content[:-8] + bytes(8),
    }
    path.write_bytes(broken[damage])
    with pytest.raises(DataError, match=f"{NAME}.gz is not a whole gzip file"):
        sample.read(copied)
