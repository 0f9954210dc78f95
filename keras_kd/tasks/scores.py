"""Scores of models' answers: of sums over examples, or of the examples' ranks.

A score of sums is a function of what is added up over the examples, so that it can be had
of any choice of them: of all, of a bootstrap's, of a permutation's. The sums are a dict of

    count                   answers that count: of examples, or of their positions
    right, log_likelihood   of how many the answer is the label, and their log-likelihood
    bin_confidence, bin_right            (..., 15), in bins of confidence
    labels, predictions, hits            (..., classes), label, answer, and both
    absolute, square                     errors of values
    residual, value, value_square        (..., outputs), of each output by itself

each with leading axes, which the scores keep.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

# Bins of confidence of the calibration error, as many as in the paper.
BINS = 15
# The worst percent of the examples lies beyond it.
_WORST = 99


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a model answers, in one number.

    Attributes:
        name: As torchmetrics has it, where it does.
        title: The head of its column, with the unit.
        words: What it is called in a sentence.
        note: What it is, a phrase; empty of what everybody knows.
        of_sums: Function of the dict of sums; or None.
        of_rows: Function of the dict of rows (examples, ...) and of how often each counts,
            whole numbers (repeats, examples), which gives (repeats,); or None.
        higher_is_better: Whether more is better.
        scale: 100 where it is a fraction that is shown in per cent.
        digits: How many are shown behind the point.
    """

    name: str
    title: str
    words: str
    note: str = ""
    of_sums: Callable | None = None
    of_rows: Callable | None = None
    higher_is_better: bool = True
    scale: int = 1
    digits: int = 4

    @property
    def sign(self):
        """1 where more is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def short(self):
        """Its title without the unit."""
        return self.title.partition(",")[0]

    @property
    def unit(self):
        """Of a difference: "points" of a fraction, else nothing."""
        return "points" if self.scale == 100 else ""

    @property
    def percent(self):
        """What stands behind a value as it is shown: " %" of a fraction, else nothing."""
        return " %" if self.scale == 100 else ""

    @property
    def label(self):
        """Its words with the unit, for an axis or a column: "accuracy (%)"."""
        return f"{self.words} (%)" if self.scale == 100 else self.words

    def digits_for(self, size):
        """As many digits as it is shown with, or as tell a difference of a size from 0."""
        digits = self.digits
        while size and digits < 12 and not float(f"{size:.{digits}f}"):
            digits += 1
        return digits

    def shown(self, value):
        """A value as text, in per cent where it is a fraction; "–" for none."""
        if value is None:
            return "–"
        if self.digits and self.scale == 1 and abs(value) >= 1000:
            return f"{value:,.1f}"
        return f"{self.scale * value:,.{self.digits}f}"

    def change(self, better):
        """By how much one is better, in words: "worse by 1.20 points"; 0 is "the same"."""
        if better == 0:
            return "the same"
        size = self.scale * abs(better)
        unit = f" {self.unit}" if self.unit else ""
        word = "better" if better > 0 else "worse"
        return f"{word} by {size:.{self.digits_for(size)}f}{unit}"


def accuracy(sums):
    """The share of the answers that are right, in [0, 1]."""
    return _share(sums["right"], sums["count"])


def negative_log_likelihood(sums):
    """Mean of -log of the probability given to the label, in nats."""
    return -_share(sums["log_likelihood"], sums["count"])


def perplexity(sums):
    """exp of the mean negative log-likelihood: as if one of so many were guessed."""
    return np.exp(negative_log_likelihood(sums))


def calibration_error(sums):
    """Expected calibration error: how far confidence is from accuracy.

        sum_b |answers in b| / n * |accuracy in b - mean confidence in b|

    over 15 bins b of equal width, (0, 1/15] to (14/15, 1], of the confidence, which is the
    probability given to the answer. It depends on the bins, and is not a proper score: a
    model that always answers with the class frequencies has none.

    Reference:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599), equation 3; 15 bins as in its
        section 5.
    """
    gaps = np.abs(sums["bin_right"] - sums["bin_confidence"])
    return _share(gaps.sum(axis=-1), sums["count"])


def f1(sums):
    """2 * hits / (labels + answers), the mean over the classes that are either."""
    return _mean(_share(2 * sums["hits"], sums["labels"] + sums["predictions"]))


def mean_iou(sums):
    """Intersection over union of label and answer, the mean over classes with either."""
    union = sums["labels"] + sums["predictions"] - sums["hits"]
    return _mean(_share(sums["hits"], union))


def mean_absolute_error(sums):
    """Mean of |label - answer|, in the label's unit."""
    return _share(sums["absolute"], sums["count"])


def root_mean_squared_error(sums):
    """Root of the mean of (label - answer)^2, in the label's unit."""
    return np.sqrt(_share(sums["square"], sums["count"]))


def r2(sums):
    """Coefficient of determination, the mean over the outputs whose labels vary.

    1 - sum (label - answer)^2 / sum (label - mean label)^2 of each output.
    """
    outputs = sums["residual"].shape[-1]
    examples = np.expand_dims(sums["count"] / outputs, -1)
    spread = sums["value_square"] - _share(sums["value"] ** 2, examples)
    # Of labels that are all the same rounding leaves a hair.
    varies = spread > 1e-12 * sums["value_square"]
    return _mean(1 - _share(sums["residual"], np.where(varies, spread, 0)))


