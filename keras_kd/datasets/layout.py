"""Which files of a folder are examples, and their parts and classes."""

import dataclasses
from pathlib import Path

from keras_kd.data.idx import DataError
from keras_kd.datasets.parts import PARTS


@dataclasses.dataclass(frozen=True)
class File:
    """A file that is an example.

    Attributes:
        path: A `pathlib.Path`.
        name: What it is called in its part: class and file name.
        part: A key of `PARTS`, or None where its folder has no parts.
        of_class: Name of its class; None where there are none.
    """

    path: Path
    name: str
    part: str | None
    of_class: str | None


def files_in(folder, suffixes, what, labels=True, trains=True):
    """The examples of a folder, in the order of their names.

    There are classes where the files lie in folders, of the folder or of each part in it;
    where they lie there themselves there are none.

    Args:
        folder: A `pathlib.Path`.
        suffixes: Of the files that count, in lower case.
        what: Such files in a word, for messages.
        labels: Whether folders are classes. If not, files are taken from folders in folders
            as well, however deep.
        trains: Whether there must be classes to tell apart.

    Returns:
        `(files, class_names)`: a list of `File`, and a tuple of strings, or None.

    Raises:
        DataError: There is no such folder, nothing in it, one class alone, or a file or
            folder that belongs to none.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    found, loose = [], []
    for part, inside in _parts(folder, suffixes, labels):
        if not labels:
            loose += [(part, inside, path) for path in _deep(inside, suffixes, part)]
            continue
        loose += [(part, inside, path) for path in _directly_in(inside, suffixes)]
        # Of the folder's own files the other parts are no classes.
        if part is None or inside != folder:
            found += _of_classes(part, inside, suffixes, what)
    if found and loose:
        _, inside, path = loose[0]
        raise DataError(
            f"{path} is in no class: each class is a folder of {what} in {inside}."
        )
    class_names = tuple(sorted({x.of_class for x in found})) or None
    if trains and class_names and len(class_names) < 2:
        raise DataError(
            f"{folder} holds one class alone: each class is a folder of {what} in it. "
            "Without classes say labels = false."
        )
    found += [
        File(path, path.relative_to(inside).as_posix(), part, None)
        for part, inside, path in loose
    ]
    if not found:
        raise DataError(
            f"{folder} holds no {what} ({', '.join(suffixes)}), and no folders of {what}."
        )
    return found, class_names


def _parts(folder, suffixes, labels):
    """(part or None, its folder) of each part that a folder has."""
    folders = {x.name: x for x in _folders_in(folder)}
    if not folders or not folders.keys() <= set(PARTS):
        return [(None, folder)]
    if "train" in folders:
        # What lies beside them is in no part, and told.
        beside = _directly_in(folder, suffixes)
        if beside:
            raise DataError(
                f"{beside[0]} is in no part: {folder} has a folder train. Move it there."
            )
        return list(folders.items())
    are_loose = all(_directly_in(x, suffixes) or not labels for x in folders.values())
    if _directly_in(folder, suffixes) and are_loose:
        return [("train", folder), *folders.items()]
    return [(None, folder)]


def _of_classes(part, inside, suffixes, what):
    found = []
    for cls in _folders_in(inside):
        nested = _folders_in(cls)
        if nested:
            raise DataError(
                f"{nested[0]} is a folder within a class, and {cls} may hold {what} "
                "alone. Move them there; or, without classes, say labels = false."
            )
        paths = _directly_in(cls, suffixes)
        if not paths:
            raise DataError(
                f"{cls} holds no {what} ({', '.join(suffixes)}). Remove it, or add some."
            )
        found += [File(path, f"{cls.name}/{path.name}", part, cls.name) for path in paths]
    return found


def _deep(folder, suffixes, part):
    """The files of a folder and of all in it; of the training part none of the others'."""
    found = _directly_in(folder, suffixes)
    for inside in _folders_in(folder):
        if part != "train" or inside.name not in PARTS:
            found += _deep(inside, suffixes, None)
    return found


def _folders_in(folder):
    found = [x for x in folder.iterdir() if x.is_dir() and not x.name.startswith(".")]
    # A link to where one comes from leads nowhere else.
    around = {folder.resolve(), *folder.resolve().parents}
    return sorted(x for x in found if not x.is_symlink() or x.resolve() not in around)


def _directly_in(folder, suffixes):
    return sorted(
        x
        for x in folder.iterdir()
        # A link to nothing is told when it is read.
        if not x.is_dir() and x.suffix.lower() in suffixes and not x.name.startswith(".")
    )


def readable(files, problems, what, skip_unreadable, folder, announce):
    """Which files can be read, or why that is refused.

    Args:
        files: A list of n `File`s.
        problems: What is wrong with each, or None, a list of n.
        what: Such files in a word, for messages.
        skip_unreadable: Whether the others are left out, and counted.
        folder: A `pathlib.Path`, for messages.
        announce: Called with a line that tells what is left out.

    Returns:
        Their numbers, a list.

    Raises:
        DataError: One cannot be read; the message names it.
    """
    bad = [(x.path, y) for x, y in zip(files, problems, strict=True) if y]
    if bad and not skip_unreadable:
        raise DataError(
            f"{len(bad)} of {len(files)} files cannot be read as {what}, the first of them "
            f"{bad[0][0]}: {bad[0][1]}. Mend or remove them, or say skip_unreadable."
        )
    if bad:
        announce(
            f"Data: {len(bad)} of {len(files)} files of {folder} cannot be read, and are "
            f"left out: {', '.join(str(path) for path, _ in bad[:3])}"
            + " ..." * (len(bad) > 3)
        )
    return [number for number, problem in enumerate(problems) if not problem]


def has_any(folder, suffixes):
    """Whether such a file is in a folder, however deep."""
    return any(_directly_in(folder, suffixes)) or any(
        has_any(x, suffixes) for x in _folders_in(folder)
    )


def say_what_is_left_out(files, suffixes, announce):
    """Tells of files that lie among the examples and are of other kinds."""
    others = [
        x
        for inside in sorted({file.path.parent for file in files})
        for x in sorted(inside.iterdir())
        if x.suffix.lower() not in suffixes
        and not x.name.startswith(".")
        and not x.is_dir()
    ]
    if others:
        announce(
            f"Data: {len(others)} files are no {', '.join(suffixes)}, and are left out: "
            + ", ".join(map(str, others[:3]))
            + " ..." * (len(others) > 3)
        )
