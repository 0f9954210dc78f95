"""What each of a model's outputs means, and how a file's are compared with it."""

import dataclasses

import keras
import numpy as np
from keras import tree

from keras_kd.evaluation.labelled import are_one_hot
from keras_kd.exporters.examples import described
from keras_kd.models.symbolic import output_names, output_structure
from keras_kd.tasks.find import ACTIVATIONS, check_ending, find_task, last_activation
from keras_kd.tasks.heads import alone
from keras_kd.training.whose_answers import KnowsItsTeacher


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a model.

    Attributes:
        name: None where there is no other.
        number: Its place in the model's list of outputs; None where it has but a name.
        task: A key of `keras_kd.tasks.find.ACTIVATIONS`; None: numbers, of which nothing
            more is known.
        in_probabilities: Whether a yes is above 0.5, not above 0, of "binary" and
            "multilabel".
        ignore_class: The label of answers that count for no accuracy, or None.
    """

    name: str | None = None
    number: int | None = None
    task: str | None = "multiclass"
    in_probabilities: bool = False
    ignore_class: int | None = None

    @property
    def activation(self):
        """What makes probabilities of it, "softmax" or "sigmoid"; None for values."""
        return ACTIVATIONS.get(self.task)

    @property
    def of_it(self):
        """ " of the output 'age'", for messages, where there are others."""
        return "" if self.name is None else f" of the output {self.name!r}"

    def in_structure(self, structure):
        """This output's part of what the model gives: a tensor, or a dict by names."""
        return structure if self.name is None else structure[self.name]

    def labels_in(self, labels):
        """This output's part of the labels of a batch, or None.

        Args:
            labels: An array, or in the structure of the model's outputs; None are none.

        Raises:
            ValueError: They are in another structure.
        """
        if labels is None:
            return None
        if self.name is None:
            labels = alone(labels)
            if not tree.is_nested(labels):
                return labels
            raise ValueError(
                "`examples` must have one label for each answer, as the model has one "
                f"output. Received: {described(labels)}."
            )
        if isinstance(labels, dict):
            return labels.get(self.name)
        if isinstance(labels, (list, tuple)) and self.number is not None:
            if self.number < len(labels):
                return labels[self.number]
        raise ValueError(
            "`examples` must have labels in a dict by the outputs' names"
            f"{'' if self.number is None else ', or a list with one entry for each'}, as "
            "the model has several. Received: "
            f"{described(labels)}, and nothing for {self.name!r}."
        )

    def check_labels(self, labels, shape, mask=None):
        """Labels as they are compared with answers; None are none.

        Args:
            labels: Of this output, an array (batch, ...), or None.
            shape: Of the outputs, (batch, ...).
            mask: Which positions count, the outputs' leading axes; None: all.

        Returns:
            Of "multiclass" class numbers, the shape without its last axis; else an array
            of this shape.

        Raises:
            ValueError: They have another shape, or values that are none of the task's.
        """
        if labels is None:
            return None
        labels, shape = np.asarray(labels), tuple(shape)
        if self.task == "multiclass":
            if labels.shape == shape and are_one_hot(labels):
                return np.argmax(labels, axis=-1)
            wanted, also = shape[:-1], ((*shape[:-1], 1),)
            form = "one label for each answer{}, of shape {}, or one-hot labels"
        else:
            wanted, also = shape, (shape[:-1],) if shape[-1:] == (1,) else ()
            form = "one label for each output{}, of shape {}"
        if labels.shape not in (wanted, *also):
            count = len(labels) if labels.ndim else 1
            raise ValueError(
                f"`examples` must have {form.format(self.of_it, ('n', *wanted[1:]))}. "
                f"Received: labels of shape {('n', *labels.shape[1:])}, {count} of "
                f"them for {shape[0]} inputs."
            )
        labels = labels.reshape(wanted)
        self._check_values(labels if mask is None else labels[mask], shape)
        return labels

    def _check_values(self, labels, shape):
        """Refuses labels that the task does not have."""
        if self.activation is None:
            bad, takes = labels[~np.isfinite(labels)], "finite numbers"
        else:
            count = shape[-1] if self.task == "multiclass" else 2
            known = np.isin(labels, np.arange(count))
            takes = "0 or 1" if count == 2 else f"in 0..{count - 1}"
            if self.ignore_class is not None:
                known |= labels == self.ignore_class
                takes += f", or {self.ignore_class}, which the loss ignores"
            bad = labels[~known]
        if bad.size:
            hint = ""
            if self.task == "multiclass":
                hint = (
                    " A label of positions that count for nothing is known where the model "
                    "is compiled with a loss of that `ignore_class`."
                )
            raise ValueError(
                f"`examples` must have labels{self.of_it} that are {takes}, as its task "
                f"{self.task!r} has them. Received: {bad.flat[0]}.{hint}"
            )

    def decisions(self, outputs):
        """What outputs decide, class numbers, or yes and no; None of values."""
        if self.activation is None:
            return None
        if self.task == "multiclass":
            return np.argmax(outputs, axis=-1)
        return outputs > (0.5 if self.in_probabilities else 0)

    def as_probabilities(self, outputs, answers):
        """Symbolic outputs as probabilities; values as they are.

        Args:
            answers: What the model gives of them for some examples.
        """
        is_softmax = self.task == "multiclass"
        given = are_probabilities(answers) if is_softmax else self.in_probabilities
        if self.activation is None or given:
            return outputs
        layer = keras.layers.Softmax() if is_softmax else keras.layers.Activation("sigmoid")
        return layer(outputs)

    def count(self, expected, given, labels=None, mask=None):
        """Counts and sums of one batch, a dict; those that have no meaning are None.

        Args:
            expected, given: The Keras model's outputs, and the file's.
            labels: As `check_labels` takes them.
            mask: As `check_labels` takes it.

        Raises:
            ValueError: The file's outputs have another shape; the model's are not finite;
                or as `check_labels`.
        """
        if given.shape != expected.shape:
            raise ValueError(
                f"The file's outputs{self.of_it} have shape {given.shape}, the Keras "
                f"model's {expected.shape}."
            )
        labels = self.check_labels(labels, expected.shape, mask)
        if mask is not None:
            expected, given = expected[mask], given[mask]
            labels = None if labels is None else labels[mask]
        if not np.isfinite(expected.astype("float32")).all():
            raise ValueError(
                f"The Keras model answers `examples` with NaN or infinite numbers"
                f"{self.of_it}. Are they finite, and scaled as in training?"
            )
        expected, given = expected.astype("float64"), given.astype("float64")
        errors = np.abs(expected - given)
        numbers = {
            "numbers": errors.size,
            # Numbers that stand together for one position are one answer.
            "answers": errors.size // (errors.shape[-1] if errors.ndim > 1 else 1),
            "difference": np.max(errors, initial=0.0),
            "highest": np.max(expected, initial=-np.inf),
            "lowest": np.min(expected, initial=np.inf),
        }
        if self.activation is None:
            return numbers | _of_values(expected, given, labels)
        return numbers | self._of_decisions(expected, given, labels)

    def _of_decisions(self, expected, given, labels):
        by_keras, by_file = self.decisions(expected), self.decisions(given)
        counts = {"decisions": by_keras.size, "agree": int(np.sum(by_keras == by_file))}
        if labels is None:
            return counts | dict.fromkeys(("labelled", "keras_right", "file_right"))
        counted = np.full(labels.shape, True)
        if self.ignore_class is not None:
            counted = labels != self.ignore_class
        return counts | {
            "labelled": int(np.sum(counted)),
            "keras_right": int(np.sum(counted & (by_keras == labels))),
            "file_right": int(np.sum(counted & (by_file == labels))),
        }


