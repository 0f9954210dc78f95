"""The sample as a data set of its own, with its own counts and checksums."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from keras_kd.data.idx import MNIST, IdxFile

SAMPLE_FOLDER = Path(__file__).parent / "mnist_sample"


@pytest.fixture
def folder():
    return SAMPLE_FOLDER


@pytest.fixture
def sample():
    """The sample's `IdxDataset`; TFDS knows it under MNIST's name."""

    def files(prefix, count, images_md5, labels_md5):
        return (
            IdxFile(f"{prefix}-images-idx3-ubyte", images_md5, (count, 28, 28)),
            IdxFile(f"{prefix}-labels-idx1-ubyte", labels_md5, (count,)),
        )

    splits = {
        "train": files(
            "train",
            400,
            "a67b97fec935d2ccd83b1a96c61808aa",
            "2248c5cb83705b0b7662929d59d9f7b4",
        ),
        "test": files(
            "t10k",
            100,
            "cf2eb7e918991ce7875d82c6326abd9e",
            "ab5829435b776dd9faf86f0c8179c99e",
        ),
    }
    return dataclasses.replace(MNIST, splits=splits)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((12, 9, 8, 3), dtype="float32")
