"""Exported files, each run by its own runtime.

Imports nothing of this package and no TensorFlow unless the file is a SavedModel: run as a
script it is a process whose time and memory are the file's and its runtime's.
"""

import contextlib
import functools
import importlib
import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np

# Format: (the file's suffix, the modules that run it and make it).
FORMATS = {
    "saved_model": ("", ("tensorflow",)),
    "litert": (".tflite", ("ai_edge_litert.interpreter",)),
    "onnx": (".onnx", ("onnxruntime", "tf2onnx")),
}
# A file with a free batch is given this many examples at once.
BATCH = 256
_BOLD = re.compile("\x1b\\[[0-9]+m")
_PLACE = re.compile(r"^.*<unknown>:0: error: (loc\(.*\): )?")


def format_of(path):
    """The format of an exported file, by its suffix; a folder is a SavedModel."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.is_dir():
        return "saved_model"
    for name, (suffix, _) in FORMATS.items():
        if suffix and path.suffix == suffix:
            return name
    raise ValueError(
        f"{path} is no exported file: one ends in .tflite or .onnx, or is a folder."
    )


def need_runtimes(format):
    """Imports what a format is made and run with.

    Raises:
        ImportError: Something is not installed; says which extra is.
    """
    for module in FORMATS[format][1]:
        _need(module, format)


def _need(module, format):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The format {format!r} needs {module.split('.')[0]}, which is not installed. "
            "Run: pip install 'keras_kd[export]'"
        ) from error


def open_file(path, threads=1):
    """Loads an exported file into its own runtime.

    Args:
        path: A `.tflite` or `.onnx` file, or the folder of a SavedModel.
        threads: Of the runtime. TensorFlow takes it for the whole process, and only before
            it has run anything; here it is left as it is.

    Returns:
        A `LoadedFile`.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The runtime is not installed.
        ValueError: The runtime cannot read the file: it is damaged, or something else. Or
            it can, and refuses to run it: for an operator that it does not have, for
            instance, or as the file has several inputs.
    """
    kind = format_of(path)
    runtime = _need(FORMATS[kind][1][0], kind)
    try:
        model = _READERS[kind](runtime, path, threads)
    except Exception as error:  # Each runtime raises kinds of its own.
        if not _is_refusal(error):
            raise ValueError(
                f"{path} could not be loaded as {kind}; it is damaged, or something else: "
                f"{reason(error)}"
            ) from error
        raise _refused(path, runtime, kind, error) from error
    try:
        return _OPENERS[kind](model)
    except Exception as error:
        raise _refused(path, runtime, kind, error) from error


def reason(error):
    """What an error of a converter or a runtime says, in a line.

    Of what `open_file` raises it is what the runtime said.
    """
    said = _BOLD.sub("", str(error.__cause__ or error))
    lines = [x.strip() for x in said.splitlines() if x.strip()] or [type(error).__name__]
    if lines[0].startswith("Exception encountered when calling"):  # Keras's layers.
        return " ".join(lines[:2])
    if lines[0] == "in user code:":  # TensorFlow's traceback follows.
        return lines[-1]
    # The converter says before it in which calls of which functions the place is.
    return _PLACE.sub("", lines[0])


def signal_name(returncode):
    """By which signal a process was stopped, of its negative return code."""
    return f"signal {-returncode} ({signal.Signals(-returncode).name})"


def _is_refusal(error):
    """Whether a runtime could read a file, and has no operator or type that is in it."""
    damaged = type(error).__name__ in ("InvalidProtobuf", "InvalidArgument")
    from_onnx = "[ONNXRuntimeError]" in str(error) and not damaged
    return from_onnx or "Op type not registered" in str(error)


def _refused(path, runtime, kind, error):
    return ValueError(
        f"{path} is a file of format {kind!r} that {runtime.__name__.split('.')[0]} does "
        f"not run: {reason(error)}"
    )


def _the_only(what, items):
    items = list(items)
    if len(items) != 1:
        raise ValueError(f"it has {len(items)} {what}s, and only files with one are run.")
    return items[0]


def _alone(outputs):
    """The only one of a dict of outputs, else the dict."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


class LoadedFile:
    """An exported model in its runtime.

    Args:
        run: Function from a batch, as the file takes it, to its outputs in real numbers: an
            array, or a dict by names where there are several.
        shape, dtype: Of the input, as the attributes.
        quantize: Function from real numbers to what the file takes.

    Attributes:
        shape: Of the input; the first entry, the batch, is None where it is free.
        dtype: Of the input, as a NumPy dtype.
    """

    def __init__(self, run, shape, dtype, quantize=np.asarray):
        self._run = run
        self._quantize = quantize
        self.shape = (shape[0], *map(int, shape[1:]))
        self.dtype = np.dtype(dtype)

    def run(self, inputs):
        """The outputs for one batch as the file takes it, quantised where it is.

        An array, or a dict of arrays by the outputs' names where there are several.
        """
        return self._run(inputs)

    def predict(self, inputs):
        """The outputs for any number of inputs.

        Args:
            inputs: (n, ...), of any dtype; for a file with quantised inputs and outputs,
                in real numbers.

        Returns:
            float32 array (n, ...), or a dict of such by the outputs' names where there are
            several.
        """
        size = self.shape[0] or BATCH
        outputs = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            missing = (self.shape[0] or 0) - len(batch)
            if missing > 0:  # A fixed batch is filled up with the last example.
                batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            count = min(size, len(inputs) - start)
            given = self.run(self._quantize(batch))
            # Of one output that has no name here.
            given = given if isinstance(given, dict) else {None: given}
            outputs.append({k: np.asarray(x, "float32")[:count] for k, x in given.items()})
        joined = {k: np.concatenate([x[k] for x in outputs]) for k in outputs[0]}
        return joined.get(None, joined)


