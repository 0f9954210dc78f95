"""What losses on intermediate features share."""

import abc
import math

import keras
from keras import ops

from keras_kd.losses.base import DistillationLoss
from keras_kd.losses.layer_pairs import as_layer_pairs
from keras_kd.losses.ops import at_least_float32, fits_shape, of_one_shape, times_axis
from keras_kd.losses.weights import kept_positions, weighted_mean, without_left_out


class FeatureLoss(DistillationLoss):
    """A loss on one or several pairs of features, with one value per example.

    Features are (batch, height, width, channels) or (batch, size). A final class writes
    `call(teacher_features, student_features)`; one that bridges widths or sizes with
    layers of its own also writes `make_layers`. One whose layers run in another way in
    training than in inference sets `takes_training = True`, and its `call` has one more
    argument, `training`. Those layers are made by `build`: the
    Distiller calls it in its constructor, `compute_loss` if nobody has yet. They train with
    the student, are saved with the Distiller, and are no part of the student. So a loss
    with layers belongs to one Distiller.

    Attributes:
        least_pairs, most_pairs: How many pairs of features it compares; None is any
            number.
        on_maps: Whether features must be (batch, height, width, channels).
        least_places: How many places the smaller of two maps must have, for the value not
            to be the same whatever the student answers.
        leaves_out: Whether `call` has an argument `kept` more, where features are left out
            by their weights: for each pair bool (batch, height, width), with axes of 1 for
            all of an example, or None. Features are zero there. "examples" where these
            alone can be left out.

    Args:
        taps: A pair of layer names, the teacher's first, or a list of pairs, whose outputs
            to compare. Defaults to the models' own outputs.

    Raises:
        ValueError: `taps` is something else, or has too few or too many pairs.
    """

    least_pairs = 1
    most_pairs = None
    on_maps = False
    least_places = 1
    widths_may_differ = True
    leaves_out = False

    def __init__(self, taps=None):
        self.taps = as_layer_pairs(taps)
        if self.taps:
            self._check_count(len(self.taps), f"taps={taps!r}", "`taps`: ")
        self._built_for = None

    @abc.abstractmethod
    def call(self, teacher_features, student_features):
        """One value per example.

        Args:
            teacher_features: list of tensors, one for each pair, float32 or more.
            student_features: The same of the student.
            training: Whether in training, only if `takes_training`.

        Returns:
            (batch,).
        """

    def make_layers(self, teacher_shapes, student_shapes):
        """Built Keras layers that train with the student; () where none is needed.

        Args:
            teacher_shapes: list of (batch or None, ...), one for each pair.
            student_shapes: The same of the student.
        """
        return ()

    def check_shapes(self, teacher_shapes, student_shapes):
        """Refuses features that this loss cannot compare; unknown sizes are None.

        Raises:
            ValueError: As `compute_loss`; the message gives both shapes.
        """
        name = type(self).__name__
        counts = len(teacher_shapes), len(student_shapes)
        if counts[0] != counts[1] or (self.taps and counts[0] != len(self.taps)):
            raise ValueError(
                f"{name} takes as many features of the student as of the teacher"
                f"{f', {len(self.taps)} for its taps' if self.taps else ''}. "
                f"Received: {counts[0]} teacher_outputs, {counts[1]} student_outputs."
            )
        self._check_count(counts[0], f"{counts[0]} teacher_outputs")
        for shapes in zip(teacher_shapes, student_shapes, strict=True):
            ranks = {len(shape) for shape in shapes}
            if not ranks <= ({4} if self.on_maps else {2, 4}) or len(ranks) != 1:
                takes = "(batch, height, width, channels)"
                takes += "" if self.on_maps else ", or (batch, size) of both models"
                raise ValueError(
                    f"{name} takes features of shape {takes}. {_received(*shapes)}"
                )
            if not (self.widths_may_differ or fits_shape(*(x[-1:] for x in shapes))):
                raise ValueError(
                    f"{name} compares channel by channel, so the student's layer must have "
                    f"as many channels as the teacher's. {_received(*shapes)}"
                )
            self._check_places(*shapes)
        batches = [shape[:1] for shape in (*teacher_shapes, *student_shapes)]
        if not all(fits_shape(x, y) for x in batches for y in batches):
            raise ValueError(
                f"{name} compares each example with itself, so all features must be of "
                f"one batch. {_received(*_that_differ(teacher_shapes, student_shapes))}"
            )

    def _check_places(self, teacher_shape, student_shape):
        sizes = [x[1:3] for x in (teacher_shape, student_shape) if len(x) == 4]
        known = [None not in size for size in sizes]
        # One of one place is enough: the other is averaged to it.
        one = any(size == (1, 1) for size in map(tuple, sizes))
        places = math.prod(map(min, zip(*sizes, strict=True))) if all(known) else 1
        if self.least_places > 1 and (one or all(known) and places < self.least_places):
            raise ValueError(
                f"{type(self).__name__} compares how features differ from place to place: "
                "of maps of one place it is the same whatever the student answers. Tap "
                "layers before the pooling, or compare the features themselves, by "
                f"'fitnet'. {_received(teacher_shape, student_shape)}"
            )

    def build(self, teacher_shape, student_shape):
        shapes = _as_list(teacher_shape), _as_list(student_shape)
        self.check_shapes(*shapes)
        widths = [[shape[1:] for shape in side] for side in shapes]
        if self._built_for is None:
            self.layers = tuple(self.make_layers(*shapes))
            # Without layers there is nothing that other shapes would not fit.
            self._built_for = widths if self.layers else None
        elif not all(
            all(map(fits_shape, side, built))
            for side, built in zip(widths, self._built_for, strict=True)
        ):
            raise ValueError(
                f"{type(self).__name__} made its layers for features of shapes "
                f"{self._built_for[0]} (teacher) and {self._built_for[1]} (student), "
                f"without the batch. {_received(shapes[0][0], shapes[1][0])}"
            )

    def compute_loss(
        self,
        teacher_outputs,
        student_outputs,
        y_true=None,
        sample_weight=None,
        training=True,
    ):
        teacher = list(map(at_least_float32, _as_list(teacher_outputs)))
        student = list(map(at_least_float32, _as_list(student_outputs)))
        self.build(*([tuple(x.shape) for x in side] for side in (teacher, student)))
        if self.layers:
            # As their weights are.
            teacher, student = (
                [ops.cast(x, "float32") for x in y] for y in (teacher, student)
            )
        teacher, student, mode = self._left(teacher, student, sample_weight)
        mode |= self.mode(training)
        values = self.at_step(0).call(teacher, student, **mode)
        return weighted_mean(values, sample_weight)

    def _left(self, teacher, student, sample_weight):
        """Features without those of weight 0, and the argument that tells `call` so."""
        kept = [kept_positions(sample_weight, y) for y in student]
        of_places = [k is not None and set(k.shape[1:]) != {1} for k in kept]
        if any(of_places) and self.leaves_out is not True:
            raise ValueError(
                f"{type(self).__name__} compares each place of the features together with "
                "those around it, so none can be left out by a mask, by ignore_class or by "
                "a weight of its own. Tap layers of another height and width than the "
                "outputs', or take 'fitnet'. (A loss of your own that can: see "
                "`leaves_out`.) Received: weights for features of shape "
                f"{tuple(student[of_places.index(True)].shape)}."
            )
        if not self.leaves_out or all(k is None for k in kept):
            return teacher, student, {}
        pairs = list(zip(teacher, student, strict=True))
        for i, ((x, y), has_places) in enumerate(zip(pairs, of_places, strict=True)):
            if has_places and not fits_shape(x.shape[1:3], y.shape[1:3]):
                # Of a teacher of fewer places none is the outputs'.
                pooled_teacher, pooled_student = same_size(x, y)
                kept[i] = kept_positions(sample_weight, pooled_student)
                pairs[i] = (x, y) if kept[i] is None else (pooled_teacher, y)
        pairs = [
            pair if k is None else without_left_out(sample_weight, *pair)
            for pair, k in zip(pairs, kept, strict=True)
        ]
        teacher, student = map(list, zip(*pairs, strict=True))
        return teacher, student, {"kept": [k if k is None else k[..., 0] for k in kept]}

    def _check_count(self, count, received, argument=""):
        least, most = self.least_pairs, self.most_pairs
        if count < least or (most is not None and count > most):
            takes = f"{least}" if least == most else f"at least {least}"
            takes += f" pair{'s' * (least > 1)}"
            raise ValueError(
                f"{argument}{type(self).__name__} compares {takes} of "
                f"features. Received: {received}."
            )


