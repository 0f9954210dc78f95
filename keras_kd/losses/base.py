"""The contract of a distillation loss, and the checks that losses share."""

import abc
import math
import numbers

import keras
from keras import ops

from keras_kd.losses.ops import at_least_float32


class DistillationLoss(keras.distillation.DistillationLoss, abc.ABC):
    """One thing the student is asked to match.

    It is also a `keras.distillation.DistillationLoss`, so Keras's own Distiller takes it.
    A final class sets these attributes; `keras_kd.Distiller` reads them and asks nothing
    else of a loss:

    Attributes:
        needs_labels: Whether `y_true` may not be None.
    """

    needs_labels = False

    @abc.abstractmethod
    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        """Loss of one batch.

        Args:
            teacher_outputs: Logits, (batch, ..., num_classes). Treated as a constant by
                the Distiller.
            student_outputs: Logits of the same shape.
            y_true: Integer labels (batch,) or None; required if `needs_labels`.
            sample_weight: (batch,), each >= 0, or None for all ones.

        Returns:
            Scalar, float32: `sum(sample_weight * loss) / batch`, as Keras's
            `sum_over_batch_size` reduces.

        Raises:
            ValueError: A shape or a class count does not fit, or labels are missing.
        """

    def get_config(self):
        """The constructor's arguments, as Keras serialises them."""
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class PerExampleLoss(DistillationLoss):
    """A loss with one value per example.

    A final class writes `call(teacher, student, y_true)`, which returns (batch, ...);
    the check of shapes and the weighted mean are done here.
    """

    @abc.abstractmethod
    def call(self, teacher_outputs, student_outputs, y_true):
        """One value per example, (batch, ...)."""

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        # Tensors of any dtype in; a NumPy float64 array is not silently made float32.
        teacher_outputs = at_least_float32(teacher_outputs)
        student_outputs = at_least_float32(student_outputs)
        check_same_classes(type(self).__name__, teacher_outputs, student_outputs)
        if self.needs_labels and y_true is None:
            raise ValueError(
                f"{type(self).__name__} needs labels. Received: y_true=None."
            )
        values = self.call(teacher_outputs, student_outputs, y_true)
        return weighted_mean(values, sample_weight)


def weighted_mean(values, sample_weight=None):
    """Keras's `sum_over_batch_size`: the sum of weighted values over their number."""
    if sample_weight is not None:
        sample_weight = ops.cast(sample_weight, values.dtype)
        # (batch,), or Keras's (batch, 1), against values of (batch, ...).
        missing = len(values.shape) - 1
        sample_weight = ops.reshape(sample_weight, (-1,) + (1,) * missing)
        values = values * sample_weight
    return ops.mean(values)


def check_same_classes(loss_name, teacher_outputs, student_outputs):
    """Refuses outputs that cannot be compared class by class.

    Raises:
        ValueError: The outputs are not (batch, ..., num_classes), or differ in shape.
            Unknown dimensions (None) fit any size.
    """
    teacher_shape = tuple(teacher_outputs.shape)
    student_shape = tuple(student_outputs.shape)
    received = (
        f"Received: teacher_outputs of shape {teacher_shape}, "
        f"student_outputs of shape {student_shape}."
    )
    if len(teacher_shape) < 2 or len(student_shape) < 2:
        raise ValueError(
            f"{loss_name} takes outputs of shape (batch, ..., num_classes). {received}"
        )
    fits = len(teacher_shape) == len(student_shape) and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(teacher_shape, student_shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{loss_name} compares teacher and student class by class, so their outputs "
            "must have the same shape. Give the student's last layer as many units as "
            f"the teacher's. {received}"
        )


def check_positive(name, value):
    """`value` as a float, if it is a finite number > 0.

    Raises:
        ValueError: It is anything else; the message names the argument.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"`{name}` must be a finite number greater than 0. "
            f"Received: {name}={value!r}."
        )
    return float(value)
