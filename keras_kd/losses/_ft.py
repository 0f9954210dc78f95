"""Factor transfer: the student's factors, of length 1, are the teacher's.

Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
2018.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice
from keras_kd.losses.features import (
    FeatureLoss,
    mean_of_left,
    mean_per_example,
    same_size,
)
from keras_kd.losses.ops import at_least_float32, flat, of_one_shape, unit_vectors
from keras_kd.losses.shapes import check_size


def factor_transfer(teacher_features, student_features, *, p1=2, p2=1):
    """Difference of factors, one value per example.

        factor_i = mean_c x_i,:,:,c**p1, flattened, divided by its length
        loss_i = mean_k |teacher_factor_ik - student_factor_ik|**p2

    Args:
        teacher_features: (batch, height, width, channels).
        student_features: The same; the larger map of the two is averaged down to the
            other's height and width. Channels may differ unless `p1` is None.
        p1: 1 or 2; None for the features as they are, without the mean over channels.
        p2: 1 or 2.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Kim et al., 2018](https://arxiv.org/abs/1802.04977)
    """
    maps = same_size(teacher_features, student_features)
    teacher_factor, student_factor = of_one_shape(*(_factor(x, p1) for x in maps))
    difference = teacher_factor - student_factor
    return mean_per_example(ops.abs(difference) if p2 == 1 else ops.square(difference))


def _factor(features, p1):
    if p1 is not None:
        features = at_least_float32(features)
        features = ops.mean(features if p1 == 1 else ops.square(features), axis=-1)
    return unit_vectors(flat(features))


@keras.saving.register_keras_serializable(package="keras_kd")
class FactorTransfer(FeatureLoss):
    """Factor transfer of Kim et al. 2018; identifier `"ft"`.

        loss_i = mean_k |teacher_factor_ik - student_factor_ik|**p2, summed over the pairs

    with factor_i the mean over channels of features_i**p1, flattened and of length 1.
    Values and defaults are those of RepDistiller's FactorTransfer; it weighs it by 200.

    In the paper a factor is what a paraphraser makes of the teacher's features, and a
    translator of the student's: three convolutions each, of as many channels. The
    paraphraser is trained before, as half of an autoencoder, the translator with the
    student. RepDistiller has both. This loss has neither, and compares any two maps; tap
    them where the models have them as layers. The authors' code,
    Jangho-Kim/Factor-Transfer-pytorch, takes no mean over channels, which is `p1=None`, and
    weighs it by 500; torchdistill's FTLoss has that value, too.

    Args:
        p1: Power of the features in their mean over channels, 1 or 2; None for factors of
            all channels, equally many of teacher and student. Defaults to 2.
        p2: Power of the difference, 1 or 2. Defaults to 1, as the authors have it.
        taps: A pair of layer names, the teacher's first, or a list of pairs, of layers
            that give maps. Defaults to the models' own outputs.

    Raises:
        ValueError: `p1` or `p2` is something else, or `taps` is. In use: features are no
            maps, differ in channels though `p1` is None, or one has a single place.

    Example:

    >>> teacher = keras.ops.reshape([3.0, 4.0], (1, 1, 2, 1))
    >>> student = keras.ops.reshape([4.0, 3.0], (1, 1, 2, 1))
    >>> round(float(FactorTransfer(p1=1).compute_loss(teacher, student)), 4)
    0.2

    Reference:
        [Kim et al., 2018](https://arxiv.org/abs/1802.04977)
    """

    on_maps = True
    leaves_out = True

    def __init__(self, p1=2, p2=1, taps=None):
        super().__init__(taps)
        self.p1 = check_choice("p1", p1, (1, 2, None))
        self.p2 = check_choice("p2", p2, (1, 2))
        self.widths_may_differ = p1 is not None
        self.least_places = 2 if self.widths_may_differ else 1

    def check_shapes(self, teacher_shapes, student_shapes):
        super().check_shapes(teacher_shapes, student_shapes)
        if self.p1 is None:
            for shape in student_shapes:
                check_size("FactorTransfer(p1=None)", shape, 2)

    def call(self, teacher_features, student_features, kept=None):
        kept = kept or [None] * len(teacher_features)
        return sum(
            mean_of_left(factor_transfer(x, y, p1=self.p1, p2=self.p2), k)
            for x, y, k in zip(teacher_features, student_features, kept, strict=True)
        )
