import keras
import numpy as np
import pytest

from keras_kd.evaluate import evaluate


def test_counts_errors_over_uneven_batches():
    echo = keras.Sequential([keras.layers.Input((3,)), keras.layers.Identity()])
    logits = np.float32([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0]])
    labels = np.array([0, 1, 2, 1, 2])
    batches = [(logits[:2], labels[:2]), (logits[2:], labels[2:, None])]
    counted = evaluate(echo, batches)
    assert (counted.examples, counted.errors) == (5, 2)
    assert counted.accuracy == pytest.approx(3 / 5)


def test_empty_data():
    with pytest.raises(ValueError, match="`dataset` is empty"):
        evaluate(keras.Sequential(), [])
