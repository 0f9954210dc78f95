"""A model's log-probabilities over a labelled data set, from one pass."""

import dataclasses
import warnings

import numpy as np
from keras import ops

from keras_kd.evaluation import labelled
from keras_kd.evaluation.answers import Answers
from keras_kd.losses.ops import kl_divergence, log_probabilities, log_softmax
from keras_kd.tasks.find import last_activation
from keras_kd.tasks.heads import alone
from keras_kd.training.batch import inputs_of
from keras_kd.training.checks import check_one_of

# How far a row of a softmax in bfloat16 may be from summing to 1.
_ROUNDING = 0.02
# Rows that are compared at a time: 1,000 classes in float64 take 32 MB.
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How closely a student follows its teacher, right or wrong.

    Attributes:
        teacher: The teacher's name.
        agreement: Fraction of the examples on which both have the same largest output.
        kl: Mean Kullback-Leibler divergence KL(teacher || student) of their probabilities
            at temperature 1, in nats.

    Reference:
        [Stanton et al., 2021](https://arxiv.org/abs/2106.05945), equations 3 and 4.
    """

    teacher: str
    agreement: float
    kl: float


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """One model on one labelled data set.

    Attributes:
        name: The model's name, in messages and as a teacher.
        labels: (n,), int64.
        predicted: (n,), int64, the class of the model's largest output; of several equally
            large, the first.
        log_probs: (n, num_classes), float32.
    """

    name: str
    labels: np.ndarray
    predicted: np.ndarray
    log_probs: np.ndarray

    def answers(self):
        """What is kept of each example, as `Answers`."""
        rows = np.arange(len(self.labels))
        return Answers(
            self.labels,
            self.predicted,
            np.exp(self.log_probs[rows, self.predicted]),
            self.log_probs[rows, self.labels],
        )

    def fidelity(self, teacher):
        """A `Fidelity` to the teacher's `Predictions` on the same examples.

        Raises:
            ValueError: The teacher's are of other examples or of other classes.
        """
        count = len(self.labels)
        agree = count - len(self.disagreements(teacher))
        classes, taught = self.log_probs.shape[1], teacher.log_probs.shape[1]
        if classes != taught:
            raise ValueError(
                f"`teacher` {teacher.name!r} has {taught} classes and {self.name!r} has "
                f"{classes}; their probabilities cannot be compared."
            )
        total = 0.0
        for first in range(0, count, _ROWS):
            rows = slice(first, first + _ROWS)
            divergences = kl_divergence(
                teacher.log_probs[rows].astype("float64"),
                self.log_probs[rows].astype("float64"),
            )
            total += float(ops.sum(divergences))
        return Fidelity(teacher.name, agree / count, total / count)

    def disagreements(self, teacher):
        """Which examples the two answer differently: their indices (k,), int64, ascending.

        Args:
            teacher: The teacher's `Predictions` on the same examples.

        Raises:
            ValueError: The teacher's are of other examples.
        """
        if not np.array_equal(self.labels, teacher.labels):
            raise ValueError(
                f"`teacher` {teacher.name!r} and {self.name!r} were not run on the same "
                "examples in the same order: their labels differ. Is the data set shuffled "
                f"anew each time? Received: {len(teacher.labels)} and {len(self.labels)} "
                "examples."
            )
        return np.flatnonzero(self.predicted != teacher.predicted).astype("int64")


def predict(model, dataset, outputs=None, name=None, argument="dataset"):
    """A classifier's log-probabilities over a data set, in one pass.

    All of them are kept: 50,000 examples of 1,000 classes take 200 MB, and for a moment at
    the end of the pass twice that.

    Args:
        model: A Keras model, or another object with its `name` and `predict_on_batch`
            (NumPy arrays), with outputs (batch, num_classes).
        dataset: Batches of (inputs, labels) or (inputs, labels, sample_weight), or arrays,
            as `Model.evaluate` takes them; class numbers (batch,) or (batch, 1), or one-hot
            labels. Each example counts once, whatever its weight, as in Keras's `metrics`.
        outputs: "logits" or "probabilities", which is what the model gives. By default
            logits, unless it is seen to end in a softmax.
        name: Defaults to the model's.
        argument: What the user calls the data, for messages.

    Returns:
        A `Predictions`.

    Raises:
        ValueError: The data set is empty, its labels are not of the model's classes, or the
            outputs are of another shape, not finite, or not the probabilities they are said
            to be.
    """
    kind = check_one_of("outputs", outputs, ("logits", "probabilities"))
    if kind is None:
        is_softmax = last_activation(model) == "softmax"
        kind = "probabilities" if is_softmax else "logits"
    name = model.name if name is None else name
    parts, count, all_sum_to_one = [], 0, True
    for inputs, labels in labelled.batches(dataset, argument):
        values = model.predict_on_batch(inputs_of(inputs))
        values = _check_outputs(values, name, count, argument)
        labels = labelled.class_numbers(labels, values.shape, argument)
        _check_labels(labels, values.shape[1], name, count, argument)
        if kind == "probabilities":
            _check_probabilities(values, name, count)
        all_sum_to_one &= bool(_sum_to_one(values).all())
        parts.append((labels, np.argmax(values, axis=-1), _log_probs(values, kind)))
        count += len(labels)
    if count == 0:
        raise ValueError(f"`{argument}` is empty; nothing to evaluate on.")
    if outputs is None and kind == "logits" and all_sum_to_one:
        warnings.warn(
            f"The outputs of {name!r} are taken as logits but look like probabilities. "
            "Say outputs='probabilities' or 'logits' to "
            "keras_kd.evaluation.predictions.predict.",
            stacklevel=2,
        )
    return Predictions(name, *map(np.concatenate, zip(*parts, strict=True)))


def _log_probs(values, kind):
    logits = log_probabilities(values) if kind == "probabilities" else values
    log_probs = ops.convert_to_numpy(log_softmax(logits)).astype("float32")
    # Rounding can put a probability a hair above 1.
    return np.minimum(log_probs, 0.0)


def _sum_to_one(values):
    """Which rows could be probabilities: (batch,), bool."""
    return (values >= 0).all(axis=-1) & (abs(values.sum(axis=-1) - 1) < _ROUNDING)


def _check_outputs(outputs, name, first, argument):
    """Outputs as float32 (batch, num_classes); else a ValueError."""
    # {"logits": ...} is one output, too.
    outputs = alone(outputs)
    shape = np.shape(outputs) if isinstance(outputs, np.ndarray) else None
    if shape is None or len(shape) != 2 or shape[1] < 2:
        received = type(outputs).__name__ if shape is None else f"shape {shape}"
        raise ValueError(
            f"{name!r} must have one output of shape (batch, num_classes), of two classes "
            f"or more. Received: {received}."
        )
    values = outputs.astype("float32")
    finite = np.isfinite(values).all(axis=-1)
    if not finite.all():
        raise ValueError(
            f"{name!r} answered example {first + int(np.argmin(finite))} of `{argument}` "
            "with NaN or infinite values. Are the inputs scaled as in its training?"
        )
    return values


def _check_probabilities(values, name, first):
    good = _sum_to_one(values)
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(
            f"The outputs of {name!r} are no probabilities, as which they are taken: those "
            f"of example {first + i} sum to {values[i].sum():.4g}, the smallest is "
            f"{values[i].min():.4g}. Say outputs='logits' to "
            "keras_kd.evaluation.predictions.predict."
        )


def _check_labels(labels, num_classes, name, first, argument):
    good = (labels >= 0) & (labels < num_classes)
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(
            f"`{argument}` must hold labels in 0..{num_classes - 1}, one for each output "
            f"of {name!r}. Received: label {labels[i]} of example {first + i}."
        )
