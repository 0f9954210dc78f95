"""Overhauled feature distillation: before the ReLU, and only what a ReLU lets differ.

Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019.
"""

import math

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice, check_not_positive
from keras_kd.losses.features import (
    FeatureLoss,
    batch_to_normalise,
    left,
    make_batch_norm,
    make_projection,
    of_one_size,
    same_size,
)
from keras_kd.losses.ops import at_least_float32, flat
from keras_kd.losses.schedules import plain


def ofd(teacher_features, student_features, *, margin=None):
    """Partial squared distance from the teacher's margin ReLU, one value per example.

        target_ik = max(teacher_ik, margin_c)
        loss_i = sum_k (target_ik - student_ik)**2
                 over k where student_ik > target_ik or teacher_ik > 0

    with k over places and channels c. Where the teacher is not positive, a ReLU makes 0 of
    any value: the student need only be as low as the margin.

    Args:
        teacher_features: (batch, height, width, channels) or (batch, size), of before the
            ReLU.
        student_features: The same but for height and width: the larger map of the two is
            averaged down to the other's.
        margin: A number <= 0, or one for each channel; None for the mean of the teacher's
            negative features in each channel, over this batch.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Heo et al., 2019](https://arxiv.org/abs/1904.01866), equations 1 and 3.
    """
    features = map(at_least_float32, (teacher_features, student_features))
    teacher_features, student_features = of_one_size(*features)
    if margin is None:
        margin = _mean_of_negatives(teacher_features)
    margin = ops.convert_to_tensor(margin, dtype=teacher_features.dtype)
    target = ops.maximum(teacher_features, margin)
    counts = ops.logical_or(student_features > target, teacher_features > 0)
    squares = ops.where(counts, ops.square(target - student_features), 0.0)
    return ops.sum(flat(squares), axis=-1)


def _mean_of_negatives(features):
    """Of each channel, (channels,); 0 where it has none."""
    axes = tuple(range(len(features.shape) - 1))
    count = ops.sum(ops.cast(features < 0, features.dtype), axis=axes)
    return ops.divide_no_nan(ops.sum(ops.minimum(features, 0.0), axis=axes), count)


def batch_norm_margin(layer):
    """`FeatureOverhaul`'s margin of each channel behind a batch normalisation.

        margin_c = E[x | x < 0], x normal with mean beta_c and deviation |gamma_c|

    or -3 * |gamma_c| where x < 0 has a probability of 0.001 or less, as in the authors'
    repository.

    Args:
        layer: The teacher's built `keras.layers.BatchNormalization` before the ReLU.

    Returns:
        list of floats, one for each channel.

    Raises:
        ValueError: `layer` is something else, or not built.
    """
    if not isinstance(layer, keras.layers.BatchNormalization) or not layer.built:
        raise ValueError(
            f"`layer` must be a built keras.layers.BatchNormalization. Received: {layer!r}."
        )
    width = layer.moving_mean.shape[0]
    means = ops.convert_to_numpy(layer.beta).tolist() if layer.center else [0.0] * width
    scales = ops.convert_to_numpy(layer.gamma).tolist() if layer.scale else [1.0] * width
    return [_mean_below_zero(m, abs(s)) for m, s in zip(means, scales, strict=True)]


def _mean_below_zero(mean, deviation):
    if deviation == 0:
        return min(mean, 0.0)
    ratio = mean / deviation
    probability = math.erfc(ratio / math.sqrt(2)) / 2
    if probability <= 0.001:
        return -3 * deviation
    density = math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return mean - deviation * density / probability


