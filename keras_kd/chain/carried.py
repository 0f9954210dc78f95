"""What data carry of a chain's first teacher: what it said, or what it alone takes."""

import keras
import numpy as np

from keras_kd.chain.passes import walk
from keras_kd.data.order import as_arrays, is_dataset
from keras_kd.evaluation import labelled
from keras_kd.models.given_outputs import GivenOutputs
from keras_kd.training import batch
from keras_kd.training.teacher_and_student import check_inputs, check_same_inputs
from keras_kd.training.whose_answers import refusal, structure_of, whose_answers


def is_given(models):
    """Whether outputs that data carry are what teaches a stage; dict of name to model."""
    return any(isinstance(x, GivenOutputs) for x in models.values())


def check_alone(stage, models):
    """Refuses given outputs beside a model, which a stage cannot be taught by together.

    Args:
        stage: A `keras_kd.Stage`.
        models: dict of name to model of those that would teach it.

    Raises:
        ValueError: They would.
    """
    if is_given(models) and len(models) > 1:
        others = ", ".join(repr(x) for x in models if x != "teacher")
        raise ValueError(
            f"Stage {stage.name!r} would be taught by outputs that its data carry "
            f"(teacher=None) and by {others}, and a batch carries the one or has the other "
            "asked. Leave out dense=True, or name one of them in `taught_by`; or make a "
            "teacher of what gave the outputs, kd.teachers.from_function(...)."
        )


def check_carried(data):
    """Refuses data of a stage that given outputs teach, and that carry none.

    Args:
        data: The stage's training data; None, and those that show it in a batch alone, are
            not looked at.

    Raises:
        ValueError: They carry none, or those of a model.
    """
    if not _is_seen(data):
        return
    of = whose_answers(data)
    if of is None:
        raise ValueError(
            "it has distillation losses but there is no teacher: teacher=None, and "
            "`train_data` carries no teacher outputs. Give the chain a teacher, or data "
            "that kd.with_teacher_outputs made."
        )
    if of != batch.GIVEN:
        raise ValueError(
            "`train_data` carries what cache_teacher kept of a model, and there is no "
            "teacher: teacher=None. Give the chain that model."
        )


def _is_seen(data):
    """Whether data show what they carry before a batch of them is read."""
    return data is not None and (is_dataset(data) or as_arrays(data) is not None)


def names_of(teachers):
    """The names of a stage's teachers, for messages."""
    return ", ".join(map(repr, teachers))


def refused(of, teachers, known):
    """A ValueError for data that carry answers of others than a stage's teachers.

    Args:
        of: Whose they are.
        teachers: Names of those that teach it.
        known: The first one's id; None while it is not trained yet.
    """
    if of != batch.GIVEN:
        return refusal(of, ", ".join(teachers), known)
    return ValueError(
        "`train_data` carries given outputs, and the stage is taught by "
        f"{names_of(teachers)}. To be taught by the outputs it needs "
        "DistillationChain(None, ...), and behind the first stage taught_by='teacher'; "
        "else give the examples alone."
    )


def is_first(models):
    """Whether the chain's first teacher is one of those that teach a stage."""
    return "teacher" in models


def x_of(data):
    """x of a batch of training data, or its structure, as far as it is seen beforehand."""
    if isinstance(data, keras.utils.PyDataset):
        found = data[0]
        return found[0] if isinstance(found, tuple) else found
    return structure_of(data)


def without_teacher(data):
    """Data without the given outputs, or the teacher's inputs, that they carry.

    The stages behind the first take the examples of one `train_data` so.

    Args:
        data: What `fit` takes as x.
    """
    if isinstance(data, tuple) and data and as_arrays(data) is not None:
        return (batch.without_teacher(data[0]), *data[1:])
    if not is_dataset(data):
        return batch.without_teacher(data)
    is_carried = batch.has_teacher_inputs(structure_of(data))
    if not is_carried and whose_answers(data) != batch.GIVEN:
        return data

    def take_out(x, *labels):
        x = batch.without_teacher(x)
        return (x, *labels) if labels else x

    return data.map(take_out)