def _as_list(features):
    """A list of features, or of shapes; a single one becomes a list of it."""
    is_several = isinstance(features, (list, tuple)) and not (
        features and (features[0] is None or isinstance(features[0], (int, float, list)))
    )
    return list(features) if is_several else [features]


def _that_differ(teacher_shapes, student_shapes):
    for pair in zip(teacher_shapes, student_shapes, strict=True):
        if not fits_shape(pair[0][:1], pair[1][:1]):
            return pair
    return teacher_shapes[0], student_shapes[-1]


def _received(teacher_shape, student_shape):
    return (
        f"Received: teacher_outputs of shape {tuple(teacher_shape)}, "
        f"student_outputs of shape {tuple(student_shape)}."
    )


def mean_per_example(values):
    """Mean over all axes but the first: (batch, ...) to (batch,)."""
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


def share_left(kept):
    """The part of an example's places that is left, (batch,); 1 where `kept` is None."""
    return 1.0 if kept is None else mean_per_example(ops.cast(kept, "float32"))


def mean_of_left(values, kept):
    """Means per example over all places, as those over the places that are left.

    Args:
        values: (batch,), of what is zero where nothing is left.
        kept: As `FeatureLoss.call` has it of one pair.
    """
    if kept is None:
        return values
    return ops.divide_no_nan(values, ops.cast(share_left(kept), values.dtype))


