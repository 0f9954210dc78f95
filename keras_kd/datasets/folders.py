"""A folder of images, in a folder for each class, or without classes."""

import concurrent.futures
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_kd.data.idx import DataError
from keras_kd.datasets.images import SUFFIXES, ImageFiles, decode
from keras_kd.datasets.layout import files_in, readable, say_what_is_left_out
from keras_kd.datasets.parts import (
    assigned,
    check_classes,
    counts,
    in_parts,
    shares,
    warn_of_duplicates,
)

_THREADS, _AT_ONCE = 8, 256


def read_folder(
    folder,
    image_size=None,
    channels=None,
    validation=0.1,
    test=0.1,
    skip_unreadable=False,
    labels=True,
    announce=print,
    trains=True,
):
    """The images of a folder, each class in a folder of its own; or without classes.

    The class names are the folders', in alphabetical order. Where `folder` has folders
    `train` and `test`, and maybe `validation`, with the classes in each, these are the
    parts; what is missing of `validation` and `test` is held out of the training images by
    the hash of an image's name, so that it stays where it is when others come or go.

    Images that lie in `folder` itself, or in those of the parts, have no labels.

    Every file is read once, now, so that one that cannot be decoded is told before the
    training. No image is kept in memory.

    Args:
        folder: Its path.
        image_size: (height, width) of what is given. Defaults to the images' own, if it is
            the same of all.
        channels: 1 or 3. Defaults to the images' own; an alpha channel is left out.
        validation, test: Shares that are held out.
        skip_unreadable: Whether files that cannot be decoded are left out, and counted.
        labels: Whether folders are classes. If not, images are taken from every folder in
            `folder`, without labels.
        announce: Called with each line that is told.
        trains: Whether they are to be learned from: then each class must be there for it,
            and examples to train on.

    Returns:
        `keras_kd.datasets.parts.Parts` of `ImageFiles`.

    Raises:
        DataError: There is no such folder, no image, a class without images, an image
            beside classes, a file that cannot be decoded, or sizes or channels differ; it
            names the file or folder.
    """
    folder = Path(folder)
    files, class_names = files_in(folder, SUFFIXES, "images", labels, trains)
    # Before all the files are read.
    shares(validation, test, {x.part for x in files})
    say_what_is_left_out(files, SUFFIXES, announce)
    looks = _look_at(files, folder)
    files, looks = _readable(files, looks, folder, skip_unreadable, announce)
    size = image_size or _one_size(files, looks)
    channels = channels or _one_kind(files, looks)
    parts = assigned([x.name for x in files], [x.part for x in files], validation, test)
    numbers = class_numbers(files, parts, class_names, trains)
    digests, paths = [x.digest for x in looks], [x.path for x in files]
    warn_of_duplicates(digests, [str(x.relative_to(folder)) for x in paths], parts)
    images = ImageFiles(paths, size, channels, digests)
    found = in_parts(images, numbers, parts, class_names, trains=trains)
    announce(
        f"Data: {len(files):,} images{of_classes(class_names)} in {folder}: {counts(parts)}"
    )
    return found


def class_numbers(files, parts, class_names, trains=True):
    """Labels of files, int64 (n,), where they train of classes that can be learned."""
    if class_names is None:
        return None
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[x.of_class] for x in files], "int64")
    if trains:
        check_classes(labels, parts, class_names)
    return labels


def of_classes(class_names):
    """How many classes, in words that follow on what is of them."""
    return " without labels" if class_names is None else f" of {len(class_names)} classes"


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a look at a file has told: of its bytes, and of the image, or why not."""

    digest: str
    shape: tuple | None
    problem: str | None = None


def _look_at(files, folder):
    """A `_Look` at each file, in their order."""
    paths = [x.path for x in files]
    looks = []
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=len(paths), unit=" images", desc=folder.name) as progress,
    ):
        # All at once each would wait in memory.
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            looks += pool.map(_look_at_one, some)
            progress.update(len(some))
    return looks


def _look_at_one(path):
    try:
        content = path.read_bytes()
    except OSError as error:
        return _Look("", None, str(error))
    digest = hashlib.sha256(content).hexdigest()
    if content.startswith(b"BM"):
        return _Look(digest, None, "it is a BMP; save it as PNG")
    try:
        with tf.device("CPU:0"):
            return _Look(digest, tuple(decode(content).shape))
    except tf.errors.OpError as error:
        return _Look(digest, None, error.message.split(" [Op:")[0])


def _readable(files, looks, folder, skip_unreadable, announce):
    """The files that are images, and the looks at them."""
    problems = [look.problem for look in looks]
    kept = readable(files, problems, "images", skip_unreadable, folder, announce)
    if not kept:
        raise DataError(f"None of the {len(files)} files of {folder} is an image.")
    return ([x[number] for number in kept] for x in (files, looks))


def _one_size(files, looks):
    sizes = {look.shape[:2]: x.path for x, look in zip(files, looks, strict=True)}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"The images differ in size: {first} is {one[0]}x{one[1]}, {second} "
            f"{other[0]}x{other[1]}. Say image_size, the height and width that models take."
        )
    return next(iter(sizes))


def _one_kind(files, looks):
    kinds = {}
    for file, look in zip(files, looks, strict=True):
        # An alpha channel is the second of grey, and the fourth of colours.
        kinds.setdefault(1 if look.shape[2] < 3 else 3, file.path)
    if len(kinds) > 1:
        raise DataError(
            f"Some images are grey and some have colours: {kinds[1]} and {kinds[3]}. Say "
            "channels, 1 or 3, which all are made into."
        )
    return next(iter(kinds))
