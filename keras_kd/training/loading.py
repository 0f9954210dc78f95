"""Loads `.keras` files: any, safely; and what a Distiller's says of it."""

import contextlib
import contextvars
import json
import random
import re
import tempfile
import zipfile
from pathlib import Path

import keras

from keras_kd.models.given_outputs import GivenOutputs
from keras_kd.models.sharing import serialize_apart, share_weights, shared_layers
from keras_kd.training.precision import in_float32
from keras_kd.training.terms import known_shape

# Holds the teacher until the Distiller's `from_config` takes it.
_handed = contextvars.ContextVar("handed", default=None)


def load_keras_file(path):
    """Loads a `.keras` model with Keras's safe mode on: no code in the file runs.

    Args:
        path: A file that is there.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ValueError: The file is not a model that Keras can load safely.
    """
    if not zipfile.is_zipfile(path):
        # Keras says that it was not found.
        raise ValueError(
            f"{path} could not be loaded as a Keras model: it is empty, cut short or of "
            "another format. A .keras file is a zip archive that keras.Model.save writes; "
            "copy it again from where it is whole."
        )
    try:
        with _unknown_told(path):
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a file it cannot read.
        if "safe_mode" in str(error):  # Its advice is to switch that off.
            raise ValueError(
                f"{path} could not be loaded: it holds code, for instance the function of "
                "a Lambda layer, that would run here. Files are loaded in Keras's safe "
                "mode alone, which refuses that. Have the model saved with a layer of "
                "Keras in its place."
            ) from error
        raise ValueError(
            f"{path} could not be loaded as a Keras model: {error}"
        ) from error


def check_saves(model):
    """Refuses a model of which the file that ships could not be written.

    For before the first step, so that nobody trains what cannot be kept. The file is that
    of the model in float32 (`keras_kd.training.precision.in_float32`). Nothing is drawn
    from a random state, and the model stays as it is.

    Args:
        model: A built `keras.Model`.

    Returns:
        Why Keras could not load that file in its safe mode, where nothing is registered for
        it that is not registered now: it holds the function of a Lambda layer, say. None
        where it could.

    Raises:
        ValueError: The file cannot be written.
    """
    if _is_all_of_keras(model):
        return None
    numbers = random.getstate()
    with tempfile.TemporaryDirectory(prefix="keras_kd_") as folder:
        path = Path(folder, "model.keras")
        try:
            in_float32(model).save(path)
        except Exception as error:  # Keras raises many kinds.
            raise ValueError(
                f"The model {model.name!r} could not be saved, so it would be trained for "
                f"nothing: {error}"
            ) from error
        try:
            load_keras_file(path)
        except ValueError as error:
            return str(error).replace(str(path), "the file")
        finally:
            random.setstate(numbers)
    return None


def _is_all_of_keras(model):
    """Whether a model is made of Keras's own classes alone, and of no functions."""
    try:
        parts = [keras.saving.serialize_keras_object(model)]
    except Exception:  # Whatever a user's `get_config` raises.
        return False
    for part in parts:
        if isinstance(part, dict):
            module = part.get("module") or "keras"
            if "class_name" in part and not re.match(r"keras(\.|$)", module):
                return False
            if part.get("class_name") in ("function", "__lambda__"):
                return False
            parts += part.values()
        elif isinstance(part, (list, tuple)):
            parts += part
    return True


def load_distiller(filepath, teacher, custom_objects=None, safe_mode=True):
    """Loads a Distiller that was saved with `include_teacher=False`.

    Args:
        filepath: A `.keras` file.
        teacher: The teacher, a `keras.Model`, with its weights.
        custom_objects, safe_mode: As `keras.saving.load_model` takes them. Without safe
            mode a Lambda layer's code in the file runs: for files of your own alone.

    Returns:
        The `Distiller`, compiled as it was; `fit` goes on where it stopped.

    Raises:
        ValueError: The file holds no Distiller, or one with its own teacher; a loss has
            layers in it, made for a teacher of other shapes; or an object is of a class
            that is neither registered with Keras nor one of `custom_objects`.

    Example:

    ```python
    distiller.fit(train_ds, epochs=6)
    distiller.save("distiller.keras", include_teacher=False)
    distiller = load_distiller("distiller.keras", teacher)
    ```
    """
    teacher = GivenOutputs() if teacher is None else teacher
    _check_shapes(filepath, teacher)
    handed = [teacher]
    token = _handed.set(handed)
    try:
        with _unknown_told(filepath):
            distiller = keras.saving.load_model(
                filepath, custom_objects, safe_mode=safe_mode
            )
    finally:
        _handed.reset(token)
    if handed:
        raise ValueError(
            f"{filepath} holds no Distiller without its teacher; "
            "keras.saving.load_model loads it."
        )
    distiller.put_teacher(teacher)
    return distiller


