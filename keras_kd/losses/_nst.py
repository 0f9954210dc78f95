"""Neuron selectivity: the student's channels respond where some of the teacher's do.

Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017.
"""

import keras
from keras import ops

from keras_kd.losses.features import FeatureLoss, place_vectors, same_size
from keras_kd.losses.ops import column_products, norm, of_one_shape


def neuron_selectivity(teacher_features, student_features):
    """Squared maximum mean discrepancy of channels, one value per example.

        x_ic = the map of channel c, flattened, divided by its length
        k(x, y) = (x . y)**2
        loss_i = mean_cd k(teacher_ic, teacher_id) + mean_cd k(student_ic, student_id)
               - 2 * mean_cd k(teacher_ic, student_id)

    Args:
        teacher_features: (batch, height, width, channels).
        student_features: The same; channels may differ, and the larger map of the two is
            averaged down to the other's height and width.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Huang and Wang, 2017](https://arxiv.org/abs/1707.01219)
    """
    maps = same_size(teacher_features, student_features)
    teacher, student = map(place_vectors, maps)
    places = teacher.shape[1]
    if places is not None and places <= min(teacher.shape[2], student.shape[2]):
        # The three means are a square of this difference: smaller matrices, more digits.
        between = of_one_shape(_between_places(teacher), _between_places(student))
        difference = between[0] - between[1]
        return ops.sum(ops.square(difference), axis=(1, 2))
    # Of channels as they are: their products are fewer numbers to divide than they are.
    products = column_products(teacher, teacher), column_products(student, student)
    scales = [ops.expand_dims(_one_by_length(x), axis=-1) for x in products]
    among = of_one_shape(*map(_mean_kernel, products, scales, scales))
    # Never negative: rounding alone can put it a hair below zero.
    between = _mean_kernel(column_products(teacher, student), *scales)
    return ops.maximum(sum(among) - 2.0 * between, 0.0)


def _one_by_length(products):
    """1 / length of each channel, (batch, channels); 0 for a channel of zeros."""
    own = ops.eye(ops.shape(products)[1], dtype=products.dtype)
    squares = ops.sum(own * products, axis=-1)
    is_zero = ops.equal(squares, 0.0)
    return ops.where(is_zero, 0.0, ops.rsqrt(ops.where(is_zero, 1.0, squares)))


def _mean_kernel(products, x_scale, y_scale):
    """Mean of k over all pairs of channels, (batch,)."""
    cosines = products * x_scale * ops.transpose(y_scale, (0, 2, 1))
    return ops.mean(ops.square(cosines), axis=(1, 2))


def _between_places(x):
    """Mean over channels of the products of two places, (batch, places, places)."""
    x = x * ops.expand_dims(ops.divide_no_nan(1.0, norm(x, axis=1)), axis=1)
    return ops.matmul(x, ops.transpose(x, (0, 2, 1))) / x.shape[2]


@keras.saving.register_keras_serializable(package="keras_kd")
class NeuronSelectivity(FeatureLoss):
    """Neuron selectivity transfer of Huang and Wang 2017; identifier `"nst"`.

        loss_i = mean k(teacher, teacher) + mean k(student, student)
               - 2 * mean k(teacher, student), summed over the pairs

    with k(x, y) = (x . y)**2, the paper's polynomial kernel of d = 2 and c = 0, and means
    over all pairs of channels, each flattened and of length 1. Values are those of
    RepDistiller and mdistiller. The authors' TuSimple/neuron-selectivity-transfer has the
    same gradient: it leaves out the first mean, which the student does not change.
    The paper's linear and Gaussian kernels are not offered. The authors and both others
    weigh it by 50; the paper has a weight over 2.

    Args:
        taps: A pair of layer names, the teacher's first, or a list of pairs, of layers
            that give maps. Defaults to the models' own outputs.

    Raises:
        ValueError: `taps` is something else. In use: features are no maps, or one has a
            single place.

    Example:

    >>> teacher = keras.ops.reshape([3.0, 4.0], (1, 1, 2, 1))
    >>> student = keras.ops.reshape([1.0, 0.0], (1, 1, 2, 1))
    >>> round(float(NeuronSelectivity().compute_loss(teacher, student)), 4)
    1.28

    Reference:
        [Huang and Wang, 2017](https://arxiv.org/abs/1707.01219)
    """

    on_maps = True
    leaves_out = True
    least_places = 2

    def call(self, teacher_features, student_features, kept=None):
        # Channels of length 1, in which zeros count for nothing.
        del kept
        pairs = zip(teacher_features, student_features, strict=True)
        return sum(neuron_selectivity(x, y) for x, y in pairs)
