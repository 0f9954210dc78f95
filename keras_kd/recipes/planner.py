"""Teacher assistants between a teacher and a student: of which widths, and their recipe.

Example:

>>> from keras_kd import planner
>>> plan = planner.plan("mnist_cnn_32_64", "mnist_cnn_4_8", assistants=1)
>>> [model.name for model in plan.models]
['mnist_cnn_32_64', 'mnist_cnn_12_23', 'mnist_cnn_4_8']
"""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import keras

from keras_kd import files, students
from keras_kd.evaluation.profile import profile
from keras_kd.losses.arguments import check_integer
from keras_kd.recipes import assistant_widths, zoo
from keras_kd.recipes.model_files import load_model
from keras_kd.students.families import FAMILIES
from keras_kd.students.family_of import Known
from keras_kd.tables import markdown_table
from keras_kd.training.teacher_and_student import check_models, check_same_inputs

_PLANNED = [name for name, family in FAMILIES.items() if family.proportional]
HEAD = """\
# Epochs, optimizer and loss are those of the recipe mnist, not chosen for these models.
dataset = {dataset}
seed = 0
batch_size = 256
"""
STAGE = """
[[stage]]
name = {name}
model = {model}
epochs = 12
optimizer = {{ name = "adam", learning_rate = 0.001 }}
losses = [{{ name = "kd", temperature = 4.0, form = "cross_entropy" }}]
student_loss_weight = 0.5
"""
# Where plans are of models of any shapes.
OWN_DATA = '{ path = "data" }  # your own'
NO_STAGE = """
# The student {model} is of no family that recipes know, so no stage can build it:
# let the last assistant teach it with keras_kd.DistillationChain.
"""


