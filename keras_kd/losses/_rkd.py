"""Relational knowledge: distances and angles between examples are the teacher's.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_not_all_zero, check_not_negative
from keras_kd.losses.ops import flat, of_one_shape, unit_vectors
from keras_kd.losses.relations import RelationLoss, partner_weights

# Angles that are worked out at a time; in blocks of examples, not more than so many.
ANGLES_AT_ONCE, MOST_BLOCKS = 2**20, 32


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
    batch**2 times the size of the features and, of a batch of more than 300, for a few
    times batch**3 / 32 numbers.

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
        teacher, student = of_one_shape(*(_distances(x, weights) for x in pairs))
        loss += distance_weight * ops.mean(weights * _huber(teacher - student), axis=-1)
    if angle_weight:
        directions = [unit_vectors(x) for x in pairs]
        loss += angle_weight * _angle_gaps(*directions, weights)
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


def _angle_gaps(teacher, student, weights):
    """mean_jk w_j w_k h(teacher_angle_ijk - student_angle_ijk), (batch,).

    The gradient is worked out with the value, some examples i at a time, so that numbers
    for all angles at once are never kept.

    Args:
        teacher, student: (batch, batch, size), directions from i to j.
        weights: (batch,), w, constants to the gradient.
    """

    @ops.custom_gradient
    def gaps(teacher, student):
        # One product gives the differences of the angles, of h the other both gradients.
        left = ops.concatenate([teacher, -student], axis=-1)
        right = ops.concatenate([teacher, student], axis=-1)
        parts = [
            _gaps_and_slopes(left[at], right[at], weights) for at in _blocks(left.shape[0])
        ]
        values, slopes = map(ops.concatenate, zip(*parts, strict=True))
        # Known only at run time where the data have no static shapes.
        width = ops.shape(teacher)[-1]

        def gradient(*args, upstream=None):
            # PyTorch alone passes it by keyword.
            upstream = args[0] if upstream is None else upstream
            scaled = ops.reshape(upstream, (-1, 1, 1)) * slopes
            return scaled[..., :width], -scaled[..., width:]

        return values, gradient

    return gaps(teacher, student)


def _blocks(batch):
    """Slices of the examples: few of a large batch, whose third power is large."""
    size = batch or 1
    step = max(ANGLES_AT_ONCE // size**2, -(-size // MOST_BLOCKS))
    starts = range(0, size, step) if batch and step < batch else ()
    return [slice(start, start + step) for start in starts] or [slice(None)]


def _gaps_and_slopes(left, right, weights):
    """`_angle_gaps` of some examples, and how it changes with their directions."""
    gaps = ops.matmul(left, ops.transpose(right, (0, 2, 1)))
    slopes = ops.clip(gaps, -1.0, 1.0)
    count = ops.cast(ops.shape(weights)[0], weights.dtype)
    columns = ops.expand_dims(weights / count, axis=-1)
    sums = columns * ops.matmul(slopes, columns * right)
    # h by its slope c: c * a - c**2 / 2. The sums have those of c * a in them already.
    squares = ops.reshape(ops.square(slopes), (-1, ops.size(weights) ** 2))
    squares = ops.matmul(squares, ops.reshape(columns * ops.transpose(columns), (-1, 1)))
    values = ops.sum(left * sums, axis=(1, 2)) - 0.5 * squares[:, 0]
    # Never negative: rounding alone can put it a hair below. The slope twice, as j and k
    # change places.
    return ops.maximum(values, 0.0), 2.0 * sums


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
    lenscloth/RKD, and of RepDistiller, mdistiller and torchdistill. Time grows with the
    third power of the batch times the size of the features, memory with the square times
    that size: give it features behind global pooling rather than feature maps.

    `sample_weight` weighs examples and their partners; see `RelationLoss`.

    Args:
        distance_weight: Weight of the distances, >= 0; 0 leaves them out. Defaults to
            25.0, the authors' for classification; for metric learning it is 1.0.
        angle_weight: Weight of the angles, >= 0; 0 leaves them out. Defaults to 50.0,
            the authors' for classification; for metric learning it is 2.0.
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper what the classifier sees. Defaults to the models' own outputs.

    Raises:
        ValueError: A weight is not a finite number >= 0, both are 0, or `taps` is not one
            pair. In use: teacher and student have outputs of another batch, or
            `sample_weight` has; with distance_weight=0, the student has one number for
            each example.

    Example:

    >>> loss = RelationalKnowledge()
    >>> corner, line = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0.0], [1.0], [2.0]]
    >>> round(float(loss.compute_loss(corner, line)), 2)
    8.27

    Reference:
        [Park et al., 2019](https://arxiv.org/abs/1904.05068)
    """

    # The distance between two is their mean distance.
    least_batch = 3

    def __init__(self, distance_weight=25.0, angle_weight=50.0, taps=None):
        super().__init__(taps)
        self.distance_weight = check_not_negative("distance_weight", distance_weight)
        self.angle_weight = check_not_negative("angle_weight", angle_weight)
        check_not_all_zero(
            distance_weight=self.distance_weight, angle_weight=self.angle_weight
        )
        # Angles on a line are 0 or 180 degrees.
        self.least_size = 1 if distance_weight else 2

    def call(self, teacher_outputs, student_outputs, sample_weight):
        return relational_knowledge(
            teacher_outputs,
            student_outputs,
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
            sample_weight=sample_weight,
        )
