"""The tasks by name, and which of them outputs of a size can have."""

from keras_kd.tasks.binary import Binary
from keras_kd.tasks.multiclass import Multiclass
from keras_kd.tasks.multilabel import Multilabel
from keras_kd.tasks.regression import Regression

TASKS = {x.name: x() for x in (Multiclass, Binary, Multilabel, Regression)}


def task_of_units(name, units):
    """The `Task` of outputs of so many units, where a student of another size has it.

    One unit and two say the same of a yes or a no; several labels of which there is one
    are a yes or a no.

    Args:
        name: A key of `TASKS`, or None where nothing shows it.
        units: Size of the outputs' last axis.

    Returns:
        None of one unit without more.
    """
    if name is None and units == 1:
        return None
    if name in (None, "binary", "multiclass"):
        return TASKS["binary" if units == 1 else "multiclass"]
    return TASKS["binary" if name == "multilabel" and units == 1 else name]