def roc_auc(rows, times):
    """Area under the ROC curve: how often a yes is above a no, ties half.

    The mean over the outputs that have both labels.

    Args:
        rows: "label" (n, outputs) of 0 and 1, and "logit" (n, outputs).
        times: (repeats, n), how often each example counts.

    Returns:
        (repeats,), NaN where no output has both.
    """
    found = []
    for label, logit in zip(rows["label"].T, rows["logit"].T, strict=True):
        yes, no = _in_groups(label, logit, times)
        below = np.cumsum(no, axis=1) - no / 2
        pairs = yes.sum(axis=1) * no.sum(axis=1)
        found.append(_share((yes * below).sum(axis=1), pairs))
    return _mean(np.stack(found, axis=-1))


def average_precision(rows, times):
    """Average precision: sum over thresholds of (step of recall) * precision.

    The mean over the outputs that have a yes. Arguments and result as `roc_auc`'s.
    """
    found = []
    for label, logit in zip(rows["label"].T, rows["logit"].T, strict=True):
        yes, no = (x[:, ::-1] for x in _in_groups(label, logit, times))
        hits, others = np.cumsum(yes, axis=1), np.cumsum(no, axis=1)
        precision = np.nan_to_num(_share(hits, hits + others))
        found.append(_share((yes * precision).sum(axis=1), yes.sum(axis=1)))
    return _mean(np.stack(found, axis=-1))


def worst_percentile(rows, times):
    """What the absolute errors of the worst percent of the examples are above.

    Args:
        rows: "error" (n,), of each example the mean over its values.
        times: (repeats, n), how often each example counts.
    """
    errors = rows["error"]
    return np.array([np.percentile(np.repeat(errors, x), _WORST) for x in times])


def _in_groups(label, logit, times):
    """How often each yes and each no counts, those of one logit together, ascending."""
    order = np.argsort(logit, kind="stable")
    starts = np.flatnonzero(np.diff(logit[order], prepend=-np.inf))
    # Where the least is -inf itself.
    starts = np.union1d([0], starts)
    times, label = times[:, order].astype("float64"), label[order]
    return (np.add.reduceat(times * x, starts, axis=1) for x in (label, 1 - label))


def _share(part, whole):
    """part / whole, NaN where there is no whole."""
    whole = np.broadcast_to(whole, np.broadcast_shapes(np.shape(part), np.shape(whole)))
    none = np.full(whole.shape, np.nan)
    return np.divide(part, whole, out=none, where=whole != 0)


def _mean(values):
    """Mean over the last axis of what is not NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


_PERCENT = {"scale": 100, "digits": 2}
_LESS = {"higher_is_better": False}
_ALL = (
    Score("accuracy", "Accuracy, %", "accuracy", of_sums=accuracy, **_PERCENT),
    Score(
        "f1",
        "F1, %",
        "F1",
        "2 * hits / (labels + answers), of several labels or classes the mean",
        of_sums=f1,
        **_PERCENT,
    ),
    Score(
        "roc_auc",
        "ROC AUC",
        "ROC AUC",
        "the area under the ROC curve, of several labels the mean",
        of_rows=roc_auc,
    ),
    Score(
        "average_precision",
        "AP",
        "average precision",
        "the average precision, of several labels the mean",
        of_rows=average_precision,
    ),
    Score(
        "mean_iou",
        "Mean IoU, %",
        "mean IoU",
        "the intersection over union of label and answer, the mean over classes; of one "
        "unit that of the yes",
        of_sums=mean_iou,
        **_PERCENT,
    ),
    Score(
        "negative_log_likelihood",
        "NLL, nats",
        "negative log-likelihood",
        "the mean negative log-likelihood of the labels",
        of_sums=negative_log_likelihood,
        **_LESS,
    ),
    Score(
        "perplexity",
        "Perplexity",
        "perplexity",
        "exp of the mean negative log-likelihood",
        of_sums=perplexity,
        digits=3,
        **_LESS,
    ),
    Score(
        "calibration_error",
        "ECE, %",
        "expected calibration error",
        f"the expected calibration error over {BINS} bins",
        of_sums=calibration_error,
        **_LESS,
        **_PERCENT,
    ),
    Score(
        "mean_absolute_error",
        "MAE",
        "mean absolute error",
        "the mean absolute error, in the labels' unit",
        of_sums=mean_absolute_error,
        **_LESS,
    ),
    Score(
        "root_mean_squared_error",
        "RMSE",
        "root mean squared error",
        "the root of the mean squared error",
        of_sums=root_mean_squared_error,
        **_LESS,
    ),
    Score("r2", "R²", "R²", "the coefficient of determination", of_sums=r2),
    Score(
        "worst_percentile",
        "Worst percent",
        "absolute error of the worst percent",
        "the absolute error that the worst percent of the examples is above",
        of_rows=worst_percentile,
        **_LESS,
    ),
)
SCORES = {x.name: x for x in _ALL}
