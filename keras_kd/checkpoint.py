"""What training needs to go on after an epoch as if it had never stopped."""

import json
from zipfile import BadZipFile

import keras
import numpy as np

from keras_kd import run_dir as run_dirs

_STATE = "state"


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
    teacher = getattr(model, "teacher", None)
    unchanged = [*model.metrics_variables, *(teacher.variables if teacher else ())]
    left_out = {id(variable) for variable in unchanged}
    model.optimizer.build(model.trainable_variables)
    variables = [x for x in model.variables if id(x) not in left_out]
    return variables + list(model.optimizer.variables)


def check_finite(model):
    """Refuses to call weights good that are not.

    Raises:
        FloatingPointError: A weight that is trained is NaN or infinite; names it.
    """
    for variable in model.trainable_variables:
        if not bool(keras.ops.all(keras.ops.isfinite(variable))):
            raise FloatingPointError(
                f"The weight {variable.path} is NaN or infinite after an epoch whose "
                "losses were not: its last step went wrong."
            )


def save(path, variables, state):
    """Writes variables and a state to one `.npz` file, whole or not at all.

    Args:
        path: Where to.
        variables: A list of `keras.Variable`. A type that NumPy does not know, such as
            bfloat16, is written as its bytes.
        state: A JSON value.
    """
    arrays = {f"{i:05}": _as_native(x) for i, x in enumerate(variables)}
    arrays[_STATE] = np.array(json.dumps(state))
    with run_dirs.renamed_when_done(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def load(path, variables):
    """Reads a file that `save` wrote into variables of the same shapes.

    Returns:
        The state.

    Raises:
        CheckpointError: The file is damaged or does not fit; no variable was changed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop(_STATE)))
    # RuntimeError: a flipped bit says that it is encrypted, or packed in an unknown way.
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, BadZipFile) as error:
        raise CheckpointError(
            f"The checkpoint {path} is damaged ({error}). Remove it, and the stage starts "
            "again from its first epoch."
        ) from error
    wanted = [_as_native(x) for x in variables]
    found = [arrays[name] for name in sorted(arrays)]
    if [(x.shape, x.dtype) for x in found] != [(x.shape, x.dtype) for x in wanted]:
        raise CheckpointError(
            f"The checkpoint {path} is of another model or optimizer: it holds "
            f"{len(found)} arrays, and {len(wanted)} of given shapes and types are needed."
        )
    for variable, array in zip(variables, found, strict=True):
        variable.assign(array.view(np.dtype(keras.ops.convert_to_numpy(variable).dtype)))
    return state


def _as_native(variable):
    value = keras.ops.convert_to_numpy(variable)
    # What NumPy only knows through another package reads back as anonymous bytes.
    return value if value.dtype.isbuiltin == 1 else value.view(f"u{value.itemsize}")
