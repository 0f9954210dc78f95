"""Texts as numbers: the bytes of UTF-8; and a folder of them, a file for each."""

import math
from pathlib import Path

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.datasets.folders import class_numbers, of_classes
from keras_kd.datasets.layout import files_in, readable, say_what_is_left_out
from keras_kd.datasets.parts import (
    assigned,
    counts,
    in_parts,
    shares,
    warn_of_duplicates,
)

SUFFIXES = (".txt",)

# Without a word on it: as long as all but a twentieth of the texts, but no longer.
_SHARE_THAT_FITS, _STEP, _LONGEST = 0.95, 16, 1024


def as_bytes(texts, length=None, announce=print):
    """What models take of texts.

    Args:
        texts: Bytes of UTF-8, a list of n.
        length: Of what is given; what is longer is cut. Defaults to that in which 95 % of
            the texts fit, as a multiple of 16, but at most 1,024.
        announce: Called with a line that tells how many are cut.

    Returns:
        int32 (n, length): each byte plus 1, filled up with 0.

    Raises:
        DataError: `length` is none.
    """
    sizes = np.array([len(x) for x in texts])
    if length is None:
        size = np.quantile(sizes, _SHARE_THAT_FITS, method="higher")
        length = min(_STEP * max(1, math.ceil(size / _STEP)), _LONGEST)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise DataError(f"`length` must be a whole number from 1 on. Received: {length!r}.")
    x = np.zeros((len(texts), length), "int32")
    for row, text in zip(x, texts, strict=True):
        found = np.frombuffer(text[:length], "uint8")
        row[: len(found)] = found
        row[: len(found)] += 1
    cut = int((sizes > length).sum())
    announce(f"Data: texts of {length:,} bytes; {cut:,} of {len(texts):,} are cut to that")
    return x


def read_texts(
    folder,
    length=None,
    validation=0.1,
    test=0.1,
    skip_unreadable=False,
    labels=True,
    announce=print,
    trains=True,
):
    """The texts of a folder, a file each, laid out as the images of `folders.read_folder`.

    Args:
        folder: Its path.
        length: As `as_bytes` takes it.
        validation, test, skip_unreadable, labels, announce, trains: As
            `keras_kd.datasets.folders.read_folder` takes them.

    Returns:
        `keras_kd.datasets.parts.Parts`.

    Raises:
        DataError: As there; what cannot be read is no UTF-8, or empty.
    """
    folder = Path(folder)
    files, class_names = files_in(folder, SUFFIXES, "texts", labels, trains)
    shares(validation, test, {x.part for x in files})
    say_what_is_left_out(files, SUFFIXES, announce)
    texts, problems = zip(*(_read(x.path) for x in files), strict=True)
    skip = skip_unreadable and not all(problems)
    kept = readable(files, problems, "texts", skip, folder, announce)
    files, texts = ([x[number] for number in kept] for x in (files, texts))
    parts = assigned([x.name for x in files], [x.part for x in files], validation, test)
    numbers = class_numbers(files, parts, class_names, trains)
    names = [str(x.path.relative_to(folder)) for x in files]
    warn_of_duplicates(texts, names, parts)
    x = as_bytes(texts, length, announce)
    found = in_parts(x, numbers, parts, class_names, kind="text", trains=trains)
    announce(
        f"Data: {len(files):,} texts{of_classes(class_names)} in {folder}: {counts(parts)}"
    )
    return found


def _read(path):
    """(bytes of UTF-8, None), or (b"", what is wrong)."""
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        return b"", str(error)
    except UnicodeDecodeError as error:
        return b"", f"it is no UTF-8 ({error.reason} at byte {error.start})"
    return text.encode(), None if text else "it is empty"
