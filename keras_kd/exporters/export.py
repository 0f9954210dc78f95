"""A trained model as a file for a device, proved to answer as the Keras model does."""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import shutil
import uuid
from pathlib import Path

import keras
from keras import tree

from keras_kd import files
from keras_kd.exporters import checks, converter, elsewhere, proof
from keras_kd.exporters.conversion import Conversion, calibration_inputs
from keras_kd.exporters.examples import as_dtype, first_and_all, in_structure
from keras_kd.exporters.fake_quantization import without_fake_quantization
from keras_kd.exporters.file_profile import file_sizes
from keras_kd.exporters.outputs import find_outputs, named, task_of
from keras_kd.exporters.runtimes import FORMATS, need_runtimes
from keras_kd.models.symbolic import symbolic_inputs
from keras_kd.training.precision import in_float32
from keras_kd.training.whose_answers import student_of

_PACKAGES = {
    "saved_model": ("tensorflow",),
    "litert": ("tensorflow", "ai-edge-litert"),
    "onnx": ("tensorflow", "tf2onnx", "onnxruntime"),
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export left; its fields are those of the file's `.export.json`.

    Attributes:
        file: Name of the file or folder.
        format, quantization, batch_size: As `export` took them.
        input_shape, input_dtype: What the file takes; the batch is None where it is free.
        gives: "the model's outputs"; or "probabilities", where preprocessing is in it and
            they are no values.
        parameters: Number of the model's weights.
        file_bytes, gzip_bytes: Size, as it is and gzipped; see `file_sizes`.
        real_examples: Whether the examples were given, not random numbers.
        calibration_examples: How many the quantisation was calibrated on.
        proof: A `keras_kd.exporters.proof.Proof`, as a dict.
        tolerance, min_agreement: What it had to keep to; of values there is no agreement.
        versions: dict of each package that made or ran the file to its version.
        class_names: What the outputs' classes are called, in their order, or None.
    """

    file: str
    format: str
    quantization: str | None
    batch_size: int | None
    input_shape: tuple
    input_dtype: str
    gives: str
    parameters: int
    file_bytes: int
    gzip_bytes: int
    real_examples: bool
    calibration_examples: int
    proof: dict
    tolerance: float
    min_agreement: float | None
    versions: dict
    class_names: list | None = None

    def __str__(self):
        lines = [
            f"bytes                {self.file_bytes:,}, gzipped {self.gzip_bytes:,}",
            f"examples             {self.proof['examples']:,}",
            *proof.from_dict(self.proof).lines(),
        ]
        return "\n".join(lines)


def export(
    model,
    path,
    format,
    *,
    quantization=None,
    calibration=None,
    examples=None,
    batch_size=None,
    preprocessing=None,
    task=None,
    class_names=None,
    tolerance=None,
    min_agreement=None,
    overwrite=False,
):
    """Writes a model as a SavedModel, LiteRT or ONNX file, and proves it.

    Keras's exporter makes the file, LiteRT's converter in a process of its own; from JAX or
    PyTorch a process on TensorFlow does all of it. The format's runtime then runs it on the
    examples, beside the Keras model. If their outputs differ by more than the tolerance no
    file is left; else a second one, its name with ".export.json" after it, says what was
    found.

    Args:
        model: A built `keras.Model` with one input, be it in a dict or list of one. Its
            outputs may be several: the file gives them by their names, those of the dict
            that the model gives, or Keras's `output_names`. Of a Distiller, its student is
            exported; what was trained in mixed precision is exported in float32, and a
            `quantization_aware` model as the plain one.
        path: Ends in ".tflite" for LiteRT, in ".onnx" for ONNX; a folder for a SavedModel.
        format: "saved_model", "litert" or "onnx".
        quantization: Of LiteRT alone. None is float32; "float16", weights in float16;
            "dynamic", weights in int8, activations too while the file runs; "int8",
            everything in int8, inputs and outputs included; but inputs that are integers
            in the Keras model stay so.
        calibration: Real training inputs for "int8", in any form that `examples` takes;
            some hundreds are enough.
        examples: At least 1,000 real inputs, or inputs with as many positions, where each
            pixel or token has an answer of its own; better with labels. An array (n, ...),
            a tuple (inputs, labels), also with weights, which are left aside, or batches
            of one or the other, such as a `tf.data.Dataset`. Labels are one for each
            answer, or one-hot; of several outputs as `fit` takes them, None where there
            are none. Inputs may be in a dict or list of one. The file takes inputs of their
            shape, and where the model takes integers they are such. By default random
            numbers in [0, 1), or bytes for preprocessing: a weaker proof.
        batch_size: The file's, at least 1; None leaves it free.
        preprocessing: A Keras layer from images, uint8 in [0, 255], to the model's
            inputs, for instance `keras.layers.Rescaling(1 / 255)`. The file then takes
            such images and gives probabilities, or values where the task is "regression"
            or not known; and `examples` and `calibration` are such images.
        task: What the outputs mean, which says what the proof compares: "multiclass", the
            largest output; "binary" or "multilabel", on which side of 1/2 each is;
            "regression", nothing but the numbers. A dict by names where the outputs
            differ. Defaults to a Distiller's, or to what last activation, number of units
            and the loss that the model is compiled with show. Where one linear unit shows
            nothing, it is compared as numbers.
        class_names: What the classes are called, a string for each output, for whoever
            reads the answers; of one output that is a yes or no, two. They are written
            beside the file.
        tolerance: The largest difference of an output that is allowed, as a fraction of
            the range of the Keras model's outputs. Defaults to the format's in
            `keras_kd.exporters.proof.TOLERANCES`.
        min_agreement: The least fraction of answers, in [0, 1], on which both must have
            the same largest output, or say the same yes or no. Defaults as `tolerance`
            does; of values there is none.
        overwrite: Whether a file, or a SavedModel, of that name is replaced.

    Returns:
        An `Exported`.

    Raises:
        FileExistsError: There is something at `path`.
        ImportError: A runtime is not installed.
        OSError: There is no room for the file, or the like.
        ValueError: An argument is not what is described here; a converter or the runtime
            refuses the model, or was stopped, and the message says what may help; or the
            file's answers are beyond the tolerance. In every case nothing is written.

    Example:

    ```python
    kd.export(
        student,
        "student.tflite",
        "litert",
        quantization="int8",
        calibration=train_images[:500],
        examples=(test_images, test_labels),
    )
    ```
    """
    path = Path(path)
    checks.check_target(path, format, overwrite)
    checks.check_quantization(format, quantization, calibration)
    batch_size = checks.check_batch_size(batch_size)
    limits = checks.limits(quantization, tolerance, min_agreement)
    need_runtimes(format)
    # As StudentCheckpoint does: of a Distiller, what ships is its student.
    compiled, trained = model, checks.check_model(student_of(model))
    if keras.backend.backend() != "tensorflow":
        arguments = {
            "quantization": quantization,
            "calibration": calibration,
            "examples": examples,
            "batch_size": batch_size,
            "preprocessing": preprocessing,
            "task": task or task_of(compiled),
            "class_names": class_names and list(class_names),
            "tolerance": tolerance,
            "min_agreement": min_agreement,
            "overwrite": overwrite,
        }
        plain = without_fake_quantization(in_float32(trained))
        found = elsewhere.export(plain, path.absolute(), format, arguments)
        return Exported(**found | {"input_shape": tuple(found["input_shape"])})
    if format == "litert":
        converter.start()
    model = without_fake_quantization(in_float32(trained))
    given = checks.random_examples(model, preprocessing) if examples is None else examples
    first, batches = first_and_all(given)
    checks.check_inputs(model, first, preprocessing)
    taken = first if preprocessing is None else preprocessing(first[:1])
    trained, _ = _of_tensors(trained, taken)
    model, in_order = _of_tensors(model, taken)
    checks.check_float32(model, trained, first, preprocessing)
    answers = _answers(model, first, preprocessing)
    outputs = find_outputs(model, compiled, answers, in_order, task)
    limits = checks.limits_of(outputs, limits, min_agreement)
    class_names = checks.check_class_names(class_names, outputs, answers)
    head = next(batches)
    proof.check_first(answers, outputs, given, head[1])
    batches = itertools.chain([head], batches)
    gives = "the model's outputs"
    whole = model
    if preprocessing is not None:
        as_float = quantization == "int8"
        whole = _whole(model, first, preprocessing, outputs, answers, as_float)
        outputs = [dataclasses.replace(x, in_probabilities=True) for x in outputs]
        gives = _gives(outputs)
    signature = keras.InputSpec(
        shape=(batch_size, *first.shape[1:]), dtype=whole.inputs[0].dtype
    )
    calibrated = None
    if quantization == "int8":
        calibrated = calibration_inputs(calibration, signature, preprocessing is not None)
    conversion = Conversion(
        whole,
        path,
        format,
        quantization,
        signature,
        calibrated,
        as_bytes=preprocessing is not None,
    )
    facts = {
        "file": path.name,
        "format": format,
        "quantization": quantization,
        "batch_size": batch_size,
        "gives": gives,
        "parameters": model.count_params(),
        "real_examples": examples is not None,
        "calibration_examples": 0 if calibrated is None else len(calibrated),
        "class_names": class_names,
    }
    # Both are written before either gets its name.
    with (
        files.renamed_when_done(proof_path(path)) as proof_file,
        files.renamed_when_done(path) as temporary,
    ):
        loaded = conversion.write(temporary, first)

        def predict(inputs):
            with conversion.refusals(temporary):
                return loaded.predict(inputs)

        proved = proof.prove(whole, predict, batches, outputs)
        proof.check(proved, path, *limits)
        exported = _exported(facts, temporary, loaded, proved, limits)
        proof_file.write_text(json.dumps(dataclasses.asdict(exported), indent=2) + "\n")
        _make_way(path)
    return exported


def _exported(facts, path, loaded, proved, limits):
    file_bytes, gzip_bytes = file_sizes(path)
    packages = ("keras", *_PACKAGES[facts["format"]])
    return Exported(
        **facts,
        input_shape=loaded.shape,
        input_dtype=loaded.dtype.name,
        file_bytes=file_bytes,
        gzip_bytes=gzip_bytes,
        proof=dataclasses.asdict(proved),
        tolerance=limits[0],
        min_agreement=limits[1],
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def file_name(name, format, quantization=None):
    """What an exported model is called: "student", for instance, "student-int8.tflite".

    Args:
        name: The model's name or path; of ".../student/model.keras" it is the folder's.
        format, quantization: As `export` takes them.
    """
    checks.check_one_of("format", format, list(FORMATS))
    path = Path(name)
    stem = path.parent.name if path.name == "model.keras" else path.stem
    if format == "saved_model":
        return f"{stem}_saved_model"
    kind = "" if quantization is None else f"-{quantization}"
    return f"{stem}{kind}{FORMATS[format][0]}"


def proof_path(path):
    """Where the proof of an exported file lies: beside it."""
    path = Path(path)
    return path.with_name(f"{path.name}.export.json")


def _of_tensors(model, taken):
    """A model from a tensor to a tensor, or to a dict of several by their names.

    It is the model itself, or calls it with its dict or list.

    Returns:
        `(model, in_order)`, as `keras_kd.exporters.outputs.named` says it.
    """
    inputs = symbolic_inputs(model)
    if inputs:
        tensor = keras.Input(batch_shape=inputs[0].shape, dtype=inputs[0].dtype)
        given = in_structure(model, tensor)
        if not any(map(tree.is_nested, (given, model.compute_output_spec(given)))):
            return model, True
    else:
        # Words' numbers stay integers.
        is_wide = "int" in str(taken.dtype) and taken.dtype != "uint8"
        dtype = taken.dtype if is_wide else None
        given = tensor = keras.Input(taken.shape[1:], dtype=dtype)
    outputs, in_order = named(model, model(given))
    return keras.Model(tensor, outputs, name=model.name), in_order


def _answers(model, first, preprocessing):
    """A model's answers to the first examples.

    Not compiled: what is no graph the converter says in its own words.
    """
    if preprocessing is None:
        inputs = as_dtype(first, model.inputs[0].dtype, "examples")
    else:
        inputs = preprocessing(first)
    return model(inputs, training=False)


def _whole(model, first, preprocessing, outputs, answers, as_float):
    """The Keras model that the file is to be: with preprocessing, to probabilities."""
    # The converter itself makes bytes of an input in float: no operation on floats is left.
    image = keras.Input(first.shape[1:], dtype="float32" if as_float else "uint8")
    given = model(preprocessing(image))
    gives = {
        x.name: x.as_probabilities(*map(x.in_structure, (given, answers))) for x in outputs
    }
    return keras.Model(image, gives.get(None, gives), name=model.name)


def _gives(outputs):
    """What a file with preprocessing gives, in words."""
    values = [x.name for x in outputs if x.activation is None]
    if len(values) == len(outputs):
        return "the model's outputs"
    of_values = f", and values of {', '.join(map(repr, values))}" if values else ""
    return f"probabilities{of_values}"


def _make_way(path):
    """Removes what an export to `path` replaces; a file is replaced in one step."""
    # An older proof must not lie beside the new file, should the next step be the last.
    proof_path(path).unlink(missing_ok=True)
    if path.is_dir():
        old = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
        os.replace(path, old)
        shutil.rmtree(old)
