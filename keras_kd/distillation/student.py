"""Chooses the student: the largest of its family that is within every limit."""

import dataclasses

from keras_kd import students
from keras_kd.evaluation.profile import profile
from keras_kd.models.given_outputs import asks_a_function
from keras_kd.recipes.model_files import load_model
from keras_kd.students.families import FAMILIES
from keras_kd.tables import shown_count

# Of the teacher, where no limit is given.
_SHARE = 0.1
# Bytes of the layer that gives values their size, in a file.
_VALUES = 1000


def smallest(family):
    """The quantization in which a family's file is smallest and answers as its model."""
    return FAMILIES[family].quantization


def choose(said, teacher, answers, parts, limits, announce=print, is_free=False):
    """The student of a call.

    Args:
        said: A family of `keras_kd.students`, the path of a `.keras` model, or None.
        teacher: The `keras.Model`, as it sees the student's inputs.
        answers: The shape of its answer to one example.
        parts: The `keras_kd.datasets.parts.Parts`.
        limits: `keras_kd.students.Limits`.
        announce: Called with a line that tells it.
        is_free: Whether the file's quantization is the family's, not that of the limits.

    Returns:
        `(table, model)`: as a recipe's stage has it, and a model of that kind, untrained.

    Raises:
        ValueError: There is no such family, or not for such data; or its smallest is over a
            limit; or nothing says how small it must be.
    """
    shape = tuple(parts.train[0].shape[1:])
    if said is not None and said.endswith(".keras"):
        model = load_model(said)
        announce(f"Student: {said}, {_cost_of(model)}")
        return said, model
    families = students.for_kind(parts.kind, pixels=len(answers) == 3)
    if said is not None and said not in families:
        raise ValueError(
            f"`student` must be a .keras file, or a family for {parts.kind}: "
            f"{', '.join(families)}. Received: student={said!r}."
        )
    family = said or families[0]
    said_any = limits.any
    limits = _of_teacher(limits, teacher, announce)
    if parts.task == "regression" and limits.max_bytes is not None:
        limits = dataclasses.replace(limits, max_bytes=limits.max_bytes - _VALUES)
    if is_free:
        limits = dataclasses.replace(limits, quantization=smallest(family))
    try:
        width = students.largest(family, shape, answers, limits, parts.columns)
    except ValueError as error:
        if said_any:
            raise
        raise ValueError(
            "A tenth of this teacher is too small for a student of this family. Say how "
            f"big it may be, by max_bytes (--max-bytes) for instance. ({error})"
        ) from error
    model = students.build(family, shape, answers, width, parts.columns)
    announce(f"Student: {family} of width {width}, {_cost_of(model)}")
    return {"family": family, "width": width}, model


def _of_teacher(limits, teacher, announce):
    """The limits, or where none is given a share of what the teacher costs."""
    if limits.any:
        return limits
    if asks_a_function(teacher):
        raise ValueError(
            "A limit must be given, max_bytes or another: what the teacher costs, of which "
            "the student would be a share, is not known."
        )
    cost = profile(teacher)
    limits = dataclasses.replace(limits, max_parameters=int(_SHARE * cost.parameters))
    if cost.macs:
        limits = dataclasses.replace(limits, max_macs=int(_SHARE * cost.macs))
    announce("Limits: none given, so a tenth of the teacher's parameters and MACs")
    return limits


def _cost_of(model):
    cost = profile(model)
    return f"{cost.parameters:,} parameters, {shown_count(cost.macs)} MACs"
