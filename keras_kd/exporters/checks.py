"""What an export refuses before it converts anything."""

import difflib
import numbers

import keras
import numpy as np

from keras_kd.exporters import proof
from keras_kd.exporters.runtimes import FORMATS
from keras_kd.losses.arguments import is_finite_number
from keras_kd.models.sameness import answers_differ, is_mixed
from keras_kd.models.symbolic import input_names, symbolic_inputs

QUANTIZATIONS = ("float16", "dynamic", "int8")


def check_one_of(name, value, choices):
    """Refuses what is not one of these strings, with the nearest of them."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    raise ValueError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}. Received: "
        f"{name}={value!r}{f'; did you mean {near[0]!r}?' if near else '.'}"
    )


def check_target(path, format, overwrite):
    """Refuses a path that does not fit the format, or that is taken."""
    check_one_of("format", format, list(FORMATS))
    suffix, _ = FORMATS[format]
    others = [x for x, _ in FORMATS.values() if x and x != suffix]
    if (suffix and path.suffix != suffix) or path.suffix in [*others, ".keras", ".h5"]:
        wanted = f"end in {suffix!r}" if suffix else "name a folder"
        raise ValueError(
            f"`path` must {wanted} for format={format!r}. Received: path={str(path)!r}."
        )
    if not path.exists():
        return
    # A folder of other things must never be removed for having been named.
    is_ours = path.is_file() if suffix else (path / "saved_model.pb").is_file()
    if not is_ours:
        raise FileExistsError(
            f"{path} exists and is no {'SavedModel' if not suffix else 'file'}, so it is "
            "not replaced. Choose another path."
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} exists. Nothing was changed: choose another path, or replace it with "
            "overwrite=True (--overwrite)."
        )


def check_quantization(format, quantization, calibration):
    """Refuses a quantisation that the format does not have, and idle calibration."""
    if quantization is not None:
        check_one_of("quantization", quantization, QUANTIZATIONS)
        if format != "litert":
            raise ValueError(
                "`quantization` goes with format='litert'. Received: "
                f"quantization={quantization!r}, format={format!r}."
            )
    if (quantization == "int8") != (calibration is not None):
        raise ValueError(
            "`calibration`, real training inputs, goes with quantization='int8', which "
            f"needs it. Received: quantization={quantization!r}, "
            f"calibration={'None' if calibration is None else 'given'}."
        )


def check_batch_size(batch_size):
    """`batch_size` as an int, or None; else a ValueError."""
    if batch_size is None:
        return None
    is_integer = isinstance(batch_size, numbers.Integral)
    if not is_integer or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(
            "`batch_size` must be an integer >= 1, or None for a free batch. Received: "
            f"batch_size={batch_size!r}."
        )
    return int(batch_size)


def limits(quantization, tolerance, min_agreement):
    """(tolerance, min_agreement): those given, else the quantisation's."""
    defaults = proof.TOLERANCES[quantization]
    given = {"tolerance": tolerance, "min_agreement": min_agreement}
    for name, value in given.items():
        if value is not None and not (is_finite_number(value) and 0 <= value <= 1):
            raise ValueError(
                f"`{name}` must be a number between 0 and 1. Received: {name}={value!r}."
            )
    return tuple(
        float(default if value is None else value)
        for default, value in zip(defaults, given.values(), strict=True)
    )


def limits_of(outputs, limits, min_agreement):
    """`limits` for outputs: without an agreement, None, where all are values.

    Args:
        outputs: A list of `keras_kd.exporters.outputs.Output`.
        limits: As `limits` gives them.
        min_agreement: As `export` takes it.

    Raises:
        ValueError: It is given, and would have no effect.
    """
    if any(output.activation for output in outputs):
        return limits
    if min_agreement is None:
        return limits[0], None
    tasks = sorted({str(output.task) for output in outputs})
    raise ValueError(
        "`min_agreement` is a fraction of answers that are right or wrong, and the outputs "
        f"are values (task={' and '.join(tasks)}), which are held to `tolerance` alone. "
        f"Leave it out, or say another `task`. Received: min_agreement={min_agreement!r}."
    )


