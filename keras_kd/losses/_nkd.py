"""Normalized distillation: the labelled class, and the others brought to a sum of one.

Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge
Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels", 2023.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_not_negative, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import (
    at_label,
    cross_entropy,
    label_mask,
    log_softmax,
    where_labelled,
    without_label,
)
from keras_kd.losses.shapes import check_two_classes


def nkd(teacher_logits, student_logits, y_true, *, gamma=1.5, temperature=1.0):
    """Cross-entropy in the labelled class and among the others, one value per example.

    With p = softmax(teacher), q = softmax(student), both at temperature 1, y the label,
    and P, Q the softmaxes at temperature T over the classes other than y:

        loss_i = -p_y * log(q_y) - gamma * T**2 * sum_c P_c * log(Q_c)

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax; two classes or more.
        student_logits: The same shape.
        y_true: (batch, ...), integer labels; of one-hot or soft labels, the largest.
        gamma: Weight of the other classes, >= 0.
        temperature: T > 0, of the other classes alone.

    Returns:
        (batch, ...), float32 (float64 for float64 logits); NaN where the label is none of
        the classes.

    Raises:
        ValueError: There is one class alone, or `y_true` has another shape.

    Reference:
        [Yang et al., 2023](https://arxiv.org/abs/2303.13005)
    """
    check_two_classes("nkd", teacher_logits.shape)
    mask = label_mask(y_true, teacher_logits)
    teacher, student = log_softmax(teacher_logits), log_softmax(student_logits)
    target = -ops.exp(at_label(mask, teacher)) * at_label(mask, student)
    others = cross_entropy(
        log_softmax(without_label(mask, teacher / temperature)),
        log_softmax(without_label(mask, student / temperature)),
    )
    return where_labelled(mask, target + gamma * temperature**2 * others)


@keras.saving.register_keras_serializable(package="keras_kd")
class NKD(PerExampleLoss):
    """Normalized knowledge distillation of Yang et al. 2023; identifier `"nkd"`.

        loss_i = -p_y * log(q_y) - gamma * T**2 * sum_c P_c * log(Q_c), over c != y

    p, q are the softmaxes of teacher and student, P, Q those at temperature T without the
    labelled class y. It is smallest where the student gives y all probability, and to the
    other classes the teacher's ratios, so not where it agrees with the teacher.

    Values and defaults are those of the authors' repository, yzd-v/cls_KD
    (mmcls/models/dis_losses/nkd.py). One version of its mmcls/distillation/losses/nkd.py,
    of commit 1c2c0ff, keeps the labelled class among the others; that is not followed.

    Args:
        gamma: Weight of the other classes, >= 0. Defaults to 1.5.
        temperature: T > 0, of the other classes alone. Defaults to 1.0.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: An argument is not a finite number of its range, or `taps` is not one
            pair. In use: there are no labels, or there is one class alone.

    Example:

    >>> loss = NKD(gamma=0.0)
    >>> round(float(loss.compute_loss([[0.0, 0.0]], [[0.0, 0.0]], y_true=[1])), 4)
    0.3466

    Reference:
        [Yang et al., 2023](https://arxiv.org/abs/2303.13005)
    """

    needs_labels = True
    on_logits = True
    activations = ("softmax",)
    least_classes = 2
    zero_at_agreement = False
    smallest_at_agreement = False
    shift_invariant = True

    def __init__(self, gamma=1.5, temperature=1.0, taps=None):
        super().__init__(taps)
        self.gamma = check_not_negative("gamma", gamma)
        self.temperature = check_positive("temperature", temperature)

    def call(self, teacher_outputs, student_outputs, y_true):
        return nkd(
            teacher_outputs,
            student_outputs,
            y_true,
            gamma=self.gamma,
            temperature=self.temperature,
        )
