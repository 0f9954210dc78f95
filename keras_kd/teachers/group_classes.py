"""A teacher of some of its classes, or of merged ones."""

import keras
import numpy as np
from keras import ops

from keras_kd.losses.arguments import check_choice, check_integer
from keras_kd.losses.ops import log_odds, log_probabilities, log_softmax
from keras_kd.models.symbolic import input_structure, symbolic_inputs
from keras_kd.tasks.find import SaysItsTask, find_task
from keras_kd.tasks.heads import alone
from keras_kd.tasks.kinds import outputs_kind
from keras_kd.training.checks import check_one_of

# Log-probability of what is in no group, beside which all else is.
_NOTHING = -1e30


@keras.saving.register_keras_serializable(package="keras_kd")
class GroupClasses(keras.Model):
    """A teacher for a student of some of its classes, or of merged ones.

        output_k = log sum_{c in groups_k} softmax(logits)_c

    so that a softmax of the output, at temperature 1, has the probabilities added. The
    output is logits, whatever the teacher ends in. It runs in inference mode.

    Args:
        teacher: A `keras.Model` with symbolic inputs and one output, (batch, ...,
            num_classes).
        groups: A list, one entry for each of the student's classes in order: a class of the
            teacher, or a list of several, whose probabilities are added. No class may
            stand in two of them.
        rest: "drop" (default) leaves out the classes in no group: the others' probabilities
            sum to 1 without them. "other" makes them one more class, the last.
        outputs: "logits" or "probabilities", what the teacher gives. By default what its
            last layer, or its answers, show.
        task: "multiclass" or "multilabel"; by default what its last activation shows. Of
            labels of their own there is nothing to add: each group is one of them.
        name: Defaults to "group_classes".

    Raises:
        ValueError: An argument is of the wrong kind, a class is none of the teacher's or
            stands twice, or there is nothing left for "other".

    Example:

    ```python
    # Of ten digits the student tells 1, 7, and even from odd among the others, say.
    teacher = keras_kd.teachers.GroupClasses(digits, [1, 7, [0, 2, 4, 6, 8], [3, 5, 9]])
    ```
    """

    def __init__(
        self,
        teacher,
        groups,
        rest="drop",
        outputs=None,
        task=None,
        name="group_classes",
    ):
        num_classes = _num_classes(teacher)
        task = _check_task(teacher, task)
        groups = _check_groups(groups, num_classes)
        others = sorted(set(range(num_classes)) - {c for group in groups for c in group})
        rest = check_choice("rest", rest, ("drop", "other"))
        if rest == "other" and (not others or task == "multilabel"):
            raise ValueError(
                "rest='other' adds what is in no group, and here there is none: `groups` "
                "hold all classes, or each label is one of its own."
            )
        if task == "multilabel" and any(len(group) > 1 for group in groups):
            raise ValueError(
                "`groups` of a teacher of independent labels must be of one label each: "
                "their probabilities do not add up. Received: "
                f"{next(group for group in groups if len(group) > 1)}."
            )
        activation = "sigmoid" if task == "multilabel" else "softmax"
        check_one_of("outputs", outputs, ("logits", "probabilities"))
        kind = outputs or outputs_kind(teacher, activation)
        inputs = input_structure(teacher)
        added = Groups(groups + [others] * (rest == "other"), kind, activation)
        super().__init__(inputs, added(alone(teacher(inputs, training=False))), name=name)
        self._given = {
            "groups": groups,
            "rest": rest,
            "outputs": kind,
            "task": task,
        }
        self._teacher = teacher

    def call(self, inputs, training=None, mask=None):
        # In inference mode whatever it is part of.
        return super().call(inputs, training=False, mask=mask)

    @property
    def teacher(self):
        """The teacher of all its classes."""
        return self._teacher

    def get_config(self):
        teacher = keras.saving.serialize_keras_object(self._teacher)
        return {"teacher": teacher, **self._given, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        teacher = config["teacher"]
        teacher = keras.saving.deserialize_keras_object(teacher, custom_objects)
        return cls(**config | {"teacher": teacher})


@keras.saving.register_keras_serializable(package="keras_kd")
class Groups(SaysItsTask):
    """What a `GroupClasses` computes of its teacher's outputs; all is given and checked."""

    def __init__(self, groups, kind, activation, name="groups", **kwargs):
        super().__init__(name=name, autocast=False, **kwargs)
        self.groups, self.kind, self.activation = groups, kind, activation
        self.task = "multilabel" if activation == "sigmoid" else "multiclass"
        most = max(map(len, groups))
        # Of groups of several sizes the shorter ones are filled with nothing.
        padded = [group + [group[0]] * (most - len(group)) for group in groups]
        self._classes = np.array(padded, "int32")
        kept = [[0.0] * len(x) + [_NOTHING] * (most - len(x)) for x in groups]
        self._kept = np.array(kept, "float32")

    def call(self, outputs):
        if self.activation == "sigmoid":
            as_it_is = self.kind == "logits"
            outputs = outputs if as_it_is else log_odds(outputs)
            return ops.take(outputs, self._classes[:, 0], axis=-1)
        outputs = log_probabilities(outputs) if self.kind == "probabilities" else outputs
        log_probs = log_softmax(outputs)
        members = ops.take(log_probs, self._classes.ravel(), axis=-1)
        shape = (*ops.shape(log_probs)[:-1], *self._classes.shape)
        members = ops.reshape(members, shape) + ops.cast(self._kept, log_probs.dtype)
        return ops.logsumexp(members, axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(self.groups))

    def get_config(self):
        own = {"groups": self.groups, "kind": self.kind, "activation": self.activation}
        return super().get_config() | own


def _num_classes(teacher):
    if not isinstance(teacher, keras.Model) or not symbolic_inputs(teacher):
        raise ValueError(
            "`teacher` must be a keras.Model with symbolic inputs. Wrap another one: "
            f"keras.Model(inputs, model(inputs)). Received: {teacher!r}."
        )
    shapes = [tuple(x.shape) for x in teacher.outputs]
    if len(shapes) != 1 or shapes[0][-1] is None or shapes[0][-1] < 2:
        raise ValueError(
            "`teacher` must have one output (batch, ..., num_classes) of two classes or "
            f"more. Received: {teacher.name!r} with outputs {shapes}."
        )
    return shapes[0][-1]


def _check_task(teacher, said):
    task, _ = find_task(teacher, said=said)
    if task not in ("multiclass", "multilabel"):
        raise ValueError(
            "`task` must be 'multiclass' or 'multilabel', as only these have classes. "
            f"Received: task={task!r}."
        )
    return task


def _check_groups(groups, num_classes):
    """`groups` as lists of ints, if they are of the teacher's classes."""
    if not isinstance(groups, (list, tuple, range, np.ndarray)) or len(groups) < 2:
        raise ValueError(
            "`groups` must be a list with an entry for each class of the student, two or "
            f"more. Received: groups={groups!r}."
        )
    found = []
    for group in groups:
        is_list = isinstance(group, (list, tuple, np.ndarray)) and np.ndim(group) != 0
        members = list(group) if is_list or isinstance(group, (set, range)) else [group]
        members = [check_integer("groups", x, least=0) for x in members]
        wrong = [x for x in members if x >= num_classes]
        if wrong or not members:
            raise ValueError(
                f"`groups` must hold classes of `teacher`, 0..{num_classes - 1}, one or "
                f"more in each. Received: {group!r}."
            )
        found.append(sorted(members))
    every = [x for group in found for x in group]
    twice = sorted({x for x in every if every.count(x) > 1})
    if twice:
        raise ValueError(
            "`groups` must hold each class once at most. Received more than once: "
            f"{', '.join(map(str, twice))}."
        )
    return found