def _of_values(expected, given, labels):
    squares = {"squares": np.sum((expected - given) ** 2)}
    if labels is None:
        return squares | dict.fromkeys(("keras_squares", "file_squares"))
    return squares | {
        "keras_squares": np.sum((expected - labels) ** 2),
        "file_squares": np.sum((given - labels) ** 2),
    }


def are_probabilities(outputs):
    """Whether outputs (batch, ..., num_classes) are each a distribution."""
    outputs = np.asarray(outputs)
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def named(model, outputs):
    """Outputs as a file has them: a tensor that is the only one, else a dict by names.

    Args:
        model: The `keras.Model` that gives them.
        outputs: Symbolic, in its structure.

    Returns:
        `(outputs, in_order)`, whether the dict is in the order of the model's list.
    """
    flat = tree.flatten(outputs)
    if len(flat) == 1:
        return flat[0], True
    in_order = isinstance(outputs, (list, tuple)) and not any(map(tree.is_nested, outputs))
    if not in_order:
        paths = [path for path, _ in tree.flatten_with_path(outputs)]
        return dict(zip(["/".join(map(str, x)) for x in paths], flat, strict=True)), False
    names = output_names(model)
    if len(names) != len(flat) or len(set(names)) < len(flat):
        names = [f"output_{k}" for k in range(len(flat))]
    return dict(zip(names, flat, strict=True)), True


