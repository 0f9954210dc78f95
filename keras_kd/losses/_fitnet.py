"""Hints: the student's features, through a regressor, are the teacher's.

Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015.
"""

import keras
from keras import ops

from keras_kd.losses.features import (
    FeatureLoss,
    left,
    make_projection,
    mean_of_left,
    mean_per_example,
    of_one_size,
)


def fitnet(teacher_features, student_features):
    """Mean squared difference of features, one value per example.

        loss_i = mean_k (teacher_ik - student_ik)**2

    Args:
        teacher_features: (batch, height, width, channels) or (batch, size).
        student_features: The same but for height and width: the larger map of the two is
            averaged down to the other's.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Romero et al., 2015](https://arxiv.org/abs/1412.6550), equation 3.
    """
    teacher_features, student_features = of_one_size(teacher_features, student_features)
    return mean_per_example(ops.square(teacher_features - student_features))


@keras.saving.register_keras_serializable(package="keras_kd")
class FitNet(FeatureLoss):
    """Hints of Romero et al. 2015; identifier `"fitnet"`.

        loss_i = mean_k (teacher_ik - r(student_i)_k)**2, summed over the pairs

    Where the numbers of channels differ, r is the paper's convolutional regressor, linear
    and 1 x 1; it trains with the student. Where they agree, r is the identity.

    RepDistiller's HintLoss and mdistiller's FitNet are this mean; the paper has half of the
    sum. Their regressors have a batch normalisation and a ReLU more. The paper trains on
    the hint alone first, up to the hinted layer, then on soft targets.

    Args:
        taps: A pair of layer names, the teacher's hint layer first, or a list of pairs.
            Defaults to the models' own outputs.

    Raises:
        ValueError: `taps` is something else. In use: features of one rank are needed.

    Example:

    >>> float(FitNet().compute_loss([[1.0, 2.0]], [[1.0, 4.0]]))
    2.0

    Reference:
        [Romero et al., 2015](https://arxiv.org/abs/1412.6550)
    """

    makes_layers = True
    leaves_out = True

    def make_layers(self, teacher_shapes, student_shapes):
        widths = [(x[-1], y) for x, y in zip(teacher_shapes, student_shapes, strict=True)]
        self._is_projected = [width != shape[-1] for width, shape in widths]
        self.zero_at_agreement = self.smallest_at_agreement = not any(self._is_projected)
        return [make_projection(y, width) for width, y in widths if width != y[-1]]

    def call(self, teacher_features, student_features, kept=None):
        layers, loss = iter(self.layers), 0.0
        kept = kept or [None] * len(teacher_features)
        for teacher, student, is_projected, k in zip(
            teacher_features, student_features, self._is_projected, kept, strict=True
        ):
            student = next(layers)(student) if is_projected else student
            loss += mean_of_left(fitnet(teacher, left(student, k)), k)
        return loss
