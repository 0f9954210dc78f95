import numpy as np
import pytest

from keras_kd import students


def normalized(model, x):
    """What a model's normalisation makes of inputs."""
    return np.asarray(model.get_layer("normalization")(np.asarray(x, "float32")))


def table(x):
    return students.prepare(students.build("mlp", (x.shape[1],), (2,), 4), x)


def test_columns_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    x = rng.normal([0, 1e6, -1e-3], [1, 10, 1e-5], (500, 3)).astype("float32")
    found = normalized(table(x), x)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=0.01)


def test_what_is_not_finite_counts_nowhere():
    x = np.array([[1, np.nan], [3, np.nan], [np.inf, np.nan]], "float32")
    found = normalized(table(x), [[1, 0], [3, 0], [5, 0]])
    np.testing.assert_allclose(found, [[-1, 0], [1, 0], [3, 0]])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -7e12])
def test_a_constant_column_is_not_divided_by_0(value):
    x = np.full((300, 1), value, "float32")
    found = normalized(table(x), [[value], [value + max(1, abs(value))]])
    np.testing.assert_allclose(found, [[0], [1]], atol=1e-6)


def test_channels_of_sequences_are_normalised():
    x = np.random.default_rng(0).normal([5, 0], [2, 1e-3], (40, 30, 2))
    model = students.prepare(students.build("sequence_cnn", (None, 2), (2,), 2), x)
    found = normalized(model, x)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), 0, atol=0.01)
    np.testing.assert_allclose(found.std(axis=(0, 1)), 1, rtol=0.01)


def test_others_stay_as_they_are():
    model = students.build("separable_cnn", (8, 8, 1), (2,), 1)
    before = model.get_weights()
    assert students.prepare(model, np.ones((2, 8, 8, 1))) is model
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((3, 2)), r"`x` must be training inputs.*\(3, 2\)"),
        (np.zeros((0, 1)), "`x` must be training inputs"),
        (np.array([[1e30], [-1e30]]), "column 1 has a deviation of 1e\\+30.*another unit"),
        (np.array([[1e-30], [-1e-30]]), "column 1.*another unit"),
    ],
)
def test_what_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        students.prepare(students.build("mlp", (1,), (2,), 4), x)