def left(features, kept, otherwise=0.0):
    """Features with another value where they are left out."""
    if kept is None:
        return features
    return ops.where(ops.expand_dims(kept, axis=-1), features, otherwise)


def same_size(teacher_features, student_features, reduce=ops.mean):
    """Both maps at the smaller one's height and width, by averages of the larger one's.

    As PyTorch's adaptive_avg_pool2d. (batch, size) is left as it is.

    Args:
        teacher_features, student_features: (batch, height, width, channels).
        reduce: What makes the larger one smaller; `ops.max` takes maxima.

    Returns:
        Both, float32 or more.
    """
    maps = at_least_float32(teacher_features), at_least_float32(student_features)
    if len(teacher_features.shape) < 4:
        return maps
    known = [x.shape[1:3] for x in maps]
    if None not in (*known[0], *known[1]):
        size = tuple(map(min, zip(*known, strict=True)))
        return tuple(pooled(x, size, reduce) for x in maps)
    # Known when the model runs: no less is averaged there.
    shapes = [ops.shape(x)[1:3] for x in maps]
    size = [_smaller(*pair) for pair in zip(*shapes, strict=True)]
    return tuple(pooled(x, size, reduce) for x in maps)


def _smaller(one, other):
    """The smaller of two sizes, each an integer or a tensor."""
    known = [x for x in (one, other) if isinstance(x, int)]
    return min(known) if len(known) == 2 or 1 in known else ops.minimum(one, other)


def of_one_size(teacher_features, student_features):
    """Features that are compared number by number, at the smaller one's size.

    As `same_size`; of what is not known before the model runs, nothing is broadcast.
    """
    return of_one_shape(*same_size(teacher_features, student_features))


