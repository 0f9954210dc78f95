"""A folder with a folder of images for each class."""

import concurrent.futures
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_kd.data.idx import DataError
from keras_kd.datasets.images import SUFFIXES, ImageFiles, decode
from keras_kd.datasets.parts import (
    PARTS,
    check_classes,
    check_shares,
    in_parts,
    part_of,
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
    announce=print,
):
    """The images of a folder, each class in a folder of its own.

    The class names are the folders', in alphabetical order. Where `folder` has folders
    `train` and `test`, and maybe `validation`, with the classes in each, these are the
    parts; what is missing of `validation` and `test` is held out of the training images by
    the hash of an image's name, so that it stays where it is when others come or go.

    Every file is read once, now, so that one that cannot be decoded is told before the
    training. No image is kept in memory.

    Args:
        folder: Its path.
        image_size: (height, width) of what is given. Defaults to the images' own, if it is
            the same of all.
        channels: 1 or 3. Defaults to the images' own; an alpha channel is left out.
        validation, test: Shares that are held out.
        skip_unreadable: Whether files that cannot be decoded are left out, and counted.
        announce: Called with each line that is told.

    Returns:
        `keras_kd.datasets.parts.Parts` of `ImageFiles`.

    Raises:
        DataError: There is no such folder, no image, a class without images, a file that
            cannot be decoded, or sizes or channels differ; it names the file or folder.
    """
    folder = Path(folder)
    check_shares(validation, test)
    files, class_names = _files(folder)
    _say_what_is_left_out(files, announce)
    looks = _look_at(files, folder)
    files, looks = _readable(files, looks, folder, skip_unreadable, announce)
    size = image_size or _one_size(files, looks)
    channels = channels or _one_kind(files, looks)
    names = [f"{cls}/{path.name}" for _, cls, path in files]
    given = {part for part, _, _ in files} - {None}
    # Of a part that is given, no more is held out.
    shares = validation * ("validation" not in given), test * ("test" not in given)
    parts = [
        part_of(name, *shares) if part in (None, "train") else part
        for name, (part, _, _) in zip(names, files, strict=True)
    ]
    numbers = {cls: number for number, cls in enumerate(class_names)}
    labels = np.array([numbers[cls] for _, cls, _ in files], "int64")
    digests = [x.digest for x in looks]
    check_classes(labels, parts, class_names)
    paths = [path for *_, path in files]
    warn_of_duplicates(digests, [str(x.relative_to(folder)) for x in paths], parts)
    found = in_parts(ImageFiles(paths, size, channels, digests), labels, parts, class_names)
    counts = [f"{parts.count(name):,} {name}" for name in PARTS if name in parts]
    announce(
        f"Data: {len(files):,} images of {len(class_names)} classes in {folder}: "
        + ", ".join(counts)
    )
    return found


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a look at a file has told: of its bytes, and of the image, or why not."""

    digest: str
    shape: tuple | None
    problem: str | None = None


def _files(folder):
    """([(part or None, class name, path)], class names), in the order of their names."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    folders = _folders_in(folder)
    names = {x.name for x in folders}
    parts = {None: folder}
    if "train" in names and names <= set(PARTS):
        parts = {x.name: x for x in folders}
    found, class_names = [], set()
    for part, inside in parts.items():
        loose = _images_in(inside)
        if loose:
            raise DataError(
                f"{loose[0]} is in no class: each class is a folder of images in {inside}."
            )
        for cls in _folders_in(inside):
            nested = _folders_in(cls)
            if nested:
                raise DataError(
                    f"{nested[0]} is a folder within a class, and {cls} may hold images "
                    "alone. Move them there."
                )
            images = _images_in(cls)
            if not images:
                raise DataError(
                    f"{cls} holds no images ({', '.join(SUFFIXES)}). Remove it, or add "
                    "some."
                )
            class_names.add(cls.name)
            found += [(part, cls.name, path) for path in images]
    if len(class_names) < 2:
        what = "one class alone" if class_names else "no folders of images"
        raise DataError(f"{folder} holds {what}: each class is a folder of images in it.")
    return found, tuple(sorted(class_names))


def _folders_in(folder):
    return sorted(
        x for x in folder.iterdir() if x.is_dir() and not x.name.startswith(".")
    )


def _images_in(folder):
    return sorted(
        x
        for x in folder.iterdir()
        # A link to nothing is told when it is read.
        if not x.is_dir() and x.suffix.lower() in SUFFIXES and not x.name.startswith(".")
    )


def _say_what_is_left_out(files, announce):
    """Tells of files that lie among the images and are of other kinds."""
    others = [
        x
        for cls in sorted({path.parent for *_, path in files})
        for x in sorted(cls.iterdir())
        if x.suffix.lower() not in SUFFIXES and not x.name.startswith(".")
    ]
    if others:
        announce(
            f"Data: {len(others)} files are no {', '.join(SUFFIXES)}, and are left out: "
            + ", ".join(map(str, others[:3]))
            + " ..." * (len(others) > 3)
        )


def _look_at(files, folder):
    """A `_Look` at each file, in their order."""
    paths = [path for *_, path in files]
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
    bad = [(path, x) for (*_, path), x in zip(files, looks, strict=True) if x.problem]
    if bad and not skip_unreadable:
        path, look = bad[0]
        raise DataError(
            f"{len(bad)} of {len(files)} files cannot be read as images, the first of them "
            f"{path}: {look.problem}. Mend or remove them, or say skip_unreadable."
        )
    if bad:
        first = ", ".join(str(path) for path, _ in bad[:3]) + " ..." * (len(bad) > 3)
        announce(
            f"Data: {len(bad)} of {len(files)} files of {folder} cannot be read, and are "
            f"left out: {first}"
        )
    both = [x for x in zip(files, looks, strict=True) if not x[1].problem]
    if not both:
        raise DataError(f"None of the {len(files)} files of {folder} is an image.")
    return map(list, zip(*both, strict=True))


def _one_size(files, looks):
    sizes = {look.shape[:2]: path for (*_, path), look in zip(files, looks, strict=True)}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"The images differ in size: {first} is {one[0]}x{one[1]}, {second} "
            f"{other[0]}x{other[1]}. Say image_size, the height and width that models take."
        )
    return next(iter(sizes))


def _one_kind(files, looks):
    kinds = {}
    for (*_, path), look in zip(files, looks, strict=True):
        # An alpha channel is the second of grey, and the fourth of colours.
        kinds.setdefault(1 if look.shape[2] < 3 else 3, path)
    if len(kinds) > 1:
        raise DataError(
            f"Some images are grey and some have colours: {kinds[1]} and {kinds[3]}. Say "
            "channels, 1 or 3, which all are made into."
        )
    return next(iter(kinds))