@keras.saving.register_keras_serializable(package="keras_kd")
class FeatureOverhaul(FeatureLoss):
    """Overhaul of feature distillation of Heo et al. 2019; identifier `"ofd"`.

        target_ik = max(teacher_ik, margin_c)
        loss_i = sum_k (target_ik - r(student_i)_k)**2
                 over k where r(student_i)_k > target_ik or teacher_ik > 0

    with k over places and channels c, halved once for each pair after it, and summed over
    the pairs: those of later layers, last in `taps`, count most. The connector r is a 1 x 1
    convolution without bias and a batch normalisation, which train with the student.

    Values are those of the authors' repository, clovaai/overhaul-distillation, and of
    mdistiller, before the weight: the authors divide by 1000 on CIFAR-100, mdistiller
    multiplies by 0.001, so give `distillation_loss_weights=[1e-3]`. Both have a connector
    always; the authors run the teacher in training mode, here it runs in inference mode.
    For features of before the ReLU, tap the layer of a block that has no activation yet.

    Args:
        margin: What the student has to stay below where the teacher is not positive: a
            number <= 0, or a list with one entry for each pair, each a number or a list of
            one number a channel. The authors' are `[batch_norm_margin(layer), ...]`, of
            the teacher's batch normalisations before the ReLU. Defaults to None: the mean
            of the teacher's negative features in each channel, over the batch.
        connector: "where_needed", only where the numbers of channels differ, or "always",
            as in the authors' repository. Defaults to "where_needed".
        taps: A pair of layer names, the teacher's first, or a list of pairs from early to
            late layers. Defaults to the models' own outputs.

    Raises:
        ValueError: `margin`, `connector` or `taps` is something else. In use: `margin` does
            not fit the features; features of one rank are needed.

    Example:

    >>> loss = FeatureOverhaul(margin=-1.0)
    >>> float(loss.compute_loss([[3.0, -5.0, -5.0]], [[1.0, 1.0, -2.0]]))
    8.0

    Reference:
        [Heo et al., 2019](https://arxiv.org/abs/1904.01866)
    """

    makes_layers = True
    leaves_out = True
    takes_training = True

    def __init__(self, margin=None, connector="where_needed", taps=None):
        super().__init__(taps)
        self.margin = _checked_margin(margin)
        choices = ("where_needed", "always")
        self.connector = check_choice("connector", connector, choices)
        # A margin that is taken from the batch is a statistic of it, too.
        self.uses_batch_statistics = margin is None

    def check_shapes(self, teacher_shapes, student_shapes):
        super().check_shapes(teacher_shapes, student_shapes)
        if not isinstance(self.margin, list):
            return
        if len(self.margin) != len(teacher_shapes):
            raise ValueError(
                "`margin` must be a number or hold one entry for each pair of features: "
                "[[...]] for the channels of one pair. Received: "
                f"{len(self.margin)} entries for {len(teacher_shapes)} pairs."
            )
        for margin, shape in zip(self.margin, teacher_shapes, strict=True):
            if isinstance(margin, list) and shape[-1] not in (None, len(margin)):
                raise ValueError(
                    "`margin` must hold one number for each of the teacher's channels. "
                    f"Received: {len(margin)} numbers, teacher_outputs of shape {shape}."
                )

    def make_layers(self, teacher_shapes, student_shapes):
        layers, self._is_connected = [], []
        for teacher_shape, shape in zip(teacher_shapes, student_shapes, strict=True):
            width = teacher_shape[-1]
            is_connected = self.connector == "always" or width != shape[-1]
            self._is_connected.append(is_connected)
            if is_connected:
                start = keras.initializers.VarianceScaling(
                    2.0, mode="fan_out", distribution="untruncated_normal"
                )
                layers.append(
                    make_projection(shape, width, use_bias=False, kernel_initializer=start)
                )
                layers.append(make_batch_norm((*shape[:-1], width)))
        self.zero_at_agreement = self.smallest_at_agreement = not layers
        self.uses_batch_statistics = self.margin is None or bool(layers)
        if all(self._is_connected):
            self.least_batch = batch_to_normalise(student_shapes)
        return layers

    def call(self, teacher_features, student_features, training=True, kept=None):
        layers, loss = iter(self.layers), 0.0
        margins = self.margin
        if not isinstance(margins, list):
            margins = [margins] * len(teacher_features)
        kept = kept or [None] * len(teacher_features)
        pairs = zip(teacher_features, student_features, kept, strict=True)
        each = zip(pairs, margins, self._is_connected, strict=True)
        for (teacher, student, k), margin, is_connected in each:
            teacher, student = same_size(teacher, student)
            if is_connected:
                projection, batch_norm = next(layers), next(layers)
                student = batch_norm(projection(student), training=training, mask=k)
            loss = loss / 2 + ofd(teacher, left(student, k), margin=margin)
        return loss


def _checked_margin(margin):
    """None, a float, or a list of floats and of lists of them; each <= 0."""
    margin = plain(margin)
    if margin is None:
        return None
    if not isinstance(margin, (list, tuple)):
        return check_not_positive("margin", margin)
    return [
        [check_not_positive("margin", y) for y in x]
        if isinstance(x, (list, tuple))
        else check_not_positive("margin", x)
        for x in map(plain, margin)
    ]
