"""Weighted soft labels: examples that the student already knows count less.

Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge
Distillation: A Bias-Variance Tradeoff Perspective", 2021.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import (
    at_label,
    cross_entropy,
    label_mask,
    log_softmax,
    where_labelled,
)
from keras_kd.losses.shapes import check_two_classes

# Of the authors' code: added to the teacher's cross-entropy.
EPSILON = 1e-7


def wsl(teacher_logits, student_logits, y_true, *, temperature=2.0):
    """Cross-entropy of soft targets with a weight, one value per example.

    With p = softmax(teacher / T), q = softmax(student / T), and hard(x) the cross-entropy
    of softmax(x), at temperature 1, with the label:

        loss_i = weight_i * T**2 * -sum_c p_c * log q_c
        weight_i = 1 - exp(-hard(student_i) / (hard(teacher_i) + 1e-7))

    The weight, between 0 and 1, is a constant to the gradient.

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax; two classes or more.
        student_logits: The same shape.
        y_true: (batch, ...), integer labels; one-hot labels are taken, too.
        temperature: T > 0.

    Returns:
        (batch, ...), float32 (float64 for float64 logits); NaN where the label is none of
        the classes.

    Raises:
        ValueError: There is one class alone, or `y_true` has another shape.

    Reference:
        [Zhou et al., 2021](https://arxiv.org/abs/2102.00650)
    """
    check_two_classes("wsl", teacher_logits.shape)
    mask = label_mask(y_true, teacher_logits)
    teacher_hard, student_hard = (
        -at_label(mask, log_softmax(x)) for x in (teacher_logits, student_logits)
    )
    ratio = student_hard / (teacher_hard + EPSILON)
    # 1 - exp(-ratio), with all its digits where the ratio is small.
    weight = ops.stop_gradient(-ops.expm1(-ratio))
    soft = cross_entropy(
        log_softmax(teacher_logits, temperature), log_softmax(student_logits, temperature)
    )
    return where_labelled(mask, weight * temperature**2 * soft)


@keras.saving.register_keras_serializable(package="keras_kd")
class WSL(PerExampleLoss):
    """Weighted soft labels of Zhou et al. 2021; identifier `"wsl"`.

        loss_i = weight_i * T**2 * -sum_c p_ic * log q_ic
        weight_i = 1 - exp(-hard(student_i) / (hard(teacher_i) + 1e-7))

    p, q are softened probabilities of teacher and student; hard is the cross-entropy with
    the label, unsoftened. The weight is a constant to the gradient, so that the student is
    not taught to lower it.

    Values and the default are those of the authors' repository,
    bellymonster/Weighted-Soft-Label-Distillation, which trains with 2.5 times this loss
    added to the cross-entropy with the labels: see the Distiller's
    `distillation_loss_weights`. MMRazor's WSLD (temperature 1.0) and cls_KD's WSLDLoss
    (4.0, weight 2.25 for CIFAR-100) differ in their defaults alone.

    Args:
        temperature: T > 0, of the soft targets. Defaults to 2.0, the authors' for ImageNet.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `taps` is not one pair. In
            use: there are no labels, or there is one class alone.

    Example:

    >>> loss = WSL(temperature=1.0)
    >>> round(float(loss.compute_loss([[0.0, 0.0]], [[0.0, 0.0]], y_true=[1])), 4)
    0.4382

    Reference:
        [Zhou et al., 2021](https://arxiv.org/abs/2102.00650)
    """

    needs_labels = True
    on_logits = True
    activations = ("softmax",)
    least_classes = 2
    zero_at_agreement = False
    # A student that knows the label better than the teacher weighs less.
    smallest_at_agreement = False
    shift_invariant = True
    stops_gradients = True

    def __init__(self, temperature=2.0, taps=None):
        super().__init__(taps)
        self.temperature = check_positive("temperature", temperature)

    def call(self, teacher_outputs, student_outputs, y_true):
        return wsl(teacher_outputs, student_outputs, y_true, temperature=self.temperature)
