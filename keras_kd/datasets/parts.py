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


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: As the file has it.
        categories: What its numbers stand for, 0 for the first, a tuple of strings; None of
            a column of numbers.
    """

    name: str
    categories: tuple | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A data set.

    Attributes:
        train, test: (x, labels): x an array or `keras_kd.data.rows.Rows` as `kind` says,
            labels by `task`, (n,); None where the data have none.
        validation: The same; None where none is held out.
        class_names: Of the labels, in their order, a tuple of strings; None where labels
            are no classes, or there are none.
        kind: Of x, of n examples: "images", uint8 (n, height, width, channels); "table",
            float32 (n, columns); "text", int32 (n, length), the bytes of UTF-8 each plus 1,
            filled up with 0; "sequences", float32 (n, time, channels).
        task: "multiclass", labels are class numbers, int64; "regression", they are values,
            float32; None without labels.
        columns: Of a table, a tuple of `Column`; else None.
    """

    train: tuple
    validation: tuple | None
    test: tuple
    class_names: tuple | None
    kind: str = "images"
    task: str | None = "multiclass"
    columns: tuple | None = None

    @property
    def names(self):
        """`class_names` that say more than their numbers, a list; else None."""
        numbers = tuple(map(str, range(len(self.class_names or ()))))
        return None if self.class_names in (None, numbers) else list(self.class_names)

    def digest(self):
        """What tells these examples and labels from others, hexadecimal digits."""
        text = [repr((self.kind, self.task, self.class_names, self.columns))]
        for part in (self.train, self.validation, self.test):
            # Also where a part is missing: no other may take its place.
            text += ["" if x is None else digest(x) for x in part or (None,)]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:32]


def numbered(names, known, where):
    """Numbers of names in the order of others.

    Args:
        names: A sequence of strings.
        known: The same, without repetition.
        where: What they are names in, for the message.

    Returns:
        int64 (names,).

    Raises:
        DataError: One is not among them.
    """
    places = {name: place for place, name in enumerate(known)}
    unknown = [name for name in names if name not in places]
    if unknown:
        shown = ", ".join(map(repr, known[:10])) + ", ..." * (len(known) > 10)
        raise DataError(
            f"{where}: {unknown[0]!r} (one of {len(unknown)} such) is unknown to the "
            f"model, which learned from {shown}. Remove the examples that have it."
        )
    return np.array([places[name] for name in names], "int64")


def with_classes(parts, known, where):
    """`Parts` whose classes are numbered as others are.

    Args:
        parts: `Parts` with `class_names`.
        known: All class names of a model, a sequence of strings.
        where: As `numbered` takes it.

    Raises:
        DataError: A class is not among them.
    """
    numbers = numbered(parts.class_names, known, where)
    own = {name: getattr(parts, name) for name in PARTS}
    own = {name: x and (x[0], numbers[x[1]]) for name, x in own.items()}
    return dataclasses.replace(parts, class_names=tuple(known), **own)


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


def shares(validation, test, given=()):
    """The shares that are held out of the training examples.

    Args:
        validation, test: Shares in [0, 1).
        given: Names of the parts that the data have themselves; of these no more is held
            out.

    Returns:
        `(validation, test)`, 0 of what is given.

    Raises:
        DataError: A share is none, or nothing is left to train on or to test with.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise DataError(
                f"`{name}` must be a share of the examples, 0 or greater and less than 1. "
                f"Received: {name}={share!r}."
            )
    held_out = validation * ("validation" not in given), test * ("test" not in given)
    if (test == 0 and "test" not in given) or sum(held_out) >= 1:
        raise DataError(
            "`test` must be greater than 0 where the data have no part for it, and with "
            f"`validation` less than 1. Received: validation={validation!r}, test={test!r}."
        )
    return held_out


def assigned(names, given, validation, test):
    """In which part each example is.

    Args:
        names: Strings or bytes that tell the examples apart, a list of n.
        given: The part that the data say, or None, a list of n.
        validation, test: Shares that are held out of those that are in none, or in train.

    Returns:
        A list of n strings.

    Raises:
        DataError: As `shares`.
    """
    held_out = shares(validation, test, set(given))
    return [
        part_of(name, *held_out) if part in (None, "train") else part
        for name, part in zip(names, given, strict=True)
    ]


def counts(parts):
    """How many examples each part has, in words."""
    return ", ".join(f"{parts.count(x):,} {x}" for x in PARTS if x in parts)


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


def in_parts(
    x,
    labels,
    parts,
    class_names,
    kind="images",
    task=None,
    columns=None,
    trains=True,
):
    """`Parts` of examples, each in the part that is said.

    Args:
        x: An array, or `Rows`.
        labels: (n,), or None.
        parts: A list of n strings.
        class_names, kind, columns: As `Parts` has them.
        task: The same. Defaults to "multiclass" where there are class names.
        trains: Whether there must be a training part.

    Raises:
        DataError: There is nothing to train on, or to test with.
    """
    found = {}
    for name in PARTS:
        rows = np.flatnonzero(np.array(parts) == name)
        own = None if labels is None else labels[rows]
        found[name] = (select(x, rows), own) if len(rows) else None
    needed = ("train", "test") if trains else ("test",)
    missing = [name for name in needed if found[name] is None]
    if missing:
        raise DataError(
            f"No example of {len(parts)} is in the part {missing[0]!r}. Add some, say "
            "other shares, or give the parts yourself."
        )
    task = "multiclass" if class_names is not None else task
    return Parts(**found, class_names=class_names, kind=kind, task=task, columns=columns)
