"""How right a model is on labels, how sure of itself, and how close to its teacher."""

import dataclasses
import itertools

import keras
import numpy as np

from keras_kd.evaluation import labelled, resampling
from keras_kd.evaluation.predictions import Fidelity, predict
from keras_kd.evaluation.sums import Sums
from keras_kd.evaluation.uncertainty import wilson_interval
from keras_kd.tables import markdown_table
from keras_kd.tasks.scores import SCORES
from keras_kd.training.batch import has_teacher_inputs, is_taught_apart
from keras_kd.training.teacher_and_student import check_inputs


@dataclasses.dataclass(frozen=True)
class ClassEvaluation:
    """Counts of one class, or of one of several labels.

    Attributes:
        examples: How many have this label; of pixels and tokens, how many of these.
        errors: On how many of them another class was predicted; of labels of their own, and
            of the yes alone, which are missed.
        label: The class.
        precision: Fraction, of all examples of which this class was predicted, that have
            this label; None if it was never predicted.
        iou: Of pixels the intersection over union of label and answer, in [0, 1]; None of
            others, and where there is neither.
    """

    examples: int
    errors: int
    label: int
    precision: float | None
    iou: float | None = None

    @property
    def accuracy(self):
        """Fraction of examples answered right, in [0, 1]; None of no examples."""
        return (self.examples - self.errors) / self.examples if self.examples else None

    @property
    def accuracy_interval(self):
        """Its 95 % interval (low, high), as `uncertainty.wilson_interval` gives it."""
        if not self.examples:
            return None
        return wilson_interval(self.examples - self.errors, self.examples)

    def to_dict(self):
        """As it stands in a run folder's metrics.json."""
        return {
            "label": self.label,
            "examples": self.examples,
            "errors": self.errors,
            "accuracy": self.accuracy,
            "precision": self.precision,
            "accuracy_interval": self.accuracy_interval and list(self.accuracy_interval),
        } | ({} if self.iou is None else {"iou": self.iou})


