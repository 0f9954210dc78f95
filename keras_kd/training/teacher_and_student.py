"""Which models can be trained together: their inputs, and what they share."""

import keras
from keras import tree

from keras_kd.losses.ops import fits_shape
from keras_kd.models.given_outputs import GivenOutputs, WithoutWeights
from keras_kd.models.probe import probe_inputs
from keras_kd.models.symbolic import (
    in_another_order,
    input_names,
    input_shapes,
    symbolic_outputs,
)
from keras_kd.tasks.kinds import check_said
from keras_kd.training.batch import has_teacher_inputs, teacher_inputs_of


def check_models(teacher, student):
    """Refuses a teacher and a student that cannot go together.

    Raises:
        ValueError: One is no built `keras.Model`, both are the same, or training the
            student would change variables of the teacher.
    """
    for name, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"`{name}` must be a keras.Model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
    if teacher is student:
        raise ValueError(
            "`teacher` and `student` are the same model. Give the student its own: "
            "keras.models.clone_model(teacher) makes one with fresh weights."
        )
    if not teacher.built:
        raise ValueError(
            "`teacher` has no weights yet: call it on a batch or load its weights "
            f"first. Received: the unbuilt model {teacher.name!r}."
        )
    if not teacher.weights and not _teaches_without_weights(teacher):
        raise ValueError(
            f"`teacher` {teacher.name!r} has no weights, so it was never trained."
        )
    check_taught("`student`", student.trainable_variables, teacher)
    moved = _moved_in_training(student, teacher)
    if moved:
        raise ValueError(
            "`student` shares layers with `teacher` whose state training changes: moving "
            "statistics and the like. So the teacher would change. Give the student layers "
            "of its own, or set trainable of a BatchNormalization to False. "
            f"Shared: {', '.join(moved)}."
        )


def check_inputs(x, teacher, student):
    """Refuses a teacher that cannot take a batch's inputs.

    Args:
        x: What a batch carries as x, or its structure with shapes.

    Raises:
        ValueError: x carries no inputs for the teacher alone, and the two models' differ;
            or the teacher's one input has another shape than what it carries for it.
    """
    if not has_teacher_inputs(x):
        check_same_inputs(teacher, student)
        return
    wanted = input_shapes(teacher)
    found = [getattr(x, "shape", None) for x in tree.flatten(teacher_inputs_of(x))]
    if len(wanted) != 1 or len(found) > 1 or getattr(found[0], "rank", 0) is None:
        # By which names a dict's go, Keras decides.
        return
    (found,) = found
    if found is not None and not fits_shape(tuple(found), wanted[0]):
        raise ValueError(
            f"`x` carries teacher inputs of shape {tuple(found)}, and the teacher "
            f"{teacher.name!r} takes {wanted[0]}."
        )


def check_same_inputs(teacher, student):
    """Refuses two models that take other inputs, as far as they are known; a ValueError."""
    # Models without symbolic inputs are checked by their first batch.
    wanted, found = input_shapes(teacher), input_shapes(student, like=teacher)
    if wanted and found and not _fit(wanted, found):
        raise ValueError(
            "`student` must take the inputs that `teacher` takes. Received: teacher "
            f"{teacher.name!r} with input shapes {wanted}, student {student.name!r} with "
            f"{found}. Where Keras layers make the teacher's inputs of the student's, give "
            "kd.teachers.Preprocessed(teacher, layers); where it takes something else "
            "altogether, kd.with_teacher_inputs(examples, ...)."
        )


def check_order(x, *models):
    """Refuses inputs in a list for models that take them in other orders, by their names.

    Args:
        x: A batch's inputs, in their structure.
        *models: Those that take them.

    Raises:
        ValueError: `x` is no dict, and two models have the same inputs in another order.
    """
    first, *others = models
    other = next((m for m in others if in_another_order(first, m)), None)
    if other is not None and not isinstance(x, dict):
        raise ValueError(
            f"`x` gives the inputs one after the other, and {first.name!r} takes them in "
            f"the order {', '.join(map(repr, input_names(first)))}, {other.name!r} in the "
            f"order {', '.join(map(repr, input_names(other)))}. Give a dict of name to "
            "input, which each model then takes by name."
        )


def check_taught(who, variables, teacher):
    taught = {id(v) for v in variables}
    shared = [v.path for v in teacher.variables if id(v) in taught]
    if shared:
        raise ValueError(
            f"{who} would train variables that belong to `teacher`. Set the shared "
            f"layers' trainable to False. Shared: {', '.join(shared)}."
        )


