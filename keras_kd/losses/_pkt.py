"""Probabilistic transfer: the student finds the neighbours of an example the teacher does.

Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer",
2018.
"""

import keras
from keras import ops

from keras_kd.losses.ops import flat, norm, of_one_shape
from keras_kd.losses.relations import RelationLoss, partner_weights

EPSILON = 1e-7  # The authors', added to lengths and to probabilities.


def probabilistic_knowledge_transfer(
    teacher_features, student_features, *, sample_weight=None
):
    """Divergence between similarities taken as probabilities, one value per example.

        similarity_ij = (1 + cos(x_i, x_j)) / 2
        p_ij = similarity_ij / sum_j similarity_ij, the teacher's; q_ij, the student's
        loss_i = mean_j p_ij * log((p_ij + 1e-7) / (q_ij + 1e-7))

    Args:
        teacher_features: (batch, ...), flattened to (batch, size).
        student_features: (batch, ...), of the same or another size.
        sample_weight: (batch,), how much each example j counts in the sum and the mean
            over j, relative to the others; None for all ones.

    Returns:
        (batch,), float32 (float64 for float64 features). The cosine of zeros is 0.

    Reference:
        [Passalis and Tefas, 2018](https://arxiv.org/abs/1803.10837), equations 4 to 8.
    """
    weights = partner_weights(sample_weight, teacher_features)
    p = _probabilities(flat(teacher_features), weights)
    q = _probabilities(flat(student_features), weights)
    p, q = of_one_shape(p, q)
    per_pair = p * ops.log((p + EPSILON) / (q + EPSILON))
    # q - p sums to zero, and to what rounding made of it: where p and q are near, float32
    # keeps two digits more.
    return ops.mean(weights * (per_pair + (q - p)), axis=-1)


def _probabilities(features, weights):
    length = ops.expand_dims(norm(features), axis=-1)
    # No length, no direction: zeros stay zeros, without the gradient of 1 / 1e-7.
    length = ops.where(length > 0, length + EPSILON, 0.0)
    features = ops.divide_no_nan(features, length)
    cosines = ops.matmul(features, ops.transpose(features))
    # Rounding alone can put it a hair below zero.
    similarity = ops.maximum((cosines + 1.0) / 2.0, 0.0)
    # Zero only where all that is like i has no weight.
    total = ops.sum(weights * similarity, axis=-1, keepdims=True)
    return ops.divide_no_nan(similarity, total)


@keras.saving.register_keras_serializable(package="keras_kd")
class ProbabilisticKnowledgeTransfer(RelationLoss):
    """Probabilistic knowledge transfer of Passalis and Tefas 2018; identifier `"pkt"`.

        loss_i = mean_j p_ij * log((p_ij + 1e-7) / (q_ij + 1e-7))

    with p_ij and q_ij how alike teacher and student find examples i and j: cosines moved
    to 0 ... 1 and divided by their sum over j. Values are those of the authors'
    repository, passalis/probabilistic_kt, and of RepDistiller and mdistiller. The mean,
    not the sum, makes them small: RepDistiller weighs the loss by 30000.

    `sample_weight` weighs examples and their partners; see `RelationLoss`.

    Args:
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper what the classifier sees. Defaults to the models' own outputs.

    Raises:
        ValueError: `taps` is not one pair. In use: teacher and student have outputs of
            another batch, or `sample_weight` has, or the student has one number for each
            example.

    Example:

    >>> loss = ProbabilisticKnowledgeTransfer()
    >>> value = loss.compute_loss([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 0.0]])
    >>> round(float(value), 4)
    0.0283

    Reference:
        [Passalis and Tefas, 2018](https://arxiv.org/abs/1803.10837)
    """

    # A cosine of single numbers is 1 or -1.
    least_size = 2

    def call(self, teacher_outputs, student_outputs, sample_weight):
        return probabilistic_knowledge_transfer(
            teacher_outputs, student_outputs, sample_weight=sample_weight
        )
