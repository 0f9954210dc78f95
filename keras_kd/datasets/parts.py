"""Examples in parts for training, validation and test, which no example leaves."""

import collections
import dataclasses
import hashlib
import logging

import numpy as np

from keras_kd.data.idx import DataError
from keras_kd.data.rows import digest, select

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A labelled data set.

    Attributes:
        train, test: (x, labels): x an array or `keras_kd.data.rows.Rows`, labels class
            numbers, int64 (n,).
        validation: The same; None where none is held out.
        class_names: Of the labels, in their order, a tuple of strings.
    """

    train: tuple
    validation: tuple | None
    test: tuple
    class_names: tuple

    def digest(self):
        """What tells these examples and labels from others, hexadecimal digits."""
        text = [repr(self.class_names)]
        for part in (self.train, self.validation, self.test):
            text += [] if part is None else [digest(x) for x in part]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:32]


def part_of(name, validation, test):
    """In which part an example is, by the hash of its name, so that it never moves.

    Args:
        name: A string, or bytes.
        validation, test: Shares in [0, 1).

    Returns:
        "train", "validation" or "test".
    """
    name = name.encode() if isinstance(name, str) else name
    place = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def check_shares(validation, test):
    """Refuses shares that leave nothing to train on; a `DataError`."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise DataError(
                f"`{name}` must be a share of the examples, 0 or greater and less than 1. "
                f"Received: {name}={share!r}."
            )
    if test == 0 or validation + test >= 1:
        raise DataError(
            "`test` must be greater than 0, and with `validation` less than 1. Received: "
            f"validation={validation!r}, test={test!r}."
        )


def check_classes(labels, parts, class_names):
    """Refuses a class of which nothing could be learned, or told whether it was.

    Args:
        labels: Class numbers, int64 (n,).
        parts: In which part each example is, a list of n strings.
        class_names: Of the labels.

    Raises:
        DataError: A class has one example, or none to train on.
    """
    counts = {name: collections.Counter() for name in PARTS}
    for label, part in zip(labels.tolist(), parts, strict=True):
        counts[part][label] += 1
    for label, name in enumerate(class_names):
        of_parts = {part: counts[part][label] for part in PARTS}
        total = sum(of_parts.values())
        if total < 2:
            raise DataError(
                f"The class {name!r} has {total or 'no'} example{'s'[: total != 1]}: one "
                "to train on and one to test with are the least. Add some, or remove it."
            )
        if not of_parts["train"]:
            where = ", ".join(f"{n} in {p}" for p, n in of_parts.items() if n)
            raise DataError(
                f"The class {name!r} has no example to train on: {where}. Add some; or "
                "give the parts yourself, as folders train and test."
            )


def warn_of_duplicates(digests, names, parts):
    """Says which examples are in two parts under two names.

    Args:
        digests: What is equal for equal examples, a list of n.
        names, parts: Of the examples, lists of n strings.
    """
    first, found = {}, []
    for told, name, part in zip(digests, names, parts, strict=True):
        other, where = first.setdefault(told, (name, part))
        if where != part:
            found.append(f"{name} ({part}) is {other} ({where})")
    if found:
        logger.warning(
            "%d examples are in two parts, so that scores tell less of new ones: %s%s. "
            "Remove one of each.",
            len(found),
            "; ".join(found[:3]),
            " ..." if len(found) > 3 else "",
        )


def in_parts(x, labels, parts, class_names):
    """`Parts` of examples, each in the part that is said.

    Args:
        x: An array, or `Rows`.
        labels: int64 (n,).
        parts: A list of n strings.
        class_names: A tuple.

    Raises:
        DataError: There is nothing to train on, or to test with.
    """
    found = {}
    for name in PARTS:
        rows = np.flatnonzero(np.array(parts) == name)
        found[name] = (select(x, rows), labels[rows]) if len(rows) else None
    missing = [name for name in ("train", "test") if found[name] is None]
    if missing:
        raise DataError(
            f"No example of {len(labels)} is in the part {missing[0]!r}. Add some, or give "
            "the parts yourself."
        )
    return Parts(**found, class_names=class_names)
