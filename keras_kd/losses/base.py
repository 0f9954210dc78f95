"""The contract of a distillation loss, and the checks that losses share."""

import abc
import copy
import inspect
import warnings

import keras
from keras import ops

from keras_kd.losses.layer_pairs import LayerPair, as_one_pair, taps_config
from keras_kd.losses.ops import at_least_float32, fits_shape, of_one_shape
from keras_kd.losses.schedules import is_schedule, shown, value_at
from keras_kd.losses.shapes import check_classes, check_same_shape
from keras_kd.losses.weights import (
    labels_without_left_out,
    weighted_mean,
    without_left_out,
)


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
        takes_training: Whether `compute_loss` has one more argument, `training`: False in
            validation, where `layers` run as they do in inference and nothing changes.
        has_state: Whether `compute_loss` changes weights of `layers` that no gradient
            trains, so that a batch's value hangs on the batches before.
        on_logits: Whether the outputs are read as logits; outputs that are probabilities
            are then passed as their logarithm.
        activations: Of outputs that are read as logits, what makes probabilities of them:
            a tuple of "softmax" (one class is right), "sigmoid" (each output is a yes or no
            of its own) and None (they are values). None: all of them, as far as is known.
        activation: The one of them that it was told to take; None: what the task says.
        zero_at_agreement, smallest_at_agreement, shift_invariant: Promises that
            `keras_kd.testing.check_distillation_loss` holds it to: the value is zero
            where the outputs agree; it is nowhere smaller; a constant added to all
            logits changes nothing.
        stops_gradients: Whether parts of the value that depend on the student are
            constants to the gradient, which is then not the slope of the value.
        widths_may_differ: Whether the last axes of the outputs may differ in length.
        uses_batch_statistics: Whether `layers` normalise by the batch, so that an
            example's value depends on the others, those of weight 0 too.
        least_batch: Of how many examples a batch must be, for the value not to be the
            same whatever the student answers.
    """

    taps = ()
    layers = ()
    makes_layers = False
    needs_labels = False
    needs_index = False
    takes_training = False
    has_state = False
    on_logits = False
    activations = None
    activation = None
    zero_at_agreement = True
    smallest_at_agreement = True
    shift_invariant = False
    stops_gradients = False
    widths_may_differ = False
    uses_batch_statistics = False
    least_batch = 1

    def build(self, teacher_shape, student_shape):
        """Checks shapes before the first batch, where they are known, and makes `layers`.

        Args:
            teacher_shape: (None, ...) of what `compute_loss` will receive of the teacher;
                a list of them with several taps, or where the model has several outputs.
            student_shape: The same of the student.

        Raises:
            ValueError: The shapes do not fit this loss, or it would be constant for them.
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
            sample_weight: (batch,), each >= 0, or None for all ones; of outputs with
                positions, (batch, height, width, size) say, it may hold one for each. What
                has the weight 0 is nothing, be there labels of no class or NaN.

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

    def for_activation(self, activation):
        """This loss for outputs of which that makes probabilities, where it has a choice.

        Args:
            activation: "softmax" or "sigmoid".
        """
        del activation
        return self

    def mode(self, training):
        """The arguments by which this loss is told whether it is training."""
        return {"training": training} if self.takes_training else {}

    def get_config(self):
        """The constructor's arguments, for Keras's serialiser: attributes of their names.

        Raises:
            NotImplementedError: They do not tell the arguments: one is not kept under its
                own name, as it was given, or the constructor takes any number of them.
        """
        several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        config = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name == "taps":
                config |= taps_config(self.taps)
            elif name in vars(self) and parameter.kind not in several:
                config[name] = vars(self)[name]
            else:
                raise self._untold(name)
        # One that is changed when it is kept would be changed again.
        again = type(self)(**config)
        for name in config:
            if repr(getattr(again, name)) != repr(getattr(self, name)):
                raise self._untold(name)
        return config

    def _untold(self, name):
        return NotImplementedError(
            f"{type(self).__name__} must implement `get_config()`, as its argument "
            f"`{name}` is not kept as it was given in an attribute of that name."
        )

    @classmethod
    def from_config(cls, config):
        # Schedules come as what `keras.saving.serialize_keras_object` made of them.
        arguments = {
            key: keras.saving.deserialize_keras_object(x) if _is_serialized(x) else x
            for key, x in config.items()
        }
        return cls(**arguments)

    def __repr__(self):
        try:
            config = self.get_config()
        except NotImplementedError:
            return f"{type(self).__name__}(...)"
        arguments = ", ".join(f"{k}={shown(v)}" for k, v in config.items())
        return f"{type(self).__name__}({arguments})"


