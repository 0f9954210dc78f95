"""A model's answers to one batch, with its labels and what of them is left out."""

import warnings

import keras
import numpy as np

from keras_kd.evaluation import labelled
from keras_kd.losses.arguments import check_integer
from keras_kd.models.given_outputs import asks_a_function
from keras_kd.models.symbolic import symbolic_outputs
from keras_kd.tasks.find import ACTIVATIONS, find_task, last_activation
from keras_kd.tasks.heads import alone
from keras_kd.tasks.kinds import OutputKinds
from keras_kd.tasks.known import TASKS, task_of_units
from keras_kd.tasks.task import sum_to_one
from keras_kd.training.batch import inputs_of, teacher_inputs_of
from keras_kd.training.checks import check_one_of

_SAY = "to keras_kd.evaluation.predictions.predict"


class Asking:
    """Asks one model, batch by batch.

    Args:
        model, outputs, name, argument, task, ignore_class, of_teacher: As
            `keras_kd.evaluation.predictions.predict` takes them.

    Attributes:
        name: The model's.
        task: The `keras_kd.tasks.task.Task`; None before the first batch.
        places: How many axes of positions its outputs have; None before the first batch.
        positions: Their sizes in the last batch, a tuple.
    """

    def __init__(self, model, outputs, name, argument, task, ignore_class, of_teacher):
        self._model, self._argument = model, argument
        self._said = check_one_of("outputs", outputs, ("logits", "probabilities"))
        self._task_name = check_one_of("task", task, tuple(ACTIVATIONS))
        if ignore_class is not None:
            ignore_class = check_integer("ignore_class", ignore_class)
        self._ignored = ignore_class
        self._takes = teacher_inputs_of if of_teacher else inputs_of
        self.name = model.name if name is None else name
        self.task = self.places = self.positions = None
        self._kind, self._like_probabilities = None, True
        # No compiled step can ask one.
        self._is_function = isinstance(model, keras.Model) and asks_a_function(model)

    def answers(self, dataset):
        """Yields (labels, answers, keep) of each batch: what the task's `sums` takes.

        Raises:
            ValueError: The data set is empty, labels are none of the task's, or the outputs
                are of another shape, not finite, or not the probabilities they are said to
                be.
        """
        first = 0
        for batch in labelled.weighted_batches(dataset, self._argument):
            labels, answers, keep = self._answer(*batch, first)
            yield labels, answers, keep
            first += len(keep)
        if first == 0:
            raise ValueError(f"`{self._argument}` is empty; nothing to evaluate on.")
        if self._said is None and self._like_probabilities and self._kind == "logits":
            warnings.warn(
                f"The outputs of {self.name!r} are taken as logits but look like "
                f"probabilities. Say outputs='probabilities' or 'logits' {_SAY}.",
                stacklevel=4,
            )

    def _answer(self, inputs, labels, weights, first):
        values, mask = self._ask(self._takes(inputs))
        shape, size = values.shape[:-1], values.shape[-1]
        self.positions = shape[1:]
        # Of no examples nothing tells how many positions -1 would be.
        values = values.reshape(shape[0], int(np.prod(shape[1:])), size)
        labels, good = self._labels(labels, shape, size)
        keep = np.ones(values.shape[:2], bool)
        if self.places:
            for part in (mask, _nonzero(weights)):
                keep &= _at_positions(part, shape)
            if self._ignored is not None and self.task.activation == "softmax":
                keep &= labels != self._ignored
        self._check_labels(labels, good | ~keep, size, first)
        self._check_outputs(values, keep, first)
        return labels, self.task.link(values, self._kind), keep

    def _find_kind(self, inputs):
        """What the outputs are, as is said, or as the model ends, or as it answers."""
        if self._said or self.task.activation is None:
            return self._said or "values"
        activation = last_activation(self._model)
        if activation is not None or not isinstance(self._model, keras.Model):
            is_it = activation == self.task.activation
            return "probabilities" if is_it else "logits"
        kinds = OutputKinds("model", self._model)
        kinds.need([None], compared=False, activation=self.task.activation)
        kinds.look()
        if kinds.is_open():
            kinds.look_in_step(_as_tensors(inputs))
        kind = kinds.found[None]
        return kind if isinstance(kind, str) else kind[0]

    def _ask(self, inputs):
        """Outputs as float32 (batch, ..., size), and Keras's mask of them, or None."""
        mask = None
        if self._has_positions() or self._is_function:
            # `predict` leaves the mask aside.
            outputs = alone(self._model(_as_tensors(inputs), training=False))
            mask = getattr(outputs, "_keras_mask", None)
            mask = None if mask is None else keras.ops.convert_to_numpy(mask)
            outputs = keras.ops.convert_to_numpy(outputs)
        else:
            if keras.backend.backend() != "tensorflow":
                # What tf.data gives no other backend takes.
                inputs = keras.tree.map_structure(np.asarray, inputs)
            # {"logits": ...} is one output, too.
            outputs = alone(self._model.predict_on_batch(inputs))
        shape = np.shape(outputs) if isinstance(outputs, np.ndarray) else ()
        if len(shape) == 1:
            outputs, shape = outputs[:, None], (*shape, 1)
        if len(shape) > 1 and self.places is None:
            self.places = len(shape) - 2
            self._settle(shape[-1])
            self._kind = self._find_kind(inputs)
            if self.places:
                return self._ask(inputs)
        if len(shape) < 2 or shape[-1] < 1:
            received = f"shape {shape}" if shape else type(outputs).__name__
            raise ValueError(
                f"{self.name!r} must have one output of shape (batch, num_classes), of two "
                f"classes or more, or of shape (batch, ..., outputs). Received: {received}."
            )
        return outputs.astype("float32"), mask

    def _has_positions(self):
        known = symbolic_outputs(self._model)
        is_known = len(known) == 1 and len(known[0].shape) > 2
        return isinstance(self._model, keras.Model) and bool(self.places or is_known)

    def _settle(self, size):
        name = self._task_name
        if name is None and isinstance(self._model, keras.Model):
            name, _ = find_task(self._model)
        self.task = task_of_units(name, size)
        if self.task is None:
            raise ValueError(
                f"{self.name!r} has one output, a yes or no or a value. Say which: "
                f"task='binary' or task='regression' {_SAY}."
            )

    def _labels(self, labels, shape, size):
        """Labels (batch, positions, ...) in the task's form, and which of them are good."""
        if self.task is TASKS["multiclass"] and not self.places:
            numbers = labelled.class_numbers(labels, (shape[0], size), self._argument)
            numbers = numbers[:, None]
            return numbers, (numbers >= 0) & (numbers < size)
        # Not of a list, which may be the numbers themselves.
        labels = np.asarray(alone(labels) if isinstance(labels, dict) else labels)
        found = None
        if labels.shape[: len(shape)] == shape and labels.ndim <= len(shape) + 1:
            rest = labels.shape[len(shape) :]
            flat = labels.reshape(shape[0], int(np.prod(shape[1:])), *rest)
            found = self.task.labels(flat, size)
        if found is None:
            raise ValueError(
                f"`{self._argument}` must have labels of the task {self.task.name!r}: "
                f"{self.task.takes}. Received: labels of shape {labels.shape} and dtype "
                f"{labels.dtype} for outputs of shape {(*shape, size)} of {self.name!r}."
            )
        return found

    def _check_labels(self, labels, good, size, first):
        if good.all():
            return
        row, place = np.argwhere(~good)[0]
        takes = self.task.takes
        if self.task is TASKS["multiclass"]:
            takes = f"labels in 0..{size - 1}, one for each output of {self.name!r}"
        elif not self.places:
            takes = f"labels of the task {self.task.name!r}: {takes}"
        hint = " What has no label can be left out by `ignore_class`." * bool(self.places)
        at = f", position {place}" * bool(self.places)
        raise ValueError(
            f"`{self._argument}` must hold {takes}. Received: label {labels[row, place]} "
            f"of example {first + row}{at}.{hint}"
        )

    def _check_outputs(self, values, keep, first):
        finite = np.isfinite(values).all(axis=-1) | ~keep
        if not finite.all():
            raise ValueError(
                f"{self.name!r} answered example {first + np.argwhere(~finite)[0][0]} of "
                f"`{self._argument}` with NaN or infinite values. Are the inputs scaled as "
                "in its training?"
            )
        if self.task.activation is None:
            self._like_probabilities = False
            return
        good = self._are_probabilities(values) | ~keep
        self._like_probabilities &= bool(good.all())
        if self._kind == "probabilities" and not good.all():
            row, place = np.argwhere(~good)[0]
            found = values[row, place]
            raise ValueError(
                f"The outputs of {self.name!r} are no probabilities, as which they are "
                f"taken: those of example {first + row} sum to {found.sum():.4g}, the "
                f"smallest is {found.min():.4g}. Say outputs='logits' {_SAY}."
            )

    def _are_probabilities(self, values):
        if self.task.activation == "sigmoid":
            return ((values >= 0) & (values <= 1)).all(axis=-1)
        return sum_to_one(values)


def _as_tensors(inputs):
    if keras.backend.backend() != "tensorflow":
        inputs = keras.tree.map_structure(np.asarray, inputs)
    return keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


def _nonzero(weights):
    if weights is None:
        return None
    return np.asarray(alone(weights)) != 0


def _at_positions(part, shape):
    """What says of each position whether it counts, (batch, positions); else all do."""
    if part is not None and part.ndim == len(shape) + 1 and part.shape[-1] == 1:
        part = part[..., 0]
    if part is None or part.shape != shape:
        return True
    return part.reshape(shape[0], -1)
