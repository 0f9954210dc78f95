"""Files written whole or not at all: to a temporary name, and renamed; locks; checksums."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}-")


def create(path):
    """Makes a new, empty run folder.

    Args:
        path: Its path; missing parents are made.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        FileExistsError: Something is there already (an empty folder is taken).
    """
    check_new(path)
    return make(path)


def check_new(path):
    """Looks whether `create` could make a run folder, without making it.

    Raises:
        FileExistsError: As `create`.
    """
    path = Path(path)
    # What a killed process left of its first file is nobody's.
    if path.is_dir() and all(_TEMPORARY.match(x.name) for x in path.iterdir()):
        return
    if path.exists():
        raise _exists(path)


def make(path):
    """Makes a folder, if it is not there, for `locked`.

    Raises:
        FileExistsError: There is a file of that name.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _exists(path) from error
    return path


def _exists(path):
    return FileExistsError(
        f"The run folder {path} exists and is not empty. Nothing was changed: "
        "choose another one, or remove it first."
    )


@contextlib.contextmanager
def locked(folder):
    """Keeps other processes out of a run folder while the block runs.

    Raises:
        BlockingIOError: Another process is at work in it. The system ends a lock with its
            process, however that ends.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle, folder):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"Another process is running in {folder}. Wait until it ends, or stop it."
        ) from error


@contextlib.contextmanager
def renamed_when_done(path):
    """Yields a temporary path beside `path`, renamed to it if the block succeeds.

    For a file or a folder. After an error neither is left. The suffix stays, because
    Keras chooses the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def remove_unfinished(folder):
    """Removes, in a folder and those in it, what a killed process left half written."""
    for path in list(Path(folder).rglob(".*")):
        if _TEMPORARY.match(path.name):
            _remove(path)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksum(path):
    """SHA-256 of a file, as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path, text):
    """Writes `text` to `path`, whole or not at all."""
    with renamed_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Writes `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_model(model, path):
    """Saves a Keras model to `path` (`.keras`), whole or not at all."""
    with renamed_when_done(path) as temporary:
        model.save(temporary)


def export_saved_model(model, path):
    """Exports a Keras model to the folder `path` as a TensorFlow SavedModel."""
    with renamed_when_done(path) as temporary:
        model.export(temporary, verbose=False)


# What stands in a run folder beside the stages' own folders, whatever the case.
_TAKEN = (
    "accuracies.md",
    "exports.json",
    "manifest.json",
    "report",
    "results.json",
    "results.md",
)
# Bytes that file systems allow, less those of a temporary name.
_LONGEST = 255 - 34


def check_folder_name(name):
    """`name`, if a stage's folder in a run folder can have it.

    Raises:
        ValueError: It cannot; says why, without naming the argument.
    """
    if not isinstance(name, str) or name in ("", ".", ".."):
        raise ValueError("must be a non-empty string that can name a folder, not a path")
    if any(x in name for x in "/\\") or not name.isprintable():
        raise ValueError("must be a printable name that a folder can have, not a path")
    if name.startswith(".") or name.casefold() in _TAKEN:
        raise ValueError("is the name of something else in a run folder")
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"is longer than the {_LONGEST} bytes that a folder's may have")
    return name


def inside(folder, name):
    """The path of `name` in `folder`.

    Raises:
        ValueError: `name` leads out of the folder: it is absolute, or has too many "..".
    """
    path = Path(folder, name)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{str(name)!r} leads out of the folder {folder}.")
    return path