def _read_saved_model(tensorflow, path, threads):
    return tensorflow.saved_model.load(str(path))


def _open_saved_model(loaded):
    serve = loaded.signatures["serving_default"]
    given = serve.structured_input_signature[1].items()
    name, spec = _the_only("input", given)

    def run(inputs):
        outputs = serve(**{name: inputs.astype(spec.dtype.as_numpy_dtype, copy=False)})
        return _alone({key: x.numpy() for key, x in outputs.items()})

    run.keep = loaded  # Its variables live as long as it does.
    return LoadedFile(run, tuple(spec.shape), spec.dtype.as_numpy_dtype)


def _read_onnx(onnxruntime, path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


def _open_onnx(session):
    given = _the_only("input", session.get_inputs())
    names = [x.name for x in session.get_outputs()]
    batch, *shape = given.shape
    # A free dimension has a name for a number.
    batch = batch if isinstance(batch, int) else None
    kind = given.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))

    def run(inputs):
        found = session.run(names, {given.name: inputs.astype(dtype, copy=False)})
        return _alone(dict(zip(names, found, strict=True)))

    return LoadedFile(run, (batch, *shape), dtype)


def _read_litert(litert, path, threads):
    return litert.Interpreter(str(path), num_threads=threads)


def _open_litert(interpreter):
    given = _the_only("input", interpreter.get_input_details())
    gives = _litert_outputs(interpreter)
    batch, *shape = map(int, given["shape_signature"])
    interpreter.allocate_tensors()
    allocated, tensor = int(given["shape"][0]), interpreter.get_tensor

    def run(inputs):
        nonlocal allocated
        if len(inputs) != allocated:
            interpreter.resize_tensor_input(given["index"], inputs.shape)
            interpreter.allocate_tensors()
            allocated = len(inputs)
        interpreter.set_tensor(given["index"], inputs.astype(given["dtype"], copy=False))
        interpreter.invoke()
        return _alone({k: _real(tensor(x["index"]), x) for k, x in gives.items()})

    return LoadedFile(
        run,
        (None if batch < 0 else batch, *shape),
        given["dtype"],
        functools.partial(_quantized, details=given),
    )


def _litert_outputs(interpreter):
    """dict of name to details of each output; their own order is no model's."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        return interpreter.get_signature_runner(*signatures).get_output_details()
    return {x["name"]: x for x in interpreter.get_output_details()}


def _quantized(inputs, details):
    """Real numbers, of whatever dtype, as the file takes them."""
    inputs, (scale, zero) = np.asarray(inputs), details["quantization"]
    if not scale:  # The file takes real numbers, or integers that are what they are.
        return inputs
    limits = np.iinfo(details["dtype"])
    inputs = np.clip(np.round(inputs / scale + zero), limits.min, limits.max)
    return inputs.astype(details["dtype"])


def _real(outputs, details):
    scale, zero = details["quantization"]
    if not scale:
        return outputs
    return (outputs.astype("float32") - zero) * np.float32(scale)


_READERS = {
    "saved_model": _read_saved_model,
    "litert": _read_litert,
    "onnx": _read_onnx,
}
_OPENERS = {
    "saved_model": _open_saved_model,
    "litert": _open_litert,
    "onnx": _open_onnx,
}


def time_file(path, batch_sizes, threads, warm_up, repeats):
    """Seconds of each run of a file, and the memory that the process needed.

    Args:
        path, threads: As `open_file` takes them.
        batch_sizes: Integers; those that a file with a fixed batch does not take are
            left out.
        warm_up: Runs before those that count, at each batch size.
        repeats: Runs that count.

    Returns:
        A dict: `seconds`, batch size to a list; `peak_memory_bytes`, of this process,
        interpreter and runtime included, and `runtime_memory_bytes`, before the file was
        loaded; None where the system does not tell.
    """
    kind = format_of(path)
    runtime = _need(FORMATS[kind][1][0], kind)
    if kind == "saved_model":
        runtime.config.threading.set_intra_op_parallelism_threads(threads)
        runtime.config.threading.set_inter_op_parallelism_threads(threads)
    before = peak_memory()
    loaded = open_file(path, threads)
    seconds = {}
    for size in batch_sizes:
        if loaded.shape[0] not in (None, size):
            continue
        inputs = np.random.default_rng(0).random((size, *loaded.shape[1:]), "float32")
        if loaded.dtype.kind != "f":
            # Wider integers may be the numbers of words, of which there are not 255.
            inputs = (255 * (loaded.dtype.itemsize == 1) * inputs).astype(loaded.dtype)
        for _ in range(warm_up):
            loaded.run(inputs)
        seconds[size] = [_timed(loaded.run, inputs) for _ in range(repeats)]
    return {
        "seconds": seconds,
        "runtime_memory_bytes": before,
        "peak_memory_bytes": peak_memory(),
    }


def _timed(run, inputs):
    start = time.perf_counter()
    run(inputs)
    return time.perf_counter() - start


def peak_memory():
    """The most memory that this process has held, in bytes; None if it cannot be told.

    Not getrusage's: Linux begins that with the memory of the process that started this
    one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


if __name__ == "__main__":
    print(json.dumps(time_file(**json.loads(sys.argv[1]))))
