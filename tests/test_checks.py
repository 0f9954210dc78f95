"""What is looked at before the first step, and what cannot be."""

import keras
import numpy as np
import pytest

from keras_kd import checks

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("loss", [SPARSE, "sparse_categorical_crossentropy"])
def test_labels_outside_the_classes(loss):
    with pytest.raises(ValueError, match=r"labels in 0..9.* from 0 to 10"):
        checks.check_labels(np.arange(11), loss, num_classes=10)


@pytest.mark.parametrize(
    "y, loss, num_classes",
    [
        (np.arange(10), SPARSE, 10),
        (np.arange(11), "mse", 10),  # no class numbers
        (np.arange(11), SPARSE, None),  # classes not known before the first batch
        (None, SPARSE, 10),
        (np.zeros(0), SPARSE, 10),
    ],
)
def test_labels_that_are_right_or_not_known(y, loss, num_classes):
    checks.check_labels(y, loss, num_classes)


def test_first_answers_look_at_the_first_examples_alone():
    x = np.ones((40, 2), "float32")
    x[35] = np.nan
    seen = []
    checks.check_first_answers(lambda x: seen.append(x) or x, x, "teacher", count=32)
    assert len(seen[0]) == 32


def test_first_answers_of_several_inputs():
    x = {"a": np.ones((4, 2)), "b": np.full((4, 2), np.inf)}
    with pytest.raises(ValueError, match="`x` holds NaN or infinite values in its first 4"):
        checks.check_first_answers(lambda x: x["a"], x, "teacher")


@pytest.mark.parametrize("x", [None, iter([]), np.zeros((0, 4)), [np.ones(3), "text"]])
def test_data_that_is_not_in_memory_is_not_touched(x):
    checks.check_first_answers(lambda x: pytest.fail("ran"), x, "teacher")


def test_integers_are_finite():
    assert checks.check_first_answers(lambda x: x, np.arange(3), "teacher") is None


@pytest.mark.parametrize("unknown", [(None, 4), (3, None)])
def test_unknown_dimensions_fit_any(make_model, unknown):
    inputs = keras.Input(batch_shape=(unknown[0], unknown[1] or 4))
    student = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    checks.check_models(make_model(), student)
