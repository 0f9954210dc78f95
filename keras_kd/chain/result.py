"""What a fitted chain leaves: the models, and what was measured of each."""

import dataclasses
import functools
import itertools
import json
import logging

import numpy as np

from keras_kd import files as run_dirs
from keras_kd.chain.carried import Carried, x_of
from keras_kd.evaluation import labelled
from keras_kd.evaluation.answers import Answers
from keras_kd.evaluation.evaluate import Evaluation
from keras_kd.evaluation.predictions import Fidelity, SummedPredictions, predict
from keras_kd.evaluation.profile import profile
from keras_kd.evaluation.sums import Sums
from keras_kd.models.given_outputs import GivenOutputs, asks_a_function
from keras_kd.tables import markdown_table, shown_count
from keras_kd.tasks.scores import SCORES
from keras_kd.training.batch import has_teacher_inputs, inputs_of, is_taught_apart
from keras_kd.training.precision import in_float32

logger = logging.getLogger(__name__)

# Images on which student and teacher disagree, kept for the report; and fewer of those
# that have a picture of answers each.
_KEPT_IMAGES, _KEPT_PICTURES = 40, 12


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One row of a chain's table.

    Attributes:
        model: The stage's name, or "teacher".
        taught_by: Names of the teaching models, "labels", or "given".
        evaluation: A `keras_kd.evaluation.evaluate.Evaluation` on the test data, its
        fidelity that to
            the last of the teaching models.
        parameters, macs, pure_macs: See `keras_kd.evaluation.profile.Profile`; None of a
            function and of given outputs, of which nobody knows them.
        file_bytes: Size of the saved `.keras` file, None without one.
        seconds: Of training, the teacher's answers and validation included; None for a
            given model.
        epochs: How many it was trained; None for a given model.
        best_epoch: The one, from 1, that was restored or stopped for; None where the stage
            chose none.
    """

    model: str
    taught_by: str
    evaluation: Evaluation
    parameters: int | None
    macs: int | None
    pure_macs: int | None
    file_bytes: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None

    @property
    def accuracy(self):
        """Fraction of the answers to the test data that are right; None of values."""
        return self.evaluation.accuracy

    @property
    def errors(self):
        """Count of wrong answers; None where an example is no one answer."""
        return self.evaluation.errors

    @property
    def examples(self):
        """Of how many."""
        return self.evaluation.examples

    def in_words(self):
        """The score that counts: "98.76 % right", "mean IoU 71.20 %"."""
        if self.errors is not None:
            return f"{100 * self.accuracy:.2f} % right"
        score = SCORES[self.evaluation.counts]
        return f"{score.words} {_cell(self, score.name)}{score.percent}"

    def to_dict(self):
        """As it stands in a run folder's metrics.json."""
        fields = {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}
        return fields | {"evaluation": self.evaluation.to_dict()}


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """What a fitted chain leaves.

    Attributes:
        students: dict of stage name to trained `keras.Model`; in float32 where it was
            trained in mixed precision, as what is measured and saved.
        histories: dict of stage name to Keras's history, metric name to one value an
            epoch.
        models: A `ModelResult` per model, the teacher first.
    """

    students: dict
    histories: dict
    models: list

    def table(self):
        """The models side by side, as a Markdown table."""
        examples = self.models[0].examples
        scores = list(dict.fromkeys(x.evaluation.counts for x in self.models))
        counted = any(x.errors is not None for x in self.models)
        rows = [
            {
                "model": x.model,
                "taught by": x.taught_by,
                **{SCORES[name].label: _cell(x, name) for name in scores},
                **({f"errors in {examples:,}": _errors(x)} if counted else {}),
                "parameters": shown_count(x.parameters),
                "MACs": shown_count(x.macs),
                "file (kB)": "-" if x.file_bytes is None else f"{x.file_bytes / 1000:,.0f}",
                "seconds": "-" if x.seconds is None else f"{x.seconds:.0f}",
            }
            for x in self.models
        ]
        return markdown_table(rows, numbers_from=2)

    def _repr_html_(self):
        return self.table()._repr_html_()

    def write(self, folder):
        """Writes the models' table to a run folder, as Markdown and as JSON."""
        run_dirs.write_text(folder / "results.md", self.table() + "\n")
        rows = [x.to_dict() for x in self.models]
        run_dirs.write_json(folder / "results.json", {"models": rows})


