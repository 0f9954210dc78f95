"""What models in the shape of the data are made for: inputs, outputs, and their size."""

import dataclasses

import numpy as np

from keras_kd import data
from keras_kd.data.rows import spread
from keras_kd.datasets.parts import Parts
from keras_kd.evaluation.unlabelled import answer_shape, decisions
from keras_kd.tasks.find import find_task

# So many of a teacher's answers tell how large its values are.
_ANSWERS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Shapes:
    """Of one recipe's data and teacher.

    Attributes:
        parts: A `keras_kd.datasets.parts.Parts`.
        inputs, outputs: Shapes of one example, and of the answer to it.
        task: What outputs mean, where labels say it; None where the models do.
        values: Of outputs that are values some of these, an array; else None.
    """

    parts: Parts
    outputs: tuple
    task: str | None
    values: np.ndarray | None

    @property
    def inputs(self):
        return tuple(self.parts.train[0].shape[1:])

    @classmethod
    def of(cls, recipe, parts, teacher):
        """The `Shapes` of a recipe.

        Args:
            recipe: A `keras_kd.recipes.recipe.Recipe`.
            parts: Its data.
            teacher: Its teacher, as it sees the students' inputs; or None.

        Raises:
            ValueError: Nothing says what outputs mean, as `task_without_labels`.
        """
        x, labels = parts.train
        outputs = (len(parts.class_names or [""]),)
        if teacher is not None:
            outputs = answer_shape(teacher, data.for_models(x[:1]))
        if parts.task == "regression":
            return cls(parts, outputs, "regression", labels)
        if parts.task is None and task_without_labels(recipe, teacher) == "regression":
            some = data.for_models(x[spread(len(x), _ANSWERS)])
            return cls(parts, outputs, None, decisions(teacher, some, "regression"))
        # One unit says no or yes of two classes.
        is_binary = parts.task == "multiclass" and outputs[-1] == 1
        return cls(parts, outputs, "binary" if is_binary else None, None)


def task_without_labels(recipe, teacher):
    """What the outputs of a teacher mean, of whose answers students alone learn.

    Raises:
        ValueError: There is no teacher, or neither it nor a stage says it.
    """
    if teacher is None:
        raise ValueError(
            "The data have no labels, and the recipe no teacher: nothing says what is "
            "right."
        )
    said = [x.task for x in recipe.stage if x.task is not None]
    task = said[0] if said else find_task(teacher)[0]
    if task is None:
        raise ValueError(
            "What the outputs of the teacher mean cannot be told, and the data have no "
            "labels. Give each stage its `task`."
        )
    return task
