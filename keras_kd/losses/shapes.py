"""Shapes that a loss cannot compare, or for which it would be constant."""

import math

from keras_kd.losses.ops import fits_shape


def check_same_shape(loss_name, teacher_shape, student_shape):
    """Refuses outputs that cannot be compared element by element.

    Raises:
        ValueError: The outputs are not (batch, ..., size), or differ in shape.
            Unknown dimensions (None) fit any size.
    """
    teacher_shape, student_shape = tuple(teacher_shape), tuple(student_shape)
    received = (
        f"Received: teacher_outputs of shape {teacher_shape}, "
        f"student_outputs of shape {student_shape}."
    )
    if len(teacher_shape) < 2 or len(student_shape) < 2:
        raise ValueError(
            f"{loss_name} takes outputs of shape (batch, ..., size). {received}"
        )
    if not fits_shape(teacher_shape, student_shape):
        if {teacher_shape[-1], student_shape[-1]} == {1, 2}:
            # Which a teacher model does by itself, as its outputs are known beforehand.
            received += (
                " One logit z is that of the two classes (0, z), and two (a, b) are the "
                "one logit b - a: give the outputs so."
            )
        raise ValueError(
            f"{loss_name} compares teacher and student element by element, so their "
            "outputs must have the same shape: give the student's layer as many units as "
            "the teacher's; or, of classes, kd.teachers.GroupClasses makes a teacher of "
            f"some of its classes, or of merged ones. {received}"
        )


def check_two_classes(loss_name, shape):
    """Refuses outputs of one class, where a loss has nothing to compare.

    Raises:
        ValueError: The last axis of `shape` has the length 1.
    """
    check_classes(loss_name, shape, 2)


def check_classes(loss_name, shape, least):
    """Refuses outputs of so few classes that a loss is the same whatever they are.

    Raises:
        ValueError: The last axis of `shape` is known and shorter than `least`.
    """
    if len(shape) < 2 or shape[-1] is None or shape[-1] >= least:
        return
    counts = {2: "two", 3: "three"}
    raise ValueError(
        f"{loss_name} takes logits of {counts[least]} or more classes: of fewer it is the "
        "same whatever the student answers, so that nothing would be learned. "
        "'logit_mse' compares the logits themselves, be they few. Received: outputs of "
        f"shape {tuple(shape)}."
    )


def check_batch(loss, size):
    """Refuses training in batches of which a loss is the same whatever is answered.

    Args:
        loss: A `DistillationLoss`.
        size: Of the batches, or None where it is not known.

    Raises:
        ValueError: It is smaller than the loss's `least_batch`.
    """
    if size is not None and size < loss.least_batch:
        raise ValueError(
            f"{loss!r} compares examples of a batch with each other: of fewer than "
            f"{loss.least_batch} it is the same whatever the student answers. Received: "
            f"batches of {size}. Take larger ones."
        )


def check_size(loss_name, shape, least):
    """Refuses a student's outputs of which only the signs would count.

    Raises:
        ValueError: The sizes in `shape` after the batch are known, and make fewer than
            `least` numbers for each example.
    """
    sizes = tuple(shape)[1:]
    if None not in sizes and math.prod(sizes) < least:
        raise ValueError(
            f"{loss_name} compares directions, so it takes {least} or more outputs of the "
            "student for each example: of one it is the same whatever its size. Tap a "
            f"wider layer. Received: student_outputs of shape {tuple(shape)}."
        )