def deserialize(what, config, custom_objects=None):
    """As `keras.saving.deserialize_keras_object`, with a word for a class of the user's.

    Args:
        what: For the message: "distillation_losses".
        config: What Keras's serialiser made.
        custom_objects: dict of names to classes.

    Raises:
        ValueError: It holds an object of a class that Keras does not know.
    """
    with _unknown_told(f"`{what}`"):
        return keras.saving.deserialize_keras_object(config, custom_objects)


@contextlib.contextmanager
def _unknown_told(holder):
    try:
        yield
    except Exception as error:  # Of several kinds, as deep as it lies.
        # Keras has the whole configuration before these words.
        found = re.search("Could not locate (class|function) '([^']+)'", str(error))
        if not found:
            raise
        kind, name = found.groups()
        raise ValueError(
            f"The {kind} {name!r} in {holder} is not known to Keras by its name. Give "
            f"what loads it custom_objects={{{name!r}: {name}}}; or register it before it "
            "is saved, with the decorator @keras.saving.register_keras_serializable()."
        ) from error


def _check_shapes(filepath, teacher):
    """Refuses a teacher whose tapped outputs the file's layers were not made for."""
    if not isinstance(teacher, keras.Model) or not zipfile.is_zipfile(filepath):
        return  # There are words for that elsewhere.
    with zipfile.ZipFile(filepath) as file:
        config = json.loads(file.read("config.json"))
    # Of files of earlier versions it is not known.
    for name, shape in (config.get("config") or {}).get("teacher_shapes", ()):
        now = known_shape(teacher, name)
        if None not in (shape, now) and tuple(shape) != tuple(now):
            what = "its own output" if name is None else f"its layer {name!r}"
            raise ValueError(
                f"`teacher` does not fit {filepath}, whose losses were built for {what} of "
                f"shape {tuple(shape)}. Received: teacher {teacher.name!r}, where it is of "
                f"shape {tuple(now)}."
            )


def take_handed_teacher():
    """The teacher given to `load_distiller`, once.

    Raises:
        ValueError: There is none: the file is being loaded by something else.
    """
    handed = _handed.get()
    if not handed:
        raise ValueError(
            "This Distiller was saved without its teacher. Load it with "
            "keras_kd.load_distiller(filepath, teacher=...)."
        )
    return handed.pop()


def distiller_config(distiller):
    """A Distiller's configuration, as `distiller_arguments` takes it."""
    serialize = keras.saving.serialize_keras_object
    weights = distiller.distillation_loss_weights
    models = {"teacher": distiller.teacher, "student": distiller.student}
    return {
        "name": distiller.name,
        **{k: x and serialize_apart(x) for k, x in models.items()},
        **shared_layers(models),
        "distillation_losses": list(map(serialize, distiller.distillation_losses)),
        "distillation_loss_weights": list(map(serialize, weights)),
        "student_loss_weight": serialize(distiller.student_loss_weight),
        # With what was found, so that the loaded one need not look again.
        "teacher_outputs": distiller.teacher_kinds.to_config(),
        "student_outputs": distiller.student_kinds.to_config(),
        "validation_distillation": distiller.validation_distillation,
        "task": distiller.task,
        # For `load_distiller`, to tell another teacher's.
        "teacher_shapes": [
            pair
            for term in distiller._terms
            if term.loss.makes_layers
            for pair in zip(term.teacher.names, term.teacher.shapes, strict=True)
        ],
    }


def distiller_arguments(config, custom_objects=None):
    """The constructor's arguments that a Distiller's configuration holds.

    Raises:
        ValueError: It is without a teacher, and `load_distiller` is not what loads it.
    """

    objects = {"teacher": take_handed_teacher()} if config["teacher"] is None else {}
    made = ("teacher", "student", "distillation_losses", "distillation_loss_weights")
    for name in (*made, "student_loss_weight"):
        if name not in objects:
            objects[name] = deserialize(name, config[name], custom_objects)
    models = {k: objects[k] for k in ("teacher", "student") if config[k] is not None}
    share_weights(models, config)
    # The other tells `load_distiller` what the teacher was.
    more = ("teacher_shapes", "shared_layers")
    return {k: x for k, x in config.items() if k not in more} | objects
