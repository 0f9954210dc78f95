"""What a teacher is: its task, its inputs, what it costs."""

import dataclasses
import importlib
import os

import keras

from keras_kd.evaluation.profile import profile
from keras_kd.models.given_outputs import asks_a_function
from keras_kd.models.symbolic import input_shapes
from keras_kd.recipes.model_files import load_model
from keras_kd.tables import shown_count
from keras_kd.tasks.find import find_task
from keras_kd.teachers.of_texts import of_bytes, takes_texts

# Bytes of a weight in float32.
_WEIGHT = 4


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher, as far as it shows itself.

    Attributes:
        model: The `keras.Model`, as it was given or loaded.
        path: How a recipe names it; None of a model that was given.
        task: What its outputs mean; None where nothing shows it.
        input_shape: Of one example, None where it is free; None if it is not known.
        parameters, macs: What it costs; None where nobody knows.
    """

    model: keras.Model
    path: str | None
    task: str | None
    input_shape: tuple | None
    parameters: int | None
    macs: int | None

    @property
    def bytes(self):
        """Of its weights in float32."""
        return None if self.parameters is None else _WEIGHT * self.parameters


def look_at(teacher, imports=None):
    """Loads a teacher, and looks at it.

    Args:
        teacher: A built `keras.Model`; a path that ends in `.keras`; or a shipped model's
            name, "mnist/teacher".
        imports: Name of a module of the user's own that registers the classes of which a
            file is. It is imported; nothing that a file names is.

    Returns:
        A `Teacher`.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: There is no such module.
        ValueError: It is no model, or not built, or cannot be loaded safely.
    """
    if imports is not None:
        importlib.import_module(imports)
    path = None
    if isinstance(teacher, (str, os.PathLike)):
        path = os.fspath(teacher)
        try:
            teacher = load_model(path)
        except ValueError as error:
            if imports is not None:
                raise
            raise ValueError(
                f"{error} If it has classes of its own, name the module that registers "
                "them: `imports` (--import)."
            ) from error
    if not isinstance(teacher, keras.Model) or not teacher.built:
        raise ValueError(
            "`teacher` must be a keras.Model that is built, a path that ends in .keras, or "
            f"a shipped model's name. Received: {teacher!r}."
        )
    if takes_texts(teacher):
        # As a student takes them.
        teacher = of_bytes(teacher)
    shapes = input_shapes(teacher)
    if len(shapes) > 1:
        raise ValueError(
            "`teacher` must have one input. Received: "
            f"{teacher.name!r} with {len(shapes)}. Use keras_kd.Distiller."
        )
    cost = None if asks_a_function(teacher) or not shapes else profile(teacher)
    return Teacher(
        teacher,
        path,
        find_task(teacher)[0],
        tuple(shapes[0][1:]) if shapes else None,
        None if asks_a_function(teacher) else teacher.count_params(),
        cost and cost.macs,
    )


def in_words(teacher):
    """A line that says what was seen."""
    said = [teacher.task or "task not shown"]
    if teacher.input_shape is not None:
        said.append("x".join("?" if n is None else str(n) for n in teacher.input_shape))
    if teacher.parameters is not None:
        said.append(f"{teacher.parameters:,} parameters")
    if teacher.macs is not None:
        said.append(f"{shown_count(teacher.macs)} MACs")
    return f"Teacher: {teacher.model.name}, " + ", ".join(said)


def check_takes(teacher, parts):
    """Refuses data of another form than the teacher takes.

    Args:
        teacher: A `Teacher`.
        parts: The `keras_kd.datasets.parts.Parts`.

    Raises:
        ValueError: They are of another kind, or of another size that nothing brings to it;
            images are.
    """
    takes, shape = teacher.input_shape, parts.train[0].shape[1:]
    if takes is None:
        return
    fits = len(takes) == len(shape) and all(
        a in (None, b) for a, b in zip(takes, shape, strict=True)
    )
    is_resized = parts.kind == "images" and len(takes) == 3 and takes[2] == shape[2]
    if not fits and not is_resized:
        hint = ""
        if parts.kind == "table" and takes == (shape[0] - 1,):
            hint = " Is one of the columns the label? Say its name (--label)."
        raise ValueError(
            f"The teacher takes inputs of shape {takes}, without the batch, and the data "
            f"({parts.kind}) are of {tuple(shape)}.{hint}"
        )


def task_of(teacher, parts, answers, said=None):
    """What the outputs mean: as is said, or as labels and outputs show.

    Args:
        teacher: A `Teacher`.
        parts: The `keras_kd.datasets.parts.Parts`.
        answers: The shape of its answer to one example.
        said: The task that the user says, or None.

    Raises:
        ValueError: Nothing shows it, or it does not go with the labels.
    """
    task = said or teacher.task
    if parts.task == "regression":
        task = said or "regression"
    elif parts.task == "multiclass" and task is None:
        # One linear unit, or a function, shows nothing; classes do.
        task = "binary" if answers[-1] == 1 else "multiclass"
    if task is None:
        raise ValueError(
            "`task` must be said: what the teacher's outputs mean cannot be told. "
            'One of "multiclass", "binary", "multilabel", "regression".'
        )
    fits = {
        "multiclass": ("multiclass", "binary"),
        "regression": ("regression",),
        None: (task,),
    }
    if task == "binary" and len(parts.class_names or ()) > 2:
        raise ValueError(
            "The teacher has one output, a yes or no, and the data have "
            f"{len(parts.class_names)} classes: {', '.join(parts.class_names[:5])}."
        )
    if task not in fits[parts.task]:
        raise ValueError(
            f"The teacher's task is {task!r}, and the labels are of {parts.task!r}: such "
            "labels say nothing of its answers. Say `task`, or leave labels out "
            "(--no-labels)."
        )
    return task
