"""Which task a student is for: as its user says, or as its outputs and its loss show."""

import keras

from keras_kd.models.given_outputs import WithoutWeights, asks_a_function
from keras_kd.models.symbolic import symbolic_outputs
from keras_kd.models.taps import find_tap
from keras_kd.tasks.heads import alone
from keras_kd.tasks.known import TASKS

# What turns logits into probabilities; None: the outputs are values, and no logits.
ACTIVATIONS = {name: task.activation for name, task in TASKS.items()}
# What stands for the activation of a model that says that it gives values.
_VALUE = "regression's"
_VALUES = (
    "meansquarederror",
    "meanabsoluteerror",
    "meanabsolutepercentageerror",
    "meansquaredlogarithmicerror",
    "huber",
    "logcosh",
)


class SaysItsTask(keras.layers.Layer):
    """A layer that knows what its outputs mean, which are logits or values.

    Attributes:
        task: A key of `ACTIVATIONS`.
    """

    task = None


def find_task(student, loss=None, teacher=None, said=None):
    """The task of a student with one output, and what shows it.

    Args:
        student: A `keras.Model`.
        loss: Its loss on the labels, as `compile` takes it; None where it is not known.
        teacher: The model whose last activation tells, where the student's does not.
        said: The task that the user says, or None.

    Returns:
        `(task, why)`: a key of `ACTIVATIONS` and a phrase; `(None, "")` where nothing shows
        it: of several outputs, of one whose size is unknown, of one unit without more.

    Raises:
        ValueError: `said` is none of the tasks; or outputs, loss and what is said
            contradict each other.
    """
    if said is not None and said not in ACTIVATIONS:
        raise ValueError(
            f"`task` must be one of {', '.join(map(repr, ACTIVATIONS))}, or None. "
            f"Received: task={said!r}."
        )
    outputs = symbolic_outputs(student)
    if len(outputs) > 1:
        return said, ""
    units = outputs[0].shape[-1] if outputs else None
    if units is None:
        # Of a subclassed student the loss alone shows it.
        name, kind = _name_and_kind(loss)
        shown = {"sigmoid": "multilabel", "values": "regression"}.get(kind)
        return said or shown, f"outputs of unknown size under {name}" if shown else ""
    activation, whose = _shown(student), ""
    if activation in ("linear", None) and teacher is not None:
        theirs = across_units(_shown(teacher), units, own_units(teacher))
        whose = f" (as `teacher` {teacher.name!r} ends)" * (theirs not in (None, "linear"))
        activation = theirs or activation
    name, kind = _name_and_kind(loss)
    why = f"{units} {activation or 'unknown'} unit{'s'[: units > 1]}{whose}"
    why += f" under {name}" if name else ""
    found = _by_outputs_and_loss(units, activation, kind)
    ends = {last_activation(x) for x in (student, teacher) if x is not None}
    if kind == "sigmoid" and activation == "softmax" and "softmax" not in ends:
        # What says so took linear units for classes; the loss takes them for labels.
        found = ""
    if said is None and found == "":
        raise ValueError(
            f"`loss` and the outputs of `student` {student.name!r} contradict each other: "
            f"{why}. Give the loss of the task, or say `task`."
        )
    if said is not None:
        _check_said(said, units, student)
    return said or found, why


def activation_before_loss(student, teacher=None, said=None):
    """What makes probabilities of a student's outputs, as far as is known before `compile`.

    Args:
        student, teacher, said: As `find_task` takes them.

    Returns:
        "softmax" or "sigmoid"; None for values.
    """
    outputs = symbolic_outputs(student)
    task, _ = find_task(student, None, teacher, said)
    if task is None and len(outputs) == 1 and outputs[0].shape[-1] == 1:
        # A softmax of one would be 1 whatever it answers.
        return "sigmoid"
    return ACTIVATIONS[task or "multiclass"]


def own_units(model):
    """Length of the last axis of a model's one output; None where it is not known."""
    outputs = symbolic_outputs(model)
    return outputs[0].shape[-1] if len(outputs) == 1 else None


def across_units(activation, units, others):
    """What makes probabilities of a model's units beside other units of `activation`.

    One unit is one of two classes: a logit z is that of the classes (0, z).

    Args:
        activation: Of the others.
        units, others: How many there are of both, or None.
    """
    crossing = {(1, 2, "softmax"): "sigmoid", (2, 1, "sigmoid"): "softmax"}
    return crossing.get((units, others, activation), activation)


def kind_of_loss(loss):
    """Which outputs a loss on labels is for, "softmax", "sigmoid" or "values"; or None."""
    return _name_and_kind(loss)[1]


def check_meaning(loss, activation, task, why):
    """Refuses a loss that has no meaning for a task.

    Args:
        loss: A `DistillationLoss` of the student's own outputs.
        activation: What makes probabilities of them, or None.
        task, why: As `find_task` gives them.

    Raises:
        ValueError: It has none; names those that have.
    """
    if not loss.on_logits or loss.activations is None or activation in loss.activations:
        return
    have = "'logit_mse'" if activation is None else "'kd', 'logit_mse'"
    raise ValueError(
        f"{loss!r} has no meaning for the task {task!r} ({why}): it compares "
        f"probabilities of classes of which one is right. Those that have: {have}, and the "
        "losses on features. If it is another task, say `task`."
    )


