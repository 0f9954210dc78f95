"""A data set of TFDS, by its name in its catalogue."""

import functools
import hashlib
import math
import re
import urllib.error

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_kd.data.idx import DataError
from keras_kd.data.sources import ask_host, default_data_dir
from keras_kd.datasets.folders import of_classes
from keras_kd.datasets.images import fitted
from keras_kd.datasets.parts import (
    PARTS,
    assigned,
    check_classes,
    counts,
    in_parts,
    shares,
    warn_of_duplicates,
)
from keras_kd.datasets.texts import as_bytes

PREFIX = "tfds:"

# Of the images in memory; more is read from a folder of files.
_MOST_BYTES = 2 * 10**9
_AT_ONCE = 256
# No namespaces, from which TFDS would load code.
_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d.]+)?")
# Without a network TFDS tries for minutes; its host answers in seconds.
_PROBE = "https://storage.googleapis.com"


def read_prepared(
    name,
    data_dir=None,
    image_size=None,
    channels=None,
    length=None,
    validation=0.1,
    test=0.1,
    labels=True,
    announce=print,
):
    """Images or texts of `tfds.load`, with their classes, read whole into memory.

    The splits train, validation and test are the parts; what is missing of the last two is
    held out by the hash of an example's content. Other splits are left out.

    Args:
        name: NAME or NAME/CONFIG, with or without :VERSION, as TFDS has it.
        data_dir: TFDS's data folder; None for TFDS's default.
        image_size, channels: As `keras_kd.datasets.folders.read_folder` takes them.
        length: As `keras_kd.datasets.texts.as_bytes` takes it, of texts.
        validation, test: Shares that are held out.
        labels: Whether labels are read.
        announce: Called with each line that is told.

    Returns:
        `keras_kd.datasets.parts.Parts`.

    Raises:
        DataError: TFDS cannot give it; it is neither images nor texts; or it is too large
            for memory.
    """
    data_dir = default_data_dir() if data_dir is None else data_dir
    builder = _builder(name, data_dir, announce)
    features = builder.info.features
    key = _one(features, (tfds.features.Image, tfds.features.Text), ("image", "text"))
    label = _one(features, (tfds.features.ClassLabel,), ("label",)) if labels else None
    if key is None or (labels and label is None):
        raise DataError(
            f"{PREFIX}{name} must have an image or a text, and a class label or labels = "
            f"false. Its features: {dict(features)}."
        )
    kind = "images" if isinstance(features[key], tfds.features.Image) else "text"
    splits = [x for x in PARTS if x in builder.info.splits]
    others = [x for x in builder.info.splits if x not in splits]
    if "train" not in splits:
        raise DataError(f"{PREFIX}{name} has no split train, but {', '.join(others)}.")
    if others:
        announce(f"Data: the splits {', '.join(others)} of {name} are left out")
    shares(validation, test, splits)
    if kind == "images":
        total = sum(builder.info.splits[x].num_examples for x in splits)
        shape = _shape(features[key], image_size, channels, name)
        _check_memory(total * math.prod(shape), name, announce)
        read = functools.partial(_image, shape=shape)
    else:
        read = tf.identity
    x, y, given = [], [], []
    for part in splits:
        for example, number in _examples(builder, part, name, key, label, read):
            x.append(example)
            y.append(number)
            given.append(part)
    contents = [a.tobytes() if kind == "images" else a for a in x]
    digests = [hashlib.sha256(a).digest() for a in contents]
    parts = assigned(digests, given, validation, test)
    class_names, numbers = None, None
    if label is not None:
        class_names, numbers = tuple(features[label].names), np.array(y, "int64")
        _check_labels(numbers, name)
        check_classes(numbers, parts, class_names)
    warn_of_duplicates(digests, [f"example {row}" for row in range(len(x))], parts)
    x = np.stack(x) if kind == "images" else as_bytes(x, length, announce)
    found = in_parts(x, numbers, parts, class_names, kind=kind)
    what = "images" if kind == "images" else "texts"
    words = of_classes(class_names)
    announce(f"Data: {len(x):,} {what}{words} of {PREFIX}{name}: {counts(parts)}")
    return found


def _builder(name, data_dir, announce):
    """TFDS's builder of a data set that is prepared in `data_dir`, if need be now."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{PREFIX} takes NAME or NAME/CONFIG of TFDS. Received: {PREFIX}{name}."
        )
    repair = f"Prepare it where there is a network (tfds build {name}) into {data_dir}."
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds for what it does not find.
        # Of an unknown name it goes on with all that there are.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"TFDS has no {name}: {reason[0]} {repair}") from error
    if builder.info.splits:
        return builder
    try:
        ask_host(_PROBE)
    except urllib.error.HTTPError:
        pass  # It answers.
    except OSError as error:
        raise DataError(
            f"{name} is not prepared in {data_dir}, and there is no network to download it "
            f"from ({error}). {repair}"
        ) from error
    announce(f"Data: TFDS downloads {name} and prepares it in {data_dir}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # As many for a download that fails.
        raise DataError(f"TFDS could not prepare {name}: {error}. {repair}") from error
    return builder


def _one(features, types, names):
    """The name of the one feature of these types, the first type before the next."""
    for kind in types:
        found = [x for x, feature in features.items() if type(feature) is kind]
        named = [x for x in found if x in names]
        if len(found) == 1 or named:
            return (named or found)[0]
    return None


def _shape(feature, image_size, channels, name):
    """(height, width, channels) of the images that are given."""
    if feature.dtype != np.uint8:
        raise DataError(
            f"The images of {PREFIX}{name} must be bytes. Received: {feature.dtype}."
        )
    *size, own = feature.shape
    if image_size is None and None in size:
        raise DataError(
            f"The images of {PREFIX}{name} differ in size. Say image_size, the height and "
            "width that models take."
        )
    channels = channels or (1 if own in (1, 2) else 3)
    return (*(image_size or size), channels)


def _image(image, shape):
    """An image of bytes in this shape; an alpha channel is left out."""
    own = image.shape[-1]
    if own in (2, 4):
        image, own = image[..., : own - 1], own - 1
    if own != shape[-1]:
        image = (
            tf.image.grayscale_to_rgb(image)
            if own == 1
            else tf.image.rgb_to_grayscale(image)
        )
    return fitted(image, shape[:2])


def _check_memory(size, name, announce):
    if size > _MOST_BYTES:
        raise DataError(
            f"The images of {PREFIX}{name} are {size / 1e9:.1f} GB, and more than "
            f"{_MOST_BYTES / 1e9:.0f} GB are not read into memory. Say a smaller "
            "image_size, or write them as PNG files, in a folder for each class."
        )
    announce(f"Data: the images of {name} are read into memory, {size / 1e6:,.0f} MB")


def _examples(builder, split, name, key, label, read):
    """Pairs of an example and its class number, or None, always in the same order."""
    # One file after the other.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        examples = builder.as_dataset(split=split, read_config=config)
        pairs = examples.map(
            lambda x: (read(x[key]), -1 if label is None else x[label]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        for some, numbers in pairs.batch(_AT_ONCE).as_numpy_iterator():
            yield from zip(some, numbers, strict=True)
    except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
        reason = getattr(error, "message", str(error)).splitlines()[0]
        raise DataError(
            f"{PREFIX}{name} cannot be read ({reason}). Remove {builder.data_dir} and "
            "prepare it again."
        ) from error


def _check_labels(numbers, name):
    if numbers.min() < 0:
        raise DataError(
            f"{(numbers < 0).sum():,} examples of {PREFIX}{name} have no label. Say labels "
            "= false, and none has."
        )
