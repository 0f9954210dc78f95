"""Exported files, each run by its own runtime.

Imports nothing of this package and no TensorFlow unless the file is a SavedModel: run as a
script it is a process whose time and memory are the file's and its runtime's.
"""

import contextlib
import importlib
import json
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
        ValueError: The runtime cannot read the file: it is damaged, or something else.
    """
    kind = format_of(path)
    runtime = _need(FORMATS[kind][1][0], kind)
    try:
        return _OPENERS[kind](runtime, path, threads)
    except Exception as error:  # Each runtime raises kinds of its own.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} could not be loaded as {kind}; it is damaged, or something else: "
            f"{reason}"
        ) from error


class LoadedFile:
    """An exported model in its runtime.

    Attributes:
        shape: Of the input; the first entry, the batch, is None where it is free.
        dtype: Of the input, as a NumPy dtype.
    """

    def __init__(self, run, shape, dtype):
        self._run = run
        self.shape = (shape[0], *map(int, shape[1:]))
        self.dtype = np.dtype(dtype)

    def run(self, inputs):
        """The outputs for one batch that the file takes as it is."""
        return self._run(inputs)

    def predict(self, inputs):
        """The outputs for any number of inputs.

        Args:
            inputs: (n, ...); for a file with quantised inputs and outputs, in real
                numbers.

        Returns:
            float32 array (n, ...).
        """
        size = self.shape[0] or BATCH
        outputs = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            missing = (self.shape[0] or 0) - len(batch)
            if missing > 0:  # A fixed batch is filled up with the last example.
                batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            count = min(size, len(inputs) - start)
            outputs.append(np.asarray(self.run(batch), "float32")[:count])
        return np.concatenate(outputs)


def _open_saved_model(tensorflow, path, threads):
    loaded = tensorflow.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    ((name, spec),) = serve.structured_input_signature[1].items()

    def run(inputs):
        given = tensorflow.constant(inputs, dtype=spec.dtype)
        (outputs,) = serve(**{name: given}).values()
        return outputs.numpy()

    run.keep = loaded  # Its variables live as long as it does.
    return LoadedFile(run, tuple(spec.shape), spec.dtype.as_numpy_dtype)


def _open_onnx(onnxruntime, path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    dtypes = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    batch, *shape = given.shape
    # A free dimension has a name for a number.
    batch = batch if isinstance(batch, int) else None
    dtype = np.dtype(dtypes[given.type])

    def run(inputs):
        return session.run(None, {given.name: inputs.astype(dtype, copy=False)})[0]

    return LoadedFile(run, (batch, *shape), dtype)


def _open_litert(litert, path, threads):
    interpreter = litert.Interpreter(str(path), num_threads=threads)
    (given,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch, *shape = map(int, given["shape_signature"])
    interpreter.allocate_tensors()
    allocated = int(given["shape"][0])

    def run(inputs):
        nonlocal allocated
        if len(inputs) != allocated:
            interpreter.resize_tensor_input(given["index"], inputs.shape)
            interpreter.allocate_tensors()
            allocated = len(inputs)
        interpreter.set_tensor(given["index"], _quantized(inputs, given))
        interpreter.invoke()
        return _real(interpreter.get_tensor(gives["index"]), gives)

    return LoadedFile(run, (None if batch < 0 else batch, *shape), given["dtype"])


def _quantized(inputs, details):
    """Inputs as the file takes them; integers are taken for already quantised."""
    dtype = details["dtype"]
    if np.issubdtype(dtype, np.integer) and inputs.dtype.kind == "f":
        scale, zero = details["quantization"]
        limits = np.iinfo(dtype)
        inputs = np.clip(np.round(inputs / scale + zero), limits.min, limits.max)
    return inputs.astype(dtype, copy=False)


def _real(outputs, details):
    if outputs.dtype.kind == "f":
        return outputs
    scale, zero = details["quantization"]
    return (outputs.astype("float32") - zero) * np.float32(scale)


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
            inputs = (255 * inputs).astype(loaded.dtype)
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