def _is_serialized(value):
    return isinstance(value, dict) and "class_name" in value


class OneOutputLoss(DistillationLoss):
    """A loss of one output of each model: the checks of what comes in.

    Attributes:
        least_classes: How long the last axis must be, for the value not to be the same
            whatever the student answers.
    """

    least_classes = 1

    def __init__(self, taps=None):
        self.taps = as_one_pair(type(self).__name__, taps)

    def check_shapes(self, teacher_shape, student_shape):
        """Refuses outputs that this loss cannot compare; unknown sizes are None.

        Raises:
            ValueError: As `compute_loss`; the message gives both shapes.
        """
        check_same_shape(type(self).__name__, teacher_shape, student_shape)
        check_classes(type(self).__name__, student_shape, self.least_classes)

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
        if not self.widths_may_differ and fits_shape(
            teacher_outputs.shape, student_outputs.shape
        ):
            return of_one_shape(teacher_outputs, student_outputs)
        return teacher_outputs, student_outputs


class PerExampleLoss(OneOutputLoss):
    """A loss with one value per example.

    A final class writes `call(teacher, student, y_true)`, which returns (batch, ...); the
    check of shapes and the weighted mean are done here. With `takes_training`, `call` has
    one more argument, `training`.
    """

    @abc.abstractmethod
    def call(self, teacher_outputs, student_outputs, y_true):
        """One value per example, (batch, ...)."""

    def compute_loss(
        self,
        teacher_outputs,
        student_outputs,
        y_true=None,
        sample_weight=None,
        training=True,
    ):
        teacher_outputs, student_outputs = self.checked(teacher_outputs, student_outputs)
        if self.needs_labels and y_true is None:
            name = type(self).__name__
            raise ValueError(f"{name} needs labels. Received: y_true=None.")
        outputs = without_left_out(sample_weight, teacher_outputs, student_outputs)
        if self.needs_labels:
            y_true = labels_without_left_out(sample_weight, y_true, outputs[1])
        now, mode = self.at_step(0), self.mode(training)
        values = now.call(*outputs, y_true, **mode)
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


KERAS_LOSSES = (
    keras.distillation.LogitsDistillation,
    keras.distillation.FeatureDistillation,
)


# Keras's losses that are the same for any single number, or hang on its sign alone.
ALONE_CONSTANT = (
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CosineSimilarity",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "cosine_similarity",
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
        if self.on_logits:
            # Whatever its inner loss is, it is given softmaxes.
            self.activations = ("softmax",)
            self.shift_invariant = isinstance(loss.loss, keras.losses.KLDivergence)
        self._takes = set(inspect.signature(loss.compute_loss).parameters)
        self.takes_training = "training" in self._takes

    def __repr__(self):
        return self.name

    def build(self, teacher_shape, student_shape):
        # Keras's own compare element by element, and would broadcast; of others nothing
        # is known.
        if not isinstance(self.loss, KERAS_LOSSES):
            return
        several = isinstance(teacher_shape, list), isinstance(student_shape, list)
        if not any(several):
            check_same_shape(self.name, teacher_shape, student_shape)
            check_classes(self.name, student_shape, self._least_classes(self.loss.loss))
        elif all(several) and isinstance(self.loss.loss, (list, tuple)):
            pairs = zip(teacher_shape, student_shape, self.loss.loss, strict=False)
            for one_teacher, one_student, function in pairs:
                if function is not None:
                    check_same_shape(self.name, one_teacher, one_student)
                    check_classes(self.name, one_student, self._least_classes(function))

    def _least_classes(self, function):
        """2 where it is a softmax, a share or a direction that would be compared."""
        if self.on_logits and isinstance(function, keras.losses.KLDivergence):
            return 2
        name = getattr(function, "__name__", type(function).__name__)
        return 2 if name in ALONE_CONSTANT else 1

    def compute_loss(
        self,
        teacher_outputs,
        student_outputs,
        y_true=None,
        sample_weight=None,
        training=True,
    ):
        if sample_weight is not None and "sample_weight" not in self._takes:
            warnings.warn(
                f"{self.name} ignores sample_weight, class_weight, masks and ignore_class. "
                "The losses of keras_kd.losses honour them.",
                stacklevel=2,
            )
        if not any(map(_elements, (teacher_outputs, student_outputs))):
            self.build(tuple(teacher_outputs.shape), tuple(student_outputs.shape))
            if isinstance(self.loss, KERAS_LOSSES):
                outputs = map(ops.convert_to_tensor, (teacher_outputs, student_outputs))
                teacher_outputs, student_outputs = of_one_shape(*outputs)
        given = {"y_true": y_true, "sample_weight": sample_weight, "training": training}
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