def check_class_names(class_names, outputs, answers):
    """Class names as a list, or None.

    Args:
        class_names: As `export` takes them.
        outputs: A list of `keras_kd.exporters.outputs.Output`.
        answers: The model's, to some examples.

    Raises:
        ValueError: They are not one for each class of the one output.
    """
    if class_names is None:
        return None
    are_texts = not isinstance(class_names, str) and all(
        isinstance(x, str) for x in class_names
    )
    given = f"Received: class_names={class_names!r}."
    if not are_texts:
        raise ValueError(f"`class_names` must be strings, in the classes' order. {given}")
    if len(outputs) > 1 or outputs[0].activation is None:
        what = "values" if len(outputs) == 1 else "several"
        raise ValueError(
            f"`class_names` are of one output's classes, and the model's outputs are {what}"
            f". Leave them out. {given}"
        )
    units = outputs[0].in_structure(answers).shape[-1]
    count = 2 if outputs[0].task == "binary" else units
    if len(class_names) != count or len(set(class_names)) != count:
        raise ValueError(
            f"`class_names` must be {count} names, each another, as the model has "
            f"{count} classes. {given}"
        )
    return list(class_names)


def fitting(class_names, model):
    """Class names for a model that has so many outputs, as `export` takes them; else None.

    A model may know more classes than there are in some data, or one unit for two.
    """
    shape = getattr(model, "output_shape", None)
    units = shape[-1] if isinstance(shape, tuple) else None
    return class_names if class_names and units == len(class_names) else None


def check_model(model):
    """The model, if it is one that can be exported and proved."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Model, or a Distiller. Received: "
            f"{model!r} of type {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            "`model` has no weights yet: call it on a batch or load its weights first. "
            f"Received: the unbuilt model {model.name!r}."
        )
    inputs = symbolic_inputs(model) or [None]
    if len(inputs) != 1:
        names = ", ".join(map(repr, input_names(model)))
        raise ValueError(
            "`model` must have one input, as a file is run on one array. Received: the "
            f"model {model.name!r} with {len(inputs)}: {names}. Give a model of one input "
            "that takes them apart, for instance by slices of a keras.Input."
        )
    if inputs != [None] and str(inputs[0].dtype) == "string":
        raise ValueError(
            "`model` must take numbers, and its input is of texts. Export what follows "
            "their lookup, and give it the numbers. Received: the model "
            f"{model.name!r}."
        )
    return model


def check_inputs(model, first, preprocessing):
    """Refuses examples that the file could not take; `first` is their first batch."""
    if None in first.shape[1:] or first.ndim < 2:
        raise ValueError(
            f"`examples` must be inputs of shape (n, ...). Received: shape {first.shape}."
        )
    if preprocessing is not None:
        if not isinstance(preprocessing, keras.layers.Layer):
            raise ValueError(
                "`preprocessing` must be a Keras layer, for instance "
                f"keras.layers.Rescaling(1 / 255). Received: {preprocessing!r}."
            )
        if first.dtype != np.uint8:
            raise ValueError(
                "`examples` must be images as uint8 in [0, 255] where preprocessing is "
                f"in the file. Received: {first.dtype}."
            )
        first = preprocessing(first[:1])
    wanted = _input_shape(model)
    fits = wanted is None or (
        len(wanted) == len(first.shape)
        and all(x in (None, y) for x, y in zip(wanted[1:], first.shape[1:], strict=True))
    )
    if not fits:
        raise ValueError(
            f"`examples` must be inputs of the model {model.name!r}, of shape "
            f"{('n', *wanted[1:])}. Received: shape {('n', *first.shape[1:])}"
            f"{' after preprocessing' if preprocessing is not None else ''}."
        )


def check_float32(model, trained, first, preprocessing):
    """Refuses a float32 copy that does not answer as the model that was trained.

    The file is proved against the copy; here the copy is, on the first examples.
    """
    if not is_mixed(trained) or is_mixed(model):
        return
    inputs = first if preprocessing is None else preprocessing(first)
    if answers_differ(model, trained, rounded=True, inputs=inputs):
        raise ValueError(
            f"The model {trained.name!r} was trained in mixed precision, and is exported "
            "in float32; on the first examples it answers otherwise in float32, by more "
            "than mixed precision rounds. Its inputs or features may be too large for "
            "the half precision; give the layers that take them dtype='float32', and "
            "train again."
        )


def random_examples(model, preprocessing):
    """As many random inputs as a proof needs, for a model that says what it takes."""
    shape = _input_shape(model)
    is_float = shape and keras.backend.is_float_dtype(model.inputs[0].dtype)
    if shape is None or None in shape[1:] or not is_float:
        raise ValueError(
            "`examples` must be given: which inputs the model takes cannot be told from "
            f"the model {model.name!r}."
        )
    generator = np.random.default_rng(0)
    numbers = generator.random((proof.LEAST_EXAMPLES, *shape[1:]), "float32")
    return numbers if preprocessing is None else (256 * numbers).astype("uint8")


def _input_shape(model):
    inputs = symbolic_inputs(model)
    return tuple(inputs[0].shape) if inputs else None
