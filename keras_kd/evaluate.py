"""How right a model is, on labels."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Counts of one model on one labelled data set.

    Attributes:
        examples: How many were seen.
        errors: On how many the largest output was not the label's.
    """

    examples: int
    errors: int

    @property
    def accuracy(self):
        """Fraction of examples answered right, in [0, 1]."""
        return 1 - self.errors / self.examples


def evaluate(model, dataset):
    """Counts a classifier's errors.

    Args:
        model: A Keras model with outputs (batch, num_classes), logits or probabilities.
        dataset: Batches of (inputs, integer labels of (batch,)).

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: The data set is empty.
    """
    examples = errors = 0
    for inputs, labels in dataset:
        predicted = np.argmax(model.predict_on_batch(inputs), axis=-1)
        examples += len(predicted)
        errors += int(np.sum(predicted != np.asarray(labels).reshape(-1)))
    if examples == 0:
        raise ValueError("`dataset` is empty; nothing to evaluate on.")
    return Evaluation(examples, errors)