def _moved_in_training(student, other):
    """Paths of what the two models share and a pass of the student in training changes."""
    own = {id(v) for v in student.weights}
    # Not the seeds of Dropout and the like: no answer hangs on them.
    shared = [v for v in other.weights if id(v) in own]
    if not shared:
        return []
    inputs = probe_inputs(student, batch_size=2) if student.built else None
    if student.built and inputs is None:
        inputs = probe_inputs(other, batch_size=2)
    if inputs is not None:
        try:
            # Nothing is assigned: it is put down what would be.
            with keras.StatelessScope() as scope:
                student(inputs, training=True)
            return [v.path for v in shared if scope.get_current_value(v) is not None]
        except Exception:  # Of layers that take no such inputs: any.
            pass
    states = states_of(student)
    return [v.path for v in shared if id(v) in states]


def states_of(model):
    """Ids of the variables that no gradient trains and that training may change."""
    states = set()
    for layer in model._flatten_layers():
        is_frozen = (
            isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable
        )
        if not is_frozen and not isinstance(layer, keras.layers.Normalization):
            states |= {id(v) for v in layer._non_trainable_variables}
    return states


def check_students(students):
    """`students` as a dict of name to model, if they can learn together."""
    if isinstance(students, (list, tuple)):
        names = [getattr(model, "name", None) for model in students]
        if len(set(names)) < len(names):
            raise ValueError(
                "`students` need names that differ; give a dict of name to model. "
                f"Received: {', '.join(map(repr, names))}."
            )
        students = dict(zip(names, students, strict=True))
    if not isinstance(students, dict) or len(students) < 2:
        raise ValueError(
            "`students` must be a list of two or more keras.Models, or a dict of name to "
            f"model. Received: {students!r}."
        )
    models = list(students.values())
    for i, (name, model) in enumerate(students.items()):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(
                f"`students` must be built keras.Models. Received: {model!r} as {name!r}."
            )
        outputs = [tuple(x.shape) for x in symbolic_outputs(model)]
        if len(outputs) > 1:
            raise ValueError(
                "`students` must have one output each. Received: "
                f"{model.name!r} as {name!r}, with {outputs}."
            )
        for other in models[:i]:
            check_peers(other, model)
    return dict(students)


def check_peers(first, second):
    """Refuses two students that cannot learn from each other.

    Raises:
        ValueError: They are one model, share variables that training would change, or
            their inputs differ.
    """
    if first is second:
        raise ValueError(
            f"The model {first.name!r} is two of the `students`. Give each its own: "
            "keras.models.clone_model makes one with fresh weights."
        )
    trained = {id(v) for v in first.trainable_variables}
    shared = [v.path for v in second.variables if id(v) in trained]
    if shared:
        raise ValueError(
            f"The `students` {first.name!r} and {second.name!r} share variables that would "
            f"be trained: {', '.join(shared)}."
        )
    moved = _moved_in_training(first, second) + _moved_in_training(second, first)
    if moved:
        raise ValueError(
            f"The `students` {first.name!r} and {second.name!r} share state that training "
            f"changes, such as moving statistics: {', '.join(set(moved))}. Give "
            "each layers of its own."
        )
    shapes, others = input_shapes(first), input_shapes(second, like=first)
    if shapes and others and not _fit(shapes, others):
        raise ValueError(
            f"`students` must take the same inputs. Received: {first.name!r} with input "
            f"shapes {shapes}, {second.name!r} with {others}."
        )


def _teaches_without_weights(model):
    """Whether it runs a function, or a SavedModel, whose weights may be constants."""
    kinds = keras.layers.TFSMLayer, WithoutWeights
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())


def with_weights_or_not(teacher, teacher_outputs):
    """The teacher, and what is said of its outputs, as a dict.

    What is given from elsewhere is logits, and so is what a function gives; of what a cache
    kept of a model that is not there the user must say it.

    Args:
        teacher, teacher_outputs: As a `Distiller` takes them.

    Raises:
        ValueError: Another thing is said of a function.
    """
    teacher = GivenOutputs() if teacher is None else teacher
    said = check_said("teacher_outputs", teacher_outputs)
    if not isinstance(teacher, WithoutWeights):
        return teacher, said
    if not isinstance(teacher, GivenOutputs) and said.get(None, "logits") != "logits":
        raise ValueError(
            "`teacher_outputs` of a function is said where it is made, by `outputs` of "
            "kd.teachers.from_function. Received: "
            f"teacher_outputs={teacher_outputs!r}."
        )
    return teacher, {None: "logits"} | said


def _fit(shapes, others):
    return len(shapes) == len(others) and all(map(fits_shape, shapes, others))
