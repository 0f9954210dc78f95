"""Loads a Distiller whose file was written without its teacher."""

import contextvars

import keras

# Holds the teacher until the Distiller's `from_config` takes it.
_handed = contextvars.ContextVar("handed", default=None)


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