@dataclasses.dataclass(frozen=True)
class Scored:
    """A score's value and its 95 % interval.

    Attributes:
        value: None where it is not defined, as the ROC AUC of labels that are all yes.
        interval: `(low, high)`: Wilson's of the share of examples that are right, else a
            bootstrap's over the examples; None where there is none.
    """

    value: float | None
    interval: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured of one model on one labelled data set.

    Attributes:
        task: "multiclass", "binary", "multilabel" or "regression".
        places: How many axes of positions the outputs have: 0 of plain examples, 1 of
            texts and other sequences, 2 or more of pictures.
        examples: How many were seen.
        answers: How many answers were counted in them: of several labels, of values, of
            pixels and tokens more than one an example, without what is left out.
        scores: dict of name to `Scored`, the one that counts first; see
            `keras_kd.tasks.scores.SCORES`.
        per_class: A `ClassEvaluation` for each class that is a label or was predicted, in
            ascending order; of several labels for each; of values, and of tokens of many
            words, none.
        fidelity: A `Fidelity` to the teacher, or None.
    """

    task: str
    places: int
    examples: int
    answers: int
    scores: dict
    per_class: tuple = ()
    fidelity: Fidelity | None = None

    @classmethod
    def of(cls, answers, fidelity=None):
        """Measures a model by its answers, as kept in memory or read from a run folder.

        Args:
            answers: `keras_kd.evaluation.answers.Answers`, or
                `keras_kd.evaluation.sums.Sums`.
            fidelity: What they do not tell, `Predictions.fidelity(teacher)`; or None.
        """
        arrays = answers.arrays
        sums = {key: x.sum(axis=0) for key, x in arrays.items()}
        scores = {
            score.name: _scored(score, answers, arrays)
            for score in answers.task.scores(answers.places, answers.rows)
        }
        is_sums = isinstance(answers, Sums)
        per_class = _of_sums(sums, answers.places) if is_sums else _per_class(answers)
        return cls(
            answers.task.name,
            answers.places,
            answers.examples,
            round(float(sums["count"])),
            scores,
            per_class,
            fidelity,
        )

    @property
    def counts(self):
        """The name of the score that counts."""
        return next(iter(self.scores))

    @property
    def is_right_or_wrong(self):
        """Whether an example is one answer that is right or wrong."""
        return self.task in ("multiclass", "binary") and not self.places

    @property
    def errors(self):
        """On how many examples the answer was wrong; None where it is no such answer."""
        if not self.is_right_or_wrong:
            return None
        return self.answers - round(self.scores["accuracy"].value * self.answers)

    @property
    def accuracy(self):
        """Fraction of the answers that are right, in [0, 1]; None of values."""
        return self._value("accuracy")

    @property
    def accuracy_interval(self):
        """Its 95 % interval (low, high)."""
        return self.scores["accuracy"].interval if "accuracy" in self.scores else None

    @property
    def negative_log_likelihood(self):
        """Mean over the answers of -log of the label's probability, in nats; or None."""
        return self._value("negative_log_likelihood")

    @property
    def calibration_error(self):
        """Expected calibration error, in [0, 1], see `tasks.scores`; None of values."""
        return self._value("calibration_error")

    def _value(self, name):
        return self.scores[name].value if name in self.scores else None

    def to_dict(self):
        """As it stands in a run folder's metrics.json: numbers, lists and dicts alone."""
        found = {
            "task": self.task,
            "places": self.places,
            "examples": self.examples,
            "answers": self.answers,
        }
        if self.is_right_or_wrong:
            # As readers of earlier versions know it.
            found |= {
                "errors": self.errors,
                "accuracy": self.accuracy,
                "accuracy_interval": list(self.accuracy_interval),
                "negative_log_likelihood": self.negative_log_likelihood,
                "calibration_error": self.calibration_error,
            }
        return found | {
            "scores": {
                name: {"value": x.value, "interval": x.interval and list(x.interval)}
                for name, x in self.scores.items()
            },
            "per_class": [x.to_dict() for x in self.per_class],
            "fidelity": self.fidelity and self.fidelity.to_dict(),
        }

    def summary(self):
        """What was measured over all classes, a line for each."""
        if self.is_right_or_wrong:
            low, high = self.accuracy_interval
            lines = [
                f"{_percent(self.accuracy)} % right, {self.errors} errors in "
                f"{self.examples:,}",
                f"{_percent(low)} to {_percent(high)} % is the 95 % interval",
            ]
            shown = [x for x in self.scores if x not in ("accuracy", *_IN_WORDS)]
            shown = [*_IN_WORDS, *shown]
        else:
            counted = f", {self.answers:,} answers" * (self.answers != self.examples)
            lines, shown = [f"{self.examples:,} examples{counted}"], self.scores
        lines += [_line(name, self.scores[name]) for name in shown]
        if self.fidelity:
            lines += _lines_of(self.fidelity)
        return "\n".join(lines)

    def table(self, class_names=None):
        """The classes side by side, as a Markdown table; of values "", which have none.

        Args:
            class_names: Of the labels, a list of strings; by default their numbers.
        """
        of_pixels = any(x.iou is not None for x in self.per_class)
        missed, found = "errors", "right (%)"
        if self.task == "multilabel" or (self.task == "binary" and self.places):
            missed, found = "missed", "recall (%)"
        rows = []
        for x in self.per_class:
            row = {
                "label": class_names[int(x.label)] if class_names else str(x.label),
                "examples": f"{x.examples:,}",
                missed: f"{x.errors:,}",
                found: _percent(x.accuracy),
                "95 % interval": " to ".join(map(_percent, x.accuracy_interval or [None])),
                "precision (%)": _percent(x.precision),
            }
            if self.places:
                # Neighbouring pixels are no independent examples, of which it would tell.
                del row["95 % interval"]
            rows.append(row | ({"IoU (%)": _percent(x.iou)} if of_pixels else {}))
        return markdown_table(rows, numbers_from=0) if rows else ""


