"""One unit, a yes or a no: a sigmoid."""

import numpy as np
from keras import ops

from keras_kd.losses.ops import log_odds, log_sigmoids
from keras_kd.tasks.multiclass import Multiclass
from keras_kd.tasks.task import Linked


class Binary(Multiclass):
    """A yes (1) or no (0), of each example or at each position.

    Its one logit z is two classes' (0, z), so answers are two log-probabilities, and what
    is measured of two classes is measured of it. A logit of 0 is a no, as Keras has it.
    """

    name, activation = "binary", "sigmoid"
    takes = "0 or 1 for each example or position"

    def labels(self, labels, size):
        # Of one unit one-hot labels would be no labels at all.
        return super().labels(labels, 2) if labels.shape[2:] in ((), (1,)) else None

    def link(self, outputs, kind):
        logits = outputs
        if kind == "probabilities":
            logits = ops.convert_to_numpy(log_odds(outputs))
        yes, no = (ops.convert_to_numpy(x)[..., 0] for x in log_sigmoids(logits))
        log_probs = np.stack([no, yes], axis=-1).astype("float32")
        return Linked(log_probs, (logits[..., 0] > 0).astype("int64"))

    def sums(self, labels, answers, keep, places):
        sums = super().sums(labels, answers, keep, 1)
        # Those of the yes: its F1, and its intersection over union.
        yes = {x: sums[x][:, 1:] for x in ("labels", "predictions", "hits")}
        return sums | yes

    def shown(self, answers, labels=None):
        found = np.exp(answers.values[..., 1]) if labels is None else labels
        return found.astype("float32")

    def score_names(self, places):
        names = ["accuracy", "f1", "roc_auc", "average_precision"]
        names += ["negative_log_likelihood", "calibration_error"]
        return ["mean_iou", *names] if places > 1 else names
