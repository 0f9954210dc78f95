"""Loads `.keras` files: any, safely; and a Distiller's that is without its teacher."""

import contextvars

import keras

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
    try:
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


def load_distiller(filepath, teacher):
    """Loads a Distiller that was saved with `include_teacher=False`.

    Args:
        filepath: A `.keras` file.
        teacher: The teacher, a `keras.Model`, with its weights.

    Returns:
        The `Distiller`, compiled as it was; `fit` goes on where it stopped.

    Raises:
        ValueError: The file holds no Distiller, or one with its own teacher.
    """
    handed = [teacher]
    token = _handed.set(handed)
    try:
        distiller = keras.saving.load_model(filepath, safe_mode=True)
    finally:
        _handed.reset(token)
    if handed:
        raise ValueError(
            f"{filepath} holds no Distiller without its teacher; "
            "keras.saving.load_model loads it."
        )
    distiller.teacher = teacher
    return distiller


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
