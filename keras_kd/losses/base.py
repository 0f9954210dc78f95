"""The contract of a distillation loss, and the checks that losses share."""

import abc
import copy
import inspect
import warnings
from typing import NamedTuple

import keras
from keras import ops

from keras_kd.losses.ops import at_least_float32, fits_shape
from keras_kd.losses.schedules import is_schedule, shown, value_at


class LayerPair(NamedTuple):
    """One teacher layer and one student layer whose outputs are compared.

    "backbone/block3" is a layer inside a nested model; None is the model's own output.
    """

    teacher: str | None
    student: str | None


class DistillationLoss(keras.distillation.DistillationLoss, abc.ABC):
    """One thing the student is asked to match.

    It is also a `keras.distillation.DistillationLoss`, so Keras's own Distiller takes it.
    A final class sets these attributes; `keras_kd.Distiller` reads them and asks nothing
    else of a loss:

    Attributes:
        taps: LayerPairs, in the order `compute_loss` receives their outputs; () for the
            models' own outputs.
        layers: Built Keras layers that train with the student and are no part of it.
        makes_layers: Whether `build` may make `layers`, so that shapes must be known.
        needs_labels: Whether `y_true` may not be None.
        needs_index: Whether `compute_loss` has one more argument, `index`, integers
            (batch,): each example's number in the data set, as `keras_kd.with_index`
            puts it there.
        has_state: Whether `compute_loss` changes weights of `layers` that no gradient
            trains, so that a batch's value hangs on the batches before.
        on_logits: Whether the outputs are read as logits; outputs that are probabilities
            are then passed as their logarithm.
        zero_at_agreement, smallest_at_agreement, shift_invariant: Promises that
            `keras_kd.testing.check_distillation_loss` holds it to: the value is zero
            where the outputs agree; it is nowhere smaller; a constant added to all
            logits changes nothing.
        stops_gradients: Whether parts of the value that depend on the student are
            constants to the gradient, which is then not the slope of the value.
        widths_may_differ: Whether the last axes of the outputs may differ in length.
        uses_batch_statistics: Whether `layers` normalise by the batch, so that an
            example's value depends on the others, those of weight 0 too.
    """

    taps = ()
    layers = ()
    makes_layers = False
    needs_labels = False
    needs_index = False
    has_state = False
    on_logits = False
    zero_at_agreement = True
    smallest_at_agreement = True
    shift_invariant = False
    stops_gradients = False
    widths_may_differ = False
    uses_batch_statistics = False

    def build(self, teacher_shape, student_shape):
        """Checks shapes before the first batch, where they are known, and makes `layers`.

        Args:
            teacher_shape: (None, ...) of what `compute_loss` will receive of the teacher;
                a list of them with several taps, or where the model has several outputs.
            student_shape: The same of the student.

        Raises:
            ValueError: The shapes do not fit this loss.
        """

    @abc.abstractmethod
    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        """Loss of one batch.

        Args:
            teacher_outputs: With one tap, a tensor (batch, ...); with several, a list of
                them; without, the model's own outputs in their own structure. The
                Distiller stops gradients into it.
            student_outputs: The same of the student.
            y_true: Integer labels (batch,) or None; required if `needs_labels`.
            sample_weight: (batch,), each >= 0, or None for all ones.

        What is scheduled stands at step 0 (`self.at_step(0)`); a Distiller sets the step.

        Returns:
            Scalar, float32: `sum(sample_weight * loss) / batch`, as Keras's
            `sum_over_batch_size` reduces.

        Raises:
            ValueError: A shape or a class count does not fit, or labels are missing.
        """

    def at_step(self, step, dtype="float32"):
        """This loss as it is at a training step: what is scheduled has its value there.

        Args:
            step: Scalar integer, a tensor where the step runs in a graph.
            dtype: Of the scheduled values.

        Returns:
            The loss itself where nothing is scheduled, else a copy with the same layers.
        """
        scheduled = {key: x for key, x in vars(self).items() if is_schedule(x)}
        if not scheduled:
            return self
        now = copy.copy(self)
        vars(now).update({k: value_at(x, step, dtype) for k, x in scheduled.items()})
        return now

    def get_config(self):
        """The constructor's arguments, for Keras's serialiser."""
        return {}

    @classmethod
    def from_config(cls, config):
        # Schedules come as what `keras.saving.serialize_keras_object` made of them.
        arguments = {
            key: keras.saving.deserialize_keras_object(x) if _is_serialized(x) else x
            for key, x in config.items()
        }
        return cls(**arguments)

    def __repr__(self):
        arguments = ", ".join(f"{k}={shown(v)}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _is_serialized(value):
    return isinstance(value, dict) and "class_name" in value


class OneOutputLoss(DistillationLoss):
    """A loss of one output of each model: the checks of what comes in."""

    def check_shapes(self, teacher_shape, student_shape):
        """Refuses outputs that this loss cannot compare; unknown sizes are None.

        Raises:
            ValueError: As `compute_loss`; the message gives both shapes.
        """
        check_same_shape(type(self).__name__, teacher_shape, student_shape)

    def build(self, teacher_shape, student_shape):
        for model, shape in (("teacher", teacher_shape), ("student", student_shape)):
            if isinstance(shape, list):
                raise _several_outputs(type(self).__name__, model)
        self.check_shapes(teacher_shape, student_shape)

    def checked(self, teacher_outputs, student_outputs):
        """The outputs as tensors of float32 or more, if they can be compared."""
        for model, outputs in (("teacher", teacher_outputs), ("student", student_outputs)):
            if any(ops.is_tensor(x) for x in _elements(outputs)):
                raise _several_outputs(type(self).__name__, model)
        # Tensors of any dtype in; a NumPy float64 array is not silently made float32.
        teacher_outputs = at_least_float32(teacher_outputs)
        student_outputs = at_least_float32(student_outputs)
        self.check_shapes(tuple(teacher_outputs.shape), tuple(student_outputs.shape))
        return teacher_outputs, student_outputs


class PerExampleLoss(OneOutputLoss):
    """A loss with one value per example.

    A final class writes `call(teacher, student, y_true)`, which returns (batch, ...);
    the check of shapes and the weighted mean are done here.
    """

    @abc.abstractmethod
    def call(self, teacher_outputs, student_outputs, y_true):
        """One value per example, (batch, ...)."""

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        teacher_outputs, student_outputs = self.checked(teacher_outputs, student_outputs)
        if self.needs_labels and y_true is None:
            name = type(self).__name__
            raise ValueError(f"{name} needs labels. Received: y_true=None.")
        now = self.at_step(0)
        values = now.call(teacher_outputs, student_outputs, y_true)
        return weighted_mean(values, sample_weight)


def _elements(outputs):
    """What a structure of outputs holds; nothing for a single array or tensor."""
    if isinstance(outputs, dict):
        return outputs.values()
    return outputs if isinstance(outputs, (list, tuple)) else ()


def _several_outputs(loss_name, model):
    return ValueError(
        f"{loss_name} compares one output of each model, and the {model} has several. Say "
        "which by the layers they come from, taps=(teacher_layer, student_layer), and give "
        "one loss for each."
    )


def weighted_mean(values, sample_weight=None):
    """Keras's `sum_over_batch_size`: the sum of weighted values over their number.

    Args:
        values: (batch, ...).
        sample_weight: As `weights_of` takes it, or None.

    Raises:
        ValueError: `sample_weight` has another shape; nothing is broadcast over examples.
    """
    if sample_weight is not None:
        values = values * weights_of(values, sample_weight)
    return ops.mean(values)


def weights_of(values, sample_weight):
    """`sample_weight` in the shape of the values, or with axes of 1 after the first.

    Args:
        values: (batch, ...).
        sample_weight: (batch,), Keras's (batch, 1), or the values' own shape.

    Raises:
        ValueError: `sample_weight` has another shape.
    """
    sample_weight = ops.cast(sample_weight, values.dtype)
    shape, received = tuple(values.shape), tuple(sample_weight.shape)
    if fits_shape(received, shape):
        return sample_weight
    if not any(fits_shape(received, x) for x in (shape[:1], (shape[0], 1))):
        raise ValueError(
            "`sample_weight` must hold one weight for each example, or for each value of "
            f"shape {shape}. Received: a shape of {received}."
        )
    # One weight per example, over all of its values.
    return ops.reshape(sample_weight, (-1,) + (1,) * (len(shape) - 1))


KERAS_LOSSES = (
    keras.distillation.LogitsDistillation,
    keras.distillation.FeatureDistillation,
)


class AdoptedLoss(DistillationLoss):
    """Another library's loss object, Keras's own above all, used as it is."""

    def __init__(self, loss):
        self.loss = loss
        self.name = type(loss).__name__
        pair = LayerPair(
            getattr(loss, "teacher_layer_name", None),
            getattr(loss, "student_layer_name", None),
        )
        self.taps = (pair,) if any(pair) else ()
        self.on_logits = isinstance(loss, keras.distillation.LogitsDistillation)
        self._takes = set(inspect.signature(loss.compute_loss).parameters)

    def build(self, teacher_shape, student_shape):
        if not isinstance(teacher_shape, list):
            self._check_shapes(teacher_shape, student_shape)

    def _check_shapes(self, teacher_shape, student_shape):
        # Keras's own compare element by element, and would broadcast; of others nothing
        # is known.
        if isinstance(self.loss, KERAS_LOSSES):
            check_same_shape(self.name, teacher_shape, student_shape)

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        if sample_weight is not None and "sample_weight" not in self._takes:
            warnings.warn(
                f"{self.name} ignores sample_weight and class_weight. The losses of "
                "keras_kd.losses honour them.",
                stacklevel=2,
            )
        if not any(map(_elements, (teacher_outputs, student_outputs))):
            self._check_shapes(teacher_outputs.shape, student_outputs.shape)
        given = {"y_true": y_true, "sample_weight": sample_weight}
        arguments = {key: given[key] for key in given if key in self._takes}
        value = self.loss.compute_loss(teacher_outputs, student_outputs, **arguments)
        if len(ops.shape(value)) > 0:
            raise ValueError(
                f"{self.name}.compute_loss must return a scalar. "
                f"Received: shape {tuple(value.shape)}."
            )
        return value


def as_distillation_loss(loss):
    """Ours as it is; any other object with `compute_loss` adopted.

    Raises:
        ValueError: The object has no `compute_loss`.
    """
    if isinstance(loss, DistillationLoss):
        return loss
    if isinstance(loss, type) or not hasattr(loss, "compute_loss"):
        raise ValueError(
            "A distillation loss is an object with `compute_loss`, or one of "
            f"keras_kd.losses.names(). Received: {loss!r}."
        )
    return AdoptedLoss(loss)


def as_layer_pairs(taps):
    """Taps as a tuple of `LayerPair`.

    Args:
        taps: None or (), a pair of names (teacher's first), or a list of pairs.

    Raises:
        ValueError: It is none of these.
    """
    taps = () if taps is None else taps
    is_pair = isinstance(taps, (list, tuple)) and all(
        name is None or isinstance(name, str) for name in taps
    )
    pairs = (taps,) if is_pair and taps else taps
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(name is None or (isinstance(name, str) and name) for name in pair)
        for pair in pairs
    ):
        raise ValueError(
            "`taps` must be a pair of layer names, the teacher's first, or a list of such "
            f"pairs. Received: taps={taps!r}."
        )
    return tuple(LayerPair(*pair) for pair in pairs)


