"""The run folder: every file is written to a temporary name and renamed."""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path


def create(path):
    """Makes a new, empty run folder.

    Args:
        path: Its path; missing parents are made.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        FileExistsError: Something is there already (an empty folder is taken).
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"The run folder {path} exists and is not empty. Nothing was changed: "
            "choose another one, or remove it first."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


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
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


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


def inside(folder, name):
    """The path of `name` in `folder`.

    Raises:
        ValueError: `name` leads out of the folder: it is absolute, or has too many "..".
    """
    path = Path(folder, name)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{str(name)!r} leads out of the folder {folder}.")
    return path