def find_outputs(model, given, answers, in_order=True, said=None):
    """What the outputs of a model mean, as is said, or as they and the loss show.

    Args:
        model: A Functional model of one tensor, its outputs as `named` gives them.
        given: The model that a user has: compiled perhaps, or a Distiller of it.
        answers: Its answers to some examples, in the structure of its outputs.
        in_order: As `named` gives it.
        said: The task of all outputs, or a dict by their names, or None.

    Returns:
        A list of `Output`.

    Raises:
        ValueError: What is said is no task, or of no output; or outputs, loss and what is
            said contradict each other.
    """
    gives = output_structure(model)
    if not isinstance(gives, dict):
        return [_found(model, given, answers, Output(number=0), _said(said, None))]
    unknown = set(said) - set(gives) if isinstance(said, dict) else ()
    if unknown:
        raise ValueError(
            f"`task` must be of the outputs {', '.join(map(repr, gives))}. "
            f"Received: {', '.join(map(repr, sorted(unknown)))}."
        )
    found = []
    for number, (name, tensor) in enumerate(gives.items()):
        one = keras.Model(model.inputs, tensor, name=model.name)
        output = Output(name, number if in_order else None)
        found.append(_found(one, given, answers[name], output, _said(said, name)))
    return found


def _said(said, name):
    """What is said of one output: a name, or None."""
    if isinstance(said, dict) and name is not None:
        said = said.get(name)
    said = alone(said)
    if said is None or isinstance(said, str):
        return said
    raise ValueError(
        f"`task` must be one of {', '.join(map(repr, ACTIVATIONS))}, or None; or, of a "
        "model with several outputs, a dict of these by their names. Received: "
        f"task={said!r}."
    )


def _found(model, given, answers, output, said):
    """An `Output` with all that is found of it; `model` has no other."""
    loss, teacher = _loss_of(given, output), None
    if isinstance(given, KnowsItsTeacher):
        said = said or task_of(given)
        teacher = given.teacher if output.name is None else None
    if len(model.outputs[0].shape) == 1:
        # One number for each example, as of one unit.
        column = keras.layers.Reshape((1,))(model.outputs[0])
        model = keras.Model(model.inputs, column, name=model.name)
    try:
        task, _ = find_task(model, loss, teacher, said)
        if task is not None:
            check_ending("model", model, ACTIVATIONS[task], task)
    except ValueError as error:
        # It is called by another name here.
        message = str(error).replace("`student`", "`model`")
        raise ValueError(f"{message.removesuffix('.')}{output.of_it}.") from error
    return dataclasses.replace(
        output,
        task=task,
        in_probabilities=_in_probabilities(model, loss, answers),
        ignore_class=getattr(loss, "ignore_class", None),
    )


def task_of(given):
    """The task that a Distiller was given or has found; None of any other model."""
    return given.task if isinstance(given, KnowsItsTeacher) else None


def _loss_of(given, output):
    """What a model is compiled with for one of its outputs, or None."""
    loss = given.loss if given.compiled else None
    if output.name is None:
        return alone(loss)
    if isinstance(loss, dict):
        return loss.get(output.name)
    if isinstance(loss, (list, tuple)):
        is_there = output.number is not None and output.number < len(loss)
        return loss[output.number] if is_there else None
    return loss


def _in_probabilities(model, loss, answers):
    """Whether outputs of which each is a yes or no are probabilities."""
    activation = last_activation(model)
    if activation in ("sigmoid", "hard_sigmoid", "softmax"):
        return True
    if activation == "linear":
        return False
    of_loss = getattr(loss, "from_logits", None)
    if of_loss is not None:
        return not of_loss
    answers = np.asarray(answers)
    return bool(np.all((answers >= 0) & (answers <= 1)))
