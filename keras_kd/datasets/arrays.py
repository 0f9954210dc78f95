"""Examples of a .npz file: x and y, or Keras's x_train, y_train, x_test, y_test."""

import hashlib
from pathlib import Path

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.datasets.parts import (
    assigned,
    check_classes,
    in_parts,
    warn_of_duplicates,
)

_PAIRS = {None: ("x", "y"), "train": ("x_train", "y_train"), "test": ("x_test", "y_test")}


def read_arrays(path, validation=0.1, test=0.1, announce=print):
    """The images of a .npz file, uint8, and their class numbers.

    What is held out is so by the hash of an image's bytes: it stays where it is when others
    come or go, and equal images are in one part.

    Args:
        path: Of the file: arrays `x` and `y`; or `x_train`, `y_train` and `x_test`,
            `y_test`, as Keras's own data sets have them. x is (examples, height, width,
            channels), or without channels, of bytes; y (examples,) from 0.
        validation, test: Shares that are held out.
        announce: Called with a line that tells the counts.

    Returns:
        `keras_kd.datasets.parts.Parts`.

    Raises:
        DataError: There is no such file, or its arrays are others.
    """
    path = Path(path)
    arrays = _load(path)
    others = [name for name in arrays if name not in sum(_PAIRS.values(), ())]
    if others:
        announce(f"Data: {', '.join(others)} in {path} are left out")
    x, y, given = [], [], []
    for part, (images, labels) in _PAIRS.items():
        if images in arrays:
            images, labels = _checked(path, arrays, images, labels)
            x.append(images)
            y.append(labels)
            given += [part] * len(labels)
    if len({a.shape[1:] for a in x}) > 1:
        raise DataError(f"{path}: x_train and x_test must be of one shape.")
    x, y = np.concatenate(x), np.concatenate(y)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in x]
    parts = assigned(digests, given, validation, test)
    names = tuple(map(str, range(int(y.max()) + 1)))
    check_classes(y, parts, names)
    warn_of_duplicates(digests, [f"example {k}" for k in range(len(y))], parts)
    found = in_parts(x, y, parts, names)
    announce(f"Data: {len(y):,} images of {len(names)} classes in {path}")
    return found


def _load(path):
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} does not hold arrays: {error}.") from error
    are_whole = all((x in arrays) == (y in arrays) for x, y in _PAIRS.values())
    if not are_whole or ("x" in arrays) == ("x_train" in arrays):
        raise DataError(
            f"{path} must hold the arrays x and y, or x_train, y_train, x_test and y_test. "
            f"Received: {', '.join(arrays) or 'none'}."
        )
    return arrays


def _checked(path, arrays, images, labels):
    """Images (n, height, width, channels) and labels (n,), int64."""
    x, y = arrays[images], arrays[labels]
    x = x[..., None] if x.ndim == 3 else x
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if x.ndim != 4 or x.dtype != np.uint8 or len(x) == 0:
        raise DataError(
            f"{path}: {images} must be images of bytes (examples, height, width, "
            f"channels). Received: {x.dtype} of shape {arrays[images].shape}."
        )
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
        raise DataError(
            f"{path}: {labels} must be one class number from 0 on for each of the {len(x)} "
            f"images. Received: {y.dtype} of shape {arrays[labels].shape}."
        )
    return x, y.astype("int64")
