"""Knowledge review: the student's deeper features help its earlier ones match.

Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021.
"""

import math

import keras
from keras import ops

from keras_kd.losses.features import (
    FeatureLoss,
    batch_to_normalise,
    left,
    mean_per_example,
    pooled,
)
from keras_kd.losses.ops import at_least_float32, of_one_shape, times_axis


def hcl(teacher_features, student_features):
    """Hierarchical context loss of pairs of features, one value per example.

        loss_i = sum over pairs of
                 sum_l w_l * mean_k (teacher_ilk - student_ilk)**2 / sum_l w_l

    with l = 0 the features as they are, of weight 1, and then their averages over windows,
    down to 4 x 4, 2 x 2 and 1 x 1, each of half the weight of the one before. Levels that
    are not smaller than the features' height are left out.

    Args:
        teacher_features: list of (batch, height, width, channels) or (batch, size), one for
            each pair.
        student_features: The same, of the same shapes.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Chen et al., 2021](https://arxiv.org/abs/2104.09044), section 3.3.
    """
    pairs = zip(teacher_features, student_features, strict=True)
    return sum(_context(*map(at_least_float32, pair)) for pair in pairs)


def _context(teacher, student):
    teacher, student = of_one_shape(teacher, student)
    # Averages of a difference are the difference of the averages.
    difference = teacher - student
    loss = mean_per_example(ops.square(difference))
    if len(difference.shape) < 4:
        return loss
    weight = total = 1.0
    for level in (4, 2, 1):
        if level < difference.shape[1]:
            averages = pooled(difference, (level, level))
            weight /= 2
            total += weight
            loss += weight * mean_per_example(ops.square(averages))
    return loss / total


