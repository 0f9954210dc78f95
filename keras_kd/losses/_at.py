"""Attention: where the teacher's features are strong, the student's are.

Zagoruyko, Komodakis, "Paying More Attention to Attention", 2017.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_at_least_one
from keras_kd.losses.features import (
    FeatureLoss,
    mean_of_left,
    mean_per_example,
    same_size,
)
from keras_kd.losses.ops import at_least_float32, flat, of_one_shape, unit_vectors


def attention_transfer(teacher_features, student_features, *, p=2.0):
    """Difference of normalised attention maps, one value per example.

        map_i = mean_c |x_i,:,:,c|**p, flattened, divided by its length
        loss_i = mean_k (teacher_map_ik - student_map_ik)**2

    Args:
        teacher_features: (batch, height, width, channels).
        student_features: The same; channels may differ, and the larger map of the two is
            averaged down to the other's height and width.
        p: Power, 1 or more. The gradient of a lower one is not finite at 0.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Zagoruyko and Komodakis, 2017](https://arxiv.org/abs/1612.03928), equation 2.
    """
    maps = same_size(teacher_features, student_features)
    teacher_map, student_map = of_one_shape(*(_attention(x, p) for x in maps))
    return mean_per_example(ops.square(teacher_map - student_map))


def _attention(features, p):
    # Even powers, as of the default, need no absolute value, whose gradient at 0 is rough.
    powers = ops.square(features) if p == 2 else ops.power(ops.abs(_scaled(features)), p)
    return unit_vectors(flat(ops.mean(powers, axis=-1)))


def _scaled(features):
    """At most 1 in size, which changes no map: high powers would overflow, or be 0."""
    features = at_least_float32(features)
    largest = ops.max(ops.abs(features), axis=(1, 2, 3), keepdims=True)
    return features / ops.stop_gradient(ops.where(largest > 0, largest, 1.0))


@keras.saving.register_keras_serializable(package="keras_kd")
class AttentionTransfer(FeatureLoss):
    """Attention transfer of Zagoruyko and Komodakis 2017; identifier `"at"`.

        loss_i = mean_k (teacher_map_ik - student_map_ik)**2, summed over the pairs

    with map_i the mean over channels of |features_i|**p, flattened and of length 1. Values
    and default are those of the authors' repository, szagoruyko/attention-transfer, and of
    RepDistiller. The authors weigh it by 1000, RepDistiller by 1000.

    Args:
        p: Power, 1 or more; higher attends to the strongest places. Defaults to 2.0.
        taps: A pair of layer names, the teacher's first, or a list of pairs, of layers
            that give maps. Defaults to the models' own outputs.

    Raises:
        ValueError: `p` is not a finite number >= 1, as the gradient of a lower power is not
            finite at 0, where a ReLU puts most features; or `taps` is something else. In
            use: features are no maps, or one has a single place.

    Example:

    >>> teacher = keras.ops.reshape([3.0, 4.0], (1, 1, 2, 1))
    >>> student = keras.ops.reshape([1.0, 1.0], (1, 1, 2, 1))
    >>> round(float(AttentionTransfer(p=1).compute_loss(teacher, student)), 4)
    0.0101

    Reference:
        [Zagoruyko and Komodakis, 2017](https://arxiv.org/abs/1612.03928)
    """

    on_maps = True
    leaves_out = True
    least_places = 2

    def __init__(self, p=2.0, taps=None):
        super().__init__(taps)
        self.p = check_at_least_one("p", p)

    def call(self, teacher_features, student_features, kept=None):
        kept = kept or [None] * len(teacher_features)
        return sum(
            mean_of_left(attention_transfer(x, y, p=self.p), k)
            for x, y, k in zip(teacher_features, student_features, kept, strict=True)
        )