def check_ending(role, model, activation, task):
    """Refuses a model that ends in another activation than its task has.

    Args:
        role: "teacher" or "student", the argument that messages name.
        model: A `keras.Model`.
        activation: The task's, "softmax", "sigmoid" or None.
        task: Its name.

    Raises:
        ValueError: Its outputs would be taken for logits, and are none.
    """
    ends_in = _shown(model)
    others = {"softmax": ("sigmoid", "hard_sigmoid"), "sigmoid": ("softmax",)}
    if ends_in in others.get(activation, ()):
        raise ValueError(
            f"`{role}` {model.name!r} ends in a {ends_in}, and for the task {task!r} its "
            f"outputs are taken as those of a {activation}. Give a model that ends in "
            f"logits or a {activation}, or say the other `task`; an ensemble and the like "
            "have one of their own."
        )


def _by_outputs_and_loss(units, activation, kind):
    """A task; None where nothing shows it, "" where the two contradict each other."""
    if kind == "values" and activation not in ("softmax", "sigmoid"):
        return "regression"
    if activation == _VALUE:
        return "" if kind else "regression"
    if units == 1:
        if kind == "softmax":
            return ""
        is_sigmoid = "sigmoid" in (kind, activation)
        return "binary" if is_sigmoid else None
    if kind == "sigmoid":
        # Of two classes with one-hot labels it is twice the cross-entropy.
        of_two = "multiclass" if units == 2 else ""
        return of_two if activation == "softmax" else "multilabel"
    if kind == "softmax":
        return "" if activation == "sigmoid" else "multiclass"
    return "multilabel" if activation == "sigmoid" else "multiclass"


def _check_said(said, units, student):
    takes = {"multiclass": units > 1, "binary": units == 1}
    if not takes.get(said, True):
        wanted = "two units or more" if said == "multiclass" else "one unit"
        raise ValueError(
            f"`task` {said!r} takes outputs of {wanted}. Received: task={said!r}, and "
            f"`student` {student.name!r} with {units}."
        )


def _shown(model):
    """What makes probabilities of a model's outputs, as it ends or says; or None."""
    layer = _last_layer(model)
    if isinstance(layer, SaysItsTask):
        return ACTIVATIONS[layer.task] or _VALUE
    return last_activation(model)


def last_activation(model, name=None):
    """Name of the activation that a model, or its layer of that name, ends in.

    "linear", "softmax", "sigmoid" and others, as Keras calls them; None where it is not
    known.
    """
    layer = _last_layer(model, name)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    known = ("linear", "softmax", "sigmoid", "tanh", "relu", "softplus", "hard_sigmoid")
    found = [x for x in known if activation is getattr(keras.activations, x)]
    return found[0] if found else None


def _last_layer(model, name=None):
    """The layer that makes the output of a model, or of its layer; None if not known."""
    layer, number = (model, None) if name is None else find_tap(model, name)
    while _is_of_layers(layer) or _passes_on(layer):
        outputs = symbolic_outputs(layer)
        if _passes_on(layer):
            # As mixed precision has it, after the layer that computes.
            outputs, number = [layer.input], None
        if number is None and len(outputs) != 1 or not outputs:
            return None
        # What made the output.
        maker, _, place = outputs[number or 0]._keras_history
        layer, number = maker, place if isinstance(maker, keras.Model) else None
    return layer


def says_logits(model, name=None):
    """Whether what a model ends in, or its layer of that name, says that it gives logits.

    A function does, and an ensemble and the like; so does a linear layer of a model that is
    not asked, for the function in it. Values count as logits.
    """
    says = isinstance(_last_layer(model, name), (SaysItsTask, WithoutWeights))
    is_linear = last_activation(model, name) == "linear"
    return says or (is_linear and asks_a_function(model))


def _is_of_layers(layer):
    return isinstance(layer, keras.Model) and not isinstance(layer, WithoutWeights)


def _passes_on(layer):
    """Whether a layer, of which one use is known, gives what it takes."""
    is_linear = getattr(layer, "activation", None) is keras.activations.linear
    if not isinstance(layer, keras.layers.Activation) or not is_linear:
        return False
    try:
        return keras.backend.is_keras_tensor(layer.input)
    except (AttributeError, ValueError):  # Keras's words for no use, or several.
        return False


def _name_and_kind(loss):
    """A loss's name, and which outputs it is for: "softmax", "sigmoid" or "values"."""
    loss = alone(loss) if isinstance(loss, (list, tuple, dict)) else loss
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # Keras has a better message.
            return None, None
    if loss is None or isinstance(loss, (list, tuple, dict)):
        return None, None
    name = getattr(loss, "__name__", type(loss).__name__)
    word = name.replace("_", "").lower()
    kinds = {"binary": "sigmoid", "categorical": "softmax", "teacherfree": "softmax"}
    for start, kind in kinds.items():
        if word.removeprefix("sparse").startswith(start):
            return name, kind
    return name, "values" if word in _VALUES else None
