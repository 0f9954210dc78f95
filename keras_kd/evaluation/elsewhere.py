"""Counts on JAX and PyTorch: made by a process of its own whose Keras is on TensorFlow.

A model's operations are those of its TensorFlow graph, so that its MACs are the same number
on every backend. What goes there is the architecture, without weights. The process is
started once, stays as long as this one lives, and remembers nothing.
"""

import atexit
import contextlib
import functools
import json
import logging
import os
import subprocess
import sys
import threading

import keras

from keras_kd.evaluation.operations import Count, UnknownCount

logger = logging.getLogger(__name__)

_LOCK = threading.Lock()


def count(model, shapes):
    """As `keras_kd.evaluation.profile` counts on TensorFlow.

    Args:
        model: A built `keras.Model` that knows its inputs.
        shapes: Of its inputs, with the batch, a list.

    Returns:
        A `Count`.

    Raises:
        UnknownCount: It cannot be counted, or not by another process.
    """
    try:
        config = json.dumps(keras.saving.serialize_keras_object(model))
    except Exception as error:  # Of a user's layers: any.
        raise UnknownCount(
            f"the process on TensorFlow that counts takes a config, and {error}"
        ) from error
    answer = _asked(json.dumps({"config": config, "shapes": shapes}))
    if "unknown" in answer:
        raise UnknownCount(answer["unknown"])
    return Count(**answer)


@functools.lru_cache
def _asked(request):
    """The answer of the other process, a dict."""
    with _LOCK:
        process = _process()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            _end(process)
            _process.cache_clear()
            raise UnknownCount("the process on TensorFlow that counts has ended")
    return json.loads(line)


@functools.cache
def _process():
    backend = keras.backend.backend()
    logger.info("Keras is on %s: a process on TensorFlow counts operations.", backend)
    code = "from keras_kd.evaluation import elsewhere\nelsewhere.serve()"
    command, environment = on_tensorflow(code)
    process = subprocess.Popen(
        command,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Ctrl-C is for the process that asks.
        start_new_session=True,
    )
    atexit.register(_end, process)
    return process


def on_tensorflow(code):
    """(command, environment) of a process that runs code with Keras on TensorFlow."""
    code = f"import sys\nsys.path[:] = {sys.path!r}\n{code}"
    return [sys.executable, "-c", code], os.environ | {"KERAS_BACKEND": "tensorflow"}


def _end(process):
    # Where it has ended by itself, what was to be written is not.
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def serve():
    """What the other process does: a line of JSON in, one out, until there are no more."""
    # What libraries print must not come between.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


def _answer(request):
    from keras_kd.evaluation.profile import count_on_tensorflow

    try:
        config = json.loads(request["config"])
        model = keras.saving.deserialize_keras_object(config)
    except Exception as error:  # Keras raises many kinds for what it cannot make.
        why = str(error).split("Exception encountered: ")[-1].split(". ")[0]
        return {
            "unknown": "the process on TensorFlow that counts knows Keras's classes and "
            f"keras_kd's. {type(error).__name__}: {why}"
        }
    try:
        return vars(count_on_tensorflow(model, list(map(tuple, request["shapes"]))))
    except UnknownCount as error:
        return {"unknown": str(error)}
