"""Outputs are values."""

import numpy as np

from keras_kd.tasks.task import Linked, Task


class Regression(Task):
    """Values, of each example or at each position; labels are of the outputs' size.

    An answer is a value, and agreement has no meaning: how far two models are apart has.
    """

    name, activation = "regression", None
    takes = "a finite number for each output"

    def labels(self, labels, size):
        labels = labels[..., None] if labels.ndim == 2 and size == 1 else labels
        if labels.ndim != 3 or labels.shape[-1] != size or labels.dtype.kind not in "biuf":
            return None
        labels = labels.astype("float64")
        return labels, np.isfinite(labels).all(axis=-1)

    def link(self, outputs, kind):
        return Linked(outputs, outputs)

    def sums(self, labels, answers, keep, places):
        kept = keep[..., None]
        labels = np.where(kept, labels, 0)
        error = np.where(kept, answers.values, 0) - labels
        return {
            "count": keep.sum(axis=1) * float(answers.values.shape[-1]),
            "absolute": np.abs(error).sum(axis=(1, 2)),
            "square": np.square(error).sum(axis=(1, 2)),
            "residual": np.square(error).sum(axis=1),
            "value": labels.sum(axis=1),
            "value_square": np.square(labels).sum(axis=1),
        }

    def differ(self, ours, theirs):
        apart = ours.values.astype("float64") - theirs.values
        return np.square(apart).mean(axis=-1)

    def shown(self, answers, labels=None):
        found = answers.values if labels is None else labels
        return found[..., 0].astype("float32")

    def score_names(self, places):
        return [
            "mean_absolute_error",
            "root_mean_squared_error",
            "r2",
            "worst_percentile",
        ]
