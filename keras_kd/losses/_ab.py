"""Activation boundaries: a neuron of the student is on where the teacher's is.

Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by
Hidden Neurons", 2019.
"""

import math

import keras
from keras import ops

from keras_kd.losses.arguments import check_positive
from keras_kd.losses.features import (
    FeatureLoss,
    batch_to_normalise,
    left,
    make_projection,
    of_one_size,
)
from keras_kd.losses.ops import flat


def activation_boundaries(teacher_features, student_features, *, margin=1.0):
    """Squared hinge of the student at the teacher's signs, one value per example.

        loss_i = sum_k max(0, margin - sign_ik * student_ik)**2
        sign_ik = 1 where teacher_ik > 0, else -1

    Args:
        teacher_features: (batch, height, width, channels) or (batch, size), before the
            ReLU.
        student_features: The same but for height and width: the larger map of the two is
            averaged down to the other's.
        margin: How far beyond zero the student has to be, > 0.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Heo et al., 2019](https://arxiv.org/abs/1811.03233)
    """
    teacher, student = map(flat, of_one_size(teacher_features, student_features))
    short_by = ops.relu(margin - ops.where(teacher > 0.0, student, -student))
    return ops.sum(ops.square(short_by), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class ActivationBoundaries(FeatureLoss):
    """Activation boundaries of Heo et al. 2019; identifier `"ab"`.

        loss_i = scale * sum_k max(0, margin - sign_ik * r(student_i)_k)**2

    with sign_ik = 1 where teacher_ik > 0, else -1, summed over the pairs: the last counts
    fully, each before it half of the next. Give it features before the ReLU. Where the
    numbers of channels differ, r is the authors' connector, a linear 1 x 1 convolution and
    batch normalisation, which trains with the student; where they agree, the identity.

    Values and defaults are those of the authors' code for CIFAR, bhheo/AB_distillation, and
    of RepDistiller's ABLoss: a sum over neurons, so that larger maps have larger values, a
    mean over the batch alone, times 3 / 1000. The authors' code for transfer from ImageNet
    has 1 / 1000: `scale=0.001`. The paper's sum, and torchdistill's where it is given those
    weights of the pairs, is `scale=1.0`. The paper and RepDistiller train on this loss
    alone first, then without it. RepDistiller's connectors also bridge maps of different
    size, by strides; here the larger map is averaged.

    Args:
        margin: How far beyond zero the student has to be, > 0. Defaults to 1.0.
        scale: What the sums over neurons are multiplied by, > 0. Defaults to 0.003.
        taps: A pair of layer names, the teacher's first, or a list of pairs from bottom to
            top. Defaults to the models' own outputs.

    Raises:
        ValueError: `margin` or `scale` is not a finite number > 0, or `taps` is something
            else. In use: features of one rank are needed.

    Example:

    >>> loss = ActivationBoundaries(scale=1.0)
    >>> float(loss.compute_loss([[5.0, -5.0, -5.0]], [[3.0, -0.5, 2.0]]))
    9.25

    Reference:
        [Heo et al., 2019](https://arxiv.org/abs/1811.03233)
    """

    makes_layers = True
    leaves_out = True
    takes_training = True
    # A neuron on the teacher's side of zero may still be within the margin.
    zero_at_agreement = False
    smallest_at_agreement = False

    def __init__(self, margin=1.0, scale=0.003, taps=None):
        super().__init__(taps)
        self.margin = check_positive("margin", margin)
        self.scale = check_positive("scale", scale)

    def make_layers(self, teacher_shapes, student_shapes):
        widths = [(x[-1], y) for x, y in zip(teacher_shapes, student_shapes, strict=True)]
        self._is_connected = [width != shape[-1] for width, shape in widths]
        self.uses_batch_statistics = any(self._is_connected)
        if all(self._is_connected):
            self.least_batch = batch_to_normalise(student_shapes)
        connectors = [_make_connector(y, width) for width, y in widths if width != y[-1]]
        return [layer for connector in connectors for layer in connector]

    def call(self, teacher_features, student_features, training=True, kept=None):
        layers = iter(self.layers)
        total, weight = 0.0, self.scale * 0.5 ** (len(teacher_features) - 1)
        kept = kept or [None] * len(teacher_features)
        for teacher, student, is_connected, k in zip(
            teacher_features, student_features, self._is_connected, kept, strict=True
        ):
            if is_connected:
                student = next(layers)(student)
                student = next(layers)(student, training=training, mask=k)
            # As far below zero as the teacher's zero asks.
            student = left(student, k, -self.margin)
            total += weight * activation_boundaries(teacher, student, margin=self.margin)
            weight *= 2.0
        return total


def _make_connector(shape, width):
    # The authors' draw, and PyTorch's batch normalisation.
    draw = keras.initializers.RandomNormal(stddev=math.sqrt(2.0 / width))
    linear = make_projection(shape, width, use_bias=False, kernel_initializer=draw)
    normalise = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32")
    normalise.build((None, *shape[1:-1], width))
    return linear, normalise
