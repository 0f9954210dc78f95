"""Logit regression: the student's logits are fitted to the teacher's by squared error.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", 2014.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import at_least_float32

FORMS = ("mean", "half_sum")


def logit_mse(teacher_logits, student_logits, *, form="mean"):
    """Squared difference of logits, one value per example.

        form="mean":      loss_i = sum_c (teacher_c - student_c)**2 / num_classes
        form="half_sum":  loss_i = sum_c (teacher_c - student_c)**2 / 2

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax.
        student_logits: The same shape.
        form: "mean" or "half_sum"; they differ by a factor of num_classes / 2.

    Returns:
        (batch, ...), float32 (float64 for float64 logits).

    Reference:
        [Ba and Caruana, 2014](https://arxiv.org/abs/1312.6184), equation 1.
    """
    difference = at_least_float32(teacher_logits) - at_least_float32(student_logits)
    square = ops.square(difference)
    if form == "half_sum":
        return 0.5 * ops.sum(square, axis=-1)
    return ops.mean(square, axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class LogitMSE(PerExampleLoss):
    """Logit regression of Ba and Caruana 2014; identifier `"logit_mse"`.

        loss_i = sum_c (teacher_ic - student_ic)**2 / num_classes

    A constant added to one model's logits counts here, unlike in losses on softmaxes. Of
    a model that ends in a softmax, the logarithms of the probabilities are compared.

    Args:
        form: "mean" (default), PyTorch's `mse_loss`, as in Knowledge-Distillation-Zoo
            (AberHu), or "half_sum", half the sum over classes, the paper's equation 1. The
            authors published no code.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: `form` is unknown, or `taps` is not one pair.

    Example:

    >>> float(LogitMSE().compute_loss([[3.0, 1.0]], [[1.0, 1.0]]))
    2.0

    Reference:
        [Ba and Caruana, 2014](https://arxiv.org/abs/1312.6184)
    """

    on_logits = True

    def __init__(self, form="mean", taps=None):
        super().__init__(taps)
        self.form = check_choice("form", form, FORMS)

    def call(self, teacher_outputs, student_outputs, y_true):
        return logit_mse(teacher_outputs, student_outputs, form=self.form)