@dataclasses.dataclass(frozen=True)
class PlannedModel:
    """One model of a plan.

    Attributes:
        role: "teacher", "assistant" or "student".
        name: As given; an assistant's is its architecture.
        architecture: Its name in `keras_kd.recipes.zoo`, or a family of
            `keras_kd.students` and its width, "separable_cnn_24"; None if it is of neither.
        file: Its file, or its name among the shipped models; None where there is none.
        parameters, macs: See `keras_kd.evaluation.profile.Profile`.
    """

    role: str
    name: str
    architecture: str | None
    file: str | None
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A teacher, its assistants and the student, in the order of teaching.

    Attributes:
        models: A list of `PlannedModel`; MACs fall from each to the next.
    """

    models: list

    def table(self):
        """The models as a Markdown table, each with its ratio to the one before."""
        rows = []
        for before, model in zip([None, *self.models], self.models, strict=False):
            row = {"role": model.role, "model": model.name}
            for column, attribute in (("parameters", "parameters"), ("MACs", "macs")):
                value = getattr(model, attribute)
                ratio = before and value / getattr(before, attribute)
                row[column] = f"{value:,}"
                row[f"{column} / before"] = f"{ratio:.3g}" if before else ""
            rows.append(row)
        return markdown_table(rows, numbers_from=2)

    def spacing(self):
        """A sentence: by which measures the models are spaced."""
        teacher, student = self.models[0], self.models[-1]
        if not _parameters_fall(teacher, student):
            return (
                f"Even steps of log MACs alone: the student has {student.parameters:,} "
                f"parameters, no fewer than the teacher's {teacher.parameters:,}."
            )
        text = "Steps as even in log MACs and log parameters as the family allows."
        for before, model in itertools.pairwise(self.models):
            if not _parameters_fall(before, model):
                text += f" MACs give the order: parameters do not fall to {model.name}."
        return text

    def recipe(self):
        """The plan as the text of a recipe, which `keras_kd.recipes.recipe.load` reads."""
        teacher, *taught = self.models
        names = [f"ta{i + 1}" for i in range(len(taught) - 1)] + ["student"]
        own = any(_of_students(x.architecture) for x in self.models)
        text = HEAD.format(dataset=OWN_DATA if own else '"mnist"')
        if teacher.file is None:
            text += "# Not there yet: train the teacher, and save it under this name.\n"
        text += f"teacher = {_quoted(teacher.file or teacher.name + '.keras')}\n"
        for name, model in zip(names, taught, strict=True):
            stage = STAGE if model.architecture else NO_STAGE
            named = model.architecture or model.name
            text += stage.format(
                name=_quoted(name), model=_of_students(named) or _quoted(named)
            )
        return text

    def write(self, path):
        """Writes the recipe to a new file, whole or not at all.

        Args:
            path: A path that ends in `.toml`; missing folders are made.

        Raises:
            ValueError: The path does not end in `.toml`.
            FileExistsError: Something is there already; it is left as it is.
        """
        path = Path(path)
        if path.suffix != ".toml":
            raise ValueError(f"A recipe's path must end in .toml. Received: {str(path)!r}.")
        if os.path.lexists(path):
            raise FileExistsError(
                f"{path} exists. Nothing was changed: choose another path, or remove it "
                "first."
            )
        files.write_text(path, self.recipe())


def plan(teacher, student, assistants=1):
    """Proposes teacher assistants between a teacher and a student.

    MACs order the models: they are what a model computes. Parameters say less, as one of a
    dense layer is used once, one of a convolution at each place of its map. The assistants
    cut the way from teacher to student into steps of one ratio, in MACs and in parameters,
    as near to both as the family's models come. Where the student has no fewer parameters
    than the teacher, even steps of parameters would not lead down, and MACs alone count.

    They are of the teacher's family in `keras_kd.recipes.zoo` or `keras_kd.students`, or of
    the student's if the teacher is of none. Between two models of one family and depth,
    each width goes from the one's to the other's; else the widths keep their proportions.

    What the paper says of the choice (sections "What is the Best TA Size?" and "Why
    Limiting to 1-step TA?"; on CIFAR, sizes are in layers): an assistant of any size was
    better than none. The best was nearest to the mean of the teacher's and the student's
    accuracies, not of their sizes; finding it takes training all candidates, so steps of
    one ratio are our own guess before any is trained. Every path through several assistants
    was better than none, too, and for the smaller students the one through all sizes was
    the best: take as many as there is time to train.

    Args:
        teacher: A `keras.Model`; or a name in `keras_kd.recipes.zoo`, the name of a
        shipped model,
            "mnist/teacher", or a path that ends in `.keras`.
        student: The same, with fewer MACs.
        assistants: How many, an integer >= 1.

    Returns:
        A `Plan`.

    Raises:
        FileNotFoundError: There is no such file or shipped model.
        ValueError: A name is unknown, inputs or outputs differ, the student does not have
            fewer MACs than the teacher, neither is of a family, or the family has not that
            many models between them.

    Reference:
        [Mirzadeh et al., 2020](https://arxiv.org/abs/1902.03393).
    """
    assistants = check_integer("assistants", assistants, 1)
    teacher_model, teacher = _end("teacher", teacher)
    student_model, student = _end("student", student)
    check_models(teacher_model, student_model)
    check_same_inputs(teacher_model, student_model)
    _check_outputs(teacher_model, student_model)
    _check_smaller(teacher, student)
    families = _family_of(teacher_model), _family_of(student_model)
    if families == (None, None):
        raise ValueError(
            "`teacher` or `student` must be of a family in keras_kd.recipes.zoo or "
            "keras_kd.students, which the assistants are of: "
            f"{', '.join([*zoo.FAMILIES, *_PLANNED])}. Received: {teacher.name!r} and "
            f"{student.name!r}, which are of none."
        )
    family, chosen = assistant_widths.choose(families, teacher, student, assistants)
    between = [_assistant(family, widths) for widths in chosen]
    return Plan([teacher, *between, student])


def _family_of(model):
    """`(family, widths)` of the zoo, or of students; None of neither."""
    found = zoo.family_of(model)
    if found is None and (of_students := students.family_of(model)):
        known, width = of_students
        return known, (width,)
    return found


def _name_of(family, widths):
    name = family.family if isinstance(family, Known) else family
    return zoo.family_name(name, widths)


def _assistant(family, widths):
    name = _name_of(family, widths)
    of_students = isinstance(family, Known)
    model = family.build(*widths) if of_students else zoo.build(name)
    return _planned("assistant", name, name, None, model)


def _of_students(architecture):
    """A recipe's table of a family of students and its width; None of anything else."""
    family, _, width = (architecture or "").rpartition("_")
    if family not in _PLANNED or not width.isdigit():
        return None
    return f"{{ family = {_quoted(family)}, width = {width} }}"


def _end(role, given):
    """The model at one end of the plan, and its `PlannedModel`."""
    name = os.fspath(given) if isinstance(given, os.PathLike) else given
    architecture = file = None
    if isinstance(given, keras.Model):
        model, name = given, given.name
    elif isinstance(name, str) and (name.endswith(".keras") or "/" in name):
        model, file = load_model(name), name
    else:
        model, architecture = _built(role, name), name
    planned = _planned(role, name, architecture, file, model)
    if not architecture and (family := _family_of(model)):
        planned = dataclasses.replace(planned, architecture=_name_of(*family))
    return model, planned


def _built(role, name):
    try:
        return zoo.build(name)
    except ValueError as error:
        raise ValueError(
            f"`{role}`: {error}. A trained model is a path that ends in .keras, or a "
            "shipped one's name, such as mnist/teacher."
        ) from error


def _planned(role, name, architecture, file, model):
    cost = profile(model)
    if cost.macs is None:
        raise ValueError(f"`{role}` must have MACs that are known. {cost.unknown}")
    return PlannedModel(role, name, architecture, file, cost.parameters, cost.macs)


def _check_outputs(teacher, student):
    shapes = [[tuple(x.shape[1:]) for x in model.outputs] for model in (teacher, student)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`student` must have the outputs that `teacher` has. Received: teacher "
            f"{teacher.name!r} with outputs {shapes[0]}, student {student.name!r} with "
            f"{shapes[1]}, without the batch."
        )


def _check_smaller(teacher, student):
    if student.macs < teacher.macs:
        return
    sizes = [
        f"{x.role} {x.name!r} with {x.macs:,} MACs and {x.parameters:,} parameters"
        for x in (teacher, student)
    ]
    reason = "`student` must have fewer MACs than `teacher`"
    if (student.macs, student.parameters) == (teacher.macs, teacher.parameters):
        reason = "`teacher` and `student` are equal in size, so nothing lies between them"
    raise ValueError(f"{reason}. Received: {', '.join(sizes)}.")


def _quoted(text):
    """A string of TOML, which is as JSON's but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parameters_fall(teacher, student):
    return student.parameters < teacher.parameters
