"""Similarity-preserving: the student finds those examples alike that the teacher does.

Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice
from keras_kd.losses.ops import flat
from keras_kd.losses.ops import norm as euclidean_norm
from keras_kd.losses.ops import of_one_shape
from keras_kd.losses.relations import RelationLoss, partner_weights

NORMS = ("l2", "l1")


def similarity_preserving(
    teacher_features, student_features, *, norm="l2", sample_weight=None
):
    """Difference between the rows of two similarity matrices, one value per example.

        similarity_ij = sum_k x_ik * x_jk
        row_i = similarity_i / sqrt(sum_j similarity_ij**2)
        loss_i = mean_j (teacher_row_ij - student_row_ij)**2

    Args:
        teacher_features: (batch, ...), flattened to (batch, size).
        student_features: (batch, ...), of the same or another size.
        norm: "l2" for rows of the length 1, as above, or "l1" for rows whose absolute
            values sum to 1.
        sample_weight: (batch,), how much each example j counts in the sums and the mean
            over j, relative to the others; None for all ones.

    Returns:
        (batch,), float32 (float64 for float64 features). Rows of zeros stay zeros.

    Reference:
        [Tung and Mori, 2019](https://arxiv.org/abs/1907.09682), equations 2 to 4.
    """
    weights = partner_weights(sample_weight, teacher_features)
    teacher_rows, student_rows = of_one_shape(
        *(_rows(flat(x), weights, norm) for x in (teacher_features, student_features))
    )
    return ops.mean(weights * ops.square(teacher_rows - student_rows), axis=-1)


def _rows(features, weights, norm):
    similarity = ops.matmul(features, ops.transpose(features))
    if norm == "l1":
        size = ops.sum(weights * ops.abs(similarity), axis=-1)
    else:
        size = euclidean_norm(ops.sqrt(weights) * similarity)
    return ops.divide_no_nan(similarity, ops.expand_dims(size, axis=-1))


@keras.saving.register_keras_serializable(package="keras_kd")
class SimilarityPreserving(RelationLoss):
    """Similarity-preserving distillation of Tung and Mori 2019; identifier `"sp"`.

        loss_i = mean_j (teacher_row_ij - student_row_ij)**2

    with row_i the dot products of example i with all of the batch, flattened, divided by
    their length. There is no code of the authors' own; values are those of RepDistiller,
    "verified by original author", and of mdistiller. torchdistill's SPKDLoss divides by
    the sum of absolute values, norm="l1". RepDistiller weighs the loss by 3000.

    `sample_weight` weighs examples and their partners; see `RelationLoss`.

    Args:
        norm: "l2" (default) or "l1", by what a row of similarities is divided.
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper the last convolutions'. Defaults to the models' own outputs.

    Raises:
        ValueError: `norm` is unknown, or `taps` is not one pair. In use: teacher and
            student have outputs of another batch, or `sample_weight` has.

    Example:

    >>> loss = SimilarityPreserving()
    >>> value = loss.compute_loss([[1.0, 0.0], [0.0, 1.0]], [[2.0], [2.0]])
    >>> round(float(value), 4)
    0.2929

    Reference:
        [Tung and Mori, 2019](https://arxiv.org/abs/1907.09682)
    """

    def __init__(self, norm="l2", taps=None):
        super().__init__(taps)
        self.norm = check_choice("norm", norm, NORMS)

    def call(self, teacher_outputs, student_outputs, sample_weight):
        return similarity_preserving(
            teacher_outputs, student_outputs, norm=self.norm, sample_weight=sample_weight
        )
