"""From a Keras model to a file: each format's way, and what is said where it fails."""

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_kd.exporters import converter, examples, onnx_graph, runtimes
from keras_kd.files import disk_full, no_room

_QUANTIZATIONS = {None: "None", "float16": "'float16'", "dynamic": "'dynamic'"}


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A file that is to be made of a model.

    Attributes:
        model: A `keras.Model` with one input, and one output or a dict of them.
        path: The file's name, for messages: it is written to another.
        format, quantization: As `export` takes them.
        signature: The `keras.InputSpec` of the file's input.
        calibration: Array of inputs, of the signature's dtype, for "int8"; else None.
        as_bytes: Whether "int8" files take and give uint8, images in [0, 255], or int8.
    """

    model: keras.Model
    path: Path
    format: str
    quantization: str | None
    signature: keras.InputSpec
    calibration: np.ndarray | None
    as_bytes: bool

    def write(self, file, examples):
        """Writes the file, and loads it.

        Args:
            file: Where it is written.
            examples: Array of inputs that a LiteRT file is tried on in another process.

        Returns:
            A `keras_kd.exporters.runtimes.LoadedFile`, of which `predict` may raise what
            `refusals` turns into a message.

        Raises:
            ValueError: A converter or the runtime refuses; says which, what it says and
                what may help.
        """
        archive = keras.export.ExportArchive()
        # Not `model.export`, which may leave layers such as RandomFlip as in training.
        call = functools.partial(self.model.__call__, training=False)
        with self.refusals(file, "Keras's exporter"):
            archive.track(self.model)
            function = archive.add_endpoint("serve", call, [self.signature])
            if self.format == "saved_model":
                archive.write_out(str(file), verbose=False)
        if self.format == "onnx":
            with self.refusals(file, "tf2onnx"):
                onnx_graph.write(function, self.signature, file)
        if self.format == "litert":
            self._write_litert(archive, file, examples)
        with self.refusals(file):
            return runtimes.open_file(file)

    def _write_litert(self, archive, file, examples):
        with tempfile.TemporaryDirectory(prefix="keras_kd-") as folder:
            saved_model, inputs, calibration = (
                str(Path(folder, x)) for x in ("model", "inputs.npy", "calibration.npy")
            )
            with self.refusals(file, "Keras's exporter", disk=tempfile.gettempdir()):
                archive.write_out(saved_model, verbose=False)
            np.save(inputs, examples[: runtimes.BATCH].astype(self.signature.dtype))
            if self.calibration is not None:
                np.save(calibration, self.calibration)
            said = converter.ask(
                {
                    "saved_model": saved_model,
                    # This process may be in another folder now than at the other's start.
                    "path": str(Path(file).absolute()),
                    "examples": inputs,
                    "quantization": self.quantization,
                    "calibration": None if self.calibration is None else calibration,
                    "batch_size": self.signature.shape[0],
                    "as_bytes": self.as_bytes,
                }
            )
        if "os" in said:
            error = OSError(*said["os"], str(self.path))
            raise disk_full(error.errno, self.path) if no_room(error) else error
        told = {
            "stopped": "LiteRT's converter, or the runtime that tried it, was stopped by",
            "converter": "LiteRT's converter says:",
            "runtime": f"{self._runtime} says:",
        }
        for key in said.keys() & told.keys():
            raise self._refusal(f"{told[key]} {said[key]}", file)

    @contextlib.contextmanager
    def refusals(self, file, who=None, disk=None):
        """Makes a ValueError of all that a converter or the runtime raises.

        Args:
            file: Where the file is written, which no message says.
            who: What works meanwhile; by default the runtime.
            disk: What an error of the disk is said of; by default the file's own name.

        Raises:
            OSError: There was no room, or the like.
        """
        try:
            yield
        except OSError as error:
            if number := no_room(error):
                raise disk_full(number, disk or self.path) from error
            error.filename = str(disk or self.path)
            raise
        except (ImportError, MemoryError):  # Not for want of an operator.
            raise
        except Exception as error:
            # TensorFlow has errors of its own for these.
            if number := no_room(error):
                raise disk_full(number, disk or self.path) from error
            said = f"{who or self._runtime} says: {runtimes.reason(error)}"
            raise self._refusal(said, file) from error

    @property
    def _runtime(self):
        module = runtimes.FORMATS[self.format][1][0].split(".")[0]
        return f"{module}, which is to run it,"

    def _refusal(self, said, file=None):
        for name in () if file is None else (Path(file).absolute(), file):
            said = said.replace(str(name), str(self.path))
        quantized = f" with quantization={self.quantization!r}" if self.quantization else ""
        return ValueError(
            f"{self.path} was not written, because the model {self.model.name!r} could not "
            f"be converted to format={self.format!r}{quantized}. {said.rstrip('.')}. What "
            f"may help: {'; '.join(self._help())}."
        )

    def _help(self):
        """What to try, the likeliest first."""
        layers = self.model._flatten_layers()
        dtypes = {str(x.compute_dtype) for x in layers}
        others = sorted(x for x in dtypes - {"float32"} if "float" in x)
        if any(getattr(x, "quantization_mode", None) for x in layers):
            yield "the model as it was before keras.Model.quantize changed its layers"
        if others:
            yield f"dtype='float32' for its layers, which compute in {' and '.join(others)}"
        is_free = self.format == "litert" and self.signature.shape[0] is None
        if self.format == "litert" and any(isinstance(x, keras.layers.RNN) for x in layers):
            yield "unroll=True for its recurrent layers"
        if is_free and self.quantization != "int8":
            yield "batch_size=1"
        if self.quantization:
            kinds = [v for k, v in _QUANTIZATIONS.items() if k != self.quantization]
            yield f"another quantization ({' or '.join(kinds)})"
        if self.quantization == "int8":
            yield "other calibration, if on this a layer's outputs are all zero"
        formats = [repr(x) for x in runtimes.FORMATS if x != self.format]
        yield f"another format ({' or '.join(formats)})"
        yield "another layer in place of the one that is named"


def calibration_inputs(calibration, signature, as_bytes):
    """Inputs to calibrate with, whole batches of them.

    Args:
        calibration: Training inputs as `export` takes them.
        signature: The `keras.InputSpec` of the file's input.
        as_bytes: Whether the file takes images in [0, 255] as uint8.

    Returns:
        Array (n, ...) of the signature's dtype.

    Raises:
        ValueError: The calibration's shape is not the input's, or it does not fill a
            batch.
    """
    inputs = [batch for batch, _ in examples.batches(calibration, "calibration")]
    shapes = {batch.shape[1:] for batch in inputs}
    if shapes != {signature.shape[1:]}:
        raise ValueError(
            "`calibration` must be inputs of the examples' shape, "
            f"{signature.shape[1:]}. Received: shapes {sorted(shapes)}."
        )
    inputs = examples.as_dtype(np.concatenate(inputs), signature.dtype, "calibration")
    size = signature.shape[0] or 1
    if len(inputs) < size:
        raise ValueError(
            "`calibration` must fill a batch of the file, "
            f"{size} examples. Received: {len(inputs)}."
        )
    if as_bytes:
        # Two pixels that stretch the input's range, so that a byte stands for itself.
        inputs[0].flat[:2] = 0, 255
    return inputs[: len(inputs) // size * size]
