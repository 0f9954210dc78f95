"""What all losses share."""

import numpy as np
import pytest
from keras import ops

from keras_kd.losses.base import PerExampleLoss, weighted_mean


class RightClassLogit(PerExampleLoss):
    """Difference of the labelled class's logits: a loss of a user's own."""

    needs_labels = True

    def call(self, teacher_outputs, student_outputs, y_true):
        right = ops.one_hot(y_true, teacher_outputs.shape[-1], dtype="float64")
        return ops.sum(right * (teacher_outputs - student_outputs), axis=-1)


def test_a_loss_of_ones_own_gets_labels():
    teacher, student = np.array([[3.0, 1.0], [0.0, 5.0]]), np.zeros((2, 2))
    value = RightClassLogit().compute_loss(teacher, student, y_true=np.array([0, 1]))
    assert float(value) == (3.0 + 5.0) / 2


def test_missing_labels_are_an_error():
    with pytest.raises(ValueError, match="RightClassLogit needs labels"):
        RightClassLogit().compute_loss(np.zeros((2, 2)), np.zeros((2, 2)))


def test_weighted_mean_of_sequences():
    values = ops.convert_to_tensor([[1.0, 3.0], [5.0, 7.0]])
    assert float(weighted_mean(values)) == 4.0
    assert float(weighted_mean(values, np.array([1.0, 0.0]))) == (1.0 + 3.0) / 4
