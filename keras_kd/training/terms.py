"""One distillation loss inside a Distiller: where its tensors come from, and their kind."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_kd.distribution.replicas import unscaled
from keras_kd.losses.base import (
    KERAS_LOSSES,
    AdoptedLoss,
    DistillationLoss,
    as_distillation_loss,
)
from keras_kd.losses.ops import log_softmax, of_units
from keras_kd.losses.schedules import value_at
from keras_kd.losses.shapes import check_batch, check_same_shape
from keras_kd.models.taps import find_tap, layer_outputs
from keras_kd.tasks.find import (
    ACTIVATIONS,
    across_units,
    check_meaning,
    kind_of_loss,
    last_activation,
)
from keras_kd.tasks.heads import Head, alone, head_of
from keras_kd.tasks.kinds import OutputKinds


class Outputs(NamedTuple):
    """A model's own outputs of one batch, and its tapped layers' by name."""

    own: Any
    taps: dict


@dataclasses.dataclass(frozen=True)
class Side:
    """What one loss receives of one model.

    Attributes:
        names: Of the tapped layers; None is the model's own outputs.
        kinds: Of the outputs, which are turned into logits first; None where the loss does
            not read them as logits.
        shapes: Of what is tapped, one for each name; None where it is not known before the
            model runs.
    """

    names: tuple
    kinds: OutputKinds | None
    shapes: list

    def find(self, outputs):
        """What was tapped, as the model gives it, in a list."""
        return [outputs.own if x is None else outputs.taps[x] for x in self.names]

    def pick(self, outputs):
        """One tensor, or a list of them where several layers are tapped."""
        found = self.find(outputs)
        if self.kinds is not None:
            found = list(map(self.kinds.as_logits, self.names, found))
        return found[0] if len(found) == 1 else found


@dataclasses.dataclass(frozen=True)
class Term:
    """A loss, its weight in the sum (a number or a schedule), and its two sides.

    Attributes:
        activation: What makes probabilities of the outputs that it reads as logits; None
            where it is not known.
    """

    loss: DistillationLoss
    weight: Any
    teacher: Side
    student: Side
    head: Head
    activation: str | None

    @property
    def is_of_outputs(self):
        """Whether it compares the models' own outputs."""
        return self.teacher.names == self.student.names == (None,)

    def for_activation(self, activation):
        """The same for outputs of that activation.

        Raises:
            ValueError: With that, one unit is not one of two classes.
        """
        if not self.is_of_outputs:
            return self
        term = dataclasses.replace(self, activation=activation)
        if self.crosses_units and not term.crosses_units:
            shapes = *self.teacher.shapes, *self.student.shapes
            check_same_shape(type(self.loss).__name__, *shapes)
        return term

    def beside(self, label_loss):
        """The same, where the student's loss on the labels is known.

        It leaves out what that does, and is told of tapped logits what makes probabilities
        of them.

        Raises:
            ValueError: Its loss has no meaning for these.
        """
        term = dataclasses.replace(self, head=self.head._replace(label_loss=label_loss))
        kind = kind_of_loss(term.head.loss_of_output())
        if term.is_of_outputs or not term.loss.on_logits or term.loss.activation:
            return term
        if kind == "sigmoid" and term.activation is None:
            term = dataclasses.replace(term, activation="sigmoid")
            for side in (term.teacher, term.student):
                side.kinds.change("sigmoid", side.names)
                side.kinds.look(stacklevel=6)
        if term.activation == "sigmoid" and kind in ("sigmoid", "values"):
            activation = None if kind == "values" else "sigmoid"
            what = f"what it taps, {', '.join(map(repr, self.student.names))}"
            task = "regression" if kind == "values" else "binary"
            check_meaning(term.loss, activation, task, what)
        return term

    @property
    def crosses_units(self):
        """Whether one unit teaches two classes, or two classes one unit."""
        return _crosses(
            self.loss, self.activation, self.teacher.shapes[0], self.student.shapes[0]
        )

    def compute(
        self,
        teacher_outputs,
        student_outputs,
        y,
        sample_weight,
        step=0,
        index=None,
        training=True,
    ):
        """The weighted loss of one batch, a float32 scalar; both outputs `Outputs`.

        `step` is the one at which schedules are read. `index` holds the examples' numbers;
        losses that do not need them receive none. Of several outputs' labels and weights
        the loss receives those of the output that it compares.
        """
        more = {"index": index} if self.loss.needs_index else {}
        more |= self.loss.mode(training)
        y, sample_weight = self.head.labels_and_weights(
            self.loss, student_outputs, y, sample_weight
        )
        sides = self.teacher.pick(teacher_outputs), self.student.pick(student_outputs)
        if not isinstance(self.loss, AdoptedLoss):
            # {"logits": ...} is one output; another library's loss has it as it is.
            sides, y, sample_weight = map(alone, sides), alone(y), alone(sample_weight)
        taught_by, picked = _in_one_precision(*sides, self.loss.layers)
        # Of a function, and of given outputs, the batch alone tells how many there are.
        shapes = [getattr(x, "shape", None) for x in (taught_by, picked)]
        if _crosses(self.loss, self.activation, *shapes):
            taught_by = of_units(taught_by, picked.shape[-1])
            if self.student.kinds.found[self.student.names[0]] == "probabilities":
                # As those of the student are.
                taught_by = log_softmax(taught_by) if picked.shape[-1] == 2 else taught_by
        compared = list(map(alone, self.student.find(student_outputs)))
        if not any(map(tree.is_nested, compared)):
            sample_weight = self.head.left_out(
                student_outputs, alone(y), sample_weight, compared
            )
        dtype = keras.backend.result_type(
            *(x.dtype for x in tree.flatten(picked)), "float32"
        )
        loss = self.loss.at_step(step, dtype)
        if self.activation is not None:
            loss = loss.for_activation(self.activation)
        value = loss.compute_loss(
            taught_by,
            picked,
            y_true=y,
            sample_weight=sample_weight,
            **more,
        )
        if isinstance(getattr(self.loss, "loss", None), KERAS_LOSSES):
            value = unscaled(value)
        return value_at(self.weight, step) * ops.cast(value, "float32")


