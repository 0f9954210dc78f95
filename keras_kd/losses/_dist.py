"""DIST: probabilities correlated as the teacher's, over classes and over examples.

Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import (
    check_not_all_zero,
    check_not_negative,
    check_positive,
)
from keras_kd.losses.base import OneOutputLoss
from keras_kd.losses.ops import log_softmax, norm
from keras_kd.losses.weights import weighted_mean, weights_of, without_left_out

# Of the authors' code: added to the product of two norms.
EPSILON = 1e-8


def dist(
    teacher_logits,
    student_logits,
    *,
    beta=1.0,
    gamma=1.0,
    temperature=1.0,
    sample_weight=None,
):
    """Distance in correlation of classes and of examples, one value for the batch.

    With p = softmax(teacher / T), q = softmax(student / T), both (batch, num_classes), and
    r Pearson's correlation:

        loss = T**2 * (beta * inter + gamma * intra)
        inter = mean over examples i of 1 - r(p_i, q_i)
        intra = mean over classes c of 1 - r(p_:c, q_:c)

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax. Axes in between are
            flattened into the batch.
        student_logits: The same shape.
        beta: Weight of the relation between classes, of each example, >= 0.
        gamma: Weight of the relation between examples, of each class, >= 0.
        temperature: T > 0.
        sample_weight: (batch,), each >= 0, or None for all ones. `inter` becomes
            `sum(w_i * (1 - r_i)) / batch`; in `intra` means, variances and covariances are
            weighted, and the whole is multiplied by `sum(w_i) / batch`.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: `sample_weight` has another shape.

    Reference:
        [Huang et al., 2022](https://arxiv.org/abs/2205.10536)
    """
    p = ops.exp(log_softmax(teacher_logits, temperature))
    q = ops.exp(log_softmax(student_logits, temperature))
    inter = 1.0 - _cosine(p - _mean(p, -1), q - _mean(q, -1), axis=-1)
    weight = ops.ones_like(inter)
    if sample_weight is not None:
        weight = weight * weights_of(inter, sample_weight)
    flat = (-1, p.shape[-1])
    of_classes = _weighted_correlation(
        ops.reshape(p, flat), ops.reshape(q, flat), ops.reshape(weight, (-1, 1))
    )
    intra = ops.mean(1.0 - of_classes) * ops.mean(weight)
    return temperature**2 * (beta * weighted_mean(inter, weight) + gamma * intra)


def _weighted_correlation(p, q, weight):
    """Pearson's r of each column, (num_classes,): of (batch, num_classes), (batch, 1)."""
    # Where all weights are zero, so is this loss; 0 / 0 would not be.
    total = ops.maximum(ops.sum(weight), 1e-30)
    p = p - ops.sum(weight * p, axis=0) / total
    q = q - ops.sum(weight * q, axis=0) / total
    root = ops.sqrt(weight)
    return _cosine(root * p, root * q, axis=0)


def _mean(x, axis):
    return ops.mean(x, axis=axis, keepdims=True)


def _cosine(x, y, axis):
    return ops.sum(x * y, axis=axis) / (norm(x, axis) * norm(y, axis) + EPSILON)


@keras.saving.register_keras_serializable(package="keras_kd")
class DIST(OneOutputLoss):
    """DIST of Huang et al. 2022; identifier `"dist"`.

        loss = T**2 * (beta * mean_i(1 - r(p_i, q_i)) + gamma * mean_c(1 - r(p_:c, q_:c)))

    r is Pearson's correlation of softened probabilities p (teacher) and q (student): of
    each example i over the classes, of each class c over the examples of the batch. So
    the value depends on which examples come together.

    Values and defaults are those of the authors' code, hunto/image_classification_sota,
    which has no temperature, and of MMRazor's DISTLoss, which has it with T**2. As there,
    1e-8 is added to the product of norms: a class to which the batch gives no probability,
    like every class in a batch of one, counts as uncorrelated, which costs 1.

    Args:
        beta: Weight of the relation between classes, >= 0. Defaults to 1.0.
        gamma: Weight of the relation between examples, >= 0. Defaults to 1.0.
        temperature: T > 0. Defaults to 1.0.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: An argument is not a finite number of its range, `beta` and `gamma` are
            both 0, or `taps` is not one pair. In use: there is one class alone, or there
            are two with gamma=0.

    Example:

    >>> teacher = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]
    >>> round(float(DIST().compute_loss(teacher, teacher)), 6)
    0.0

    Reference:
        [Huang et al., 2022](https://arxiv.org/abs/2205.10536)
    """

    on_logits = True
    activations = ("softmax",)
    # But for EPSILON: 1 - r is 1 of what does not vary, and next to it not quite 0.
    zero_at_agreement = False
    shift_invariant = True

    def __init__(self, beta=1.0, gamma=1.0, temperature=1.0, taps=None):
        super().__init__(taps)
        self.beta = check_not_negative("beta", beta)
        self.gamma = check_not_negative("gamma", gamma)
        check_not_all_zero(beta=self.beta, gamma=self.gamma)
        # Two numbers, be it of classes or of examples, correlate by 1 or -1 alone.
        self.least_classes = 2 if gamma else 3
        self.least_batch = 1 if beta else 3
        self.temperature = check_positive("temperature", temperature)

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        now = self.at_step(0)
        outputs = self.checked(teacher_outputs, student_outputs)
        return dist(
            *without_left_out(sample_weight, *outputs),
            beta=now.beta,
            gamma=now.gamma,
            temperature=now.temperature,
            sample_weight=sample_weight,
        )
