"""What a student's file is proved on."""

import numpy as np
import pytest

from keras_kd.datasets.parts import Parts
from keras_kd.distillation.ship import proof_examples


def parts_of(test, train, labels=True):
    """Images of 2x2, of which the first pixel is a number of their own."""
    images = np.zeros((test + train + 20, 2, 2, 1), "uint8")
    images[:, 0, 0, 0] = np.arange(len(images)) % 256
    of_all = np.arange(len(images)) % 3
    cut = np.split(np.arange(len(images)), [test, test + 20])
    found = [(images[rows], of_all[rows] if labels else None) for rows in cut]
    return Parts(found[2], found[1], found[0], ("a", "b", "c"))


def test_test_examples_alone_where_they_are_enough():
    parts = parts_of(1000, 100)
    x, labels = proof_examples(parts, (3,), pytest.fail)
    np.testing.assert_array_equal(x, parts.test[0] / np.float32(255))
    assert labels is parts.test[1]


def test_each_pixel_is_an_answer():
    parts = parts_of(250, 100, labels=False)
    # 250 of 4 pixels; there are no labels to give.
    assert proof_examples(parts, (2, 2, 1), pytest.fail).shape == (250, 2, 2, 1)


def test_of_others_no_score_is_taken():
    lines, parts = [], parts_of(300, 5000)
    x = proof_examples(parts, (3,), lines.append)
    assert isinstance(x, np.ndarray) and len(x) == 1000
    seen = np.concatenate([parts.test[0], parts.validation[0], parts.train[0]])[:1000]
    np.testing.assert_array_equal(x, seen / np.float32(255))
    assert lines == [
        "Proof: 300 test examples are too few to tell how like the student its file is, so "
        "1,000 are asked, 700 of them from training"
    ]


def test_so_few_texts_are_mixed():
    x = np.zeros((60, 8), "int32")
    x[:, :5] = np.random.default_rng(0).integers(1, 257, (60, 5))
    parts = Parts((x[20:], None), None, (x[:20], None), None, "text", None)
    found = proof_examples(parts, (3,), lambda line: None)
    assert found.shape == (1000, 8) and found.dtype == np.int32
    # Padding stays padding.
    assert (found[:, :5] > 0).all() and (found[:, 5:] == 0).all()
    assert len(np.unique(found, axis=0)) > 300


def test_so_few_are_changed_a_little():
    lines, parts = [], parts_of(40, 60)
    x = proof_examples(parts, (3,), lines.append)
    assert x.shape == (1000, 2, 2, 1) and x.min() >= 0 and x.max() <= 1
    assert lines[0].endswith("80 of them from training, 880 changed a little")
    # Not the same again.
    assert len(np.unique(x.reshape(1000, -1), axis=0)) > 500