def _in_one_precision(teacher, student, layers):
    """Outputs of both, in float64 only if all are, and the loss's layers compute in it.

    Losses raise 16 bits to float32 themselves.
    """
    kinds = {x.dtype for x in tree.flatten([teacher, student])}
    kinds = {keras.backend.standardize_dtype(x) for x in kinds}
    kinds |= {layer.compute_dtype for layer in layers}
    if "float64" not in kinds or kinds == {"float64"}:
        return teacher, student

    def rounded(x):
        is_double = keras.backend.standardize_dtype(x.dtype) == "float64"
        return ops.cast(x, "float32") if is_double else x

    return tree.map_structure(rounded, (teacher, student))


def make_term(
    loss, weight, teacher, student, teacher_kinds, student_kinds, activation="softmax"
):
    """Resolves a loss's taps and checks what can be known before the first batch.

    Args:
        loss: A distillation loss, ours or another's.
        weight: A number >= 0, or a schedule of it.
        teacher, student: `keras.Model`s.
        teacher_kinds, student_kinds: `OutputKinds` of the two, which are told what the loss
            reads as logits.
        activation: What makes probabilities of the models' own outputs, "softmax" or
            "sigmoid"; None for values.

    Raises:
        ValueError: A tap is no layer of its model, or the shapes do not fit the loss.
    """
    loss = as_distillation_loss(loss)
    pairs, models = loss.taps or ((None, None),), (teacher, student)
    teacher_names, student_names = (tuple(names) for names in zip(*pairs, strict=True))
    if not isinstance(loss, AdoptedLoss):
        _check_one_output(loss, teacher, teacher_names)
        _check_one_output(loss, student, student_names)
    teacher_shapes = [known_shape(teacher, name) for name in teacher_names]
    student_shapes = [known_shape(student, name) for name in student_names]
    units = [_units(shapes[0]) for shapes in (teacher_shapes, student_shapes)]
    if loss.taps:
        # Of layers nobody knows a task; the loss may say it, or what they end in.
        ends = [last_activation(*x) for x in zip(models, pairs[0], strict=True)]
        ends[0] = across_units(ends[0], *units[::-1])
        activation = loss.activation or ("sigmoid" if "sigmoid" in ends else None)
        # A softmax of one would be 1 whatever it answers.
        unknown = {1: "sigmoid", 2: "softmax" if units[0] == 1 else None}
        activation = activation or unknown.get(units[1])
    compared = loss if activation is None else loss.for_activation(activation)
    if None not in teacher_shapes + student_shapes:
        one = len(pairs) == 1
        taught_by = teacher_shapes[0] if one else teacher_shapes
        if _crosses(loss, activation, teacher_shapes[0], student_shapes[0]):
            taught_by = (*taught_by[:-1], units[1])
        compared.build(taught_by, student_shapes[0] if one else student_shapes)
        check_batch(loss, tree.flatten(student_shapes)[0])
    elif loss.makes_layers and not loss.layers:
        raise ValueError(
            f"{type(loss).__name__} makes layers for the shapes of what it compares, which "
            "models without symbolic outputs do not tell. Call the loss's "
            "build(teacher_shape, student_shape) first, with None for the batch. "
            f"Received: shapes {teacher_shapes} (teacher) and {student_shapes} (student)."
        )
    if loss.on_logits:
        theirs = across_units(activation, *units)
        teacher_kinds.need(teacher_names, activation=theirs)
        student_kinds.need(student_names, activation=activation)
    return Term(
        loss,
        weight,
        Side(teacher_names, teacher_kinds if loss.on_logits else None, teacher_shapes),
        Side(student_names, student_kinds if loss.on_logits else None, student_shapes),
        head_of(student, student_names),
        activation,
    )