def _cell(model, name):
    scored = model.evaluation.scores.get(name)
    return "-" if scored is None else SCORES[name].shown(scored.value)


def _errors(model):
    return "-" if model.errors is None else model.errors


class Measuring:
    """Measures the models of a chain on its test data, each asked once.

    Args:
        test_data: As `predict` takes them.
        tasks: dict of a model's name to what else of `predict` is its own, such as its
            task, a dict; one that is not there shows its task itself.
        folder: The run folder, or None.
        writes: Whether this process writes into it.
        argument: What the user calls the data, for messages.

    Attributes:
        first_takes_its_own: Whether the first teacher takes other inputs than its students.
    """

    first_takes_its_own = False

    def __init__(
        self, test_data, tasks=None, folder=None, writes=True, argument="test_data"
    ):
        self._test_data, self._folder, self._writes = test_data, folder, writes
        self._argument, self._tasks = argument, tasks or {}
        self._predictions, self._counted = {}, (None, None)

    def measure(self, model, name, taught_by, teachers=None, **details):
        """A `ModelResult`; in a run folder, also the model's file, answers and metrics.

        None of given outputs that the test data do not carry. What a function is part of
        has no file.

        Args:
            model: The `keras.Model`, in float32.
            name: Its name in the chain.
            taught_by: What the row says.
            teachers: dict of name to model of those that taught it, or None.
            **details: Other fields of `ModelResult`.
        """
        predictions = self._predict(name, model)
        if predictions is None:
            return None
        *_, last = [None, *(teachers or {}).items()]
        fidelity, differing, theirs = None, None, last and self._predict(*last)
        if theirs:
            fidelity, differing = self._beside(predictions, theirs)
        answers = predictions.answers()
        is_known = not asks_a_function(model)
        cost = profile(model) if is_known else None
        costs = {x: getattr(cost, x, None) for x in ("parameters", "macs", "pure_macs")}
        folder = self._folder and self._writes and self._folder / name
        if folder and is_known:
            run_dirs.save_model(model, folder / "model.keras")
            details["file_bytes"] = (folder / "model.keras").stat().st_size
        if folder:
            folder.mkdir(exist_ok=True)
            if isinstance(answers, Sums):
                answers.write(folder / "answers.npz")
            else:
                answers.write_csv(folder / "answers.csv")
            if differing is not None:
                self._keep_images(folder, differing, predictions, theirs)
        evaluation = Evaluation.of(answers, fidelity)
        self._say_if_others_count(name, evaluation)
        result = ModelResult(name, taught_by, evaluation, **costs, **details)
        if folder:
            run_dirs.write_json(folder / "metrics.json", result.to_dict())
        return result

    def try_out(self, model, name):
        """Answers the first batch, for what else would fail when all is trained.

        Raises:
            ValueError: As `predict`.
        """
        batches = labelled.weighted_batches(self._test_data, self._argument)
        first = list(itertools.islice(batches, 1))
        self._asked(in_float32(model), first, name)

    def files(self, name):
        """Names of the files that `measure` wrote of a model."""
        names = ("model.keras", "answers.csv", "answers.npz", "metrics.json")
        names += ("disagreements.npz",)
        return [x for x in names if (self._folder / name / x).is_file()]

    def read(self, name):
        """The `ModelResult` that `measure` wrote."""
        folder = self._folder / name
        fields = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        fidelity = fields["evaluation"]["fidelity"]
        if (folder / "answers.npz").is_file():
            answers = Sums.read(folder / "answers.npz")
        else:
            answers = Answers.read_csv(folder / "answers.csv")
        fields["evaluation"] = Evaluation.of(answers, fidelity and Fidelity(**fidelity))
        return ModelResult(**fields)

    def _say_if_others_count(self, name, evaluation):
        """Says where Keras's mask of one model leaves out others than another's."""
        first, counted = self._counted
        if evaluation.places and counted not in (None, evaluation.answers):
            logger.warning(
                "%s was measured on %d answers and %s on %d: one has a mask of Keras's "
                "that the other lacks, so their scores do not compare. Leave the same "
                "positions out of both by sample weights of 0, or by `ignore_class`.",
                name,
                evaluation.answers,
                first,
                counted,
            )
        if counted is None and evaluation.places:
            self._counted = name, evaluation.answers

    def _beside(self, predictions, teacher):
        """(fidelity, which examples differ), the most different first; (None, None) where
        the teacher's say nothing of the student's."""
        try:
            if isinstance(predictions, SummedPredictions):
                fidelity, differences = predictions.beside(teacher)
                order = np.argsort(-differences, kind="stable")
                return fidelity, order[: np.count_nonzero(differences)]
            return predictions.fidelity(teacher), predictions.disagreements(teacher)
        except ValueError as error:
            names = predictions.name, teacher.name
            logger.warning("%s and %s are not compared: %s", *names, error)
            return None, None

    def check_first(self, data):
        """Refuses training data with inputs for the first teacher, if it was asked others.

        Args:
            data: What a function of training data has made.

        Raises:
            ValueError: They carry such, the test data do not, and it was measured.
        """
        is_apart = is_taught_apart(x_of(data))
        was_asked = self._predictions.get("teacher") is not None
        if is_apart and was_asked and not self._test_carries[0]:
            raise ValueError(
                "`train_data` has inputs for the teacher alone, and "
                f"`{self._argument}` none, so the teacher was measured on the student's. "
                "Give keras_kd.with_teacher_inputs(...).batch(...) for these, too."
            )

    @functools.cached_property
    def _test_carries(self):
        """Whether the test data carry inputs for the teacher, and what was made of such."""
        batches = labelled.weighted_batches(self._test_data, self._argument)
        for x, *_ in batches:
            return has_teacher_inputs(x), is_taught_apart(x)
        return False, False

    def _predict(self, name, model):
        if name not in self._predictions:
            if isinstance(model, GivenOutputs):
                found = self._carried(name)
            elif name == "teacher":
                found = self._of_first(model, name)
            else:
                found = self._asked(in_float32(model), self._test_data, name)
            self._predictions[name] = found
        return self._predictions[name]

    def _of_first(self, model, name):
        """As `_predict`, of one that may have inputs of its own; None without these."""
        has_inputs, is_apart = self._test_carries
        if has_inputs or not (is_apart or self.first_takes_its_own):
            model = in_float32(model)
            return self._asked(model, self._test_data, name, of_teacher=True)
        logger.warning(
            "The teacher has no line in the table, and nothing says how like it its "
            "student is: `%s` carries no inputs for it. Give "
            "keras_kd.with_teacher_inputs(...).batch(...) for it, too.",
            self._argument,
        )
        return None

    def _carried(self, name):
        """As `_predict`, of the outputs that the test data carry; None if they do not."""
        carried = Carried(self._test_data, self._argument)
        if carried.shape is not None:
            return self._asked(carried.model(), carried, name)
        logger.warning(
            "The given outputs have no line in the table, and nothing says how like them "
            "their student is: `%s` carries none. Give "
            "keras_kd.with_teacher_outputs(...).batch(...) for it, too.",
            self._argument,
        )
        return None

    def _asked(self, model, data, name, **more):
        more |= self._tasks.get(name, {})
        return predict(model, data, name=name, argument=self._argument, **more)

    def _keep_images(self, folder, indices, predictions, teacher):
        """Writes the first images of these, where examples are images of one size."""
        are_sums = isinstance(predictions, SummedPredictions)
        if are_sums and predictions.sums.places != 2:
            # No image shows what several labels, or values, differ in.
            return
        indices = np.sort(indices[: _KEPT_PICTURES if are_sums else _KEPT_IMAGES])
        images, first, size = [], 0, None
        for inputs, labels in labelled.batches(self._test_data):
            inputs = inputs_of(inputs)
            # Several inputs are a tuple, list or dict.
            shape = getattr(inputs, "shape", ())
            size = size or tuple(shape[1:])
            if len(shape) != 4 or shape[-1] not in (1, 3) or tuple(shape[1:]) != size:
                return
            here = indices[(indices >= first) & (indices < first + shape[0])]
            images.append(np.asarray(inputs)[here - first])
            first += shape[0]
        arrays = {"index": indices, "images": np.concatenate(images)}
        if are_sums and len(indices):
            arrays |= predictions.pictures(teacher, indices) or {}
        with run_dirs.renamed_when_done(folder / "disagreements.npz") as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
