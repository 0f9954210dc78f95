"""What a task says of a model's outputs, for whoever measures, shows or compares them."""

import abc
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_kd.losses.ops import kl_divergence
from keras_kd.tasks.scores import BINS, SCORES

# Of more classes no counts are kept class by class: three numbers each of every example.
MOST_CLASSES = 256
# How far a row of a softmax in 16 bits may be from summing to 1.
ROUNDING = 0.02
# Answers whose divergence is computed at a time: 1,000 classes in float64 take 32 MB.
_ROWS = 4096


class Linked(NamedTuple):
    """Answers of one batch as they are compared.

    Attributes:
        values: (examples, positions, ...), float32: log-probabilities, logits or values.
        decided: What is answered, by the outputs as they come, of which log-probabilities
            may round some to equal ones: class numbers (examples, positions), yes or no
            (examples, positions, size), or the values.
    """

    values: np.ndarray
    decided: np.ndarray


class Task(abc.ABC):
    """What outputs mean: their link, what is right, what agreement is, the scores.

    Outputs come as (examples, positions, size): one position of a plain example, those of
    a picture or a text in a row.

    Attributes:
        name: A key of `keras_kd.tasks.find.ACTIVATIONS`.
        activation: What makes probabilities of logits, "softmax" or "sigmoid"; None where
            outputs are values.
        takes: What labels must be, in words.
    """

    name = activation = takes = None

    @abc.abstractmethod
    def labels(self, labels, size):
        """Labels of one batch as they are counted, or None where they do not fit.

        Args:
            labels: (examples, positions) or (examples, positions, size), as given.
            size: Of the outputs' last axis.

        Returns:
            `(labels, good)`: of a form that `sums` takes; and (examples, positions), bool,
            which of them can be labels.
        """

    @abc.abstractmethod
    def link(self, outputs, kind):
        """What is compared, a `Linked`.

        Args:
            outputs: (examples, positions, size), float32.
            kind: "logits" or "probabilities", which they are.
        """

    @abc.abstractmethod
    def sums(self, labels, answers, keep, places):
        """What is added up over examples for the scores, see `keras_kd.tasks.scores`.

        Args:
            labels: As `labels` gives them.
            answers: As `link` gives them.
            keep: (examples, positions), bool: False is left out.
            places: How many axes of positions there are: 0 of plain examples, 1 of texts
                and other sequences, 2 or more of pictures.

        Returns:
            dict of name to (examples, ...), float64.
        """

    @abc.abstractmethod
    def differ(self, ours, theirs):
        """By how much two `Linked` differ: (examples, positions), a share or a square."""

    def divergence(self, teacher, student):
        """KL(teacher || student) of two `Linked`, (examples, positions), in nats."""
        teacher, student = teacher.values, student.values
        shape = teacher.shape[:-1]
        rows = [x.reshape(-1, x.shape[-1]) for x in (teacher, student)]
        parts = [
            ops.convert_to_numpy(
                self.kl(*(x[first : first + _ROWS].astype("float64") for x in rows))
            )
            for first in range(0, max(len(rows[0]), 1), _ROWS)
        ]
        return np.concatenate(parts).reshape(shape)

    def kl(self, teacher, student):
        """KL(teacher || student) of (rows, size) answers, (rows,)."""
        return kl_divergence(teacher, student)

    @abc.abstractmethod
    def shown(self, answers, labels=None):
        """What a picture shows of answers, or of labels: (examples, positions), float32.

        Class numbers, the probability of a yes, or the first value; of several labels how
        many are a yes.
        """

    @abc.abstractmethod
    def score_names(self, places):
        """Names of its scores, the one that counts first; `places` as `sums` takes it."""

    def scores(self, places, rows=()):
        """Its `Score`s, of those names; those of ranks where rows are kept."""
        every = [SCORES[name] for name in self.score_names(places)]
        return [x for x in every if x.of_sums or x.of_rows and rows]


def sums_of_classes(right, confidence, log_likelihood, keep):
    """What right answers, their confidence and likelihood add up to, in each example.

    Args:
        right: (examples, positions), bool.
        confidence: The probability given to the answer.
        log_likelihood: The logarithm of the probability given to the label.
        keep: False is left out.
    """
    confidence = np.where(keep, confidence, 0).astype("float64")
    right = right & keep
    bins = np.digitize(confidence, np.arange(1, BINS) / BINS, right=True)
    return {
        "count": keep.sum(axis=1, dtype="float64"),
        "right": right.sum(axis=1, dtype="float64"),
        "log_likelihood": np.where(keep, log_likelihood, 0).sum(axis=1, dtype="float64"),
        "bin_confidence": _in_each(bins, confidence, BINS),
        "bin_right": _in_each(bins, right, BINS),
        "bin_count": _in_each(bins, keep, BINS),
    }


def sums_of_each_class(labels, predicted, keep, classes):
    """Labels, answers and both of each class, (examples, classes) each."""
    return {
        "labels": _in_each(labels, keep, classes),
        "predictions": _in_each(predicted, keep, classes),
        "hits": _in_each(labels, keep & (labels == predicted), classes),
    }


def _in_each(places, weights, size):
    """The weights added up by place, of each row: (rows, size)."""
    rows = np.arange(len(places))[:, None] * size
    # What is left out may be anything.
    places = np.where(weights > 0, places, 0)
    flat = np.bincount((rows + places).ravel(), weights.ravel(), len(places) * size)
    return flat.reshape(len(places), size)


def sum_to_one(values):
    """Which rows, over the last axis, could be probabilities of classes; bool."""
    return (values >= 0).all(axis=-1) & (abs(values.sum(axis=-1) - 1) < ROUNDING)


def whole(labels):
    """Labels as they are where they are whole numbers, else None."""
    if labels.dtype.kind == "b":
        return labels.astype("int64")
    is_whole = labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all())
    return labels if labels.dtype.kind in "iu" or is_whole else None
