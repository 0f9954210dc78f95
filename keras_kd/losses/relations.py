"""What losses on the relations between the examples of a batch share."""

import abc

from keras import ops

from keras_kd.losses.base import OneOutputLoss
from keras_kd.losses.ops import at_least_float32, fits_shape
from keras_kd.losses.shapes import check_size
from keras_kd.losses.weights import weighted_mean, weights_of, without_left_out


class RelationLoss(OneOutputLoss):
    """A loss on how the examples of a batch relate to each other.

    Each example has a value, which is a mean over the other examples, its partners:

        loss = sum_i(sample_weight_i * loss_i) / batch

    `sample_weight` weighs an example twice: its own value, as everywhere, and its part in
    the means of the others, relative to the mean weight. All ones are no weights, weights
    that are all doubled double the loss, and what an example of weight 0 holds is nothing.
    Of features with positions it may hold one for each: an example then counts by their
    mean, and features of weight 0 are zeros, which are in no distance and no product.
    A batch of one has no relations, and the loss 0.

    Teacher and student may have features of another size: each is related to its own.

    Attributes:
        least_size: How many numbers the student must have for each example, for the value
            not to be the same whatever it answers.
    """

    widths_may_differ = True
    least_batch = 2
    least_size = 1

    @abc.abstractmethod
    def call(self, teacher_outputs, student_outputs, sample_weight):
        """One value per example, (batch,)."""

    def check_shapes(self, teacher_shape, student_shape):
        name = type(self).__name__
        received = (
            f"Received: teacher_outputs of shape {tuple(teacher_shape)}, "
            f"student_outputs of shape {tuple(student_shape)}."
        )
        if min(len(teacher_shape), len(student_shape)) < 2:
            raise ValueError(
                f"{name} takes outputs of shape (batch, ..., size). {received}"
            )
        if not fits_shape(teacher_shape[:1], student_shape[:1]):
            raise ValueError(
                f"{name} relates the examples of one batch to each other, so both models "
                f"must have outputs of the same batch. {received}"
            )
        check_size(name, student_shape, self.least_size)

    def compute_loss(
        self,
        teacher_outputs,
        student_outputs,
        y_true=None,
        sample_weight=None,
        training=True,
    ):
        teacher_outputs, student_outputs = self.checked(teacher_outputs, student_outputs)
        now, mode = self.at_step(0), self.mode(training)
        outputs = without_left_out(sample_weight, teacher_outputs, student_outputs)
        values = now.call(*outputs, sample_weight, **mode)
        return weighted_mean(values, sample_weight)


def partner_weights(sample_weight, features):
    """How much each example counts among the partners of any other, (batch,), 1 on average.

    Args:
        sample_weight: As `weights_of` takes it, or None for all ones.
        features: (batch, ...).

    Raises:
        ValueError: `sample_weight` has another shape.
    """
    features = at_least_float32(features)
    if sample_weight is None:
        return ops.ones((ops.shape(features)[0],), dtype=features.dtype)
    one_each = ops.ones((ops.shape(features)[0],), dtype=features.dtype)
    sample_weight = weights_of(one_each, sample_weight)
    return ops.divide_no_nan(sample_weight, ops.mean(sample_weight))