def pooled(features, size, reduce=ops.mean):
    """Maps as averages over windows, as PyTorch's adaptive_avg_pool2d makes them.

    Window i of n is from floor(i * height / n) to ceil((i + 1) * height / n). Not Keras's
    own operation, which TensorFlow cannot compile where one window is the whole map.

    Args:
        features: (batch, height, width, channels).
        size: The new height and width.
        reduce: `ops.max` takes maxima instead.
    """
    features = ops.convert_to_tensor(features)
    for axis, new in enumerate(size, start=1):
        old = features.shape[axis]
        if isinstance(new, int) and new == 1 and old != 1:
            features = reduce(features, axis=axis, keepdims=True)
        elif old is None or not isinstance(new, int):
            features = _pooled_unknown_axis(features, axis, new, reduce)
        elif new != old:
            features = _pooled_axis(features, axis, old, new, reduce)
    return features


def _pooled_axis(features, axis, old, new, reduce):
    """One axis of `pooled`, from the length `old` to `new`."""
    if old % new == 0:
        shape = ops.shape(features)
        windows = (*shape[:axis], new, old // new, *shape[axis + 1 :])
        return reduce(ops.reshape(features, windows), axis=axis + 1)
    windows = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
    if reduce is ops.mean:
        parts = [[(i in range(*x)) / (x[1] - x[0]) for i in range(old)] for x in windows]
        return times_axis(parts, features, axis)
    # Cut into rows once: the gradient of each slice would be a tensor of the whole map.
    rows = ops.unstack(features, axis=axis)
    largest = [reduce(ops.stack(rows[start:end]), axis=0) for start, end in windows]
    return ops.stack(largest, axis=axis)


def _pooled_unknown_axis(features, axis, new, reduce):
    """One axis of `pooled`, where a length is known only when the model runs."""
    old = ops.shape(features)[axis]
    first = ops.arange(new, dtype="int32") * old // new
    end = ((ops.arange(new, dtype="int32") + 1) * old + new - 1) // new
    # The longest window's length, or 1 more.
    longest = ops.where(ops.equal(old % new, 0), old // new, old // new + 2)
    places = ops.expand_dims(first, 1) + ops.arange(longest, dtype="int32")
    is_inside = ops.less(places, ops.expand_dims(end, 1))
    windows = ops.take(features, ops.minimum(places, old - 1), axis=axis)
    for _ in range(axis):
        is_inside = ops.expand_dims(is_inside, 0)
    for _ in features.shape[axis + 1 :]:
        is_inside = ops.expand_dims(is_inside, -1)
    if reduce is ops.max:
        return ops.max(ops.where(is_inside, windows, -math.inf), axis=axis + 1)
    total = ops.sum(ops.where(is_inside, windows, 0.0), axis=axis + 1)
    counts = ops.sum(ops.cast(is_inside, features.dtype), axis=axis + 1)
    return total / counts


def place_vectors(features):
    """Maps as vectors, (batch, height * width, channels), float32 or more."""
    features = at_least_float32(features)
    batch, height, width, channels = ops.shape(features)
    return ops.reshape(features, (batch, height * width, channels))


def make_projection(shape, width, **arguments):
    """A linear map of the last axis, a 1 x 1 convolution on maps: built, in float32.

    Args:
        shape: (batch or None, ..., channels) of its inputs.
        width: Channels of its outputs.
        **arguments: Passed to `keras.layers.Dense`.
    """
    layer = keras.layers.Dense(width, dtype="float32", **arguments)
    layer.build((None, *shape[1:]))
    return layer


def batch_to_normalise(shapes):
    """How many examples a batch normalisation needs, for its output to hang on them.

    Args:
        shapes: Of what is normalised, (batch or None, ..., channels) each.
    """
    has_places = [any(size != 1 for size in shape[1:-1]) for shape in shapes]
    return 1 if any(has_places) else 2


def make_batch_norm(shape):
    """A batch normalisation as PyTorch's by default: built, in float32.

    Args:
        shape: (batch or None, ..., channels) of its inputs.
    """
    layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32")
    layer.build((None, *shape[1:]))
    return layer
