"""An export from JAX or PyTorch: done by a process of its own whose Keras is on TensorFlow.

TensorFlow makes the files, so the model goes there as a `.keras` file, examples and
calibration as arrays; what comes back is what `export` gives, or the error that it raises.
"""

import dataclasses
import json
import logging
import subprocess
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import tree

from keras_kd.evaluation.elsewhere import on_tensorflow
from keras_kd.exporters.examples import batches

logger = logging.getLogger(__name__)

_RUN = """
from keras_kd.exporters import elsewhere
elsewhere.serve({folder!r})
"""
# What `export` says by their kind.
_ERRORS = {x.__name__: x for x in (ValueError, FileExistsError, OSError, ImportError)}
_REQUEST, _ANSWER, _MODEL = "request.json", "answer.json", "model.keras"


def export(model, path, format, arguments):
    """As `keras_kd.exporters.export.export`, in a process on TensorFlow.

    Args:
        model: A `keras.Model` in float32, which safe mode loads.
        path: Absolute.
        format: As `export` takes it.
        arguments: dict of all its other arguments.

    Returns:
        dict of the fields of an `Exported`.

    Raises:
        ValueError: The model is of classes that the other process does not know; and as
            `export` raises it.
        FileExistsError, ImportError, OSError: As `export`.
    """
    backend = keras.backend.backend()
    logger.warning("Keras is on %s: a process on TensorFlow exports.", backend)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save(folder / _MODEL)
        request = dict(arguments) | {"path": str(path), "format": format}
        for name in ("examples", "calibration"):
            if request[name] is not None:
                request[name] = _keep(folder / f"{name}.npz", request[name], name)
        if request["preprocessing"] is not None:
            serialize = keras.saving.serialize_keras_object
            request["preprocessing"] = serialize(request["preprocessing"])
        (folder / _REQUEST).write_text(json.dumps(request))
        command, environment = on_tensorflow(_RUN.format(folder=str(folder)))
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (folder / _ANSWER).is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"{path} was not written: the process on TensorFlow that exports ended "
                f"with exit status {done.returncode}: {last}"
            )
        answer = json.loads((folder / _ANSWER).read_text())
    if "error" in answer:
        raise _ERRORS[answer["kind"]](answer["error"])
    return answer["exported"]


def _keep(path, examples, name):
    """Writes examples as arrays; gives the structure of their labels, by numbers."""
    parts = list(batches(examples, name))
    if not parts:
        raise ValueError(f"`{name}` is empty.")
    inputs = np.concatenate([x for x, _ in parts])
    labels = parts[0][1]
    flat = [[x for x in tree.flatten(y) if x is not None] for _, y in parts]
    columns = [np.concatenate(x) for x in zip(*flat, strict=True)]
    np.savez(path, inputs=inputs, **{f"labels_{k}": x for k, x in enumerate(columns)})
    numbers = iter(range(len(columns)))
    return {
        "file": path.name,
        "labels": tree.map_structure(
            lambda x: None if x is None else next(numbers), labels
        ),
    }


def _taken(folder, kept):
    """What `_keep` wrote, as `export` takes it."""
    with np.load(folder / kept["file"], allow_pickle=False) as arrays:
        found = dict(arrays)
    if kept["labels"] is None:
        return found["inputs"]
    labels = tree.map_structure(
        lambda k: None if k is None else found[f"labels_{k}"], kept["labels"]
    )
    return found["inputs"], labels


def serve(folder):
    """What the other process does: exports what lies in the folder, and answers there."""
    from keras_kd.exporters.export import export as on_tensorflow

    folder = Path(folder)
    request = json.loads((folder / _REQUEST).read_text())
    for name in ("examples", "calibration"):
        if request[name] is not None:
            request[name] = _taken(folder, request[name])
    if request["preprocessing"] is not None:
        layer = keras.saving.deserialize_keras_object(request["preprocessing"])
        request["preprocessing"] = layer
    try:
        model = keras.saving.load_model(folder / _MODEL)
    except Exception as error:  # Keras raises many kinds for what it cannot load.
        answer = {
            "kind": "ValueError",
            "error": "The model cannot be loaded by the process on TensorFlow that "
            "exports it, which knows Keras's classes and keras_kd's. Export it from a "
            f"program with KERAS_BACKEND=tensorflow. {type(error).__name__}: {error}",
        }
    else:
        answer = _answer(on_tensorflow, model, request)
    (folder / _ANSWER).write_text(json.dumps(answer))


def _answer(on_tensorflow, model, request):
    try:
        return {"exported": dataclasses.asdict(on_tensorflow(model, **request))}
    except tuple(_ERRORS.values()) as error:
        # A FileExistsError is an OSError, too, and stands before it.
        kind = next(name for name, x in _ERRORS.items() if isinstance(error, x))
        return {"kind": kind, "error": str(error)}
