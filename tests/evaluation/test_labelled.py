"""What `Model.evaluate` takes is gone through in batches; labels are class numbers."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.evaluation.labelled import are_arrays, batches, class_numbers

X = np.arange(80, dtype="float32").reshape(40, 2)
Y = np.arange(40) % 3
WEIGHTS = np.ones(40)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(20 * index, 20 * index + 20)
        return X[rows], Y[rows], WEIGHTS[rows]


DATA = {
    "arrays": (X, Y),
    "arrays and weights": (X, Y, WEIGHTS),
    "tensors": (tf.constant(X), tf.constant(Y)),
    "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16),
    "tf.data with weights": tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(16),
    "PyDataset": Batches(),
    "a list of batches": [(X[:7], Y[:7]), [X[7:], Y[7:]]],
    "a tuple of batches": ((X[:7], Y[:7]), (X[7:], Y[7:])),
    "three batches": ((X[:7], Y[:7]), (X[7:9], Y[7:9]), (X[9:], Y[9:])),
}


@pytest.mark.parametrize("kind", DATA)
def test_all_examples_in_order(kind):
    found = list(batches(DATA[kind]))
    assert len(found) > 1
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), Y)
    assert are_arrays(DATA[kind]) == kind.startswith(("arrays", "tensors"))


def test_arrays_of_several_inputs():
    found = list(batches(({"a": X, "b": X + 1}, Y)))
    assert len(found) == 2
    np.testing.assert_array_equal(found[1][0]["b"], X[32:] + 1)


@pytest.mark.parametrize(
    "data, message",
    [
        ([X], "`val` must give batches of .inputs, labels., or .*Received: a ndarray"),
        ([(X,)], "Received: a tuple of 1"),
        ([(X, Y, WEIGHTS, X)], "Received: a tuple of 4"),
        ([(X[0], Y[0])], "`val` must give batches, and gives single examples. Call batch"),
        (DATA["tf.data"].unbatch(), "gives single examples"),
        ((X, Y[:9]), "as many examples. Received: 9 and 40 examples"),
    ],
)
def test_other_batches(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches(data, "val"))


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 1],
        np.array([[2], [0], [1]], "uint8"),
        np.array([2.0, 0.0, 1.0], "float32"),
        {"logits": np.array([2, 0, 1])},
        tf.one_hot([2, 0, 1], 4),
        np.eye(4, dtype=int)[[2, 0, 1]],
    ],
)
def test_class_numbers(labels):
    found = class_numbers(labels, (3, 4))
    assert found.dtype == "int64" and found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0],
        [2.5, 0.0, 1.0],
        [np.nan, 0.0, 1.0],
        ["a", "b", "c"],
        [True, False, True],
        np.eye(3)[[2, 0, 1]],
        np.full((3, 4), 0.25),
        np.ones((3, 4), int),
        np.zeros((3, 4)),
        np.zeros((3, 2, 4), int),
    ],
)
def test_no_class_numbers(labels):
    shape = re.escape(str(np.shape(labels)))
    message = f"`val` must have class labels: .*a row of 4. Received: .* of shape {shape}"
    with pytest.raises(ValueError, match=message):
        class_numbers(labels, (3, 4), "val")
