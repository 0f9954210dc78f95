"""LiteRT's converter in a process of its own.

It is C++ that may end its process: by signal 11, for instance, where it calibrates an LSTM.
So it has another one than the user's, is given a SavedModel there, which needs none of the
user's classes, and runs the new file once, as the runtime may end a process, too. Loading
TensorFlow takes seconds, so the process stays for the next file; without one it ends.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading

import numpy as np

from keras_kd.exporters import runtimes

# Seconds without a file to convert after which the process ends.
_IDLE = 60.0
# Ctrl-C is for the process that waits, which ends this one.
_SERVE = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from keras_kd.exporters import converter
converter.serve()
"""

_lock = threading.Lock()
_process = None


class _Process:
    """The process, as this one sees it."""

    def __init__(self):
        # A process that was forked from this one must start one of its own.
        self.owner = os.getpid()
        self._errors = tempfile.TemporaryFile()
        self._popen = subprocess.Popen(
            # So that it finds the same modules.
            [sys.executable, "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{_SERVE}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # A GPU's memory is this process's already.
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
            text=True,
        )

    def runs(self):
        return self.owner == os.getpid() and self._popen.poll() is None

    def ask(self, request):
        """The answer, None from a process that had ended by itself, or how it died."""
        try:
            self._popen.stdin.write(f"{json.dumps(request)}\n")
            self._popen.stdin.flush()
            answer = self._popen.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        code = self._popen.wait()
        return None if code == 0 else {"stopped": self._how(code)}

    def _how(self, code):
        if code < 0:
            return runtimes.signal_name(code)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}: {lines[-1] if lines else 'no message'}"

    def stop(self):
        if self.owner == os.getpid():
            self._popen.kill()
            self._popen.wait()
            self._popen.stdin.close()
            self._popen.stdout.close()
            self._errors.close()


def start():
    """Starts the process, if there is none; it gets ready while others work."""
    with _lock:
        _running()


def ask(request):
    """Has a file made and run in the process.

    Args:
        request: dict of `_convert`'s arguments, its paths absolute.

    Returns:
        A dict of one key: "written", True; "os", number and text of an error of the
        system; "converter" or "runtime", what that one said; or "stopped", how the process
        died.
    """
    with _lock:
        try:
            # It may have ended by itself just before it was asked.
            answer = _running().ask(request) or _running().ask(request)
        except BaseException:  # Ctrl-C: what it does now is nobody's.
            _stop()
            raise
    return answer or {"stopped": "exit status 0"}


def _running():
    global _process
    if _process is None or not _process.runs():
        _stop()
        _process = _Process()
    return _process


@atexit.register
def _stop():
    global _process
    if _process is not None:
        _process.stop()
        _process = None


def serve():
    """Answers requests, each a line of JSON, until there are no more."""
    # TensorFlow prints to standard output, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while True:
        idle = threading.Timer(_IDLE, os._exit, [0])
        idle.daemon = True
        idle.start()
        line = sys.stdin.readline()
        idle.cancel()
        if not line:
            return
        print(json.dumps(_convert(**json.loads(line))), file=answers, flush=True)


def _convert(saved_model, path, examples, quantization, calibration, batch_size, as_bytes):
    """Makes a LiteRT file, and runs it once.

    Args:
        saved_model, path: Of the folder that is converted, and of the file.
        examples: Path of a NumPy array of inputs that the file is run on.
        quantization, batch_size: As `export` takes them.
        calibration: Path of a NumPy array of inputs, for "int8"; else None.
        as_bytes: Whether "int8" files take and give uint8, images in [0, 255], or int8.

    Returns:
        As `ask`.
    """
    try:
        inputs = None if calibration is None else np.load(calibration)
        content = _converter(
            saved_model, quantization, inputs, batch_size, as_bytes
        ).convert()
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        return {"os": [error.errno, error.strerror]}
    except Exception as error:  # Mostly the converter's own kind.
        return {"converter": runtimes.reason(error)}
    try:
        runtimes.open_file(path).predict(np.load(examples))
    except Exception as error:
        return {"runtime": runtimes.reason(error)}
    return {"written": True}


def _converter(saved_model, quantization, calibration, batch_size, as_bytes):
    """A `tf.lite.TFLiteConverter`, told how to quantise."""
    # The process that asks has no use for it here.
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    # Both as Keras's own exporter has them.
    converter.experimental_enable_resource_variables = True
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    if quantization is None:
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        size = batch_size or 1

        def batches():
            for first in range(0, len(calibration) - size + 1, size):
                yield [calibration[first : first + size]]

        converter.representative_dataset = batches
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        kind = tf.uint8 if as_bytes else tf.int8
        # Of inputs that are integers already, such as words' numbers, it changes nothing.
        converter.inference_input_type = converter.inference_output_type = kind
    return converter
