"""Flow of solution: how features change from layer to layer is the teacher's way.

Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation", 2017.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice
from keras_kd.losses.features import FeatureLoss, place_vectors, same_size, share_left
from keras_kd.losses.ops import column_products, of_one_shape

POOLING = {"average": ops.mean, "max": ops.max}


def flow_of_solution(teacher_features, student_features, *, form="mean", pooling="average"):
    """Squared difference of the flows between two layers, one value per example.

        flow_i,c,d = mean_p first_i,p,c * second_i,p,d, over the places p
        loss_i = mean_cd (teacher_flow_icd - student_flow_icd)**2

    Args:
        teacher_features: Two tensors, of an earlier and a later layer, each (batch,
            height, width, channels). The larger map is pooled to the other's height and
            width.
        student_features: The same of the student, of the teacher's channels.
        form: "mean", or "sum" for the sum over c and d.
        pooling: "average", or "max" for the largest values of the larger map.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Yim et al., 2017](https://openaccess.thecvf.com/content_cvpr_2017/html/\
Yim_A_Gift_From_CVPR_2017_paper.html), equations 1 and 2.
    """
    pool = POOLING[pooling]
    teacher_flow, student_flow = of_one_shape(
        _flow(*teacher_features, pool), _flow(*student_features, pool)
    )
    square = ops.square(teacher_flow - student_flow)
    return (ops.mean if form == "mean" else ops.sum)(square, axis=(1, 2))


def _flow(first, second, pool):
    first, second = map(place_vectors, same_size(first, second, pool))
    places = ops.cast(ops.shape(first)[1], first.dtype)
    return column_products(first, second) / places


@keras.saving.register_keras_serializable(package="keras_kd")
class FlowOfSolution(FeatureLoss):
    """Flow of the solution procedure (FSP), Yim et al. 2017; identifier `"fsp"`.

        loss_i = mean_cd (teacher_flow_icd - student_flow_icd)**2, summed over the flows

    with flow_icd the mean over places of channel c of a layer times channel d of the next.
    There is a flow from each tap to the one after it: three taps have two flows. Values are
    those of RepDistiller's FSP. The paper sums over c and d, and takes maxima where the two
    maps differ in size: `form="sum", pooling="max"`. torchdistill's FSPLoss takes maxima,
    too, but sums the lengths of the difference's columns, which is not offered. The paper
    and RepDistiller train on this loss alone first, then on labels without it.

    Args:
        form: "mean", or "sum" for the sum over all products of channels. Defaults to
            "mean".
        pooling: How the larger of a flow's two maps comes to the other's height and width:
            "average" or "max". Defaults to "average".
        taps: A list of two or more pairs of layer names, the teacher's first, in the order
            of the flow; a pair's layers must have equally many channels. Defaults to the
            models' own outputs.

    Raises:
        ValueError: `form` or `pooling` is something else, or `taps` is no list of pairs, or
            of one alone. In use: features are no maps, or differ in channels.

    Example:

    >>> first, second = keras.ops.ones((1, 2, 2, 3)), keras.ops.ones((1, 2, 2, 4))
    >>> teacher, student = [first, 2.0 * second], [first, 5.0 * second]
    >>> float(FlowOfSolution().compute_loss(teacher, student))
    9.0

    Reference:
        [Yim et al., 2017](https://openaccess.thecvf.com/content_cvpr_2017/html/\
Yim_A_Gift_From_CVPR_2017_paper.html)
    """

    least_pairs = 2
    on_maps = True
    leaves_out = True
    widths_may_differ = False

    def __init__(self, form="mean", pooling="average", taps=None):
        super().__init__(taps)
        self.form = check_choice("form", form, ("mean", "sum"))
        self.pooling = check_choice("pooling", pooling, tuple(POOLING))

    def call(self, teacher_features, student_features, kept=None):
        if kept is not None and None not in kept:
            # Flows are means over the places that are left.
            sides = teacher_features, student_features
            teacher_features, student_features = ([*map(_of_left, x, kept)] for x in sides)
        # Each layer with the next.
        flows = [zip(x, x[1:], strict=False) for x in (teacher_features, student_features)]
        return sum(
            flow_of_solution(x, y, form=self.form, pooling=self.pooling)
            for x, y in zip(*flows, strict=True)
        )


def _of_left(features, kept):
    """Features whose products' mean over all places is that over the places left."""
    places = ops.cast(ops.maximum(share_left(kept), 1e-30), features.dtype)
    return features / ops.reshape(ops.sqrt(places), (-1, 1, 1, 1))
