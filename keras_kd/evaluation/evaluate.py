"""How right a model is on labels, how sure of itself, and how close to its teacher."""

import dataclasses

import numpy as np

from keras_kd.evaluation.predictions import Fidelity, predict
from keras_kd.evaluation.uncertainty import wilson_interval
from keras_kd.tables import markdown_table

# Bins of confidence of the calibration error, as many as in the paper.
_BINS = 15


@dataclasses.dataclass(frozen=True)
class _Counts:
    """How many examples were seen, and on how many the answer was wrong."""

    examples: int
    errors: int

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


@dataclasses.dataclass(frozen=True)
class ClassEvaluation(_Counts):
    """Counts of one class.

    Attributes:
        examples: How many have this label.
        errors: On how many of them another class was predicted.
        label: The class.
        precision: Fraction, of all examples of which this class was predicted, that have
            this label; None if it was never predicted.
    """

    label: int
    precision: float | None

    def to_dict(self):
        """As it stands in a run folder's metrics.json."""
        return {
            "label": self.label,
            "examples": self.examples,
            "errors": self.errors,
            "accuracy": self.accuracy,
            "precision": self.precision,
            "accuracy_interval": self.accuracy_interval and list(self.accuracy_interval),
        }


@dataclasses.dataclass(frozen=True)
class Evaluation(_Counts):
    """What is measured of one model on one labelled data set.

    Attributes:
        examples: How many were seen.
        errors: On how many the largest output was not the label's.
        negative_log_likelihood: Mean over the examples of -log of the probability given to
            the label, in nats.
        calibration_error: Expected calibration error, in [0, 1]; see `calibration_error`.
        per_class: A `ClassEvaluation` for each class that is a label or was predicted, in
            ascending order.
        fidelity: A `Fidelity` to the teacher, or None.
    """

    negative_log_likelihood: float
    calibration_error: float
    per_class: tuple
    fidelity: Fidelity | None = None

    @classmethod
    def of(cls, answers, fidelity=None):
        """Measures a model by its `Answers`, as kept in memory or read from a run folder.

        Args:
            answers: `keras_kd.evaluation.answers.Answers`.
            fidelity: What they do not tell, `Predictions.fidelity(teacher)`; or None.
        """
        mean = float(np.mean(answers.log_likelihood, dtype="float64"))
        return cls(
            examples=len(answers.labels),
            errors=int(np.sum(~answers.right)),
            negative_log_likelihood=0.0 - mean,
            calibration_error=calibration_error(answers.confidence, answers.right),
            per_class=_per_class(answers),
            fidelity=fidelity,
        )

    def to_dict(self):
        """As it stands in a run folder's metrics.json: numbers, lists and dicts alone."""
        return {
            "examples": self.examples,
            "errors": self.errors,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "negative_log_likelihood": self.negative_log_likelihood,
            "calibration_error": self.calibration_error,
            "per_class": [x.to_dict() for x in self.per_class],
            "fidelity": self.fidelity and dataclasses.asdict(self.fidelity),
        }

    def summary(self):
        """What was measured over all classes, a line for each."""
        low, high = self.accuracy_interval
        lines = [
            f"{_percent(self.accuracy)} % right, {self.errors} errors in {self.examples:,}",
            f"{_percent(low)} to {_percent(high)} % is the 95 % interval",
            f"{self.negative_log_likelihood:.4f} nats negative log-likelihood",
            f"{self.calibration_error:.4f} expected calibration error",
        ]
        if self.fidelity:
            agreement, kl = _percent(self.fidelity.agreement), self.fidelity.kl
            lines += [
                f"{agreement} % agreement with {self.fidelity.teacher}",
                f"{kl:.4f} nats KL({self.fidelity.teacher} || this model)",
            ]
        return "\n".join(lines)

    def table(self):
        """The classes side by side, as a Markdown table."""
        rows = [
            {
                "label": str(x.label),
                "examples": f"{x.examples:,}",
                "errors": f"{x.errors:,}",
                "right (%)": _percent(x.accuracy),
                "95 % interval": " to ".join(map(_percent, x.accuracy_interval or [None])),
                "precision (%)": _percent(x.precision),
            }
            for x in self.per_class
        ]
        return markdown_table(rows, numbers_from=0)


def evaluate(model, dataset, teacher=None):
    """Measures a classifier on labelled data.

    Args:
        model: A Keras model with outputs (batch, num_classes): logits, or probabilities if
            it is seen to end in a softmax. For others, and to use one pass for several
            things, see `keras_kd.evaluation.predictions.predict`.
        dataset: Batches of (inputs, labels), or arrays, as `Model.evaluate` takes them;
            class numbers or one-hot labels. With a teacher the same batches each time.
        teacher: The model that taught it, to compare them; or None.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: As `predict`; or the teacher has another number of classes, or saw other
            examples.
    """
    predictions, fidelity = predict(model, dataset), None
    if teacher is not None:
        fidelity = predictions.fidelity(predict(teacher, dataset))
    return Evaluation.of(predictions.answers(), fidelity)


def calibration_error(confidence, right):
    """Expected calibration error: how far confidence is from accuracy.

        sum_b |examples in b| / n * |accuracy in b - mean confidence in b|

    over 15 bins b of equal width, (0, 1/15] to (14/15, 1]. It depends on the bins, and is
    not a proper score: a model that always answers with the class frequencies has none.

    Args:
        confidence: (n,), in [0, 1], probabilities of the predicted classes.
        right: (n,), bool, whether the predictions were right.

    Returns:
        A float in [0, 1].

    Reference:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599), equation 3; 15 bins as in its
        section 5.
    """
    confidence = np.asarray(confidence, dtype="float64")
    inner_edges = np.arange(1, _BINS) / _BINS
    bins = np.digitize(confidence, inner_edges, right=True)
    # In each bin, examples * accuracy - examples * mean confidence.
    gaps = np.bincount(bins, weights=np.asarray(right) - confidence)
    return float(np.sum(np.abs(gaps)) / len(confidence))


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


def _percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.2f}"
