"""What a student's file costs, before the student is trained."""

import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_kd.exporters import converter
from keras_kd.exporters.checks import check_quantization
from keras_kd.exporters.conversion import Conversion
from keras_kd.exporters.export import file_name
from keras_kd.exporters.file_profile import file_sizes, profile_files
from keras_kd.exporters.runtimes import need_runtimes

# Sizes that are not known, of a pixels' or a sequence's model, are tried at this one.
_SIZE = 64
_EXAMPLES = 8


def measure(name, model, limits, family):
    """Bytes of the file of an untrained model, or the milliseconds that it takes.

    Args:
        name: "max_bytes" or "max_latency".
        model: Of a family. Its weights are changed.
        limits: `keras_kd.students.limits.Limits`, of which the file's format is read.
        family: The `keras_kd.students.families.Family`.

    Raises:
        ImportError: The format's runtime is not installed.
        ValueError: Keras is on another backend than TensorFlow, which makes the files; or a
            converter refuses the model.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"`{name}` is of a file, which TensorFlow makes. Received: Keras on "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow, or limit MACs and "
            "parameters."
        )
    examples = _random(model, family)
    calibration = examples if limits.quantization == "int8" else None
    check_quantization(limits.format, limits.quantization, calibration)
    _as_if_trained(model)
    need_runtimes(limits.format)
    if limits.format == "litert":
        converter.start()
    with tempfile.TemporaryDirectory(prefix="keras_kd-") as folder:
        path = Path(folder, file_name("student", limits.format, limits.quantization))
        Conversion(
            model,
            path,
            limits.format,
            limits.quantization,
            keras.InputSpec(shape=(None, *examples.shape[1:]), dtype=examples.dtype.name),
            calibration,
            as_bytes=False,
        ).write(path, examples)
        if name == "max_bytes":
            return file_sizes(path)[0]
        (found,) = profile_files([path], batch_sizes=(1,), threads=1)
        return found.latencies[0].median_ms


def _random(model, family):
    shape = [_EXAMPLES, *(x or _SIZE for x in model.input_shape[1:])]
    rng = np.random.default_rng(0)
    if family.integers:
        return rng.integers(1, 256, shape).astype("int32")
    return rng.uniform(size=shape).astype("float32")


def _as_if_trained(model):
    """Gives a model weights of the kind that training leaves.

    Zeros and ones of a new model, and what is equal, take no room in a file. And a narrow
    model's ReLUs may all be 0, which no int8 file holds: so units are averages of what they
    take in.
    """
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        for x in layer.weights:
            if "float" not in x.dtype:
                continue
            values = np.abs(x.numpy()) + rng.uniform(0.1, 0.2, x.shape)
            if "kernel" in x.name:
                values /= np.sum(values, axis=_inputs(layer, x), keepdims=True)
            x.assign(values)
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _inputs(layer, kernel):
    """The axes of a kernel over which a unit sums."""
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    by_channel = depthwise or "depthwise" in kernel.name
    return tuple(range(len(kernel.shape) - (2 if by_channel else 1)))
