"""What training needs to go on after an epoch as if it had never stopped."""

import json

import keras
import numpy as np
from keras import tree

from keras_kd import files

_STATE = "state"
# Before the names of what else a file holds.
_MORE = "more_"


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another model."""


def variables_of(model):
    """What changes in training: weights, random state, schedules' step, the optimizer.

    Args:
        model: A compiled `keras_kd.Distiller`, or another `keras.Model`. A Distiller's
            teacher, which does not change, is left out.

    Returns:
        A list of `keras.Variable`, always in the same order.
    """
    # A LossScaleOptimizer that is built again would begin again.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return _own_variables(model) + list(model.optimizer.variables)


def _own_variables(model):
    teacher = getattr(model, "teacher", None)
    unchanged = [*model.metrics_variables, *(teacher.variables if teacher else ())]
    left_out = {id(variable) for variable in unchanged}
    return [x for x in model.variables if id(x) not in left_out]


def seeds_of(model):
    """What else changes in training, though it is the teacher's or no model's.

    The random state of layers that student and teacher share, and of the teacher's, which
    may draw when it answers; and variables of the loss on the labels.

    Args:
        model: As `variables_of` takes it.

    Returns:
        A list of `keras.Variable`, always in the same order; none is of `variables_of`.
    """
    teacher = getattr(model, "teacher", None)
    found = _without_weights(teacher) if teacher else []
    losses = tree.flatten(model.loss)
    losses += [getattr(x, "loss", x) for x in getattr(model, "distillation_losses", ())]
    for loss in losses:
        held = tree.flatten(getattr(loss, "__dict__", {}))
        found += [x for x in held if isinstance(x, keras.Variable)]
    known = {id(x) for x in _own_variables(model)}
    return [x for i, x in {id(x): x for x in found}.items() if i not in known]


def start_of(model):
    """What training begins with beside the student's weights, a list of `keras.Variable`.

    Random states, and the layers of losses, which are made anew for each run.
    """
    teacher = getattr(model, "teacher", None)
    weights = [*model.student.weights, *(teacher.weights if teacher else ())]
    known = {id(x) for x in weights}
    return [x for x in _own_variables(model) + seeds_of(model) if id(x) not in known]


def keeps_averages(optimizer):
    """Whether an optimizer, or one within it, has `use_ema`."""
    return any(x.use_ema for x in _optimizers_in(optimizer))


def averages_of(optimizer):
    """dict of id of a weight to the average of it, where an optimizer has `use_ema`."""
    found = {}
    for part in _optimizers_in(optimizer):
        if part.use_ema and part.built:
            averages = part._model_variables_moving_average
            pairs = zip(part._trainable_variables, averages, strict=True)
            found |= {id(x): average for x, average in pairs if average is not None}
    return found


def _optimizers_in(optimizer):
    inner = getattr(optimizer, "inner_optimizer", None)
    inner = [*([] if inner is None else [inner]), *getattr(optimizer, "optimizers", ())]
    return [optimizer, *(x for part in inner for x in _optimizers_in(part))]


def _without_weights(model):
    """Random states, above all: variables that are no weights, and no metrics'."""
    left_out = {id(x) for x in [*model.weights, *model.metrics_variables]}
    return [x for x in model.variables if id(x) not in left_out]


def check_finite(model):
    """Refuses to call weights good that are not.

    Raises:
        FloatingPointError: A weight, or what a layer counts in training, such as a moving
            average, is NaN or infinite; names it.
    """
    is_float = keras.backend.is_float_dtype
    for variable in _own_variables(model):
        if not is_float(variable.dtype):
            continue
        if not bool(keras.ops.all(keras.ops.isfinite(variable))):
            raise FloatingPointError(
                f"The weight {variable.path} is NaN or infinite after an epoch whose "
                "losses were not: its last step went wrong."
            )


def save(path, variables, state, more=None):
    """Writes variables and a state to one `.npz` file, whole or not at all.

    Args:
        path: Where to.
        variables: A list of `keras.Variable`. A type that NumPy does not know, such as
            bfloat16, is written as its bytes.
        state: A JSON value.
        more: dict of name to array, of what else there is.
    """
    arrays = {f"{i:05}": _as_native(x) for i, x in enumerate(variables)}
    arrays |= {_MORE + name: array for name, array in (more or {}).items()}
    arrays[_STATE] = np.array(json.dumps(state))
    with files.renamed_when_done(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def load(path, variables):
    """Reads a file that `save` wrote into variables of the same shapes.

    Returns:
        The state.

    Raises:
        CheckpointError: As `load_more`.
    """
    return load_more(path, variables)[0]


def load_more(path, variables):
    """As `load`, with what else the file holds.

    Returns:
        `(state, more)`, as they were given to `save`; `more` is empty in a file that an
        earlier version wrote.

    Raises:
        CheckpointError: The file is damaged or does not fit; no variable was changed.
    """
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop(_STATE)))
    # What the readers of zip files and arrays raise hangs on which byte is wrong.
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {path} is damaged ({error}). {repair(path)}"
        ) from error
    names = [name for name in arrays if name.startswith(_MORE)]
    more = {name.removeprefix(_MORE): arrays.pop(name) for name in names}
    wanted = [_as_native(x) for x in variables]
    found = [arrays[name] for name in sorted(arrays)]
    if [(x.shape, x.dtype) for x in found] != [(x.shape, x.dtype) for x in wanted]:
        raise CheckpointError(
            f"The checkpoint {path} is of another model or optimizer: it holds "
            f"{len(found)} arrays, and {len(wanted)} of given shapes and types are needed. "
            f"{repair(path)}"
        )
    for variable, array in zip(variables, found, strict=True):
        variable.assign(array.view(np.dtype(keras.ops.convert_to_numpy(variable).dtype)))
    return state, more


def repair(path):
    """What a user does about a checkpoint, at `path`, that cannot be gone on with."""
    return (
        f"Remove the checkpoints (*.npz) in {path.parent}, and the stage starts again from "
        "its first epoch."
    )


def _as_native(variable):
    value = keras.ops.convert_to_numpy(variable)
    # What NumPy only knows through another package reads back as anonymous bytes.
    return value if value.dtype.isbuiltin == 1 else value.view(f"u{value.itemsize}")
