"""Relational knowledge: distances and angles between examples are the teacher's.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_not_negative
from keras_kd.losses.ops import flat, unit_vectors
from keras_kd.losses.relations import RelationLoss, partner_weights


def relational_knowledge(
    teacher_features,
    student_features,
    *,
    distance_weight=25.0,
    angle_weight=50.0,
    sample_weight=None,
):
    """Differences of distances and of angles between examples, one value per example.

        distance_ij = |x_i - x_j| / mean_(k != l) |x_k - x_l|
        angle_ijk = cos of the angle at x_i between x_j and x_k; 0 where two are the same
        h(a) = a**2 / 2 for |a| < 1, |a| - 1/2 beyond
        loss_i = distance_weight * mean_j h(teacher_distance_ij - student_distance_ij)
               + angle_weight * mean_jk h(teacher_angle_ijk - student_angle_ijk)

    Means over j and k include i itself, where distance and angle are 0. Takes memory for
    batch**3 numbers, and for batch**2 times the size of the features.

    Args:
        teacher_features: (batch, ...), flattened to (batch, size).
        student_features: (batch, ...), of the same or another size.
        distance_weight: Weight of the distances, >= 0; 0 leaves them out.
        angle_weight: Weight of the angles, >= 0; 0 leaves them out.
        sample_weight: (batch,), how much each example counts in the means over j, k and l,
            relative to the others; None for all ones.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Park et al., 2019](https://arxiv.org/abs/1904.05068), equations 5 to 10.
    """
    weights = partner_weights(sample_weight, teacher_features)
    pairs = [_differences(x) for x in (teacher_features, student_features)]
    loss = ops.zeros_like(weights)
    if distance_weight:
        teacher, student = (_distances(x, weights) for x in pairs)
        loss += distance_weight * ops.mean(weights * _huber(teacher - student), axis=-1)
    if angle_weight:
        teacher, student = (_angles(x) for x in pairs)
        per_pair = ops.mean(weights * _huber(teacher - student), axis=-1)
        loss += angle_weight * ops.mean(weights * per_pair, axis=-1)
    return loss


def _differences(features):
    """x_j - x_i, (batch, batch, size): exact where examples are near each other."""
    features = flat(features)
    return ops.expand_dims(features, axis=0) - ops.expand_dims(features, axis=1)


def _distances(differences, weights):
    squares = ops.sum(ops.square(differences), axis=-1)
    # The authors' 1e-12; it also keeps the gradient of equal examples finite.
    distances = ops.sqrt(ops.maximum(squares, 1e-12))
    others = 1.0 - ops.eye(ops.shape(weights)[0], dtype=weights.dtype)
    counts = others * weights * ops.expand_dims(weights, axis=1)
    distances = others * distances
    mean = ops.divide_no_nan(ops.sum(counts * distances), ops.sum(counts))
    return ops.divide_no_nan(distances, mean)


def _angles(differences):
    directions = unit_vectors(differences)
    return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))


def _huber(x):
    size = ops.abs(x)
    return ops.where(size < 1.0, 0.5 * ops.square(x), size - 0.5)


@keras.saving.register_keras_serializable(package="keras_kd")
class RelationalKnowledge(RelationLoss):
    """Relational knowledge distillation of Park et al. 2019; identifier `"rkd"`.

        loss_i = distance_weight * mean_j h(teacher_distance_ij - student_distance_ij)
               + angle_weight * mean_jk h(teacher_angle_ijk - student_angle_ijk)

    with distances divided by their mean, angles as cosines, and h the Huber loss of
    `relational_knowledge`. Values and defaults are those of the authors' repository,
    lenscloth/RKD, and of RepDistiller, mdistiller and torchdistill. Memory grows with the
    third power of the batch, and with its square times the size of the features: give it
    features behind global pooling rather than feature maps.

    `sample_weight` weighs examples and their partners; see `RelationLoss`.

    Args:
        distance_weight: Weight of the distances, >= 0; 0 leaves them out. Defaults to
            25.0, the authors' for classification; for metric learning it is 1.0.
        angle_weight: Weight of the angles, >= 0; 0 leaves them out. Defaults to 50.0,
            the authors' for classification; for metric learning it is 2.0.
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper what the classifier sees. Defaults to the models' own outputs.

    Raises:
        ValueError: A weight is not a finite number >= 0, or `taps` is not one pair. In
            use: teacher and student have outputs of another batch, or `sample_weight` has.

    Example:

    >>> loss = RelationalKnowledge()
    >>> corner, line = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0.0], [1.0], [2.0]]
    >>> round(float(loss.compute_loss(corner, line)), 2)
    8.27

    Reference:
        [Park et al., 2019](https://arxiv.org/abs/1904.05068)
    """

    def __init__(self, distance_weight=25.0, angle_weight=50.0, taps=None):
        super().__init__(taps)
        self.distance_weight = check_not_negative("distance_weight", distance_weight)
        self.angle_weight = check_not_negative("angle_weight", angle_weight)

    def call(self, teacher_outputs, student_outputs, sample_weight):
        return relational_knowledge(
            teacher_outputs,
            student_outputs,
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
            sample_weight=sample_weight,
        )

    def get_config(self):
        weights = {
            "distance_weight": self.distance_weight,
            "angle_weight": self.angle_weight,
        }
        return weights | super().get_config()
