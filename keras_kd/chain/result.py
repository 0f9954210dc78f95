"""What a fitted chain leaves: the models, and what was measured of each."""

import dataclasses
import itertools
import json
import logging

import numpy as np

from keras_kd import files as run_dirs
from keras_kd.evaluation import labelled
from keras_kd.evaluation.answers import Answers
from keras_kd.evaluation.evaluate import Evaluation
from keras_kd.evaluation.predictions import Fidelity, predict
from keras_kd.evaluation.profile import profile
from keras_kd.tables import markdown_table, shown_count
from keras_kd.training.precision import in_float32

logger = logging.getLogger(__name__)

# Images on which student and teacher disagree, kept for the report.
_KEPT_IMAGES = 40


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One row of a chain's table.

    Attributes:
        model: The stage's name, or "teacher".
        taught_by: Names of the teaching models, "labels", or "given".
        evaluation: A `keras_kd.evaluation.evaluate.Evaluation` on the test data, its
        fidelity that to
            the last of the teaching models.
        parameters, macs, pure_macs: See `keras_kd.evaluation.profile.Profile`.
        file_bytes: Size of the saved `.keras` file, None without a run folder.
        seconds: Of training, the teacher's answers and validation included; None for a
            given model.
        epochs: How many it was trained; None for a given model.
        best_epoch: The one, from 1, that was restored or stopped for; None where the stage
            chose none.
    """

    model: str
    taught_by: str
    evaluation: Evaluation
    parameters: int
    macs: int | None
    pure_macs: int | None
    file_bytes: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None

    @property
    def accuracy(self):
        """Fraction right on the test data, in [0, 1]."""
        return self.evaluation.accuracy

    @property
    def errors(self):
        """Count of wrong answers."""
        return self.evaluation.errors

    @property
    def examples(self):
        """Of how many."""
        return self.evaluation.examples

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
        rows = [
            {
                "model": x.model,
                "taught by": x.taught_by,
                "accuracy (%)": f"{100 * x.accuracy:.2f}",
                f"errors in {examples:,}": x.errors,
                "parameters": f"{x.parameters:,}",
                "MACs": shown_count(x.macs),
                "file (kB)": "-" if x.file_bytes is None else f"{x.file_bytes // 1000:,}",
                "seconds": "-" if x.seconds is None else f"{x.seconds:.0f}",
            }
            for x in self.models
        ]
        return markdown_table(rows, numbers_from=2)

    def write(self, folder):
        """Writes the models' table to a run folder, as Markdown and as JSON."""
        run_dirs.write_text(folder / "results.md", self.table() + "\n")
        rows = [x.to_dict() for x in self.models]
        run_dirs.write_json(folder / "results.json", {"models": rows})


class Measuring:
    """Measures the models of a chain on its test data, each asked once.

    Args:
        test_data: As `predict` takes them.
        folder: The run folder, or None.
        writes: Whether this process writes into it.
        argument: What the user calls the data, for messages.
    """

    def __init__(self, test_data, folder=None, writes=True, argument="test_data"):
        self._test_data, self._folder, self._writes = test_data, folder, writes
        self._argument = argument
        self._predictions = {}

    def measure(self, model, name, taught_by, teachers=None, **details):
        """A `ModelResult`; in a run folder, also the model's file, answers and metrics.

        Args:
            model: The `keras.Model`, in float32.
            name: Its name in the chain.
            taught_by: What the row says.
            teachers: dict of name to model of those that taught it, or None.
            **details: Other fields of `ModelResult`.
        """
        predictions = self._predict(name, model)
        *_, last = [None, *(teachers or {}).items()]
        against = last and self._comparable(predictions, self._predict(*last))
        answers = predictions.answers()
        fidelity = against and predictions.fidelity(against)
        cost = profile(model)
        costs = {x: getattr(cost, x) for x in ("parameters", "macs", "pure_macs")}
        folder = self._folder and self._writes and self._folder / name
        if folder:
            run_dirs.save_model(model, folder / "model.keras")
            details["file_bytes"] = (folder / "model.keras").stat().st_size
            answers.write_csv(folder / "answers.csv")
            if against:
                self._keep_images(folder, predictions.disagreements(against))
        result = ModelResult(
            name, taught_by, Evaluation.of(answers, fidelity), **costs, **details
        )
        if folder:
            run_dirs.write_json(folder / "metrics.json", result.to_dict())
        return result

    def try_out(self, model, name):
        """Answers the first batch, for what else would fail when all is trained.

        Raises:
            ValueError: As `predict`.
        """
        first = itertools.islice(labelled.batches(self._test_data, self._argument), 1)
        predict(in_float32(model), list(first), name=name, argument=self._argument)

    def files(self, name):
        """Names of the files that `measure` wrote of a model."""
        names = ("model.keras", "answers.csv", "metrics.json", "disagreements.npz")
        return [x for x in names if (self._folder / name / x).is_file()]

    def read(self, name):
        """The `ModelResult` that `measure` wrote."""
        folder = self._folder / name
        fields = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        fidelity = fields["evaluation"]["fidelity"]
        fields["evaluation"] = Evaluation.of(
            Answers.read_csv(folder / "answers.csv"), fidelity and Fidelity(**fidelity)
        )
        return ModelResult(**fields)

    def _comparable(self, predictions, teacher):
        """The teacher's predictions; None where they say nothing of the student's."""
        reason = None
        if not np.array_equal(teacher.labels, predictions.labels):
            reason = "the test data come in another order each time"
        elif teacher.log_probs.shape != predictions.log_probs.shape:
            reason = "they have other classes"
        if reason:
            names = predictions.name, teacher.name
            logger.warning("%s and %s are not compared: %s.", *names, reason)
        return None if reason else teacher

    def _predict(self, name, model):
        if name not in self._predictions:
            model = in_float32(model)
            self._predictions[name] = predict(
                model, self._test_data, name=name, argument=self._argument
            )
        return self._predictions[name]

    def _keep_images(self, folder, indices):
        """Writes the first images of these, where examples are images of one size."""
        images, first, indices, size = [], 0, indices[:_KEPT_IMAGES], None
        for inputs, labels in labelled.batches(self._test_data):
            # Several inputs are a tuple, list or dict.
            shape = getattr(inputs, "shape", ())
            size = size or tuple(shape[1:])
            if len(shape) != 4 or shape[-1] not in (1, 3) or tuple(shape[1:]) != size:
                return
            here = indices[(indices >= first) & (indices < first + len(labels))]
            images.append(np.asarray(inputs)[here - first])
            first += len(labels)
        with run_dirs.renamed_when_done(folder / "disagreements.npz") as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, index=indices, images=np.concatenate(images))
