"""Variational information: how well the student's features predict the teacher's.

Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge
Transfer", 2019.
"""

import math

import keras
from keras import ops

from keras_kd.losses.arguments import check_positive
from keras_kd.losses.features import (
    FeatureLoss,
    left,
    mean_of_left,
    mean_per_example,
    same_size,
    share_left,
)
from keras_kd.losses.ops import of_one_shape


def variational_information(teacher_features, student_features, *, variance):
    """Negative log-likelihood of the teacher's features, one value per example.

        loss_i = mean_k ((teacher_ik - student_ik)**2 / variance_k + log(variance_k)) / 2

    The normal distribution's, without its constant; below zero where the variance is small.

    Args:
        teacher_features: (batch, height, width, channels) or (batch, size).
        student_features: What is predicted of them, the same shape.
        variance: (channels,), each > 0.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Ahn et al., 2019](https://arxiv.org/abs/1904.05835), equation 4.
    """
    teacher_features, student_features = of_one_shape(teacher_features, student_features)
    squares = ops.square(teacher_features - student_features)
    return 0.5 * mean_per_example(squares / variance + ops.log(variance))


@keras.saving.register_keras_serializable(package="keras_kd")
class VariationalRegressor(keras.layers.Layer):
    """Mean and variance of the teacher's features, predicted from the student's.

    The mean is three linear maps of the channels, 1 x 1 convolutions on maps, without bias
    and with a ReLU between them; the variance is learned, one for each channel.

    Args:
        width: The teacher's channels.
        init_pred_var: Variance to begin with, > eps.
        eps: Added to the variance, > 0.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, width, init_pred_var, eps, **kwargs):
        super().__init__(**kwargs)
        self.width, self.init_pred_var, self.eps = width, init_pred_var, eps
        self.maps = [
            keras.layers.Dense(width, use_bias=False, activation=x, dtype=self.dtype_policy)
            for x in ("relu", "relu", None)
        ]

    def build(self, input_shape):
        for layer in self.maps:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], self.width)
        variance = self.init_pred_var - self.eps
        # Of which softplus is that variance: log(exp(variance) - 1).
        scale = variance + math.log(-math.expm1(-variance))
        self.log_scale = self.add_weight(
            shape=(self.width,),
            initializer=keras.initializers.Constant(scale),
            name="log_scale",
        )

    def call(self, features):
        for layer in self.maps:
            features = layer(features)
        return features, ops.softplus(self.log_scale) + self.eps

    def get_config(self):
        own = {"width": self.width, "init_pred_var": self.init_pred_var, "eps": self.eps}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="keras_kd")
class VariationalInformation(FeatureLoss):
    """Variational information distillation of Ahn et al. 2019; identifier `"vid"`.

        loss_i = mean_k ((teacher_ik - r(student_i)_k)**2 / v_k + log(v_k)) / 2
        v_k = log(1 + exp(scale_k)) + eps, summed over the pairs

    with k over places and channels, and scale one number for each channel. The regressor r
    is three linear maps, 1 x 1 convolutions on maps, with a ReLU between them. r and scale
    train with the student, whether widths differ or not. A larger map of the two is
    averaged down to the other's height and width.

    Values and defaults are those of RepDistiller and mdistiller, after the authors'
    repository, ssahn0215/variational-information-distillation.

    Args:
        init_pred_var: Variance v that training begins with, > eps. Defaults to 5.0.
        eps: The smallest variance, > 0. Defaults to 1e-5.
        taps: A pair of layer names, the teacher's first, or a list of pairs; in
            RepDistiller one at the end of each block. Defaults to the models' own outputs.

    Raises:
        ValueError: An argument is no finite number of its range, or `taps` is something
            else. In use: features of one rank are needed.

    Example:

    >>> loss = VariationalInformation(init_pred_var=1.0)
    >>> float(loss.compute_loss([[3.0, 1.0]], [[0.0, 0.0]]))
    2.5

    Reference:
        [Ahn et al., 2019](https://arxiv.org/abs/1904.05835)
    """

    makes_layers = True
    leaves_out = True
    zero_at_agreement = False
    smallest_at_agreement = False

    def __init__(self, init_pred_var=5.0, eps=1e-5, taps=None):
        super().__init__(taps)
        self.init_pred_var = check_positive("init_pred_var", init_pred_var)
        self.eps = check_positive("eps", eps)
        if self.init_pred_var <= self.eps:
            raise ValueError(
                "`init_pred_var` must be greater than `eps`, the smallest variance. "
                f"Received: init_pred_var={init_pred_var!r}, eps={eps!r}."
            )

    def make_layers(self, teacher_shapes, student_shapes):
        layers = []
        for teacher_shape, student_shape in zip(
            teacher_shapes, student_shapes, strict=True
        ):
            width = teacher_shape[-1]
            layer = VariationalRegressor(
                width, self.init_pred_var, self.eps, dtype="float32"
            )
            layer.build((None, *student_shape[1:]))
            layers.append(layer)
        return layers

    def call(self, teacher_features, student_features, kept=None):
        loss = 0.0
        kept = kept or [None] * len(teacher_features)
        for layer, k, *pair in zip(
            self.layers, kept, teacher_features, student_features, strict=True
        ):
            teacher, student = same_size(*pair)
            mean, variance = layer(student)
            value = variational_information(teacher, left(mean, k), variance=variance)
            # What is left out has a variance, too.
            others = 0.5 * ops.mean(ops.log(variance)) * (1.0 - share_left(k))
            loss += mean_of_left(value - others, k)
        return loss