def check_takes(stage, teachers, teacher, data):
    """Refuses a teacher that cannot take what a stage's data hold, before any is trained.

    Args:
        stage: A `keras_kd.Stage`, taught by models whose answers are not kept.
        teachers: Names of these.
        teacher: What the stage is fitted under.
        data: The stage's training data, or a function that will make them.

    Raises:
        ValueError: It takes other inputs than the student, or there are several and the
            data carry inputs for one.
    """
    if callable(data):
        if stage.train_data is None and not is_first(teachers):
            # What the function puts beside the examples is the first teacher's.
            check_same_inputs(teacher, stage.student)
        return
    if not _is_seen(data) and not isinstance(data, keras.utils.PyDataset):
        return
    x = x_of(data)
    is_shared = stage.train_data is None and not is_first(teachers)
    if is_shared and (batch.is_taught_apart(x) or batch.teacher_of(x) == batch.GIVEN):
        raise ValueError(
            f"`train_data`, a {type(data).__name__}, carries what is the first teacher's "
            "alone, which cannot be taken out of it for a stage under "
            f"{names_of(teachers)}. Give a tf.data.Dataset, or Stage(train_data=...) of "
            "the examples alone."
        )
    if batch.has_teacher_inputs(x) and len(teachers) > 1:
        raise ValueError(
            "`train_data` carries inputs for one teacher alone (with_teacher_inputs), and "
            f"the stage has {len(teachers)}: {names_of(teachers)}. Leave out "
            "dense=True, or name one of them in `taught_by`."
        )
    check_inputs(x, teacher, stage.student)


def check_made(stage, teachers, data):
    """Refuses what a function has made for a stage behind the first, of the wrong inputs.

    Args:
        stage, teachers: As `check_takes` takes them.
        data: Without what could be taken out.

    Raises:
        ValueError: They carry answers to the first teacher's inputs.
    """
    if not is_first(teachers) and batch.is_taught_apart(x_of(data)):
        raise ValueError(
            "the function `train_data` gives answers to inputs that are the first "
            f"teacher's alone, of {names_of(teachers)}. Give cache_teacher the examples "
            f"alone for this stage, {stage.name!r}."
        )


def takes_its_own(chain, train_data):
    """Whether the first teacher takes other inputs than its students, as far as is seen."""
    for stage in chain.stages:
        teachers = chain.teachers_of(stage)
        if not is_first(teachers) or is_given(teachers):
            continue
        data = train_data if stage.train_data is None else stage.train_data
        if not callable(data) and batch.is_taught_apart(x_of(data)):
            return True
        try:
            check_same_inputs(chain.teacher, stage.student)
        except ValueError:
            return True
    return False


def outputs_id(data):
    """What tells the given outputs of data from others; None where there are none.

    Also where it cannot be seen, as within `interleave`. Of several it is all of them.
    """
    if not is_dataset(data):
        return None
    found = {getattr(node, "outputs_id", None) for node in walk(data)} - {None}
    return " ".join(sorted(found)) or None


def outputs_of(chain, train_data, test_data):
    """dict of the stages that given outputs teach, and the table, to what tells these."""
    found = {"test_data": outputs_id(test_data)}
    for stage in chain.stages:
        if is_given(chain.teachers_of(stage)):
            data = train_data if stage.train_data is None else stage.train_data
            found[stage.name] = outputs_id(data)
    return found


class Carried:
    """The given outputs of data in the inputs' place: (outputs, labels, weights) a batch.

    Args:
        data: As `keras_kd.evaluation.predictions.predict` takes them.
        argument: What the user calls them, for messages.

    Attributes:
        shape: Of one example's outputs, as far as all batches have it; None where the data
            carry none.
    """

    def __init__(self, data, argument):
        self._data, self._argument = data, argument
        first = next(iter(self), None)
        self.shape = None
        if first is not None:
            *places, units = first[0].shape[1:]
            self.shape = *[None for _ in places], units

    def __iter__(self):
        for x, *more in labelled.weighted_batches(self._data, self._argument):
            if batch.teacher_of(x) != batch.GIVEN:
                return
            x = keras.tree.map_structure(np.asarray, x)
            _, (own, _) = batch.unpack(x)
            if not hasattr(own, "shape"):
                # Of layers alone, or of several outputs.
                return
            yield (keras.ops.convert_to_numpy(own), *more)

    def model(self):
        """A `keras.Model` that answers with what it is given, logits."""
        layers = [keras.Input(self.shape), keras.layers.Activation("linear")]
        return keras.Sequential(layers, name="teacher")