def evaluate(model, dataset, teacher=None, task=None, ignore_class=None):
    """Measures a model on labelled data.

    Args:
        model: A Keras model: logits, or probabilities if it is seen to end in a softmax or
            a sigmoid; or values. For others, and to use one pass for several things, see
            `keras_kd.evaluation.predictions.predict`.
        dataset: Batches of (inputs, labels), or arrays, as `Model.evaluate` takes them.
            With a teacher the same batches each time, with its own inputs where
            `keras_kd.with_teacher_inputs` put them beside the model's.
        teacher: The model that taught it, to compare them; or None.
        task: "multiclass", "binary", "multilabel" or "regression"; by default what the
            model shows.
        ignore_class: The label of positions that are left out, as that of Keras's
            `SparseCategoricalCrossentropy`; or None.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: As `predict`; or the teacher has another number of classes, or saw other
            examples.
    """
    more = {"task": task, "ignore_class": ignore_class}
    predictions, fidelity = predict(model, dataset, **more), None
    if teacher is not None:
        _check_inputs(dataset, teacher, model)
        answers = predict(teacher, dataset, of_teacher=True, **more)
        fidelity = predictions.fidelity(answers)
    return Evaluation.of(predictions.answers(), fidelity)


def _check_inputs(dataset, teacher, model):
    """Refuses data that hold nothing which the teacher could be asked, a ValueError."""
    are_models = isinstance(teacher, keras.Model) and isinstance(model, keras.Model)
    for x, *_ in itertools.islice(labelled.weighted_batches(dataset), are_models):
        if is_taught_apart(x) and not has_teacher_inputs(x):
            raise ValueError(
                "`dataset` carries what was kept of a teacher with inputs of its own, and "
                "not these. Give keras_kd.with_teacher_inputs(...).batch(...)."
            )
        check_inputs(x, teacher, model)


def _scored(score, answers, arrays):
    value = resampling.value(score, arrays, answers.rows)
    if not np.isfinite(value):
        return Scored(None)
    # Minus zero is zero.
    value += 0.0
    if score.name == "accuracy" and not isinstance(answers, Sums):
        right = round(float(arrays["right"].sum()))
        return Scored(right / answers.examples, wilson_interval(right, answers.examples))
    return Scored(value, resampling.interval(score, arrays, answers.rows))


def _per_class(answers):
    both = np.concatenate([answers.labels, answers.predicted])
    classes, places = np.unique(both, return_inverse=True)
    labels, predicted = np.split(places, 2)
    counts = (
        np.bincount(x, minlength=len(classes)).tolist()
        for x in (labels, predicted, labels[answers.right])
    )
    return tuple(
        ClassEvaluation(examples, examples - hits, label, hits / times if times else None)
        for label, examples, times, hits in zip(classes.tolist(), *counts, strict=True)
    )


def _of_sums(sums, places):
    """The classes of what is added up; none where nothing is kept of each."""
    if "labels" not in sums:
        return ()
    keys = ("labels", "predictions", "hits")
    columns = [np.rint(sums[key]).astype("int64").tolist() for key in keys]
    # Of one unit it is the yes.
    first = 1 if len(columns[0]) == 1 else 0
    return tuple(
        ClassEvaluation(
            examples,
            examples - hits,
            label,
            hits / times if times else None,
            hits / (examples + times - hits) if places > 1 else None,
        )
        for label, (examples, times, hits) in enumerate(
            zip(*columns, strict=True), first
        )
        if examples or times
    )


# What is said of every classifier, after what counts.
_IN_WORDS = ("negative_log_likelihood", "calibration_error")


def _line(name, scored):
    score = SCORES[name]
    if name == "calibration_error":
        return f"{scored.value:.4f} {score.words}"
    unit = " nats" if name == "negative_log_likelihood" else ""
    unit = " %" if score.scale == 100 else unit
    interval = ""
    if scored.interval and name not in _IN_WORDS:
        low, high = map(score.shown, scored.interval)
        interval = f" ({low} to {high})"
    return f"{score.shown(scored.value)}{unit} {score.words}{interval}"


def _lines_of(fidelity):
    teacher = fidelity.teacher
    if fidelity.rmse is not None:
        return [f"{fidelity.rmse:.4g} root mean squared difference from {teacher}"]
    return [
        f"{_percent(fidelity.agreement)} % agreement with {teacher}",
        f"{fidelity.kl:.4f} nats KL({teacher} || this model)",
    ]


def _percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.2f}"
