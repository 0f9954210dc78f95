"""Correlation congruence: examples correlate in the student as they do in the teacher.

Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge
Distillation", 2019.
"""

import math

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice, check_integer, check_positive
from keras_kd.losses.ops import flat, of_one_shape, unit_vectors
from keras_kd.losses.relations import RelationLoss, partner_weights
from keras_kd.losses.shapes import check_same_shape

FORMS = ("gaussian", "neighbours")


def correlation_congruence(
    teacher_features, student_features, *, gamma=0.4, order=2, sample_weight=None
):
    """Difference of two correlation matrices, one value per example.

        correlation_ij = sum_p exp(-2 gamma) (2 gamma)**p / p! * cos(x_i, x_j)**p
        loss_i = mean_j (teacher_correlation_ij - student_correlation_ij)**2

    with p from 0 to `order`: the Taylor series of exp(-gamma |u_i - u_j|**2), the Gaussian
    kernel of features of length 1.

    Args:
        teacher_features: (batch, ...), flattened to (batch, size).
        student_features: (batch, ...), of the same or another size.
        gamma: Of the kernel, > 0.
        order: Of the last term of the series, an integer >= 1.
        sample_weight: (batch,), how much each example j counts in the mean over j,
            relative to the others; None for all ones.

    Returns:
        (batch,), float32 (float64 for float64 features). The cosine of zeros is 0.

    Reference:
        [Peng et al., 2019](https://arxiv.org/abs/1904.01802).
    """
    weights = partner_weights(sample_weight, teacher_features)
    teacher, student = of_one_shape(
        *(_correlations(x, gamma, order) for x in (teacher_features, student_features))
    )
    return ops.mean(weights * ops.square(teacher - student), axis=-1)


def _correlations(features, gamma, order):
    directions = unit_vectors(flat(features))
    cosines = ops.matmul(directions, ops.transpose(directions))
    # Without the term of p = 0, the same constant in both matrices.
    factors = [
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p)
        for p in range(1, order + 1)
    ]
    correlations = ops.zeros_like(cosines)
    for factor in reversed(factors):
        correlations = cosines * (factor + correlations)
    return correlations


def neighbour_congruence(teacher_features, student_features, *, sample_weight=None):
    """Products of neighbours' differences, one value per example.

        difference_ik = |teacher_ik - student_ik|
        pair_i = sum_k difference_ik * difference_(i+1)k, of i and its next in the batch
        loss_i = (pair_(i-1) + pair_i) / 2 * batch / (batch - 1)

    so that the mean over the batch is that over its batch - 1 pairs.

    Args:
        teacher_features: (batch, ...), flattened to (batch, size).
        student_features: The same.
        sample_weight: (batch,), how much each example counts in its neighbours' values,
            relative to the others; None for all ones.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Peng et al., 2019](https://arxiv.org/abs/1904.01802), in code by its authors.
    """
    weights = partner_weights(sample_weight, teacher_features)
    differences = ops.abs(flat(teacher_features) - flat(student_features))
    pairs = ops.sum(differences[:-1] * differences[1:], axis=-1)
    # Each pair in the values of both its examples, times the other's weight.
    sums = ops.pad(weights[1:] * pairs, [[0, 1]]) + ops.pad(weights[:-1] * pairs, [[1, 0]])
    batch = ops.cast(ops.shape(weights)[0], weights.dtype)
    return ops.divide_no_nan(batch * sums, 2.0 * (batch - 1.0))


@keras.saving.register_keras_serializable(package="keras_kd")
class CorrelationCongruence(RelationLoss):
    """Correlation congruence of Peng et al. 2019; identifier `"cc"`.

        loss_i = mean_j (teacher_correlation_ij - student_correlation_ij)**2

    with the correlation of examples i and j the Taylor series, up to `order`, of a
    Gaussian kernel of features of length 1. Values and defaults are those of
    AberHu/Knowledge-Distillation-Zoo, which follows the paper.

    RepDistiller's Correlation, from code of the authors', is another loss, and
    form="neighbours" gives its values: products of the absolute differences of examples
    that are next to each other in the batch. It is not the default, as it is not the
    paper's: it hangs on the order of the batch, compares features element by element, so
    both must have the same size, and is zero where every second example agrees.
    RepDistiller first maps both by a linear layer to 128 features and weighs it by 0.02.

    `sample_weight` weighs examples and their partners; see `RelationLoss`.

    Args:
        gamma: Of the Gaussian kernel exp(-gamma * distance**2), > 0. Defaults to 0.4, the
            paper's. No part of form="neighbours".
        order: Of the last term of the Taylor series, an integer >= 1. Defaults to 2, the
            paper's. No part of form="neighbours".
        form: "gaussian" (default), as above, or "neighbours".
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper what the classifier sees. Defaults to the models' own outputs.

    Raises:
        ValueError: `gamma` is not a finite number > 0, `order` no integer >= 1, or `form`
            unknown; `gamma` or `order` is given to form="neighbours"; or `taps` is not one
            pair. In use: teacher and student have outputs of another batch, or
            `sample_weight` has; with form="neighbours", outputs of another shape; with
            "gaussian", the student has one number for each example.

    Example:

    >>> loss = CorrelationCongruence()
    >>> value = loss.compute_loss([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 0.0]])
    >>> round(float(value), 4)
    0.1266

    Reference:
        [Peng et al., 2019](https://arxiv.org/abs/1904.01802)
    """

    def __init__(self, gamma=0.4, order=2, form="gaussian", taps=None):
        super().__init__(taps)
        self.gamma = check_positive("gamma", gamma)
        self.order = check_integer("order", order, 1)
        self.form = check_choice("form", form, FORMS)
        self.widths_may_differ = self.form == "gaussian"
        # A cosine of single numbers is 1 or -1.
        self.least_size = 2 if self.widths_may_differ else 1
        if self.form == "neighbours" and (self.gamma, self.order) != (0.4, 2):
            raise ValueError(
                "`gamma` and `order` have no effect with form='neighbours', which has no "
                f"kernel. Received: gamma={gamma!r}, order={order!r}."
            )

    def check_shapes(self, teacher_shape, student_shape):
        super().check_shapes(teacher_shape, student_shape)
        if self.form == "neighbours":
            name = f"{type(self).__name__}(form='neighbours')"
            check_same_shape(name, teacher_shape, student_shape)

    def call(self, teacher_outputs, student_outputs, sample_weight):
        if self.form == "neighbours":
            return neighbour_congruence(
                teacher_outputs, student_outputs, sample_weight=sample_weight
            )
        return correlation_congruence(
            teacher_outputs,
            student_outputs,
            gamma=self.gamma,
            order=self.order,
            sample_weight=sample_weight,
        )