@keras.saving.register_keras_serializable(package="keras_kd")
class AttentionFusion(keras.layers.Layer):
    """The paper's fusion by attention of one level's features with those of deeper levels.

        own = b(conv1x1(features));  deeper is resized to its height and width
        attention = sigmoid(conv1x1([own, deeper])), two maps
        fused = own * attention_1 + deeper * attention_2, resized to the teacher's
        output = b(conv3x3(fused)), b a batch normalisation

    Args:
        mid_width: Channels of `fused`, at all levels the same.
        width: The teacher's channels.
        size: The teacher's height and width.
        has_deeper: Whether there is a deeper level; without, `fused` is `own`.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, mid_width, width, size, has_deeper, **kwargs):
        super().__init__(**kwargs)
        self.mid_width, self.width = mid_width, width
        self.size, self.has_deeper = tuple(size), has_deeper
        self.own, self.own_norm = self._convolution(mid_width, 1)
        self.output_map, self.output_norm = self._convolution(width, 3)
        self.attention = None
        if has_deeper:
            self.attention = keras.layers.Conv2D(
                2, 1, activation="sigmoid", dtype=self.dtype_policy
            )

    def _convolution(self, width, kernel_size):
        return keras.layers.Conv2D(
            width,
            kernel_size,
            padding="same",
            use_bias=False,
            kernel_initializer="lecun_uniform",
            dtype=self.dtype_policy,
        ), keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
        )

    def build(self, input_shape):
        mid_shape = (*input_shape[:-1], self.mid_width)
        self.own.build(input_shape)
        self.own_norm.build(mid_shape)
        self.output_map.build(mid_shape)
        self.output_norm.build((*mid_shape[:-1], self.width))
        if self.has_deeper:
            self.attention.build((*mid_shape[:-1], 2 * self.mid_width))

    def call(self, features, deeper=None, training=None, kept=None):
        """`(output, fused)`; fused is `deeper` of the level before."""
        fused = self.own_norm(self.own(features), training=training, mask=kept)
        fused = left(fused, kept)
        if self.has_deeper:
            deeper = _nearest(deeper, fused.shape[1:3])
            attention = self.attention(ops.concatenate([fused, deeper], axis=-1))
            fused = fused * attention[..., :1] + deeper * attention[..., 1:]
        fused = _nearest(fused, self.size)
        output = self.output_norm(self.output_map(fused), training=training, mask=kept)
        return left(output, kept), fused

    def get_config(self):
        own = {
            "mid_width": self.mid_width,
            "width": self.width,
            "size": self.size,
            "has_deeper": self.has_deeper,
        }
        return super().get_config() | own


def _nearest(features, size):
    """Resized as PyTorch does by nearest: row i is row floor(i * height / new height)."""
    old = tuple(features.shape[1:3])
    if old == tuple(size):
        return features
    places = [[i * o // n for i in range(n)] for o, n in zip(old, size, strict=True)]
    at = [row * old[1] + column for row in places[0] for column in places[1]]
    # Of each old place the new ones that it went to.
    backward = [
        [[float(place == x) for place in axis] for x in range(o)]
        for axis, o in zip(places, old, strict=True)
    ]

    @ops.custom_gradient
    def resized(features):
        # One pass; its own gradient is slow on TensorFlow.
        flat = ops.reshape(features, (-1, math.prod(old), features.shape[-1]))

        def gradient(*args, upstream=None):
            # PyTorch alone passes it by keyword.
            upstream = args[0] if upstream is None else upstream
            for axis, matrix in enumerate(backward, start=1):
                upstream = times_axis(matrix, upstream, axis)
            return upstream

        new = ops.take(flat, at, axis=1)
        return ops.reshape(new, (-1, *size, features.shape[-1])), gradient

    return resized(features)


@keras.saving.register_keras_serializable(package="keras_kd")
class ReviewKD(FeatureLoss):
    """Knowledge review of Chen et al. 2021; identifier `"reviewkd"`.

        loss_i = sum over pairs of
                 sum_l w_l * mean_k (teacher_ilk - fused_ilk)**2 / sum_l w_l

    with w_l and averages over windows l as in `hcl`. From the deepest pair to the first,
    the student's features are fused with those of the pairs after it, at the teacher's
    height, width and channels, by the paper's modules: see `AttentionFusion`. They train
    with the student, also where widths agree.

    Values are those of the authors' repository, dvlab-research/ReviewKD, and of mdistiller;
    modules have the channels of the student's last features inside, 512 at most. Both
    raise the weight of this loss from 0 during the first 20 epochs, which is the training
    loop's part. They take features of the end of each stage, before the ReLU, and last what
    the classifier sees.

    Args:
        taps: A list of pairs of layer names, the teacher's first, from early to late
            layers. Defaults to the models' own outputs.

    Raises:
        ValueError: `taps` is something else. In use: the two features of a pair are not
            both maps or both vectors, or maps have no static height and width.

    Example:

    >>> loss = ReviewKD()
    >>> zeros, ones = keras.ops.zeros((2, 4, 4, 3)), keras.ops.ones((2, 4, 4, 3))
    >>> float(loss.compute_loss([2 * ones, ones], [zeros, zeros]))
    5.0

    Reference:
        [Chen et al., 2021](https://arxiv.org/abs/2104.09044)
    """

    makes_layers = True
    takes_training = True
    leaves_out = "examples"
    uses_batch_statistics = True
    zero_at_agreement = False
    smallest_at_agreement = False

    def make_layers(self, teacher_shapes, student_shapes):
        self.least_batch = batch_to_normalise(student_shapes)
        mid_width = min(512, student_shapes[-1][-1])
        layers = []
        for i, (teacher_shape, shape) in enumerate(
            zip(teacher_shapes, student_shapes, strict=True), start=1
        ):
            size, own_size = teacher_shape[1:-1], shape[1:-1]
            if None in (*size, *own_size):
                raise ValueError(
                    "ReviewKD resizes maps, so their height and width must be known before "
                    f"the model runs. Received: sizes {size} and {own_size}."
                )
            layer = AttentionFusion(
                mid_width,
                teacher_shape[-1],
                size or (1, 1),
                has_deeper=i < len(teacher_shapes),
                dtype="float32",
            )
            layer.build((None, *(own_size or (1, 1)), shape[-1]))
            layers.append(layer)
        return layers

    def call(self, teacher_features, student_features, training=True, kept=None):
        outputs, fused = [], None
        (kept, *_) = kept or [None]
        if kept is not None:
            # Of examples, whose features are maps of any size.
            kept = ops.reshape(kept, (-1, 1, 1))
        for layer, features in zip(
            reversed(self.layers), reversed(student_features), strict=True
        ):
            output, fused = layer(_as_map(features), fused, training=training, kept=kept)
            outputs.insert(0, output)
        return hcl(map(_as_map, teacher_features), outputs)


def _as_map(features):
    """(batch, size) as a map of one place."""
    if len(features.shape) == 4:
        return features
    return ops.reshape(features, (-1, 1, 1, features.shape[-1]))
