"""Several units, each a yes or a no of its own: sigmoids."""

import numpy as np
from keras import ops

from keras_kd.losses.ops import bernoulli_kl, log_odds, log_sigmoids
from keras_kd.tasks.task import Linked, Task, sums_of_classes, whole


class Multilabel(Task):
    """Labels that are independent of each other, of each example or at each position.

    Labels and answers are (examples, positions, labels), answers logits. What is a mean
    over examples is one over all their labels, as in Keras's `BinaryCrossentropy`.
    """

    name, activation = "multilabel", "sigmoid"
    takes = "0 or 1 for each output"

    def labels(self, labels, size):
        if labels.ndim != 3 or labels.shape[-1] != size:
            return None
        # Not of what is left out, which may be anything.
        labels = labels if labels.dtype.kind == "f" else whole(labels)
        good = ((labels == 0) | (labels == 1)).all(axis=-1)
        return labels, good

    def link(self, outputs, kind):
        logits = log_odds(outputs) if kind == "probabilities" else outputs
        logits = ops.convert_to_numpy(logits).astype("float32")
        return Linked(logits, logits > 0)

    def sums(self, labels, answers, keep, places):
        logits, predicted = answers
        yes, no = map(ops.convert_to_numpy, log_sigmoids(logits))
        labels = labels == 1
        kept = np.repeat(keep[..., None], logits.shape[-1], axis=-1)
        rows = [
            x.reshape(len(x), -1)
            for x in (
                labels == predicted,
                np.exp(np.maximum(yes, no)),
                np.where(labels, yes, no),
                kept,
            )
        ]
        sums = sums_of_classes(*rows)
        pairs = {"labels": labels, "predictions": predicted, "hits": labels & predicted}
        counts = {
            key: (x & kept).sum(axis=1, dtype="float64") for key, x in pairs.items()
        }
        return sums | counts

    def differ(self, ours, theirs):
        return (ours.decided != theirs.decided).mean(axis=-1)

    def kl(self, teacher, student):
        divergence = bernoulli_kl(log_sigmoids(teacher), log_sigmoids(student))
        return ops.mean(divergence, axis=-1)

    def shown(self, answers, labels=None):
        found = answers.decided if labels is None else labels == 1
        return found.sum(axis=-1).astype("float32")

    def score_names(self, places):
        names = ["accuracy", "f1", "roc_auc", "average_precision"]
        names += ["negative_log_likelihood", "calibration_error"]
        return ["mean_iou", *names] if places > 1 else names
