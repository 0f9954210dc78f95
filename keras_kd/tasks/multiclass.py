"""One class of several is right: a softmax."""

import numpy as np
from keras import ops

from keras_kd.losses.ops import log_probabilities, log_softmax
from keras_kd.tasks.task import (
    MOST_CLASSES,
    Linked,
    Task,
    sums_of_classes,
    sums_of_each_class,
    whole,
)


class Multiclass(Task):
    """One of several classes, of each example or at each position.

    Labels are class numbers or one-hot; answers log-probabilities; the answer is the class
    of the largest, of equally large ones the first.
    """

    name, activation = "multiclass", "softmax"
    takes = "one class number for each example or position, or one-hot labels"

    def labels(self, labels, size):
        if labels.ndim == 3 and labels.shape[-1] == size and size > 1:
            is_binary = ((labels == 0) | (labels == 1)).all(axis=-1)
            return np.argmax(labels, axis=-1), is_binary & (labels.sum(axis=-1) == 1)
        labels = labels[..., 0] if labels.shape[2:] == (1,) else labels
        labels = whole(labels) if labels.ndim == 2 else None
        if labels is None:
            return None
        return labels.astype("int64"), (labels >= 0) & (labels < size)

    def link(self, outputs, kind):
        logits = log_probabilities(outputs) if kind == "probabilities" else outputs
        log_probs = ops.convert_to_numpy(log_softmax(logits)).astype("float32")
        # Rounding can put a probability a hair above 1.
        return Linked(np.minimum(log_probs, 0.0), np.argmax(outputs, axis=-1))

    def sums(self, labels, answers, keep, places):
        log_probs, predicted = answers
        labels = np.where(keep, labels, 0)
        of_label, of_answer = (
            np.take_along_axis(log_probs, x[..., None], axis=-1)[..., 0]
            for x in (labels, predicted)
        )
        sums = sums_of_classes(labels == predicted, np.exp(of_answer), of_label, keep)
        classes = log_probs.shape[-1]
        if places and classes <= MOST_CLASSES:
            sums |= sums_of_each_class(labels, predicted, keep, classes)
        return sums

    def differ(self, ours, theirs):
        return ours.decided != theirs.decided

    def shown(self, answers, labels=None):
        found = answers.decided if labels is None else labels
        return found.astype("float32")

    def score_names(self, places):
        names = ["accuracy", "negative_log_likelihood", "calibration_error"]
        if places == 1:
            names[1:1] = ["perplexity"]
        return ["mean_iou", *names] if places > 1 else names
