"""Decoupled distillation: how sure the teacher is, and how it ranks the other classes.

Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import (
    check_not_all_zero,
    check_not_negative,
    check_positive,
)
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import (
    at_label,
    kl_divergence,
    label_mask,
    log_softmax,
    where_labelled,
    without_label,
)
from keras_kd.losses.shapes import check_two_classes


def dkd(teacher_logits, student_logits, y_true, *, alpha=1.0, beta=8.0, temperature=4.0):
    """Divergence in the labelled class, and among the others, one value per example.

    With p = softmax(teacher / T), q = softmax(student / T), and y the label:

        loss_i = T**2 * (alpha * target + beta * others)
        target = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))
        others = KL(p_c / (1 - p_y) || q_c / (1 - q_y)), over the classes c != y

    With alpha = 1 and beta = 1 - p_y it would be soft targets, example by example.

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax; two classes or more.
        student_logits: The same shape.
        y_true: (batch, ...), integer labels; one-hot labels are taken, too.
        alpha: Weight of the labelled class against the rest, >= 0.
        beta: Weight of the others among themselves, >= 0.
        temperature: T > 0.

    Returns:
        (batch, ...), float32 (float64 for float64 logits); NaN where the label is none of
        the classes.

    Raises:
        ValueError: There is one class alone, or `y_true` has another shape.

    Reference:
        [Zhao et al., 2022](https://arxiv.org/abs/2203.08679)
    """
    check_two_classes("dkd", teacher_logits.shape)
    mask = label_mask(y_true, teacher_logits)
    log_probs = [log_softmax(x, temperature) for x in (teacher_logits, student_logits)]
    without = [without_label(mask, x) for x in log_probs]
    # How far the labelled class is ahead of all others together: p_y is its sigmoid.
    margins = [
        at_label(mask, x) - ops.logsumexp(others, axis=-1)
        for x, others in zip(log_probs, without, strict=True)
    ]
    target = _binary_divergence(*margins)
    others = kl_divergence(*map(log_softmax, without))
    return where_labelled(mask, temperature**2 * (alpha * target + beta * others))


def _binary_divergence(teacher_margin, student_margin):
    """`KL((p, 1 - p) || (q, 1 - q))` of p, q = sigmoid(margin)."""
    divergence = 0.0
    # By log-sigmoid: log(1 - p) has no digits left where p is nearly 0 or 1.
    for teacher, student in (
        (teacher_margin, student_margin),
        (-teacher_margin, -student_margin),
    ):
        log_ratio = ops.log_sigmoid(teacher) - ops.log_sigmoid(student)
        divergence += ops.sigmoid(teacher) * log_ratio
    return ops.maximum(divergence, 0.0)


@keras.saving.register_keras_serializable(package="keras_kd")
class DKD(PerExampleLoss):
    """Decoupled knowledge distillation of Zhao et al. 2022; identifier `"dkd"`.

        loss_i = T**2 * (alpha * KL(label or not) + beta * KL(among the other classes))

    Values and defaults are those of the authors' repository, megvii-research/mdistiller;
    MMRazor's DKDLoss is the same. Both exclude the labelled class by taking 1000 off its
    logit, here it is left out, which differs only for logits some 1000 * T apart.
    mdistiller also raises this loss's weight from 0 during the first 20 epochs, which is
    the training loop's part.

    Args:
        alpha: Weight of the labelled class against the rest, >= 0. Defaults to 1.0.
        beta: Weight of the others among themselves, >= 0. Defaults to 8.0, mdistiller's;
            its experiments take 6.0 for some pairs on CIFAR-100, 0.5 for ImageNet.
        temperature: T > 0. Defaults to 4.0; its experiments on ImageNet take 1.0.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: An argument is not a finite number of its range, `alpha` and `beta` are
            both 0, or `taps` is not one pair. In use: there are no labels, or one class
            alone, or two with alpha=0.

    Example:

    >>> loss = DKD()
    >>> float(loss.compute_loss([[3.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]], y_true=[0]))
    0.0

    Reference:
        [Zhao et al., 2022](https://arxiv.org/abs/2203.08679)
    """

    needs_labels = True
    on_logits = True
    activations = ("softmax",)
    shift_invariant = True

    def __init__(self, alpha=1.0, beta=8.0, temperature=4.0, taps=None):
        super().__init__(taps)
        self.alpha = check_not_negative("alpha", alpha)
        self.beta = check_not_negative("beta", beta)
        check_not_all_zero(alpha=self.alpha, beta=self.beta)
        # Of two classes the one that is not labelled is alone among the others.
        self.least_classes = 2 if alpha else 3
        self.temperature = check_positive("temperature", temperature)

    def call(self, teacher_outputs, student_outputs, y_true):
        return dkd(
            teacher_outputs,
            student_outputs,
            y_true,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
