"""Files written whole or not at all: to a temporary name, and renamed; locks; checksums."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from pathlib import Path

import filelock

# In a run folder, for `locked`; the file stays, as its removal could let two in at once.
_LOCK = ".lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    if path.is_dir() and all(map(_is_nobodys, path.iterdir())):
        return
    if path.exists() or path.is_symlink():
        raise _exists(path)


def _is_nobodys(path):
    return path.name == _LOCK or bool(_TEMPORARY.match(path.name))


def make(path):
    """Makes a folder, if it is not there, for `locked`.

    Raises:
        FileExistsError: There is a file of that name.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _exists(path) from error
    return path


def _exists(path):
    what = in_the_way(path)
    reason = f"cannot be made: {what}" if what else "exists and is not empty"
    return FileExistsError(
        f"The run folder {path} {reason}. Nothing was changed: choose another one, or "
        "remove that first."
    )


def in_the_way(path):
    """Why a folder cannot be made, in words; None where it is a folder or could be."""
    for part in [*reversed(path.parents), path]:
        if part.exists() and not part.is_dir():
            return f"{part} is a file"
        if part.is_symlink() and not part.exists():
            return f"{part} is a link to nothing"
    return None


@contextlib.contextmanager
def locked(folder):
    """Keeps other processes out of a run folder while the block runs.

    Raises:
        BlockingIOError: Another process is at work in it. The system ends a lock with its
            process, however that ends.
    """
    lock = filelock.FileLock(Path(folder) / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise BlockingIOError(
            f"Another process is running in {folder}. Wait until it ends, or stop it."
        ) from error
    except OSError as error:
        # A folder that may only be read: what is finished is read, and no write succeeds.
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def renamed_when_done(path):
    """Yields a temporary path beside `path`, renamed to it if the block succeeds.

    For a file or a folder. After an error neither is left. The suffix stays, because
    Keras chooses the format by it. What is renamed is on the disk: a power cut leaves the
    old file or the new one, whole.

    Raises:
        FileExistsError: Its folder cannot be made; names what is in the way.
        OSError: There is no room; names `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FileExistsError(
            f"{path} cannot be written: {in_the_way(path.parent)}."
        ) from error
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent, within=False)
    # A writer's own kind of error may hide the system's.
    except Exception as error:
        number = no_room(error)
        # One that says where, be it of a file within this block, has said it all.
        if number is None or getattr(error, "filename", None) not in (None, str(temporary)):
            raise
        raise disk_full(number, path) from error
    finally:
        _remove(temporary)


def sync(path, within=True):
    """Returns when a file, or a folder with what is `within` it, is on the disk."""
    path = Path(path)
    if within and path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    # Windows opens no folder, and some network folders sync none.
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def no_room(error):
    """The system's number of an error for want of room on a disk, or None."""
    while error is not None:
        if getattr(error, "errno", None) in _NO_ROOM:
            return error.errno
        # HDF5's and TensorFlow's errors have it in their text alone.
        found = [x for x in _NO_ROOM if os.strerror(x).lower() in str(error).lower()]
        if found:
            return found[0]
        error = error.__cause__ or error.__context__
    return None


def disk_full(number, path):
    """The `OSError` for `no_room`'s number, which names a path and says what to do."""
    return OSError(
        number,
        f"{os.strerror(number)}. What was there before is left as it was: make room, and "
        "do the same again",
        str(path),
    )


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
    """Writes `text` to `path`, whole or not at all; a file that holds it is left."""
    path = Path(path)
    if path.is_file() and path.read_bytes() == text.encode():
        return
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
    """Exports a Keras model to the folder `path` as a TensorFlow SavedModel.

    Raises:
        ValueError: Keras is on PyTorch, from which it makes none of most models.
    """
    import keras

    if keras.backend.backend() == "torch":
        raise ValueError(
            "Keras is on torch. `keras-kd export` or keras_kd.export makes one, in a "
            "process on TensorFlow."
        )
    # Its notes name the temporary folder.
    notes = quieter("tensorflow", logging.WARNING)
    with renamed_when_done(path) as temporary, notes:
        model.export(temporary, verbose=False)


@contextlib.contextmanager
def quieter(name, least):
    """Has a library's logger, while a file is written, say what is of a level or above."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.setLevel(level)


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