def _check_one_output(loss, model, names):
    for name in names:
        layer, number = (None, None) if name is None else find_tap(model, name)
        known = layer and layer_outputs(layer)
        if number is None and known and len(known) > 1:
            each = [f"'{name}:{k}' of shape {x.shape}" for k, x in enumerate(known)]
            raise ValueError(
                f"{type(loss).__name__} compares single tensors, and the tapped layer "
                f"{name!r} of {model.name!r} gives several. Say which: {', '.join(each)}."
            )


def _units(shape):
    return shape[-1] if shape and not isinstance(shape, list) else None


def _crosses(loss, activation, teacher_shape, student_shape):
    """Whether one unit teaches two classes, or the other way round."""
    units = _units(teacher_shape), _units(student_shape)
    return loss.on_logits and across_units(activation, *units) != activation


def known_shape(model, name):
    """Shape of a layer's or a model's output, a list of them where it has several.

    None where it is not known before the model runs.
    """
    layer, number = (model, None) if name is None else find_tap(model, name)
    known = layer_outputs(layer)
    if known is None:
        return None
    shapes = [tuple(x.shape) for x in known]
    if number is not None:
        return shapes[number]
    return shapes[0] if len(shapes) == 1 else shapes


def settled(found, activation, terms, kinds, loss, is_said):
    """Terms as they are for a task.

    Args:
        found: As `find_task` gives it, `(task, why)`.
        activation: What the terms were made for.
        terms: A tuple of `Term`.
        kinds: The `OutputKinds` of teacher and student.
        loss: The student's loss on the labels, as `compile` takes it.
        is_said: Whether the user says the task.

    Returns:
        `(activation, terms)`, those of the task.

    Raises:
        ValueError: A loss has no meaning for the task, or needs to know which it is.
    """
    terms = tuple(term.beside(loss) for term in terms)
    (task, why), own = found, [term for term in terms if term.is_of_outputs]
    units = _units(own[0].student.shapes[0]) if own else None
    if task is None:
        unknown = [x.loss for x in own if x.loss.activations and activation == "sigmoid"]
        if unknown:
            raise ValueError(
                f"What the one output of `student` means cannot be told ({why}), and "
                f"{unknown[0]!r} must know. Say task='binary' or task='regression'."
            )
        return activation, terms
    for term in own:
        check_meaning(term.loss, ACTIVATIONS[task], task, why)
    for each in kinds if own else ():
        each.check_ending(ACTIVATIONS[task], task, units)
    if task != "multiclass" and own and not is_said:
        warnings.warn(
            f"`task` is taken as {task!r}: {why}. Say task={task!r} to silence this.",
            stacklevel=4,
        )
    if ACTIVATIONS[task] == activation:
        return activation, terms
    activation = ACTIVATIONS[task]
    for each in kinds:
        each.change(activation, units=units)
        each.look(stacklevel=4)
    return activation, tuple(x.for_activation(activation) for x in terms)