def as_one_pair(loss_name, taps):
    """Taps of a loss that compares one output of each model: () or one `LayerPair`.

    Raises:
        ValueError: It is not one pair of names.
    """
    pairs = as_layer_pairs(taps)
    if len(pairs) > 1:
        raise ValueError(
            f"{loss_name} compares one pair of outputs. Give one {loss_name} for each. "
            f"Received: taps={taps!r}."
        )
    return pairs


def taps_config(taps):
    """The entry of `LayerPair`s in a loss's config; none where it has none."""
    return {"taps": list(map(list, taps))} if taps else {}


def check_same_shape(loss_name, teacher_shape, student_shape):
    """Refuses outputs that cannot be compared element by element.

    Raises:
        ValueError: The outputs are not (batch, ..., size), or differ in shape.
            Unknown dimensions (None) fit any size.
    """
    teacher_shape, student_shape = tuple(teacher_shape), tuple(student_shape)
    received = (
        f"Received: teacher_outputs of shape {teacher_shape}, "
        f"student_outputs of shape {student_shape}."
    )
    if len(teacher_shape) < 2 or len(student_shape) < 2:
        raise ValueError(
            f"{loss_name} takes outputs of shape (batch, ..., size). {received}"
        )
    if not fits_shape(teacher_shape, student_shape):
        raise ValueError(
            f"{loss_name} compares teacher and student element by element, so their "
            "outputs must have the same shape: give the student's layer as many units as "
            f"the teacher's. {received}"
        )


def check_two_classes(loss_name, shape):
    """Refuses outputs of one class, where a loss has nothing to compare.

    Raises:
        ValueError: The last axis of `shape` has the length 1.
    """
    if len(shape) > 1 and shape[-1] == 1:
        raise ValueError(
            f"{loss_name} takes logits of two or more classes. "
            f"Received: outputs of shape {tuple(shape)}."
        )
