"""`vid` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import VariationalInformation, variational_information
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [
    ((6, 5), (6, 5)),
    ((4, 3, 3, 7), (4, 3, 3, 2)),
    ((2, 2, 2, 100), (2, 2, 2, 9)),
]


def expected(teacher, mean, variance):
    """Ahn et al. 2019, equation 4: minus the mean log-density, without its constant."""
    variance = np.broadcast_to(variance, teacher.shape).ravel()
    total = 0.0
    for t, m, v in zip(teacher.ravel(), mean.ravel(), variance, strict=True):
        density = np.exp(-((t - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        total -= np.log(density) + np.log(2 * np.pi) / 2
    return total / teacher.size


def regressed(student, weights):
    """What RepDistiller's VIDLoss predicts: mean and variance."""
    log_scale, first, second, third = map(np.float64, weights)
    hidden = np.maximum(np.maximum(student @ first, 0) @ second, 0)
    return hidden @ third, np.log(1 + np.exp(log_scale)) + 1e-5


def random_weights(layer, seed=1):
    rng = np.random.default_rng(seed)
    shapes = [w.shape for w in layer.get_weights()]
    weights = [rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    layer.set_weights(weights)
    return layer.get_weights()


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes):
    teacher, student = random_features(*shapes)
    loss = VariationalInformation()
    loss.build(*shapes)
    (layer,) = loss.layers
    mean, variance = regressed(student, random_weights(layer))
    reference = expected(teacher, mean, variance)
    values = variational_information(teacher, mean, variance=variance)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)


@pytest.mark.parametrize("variance", [5.0, 0.3, 400.0])
def test_variance_to_begin_with(variance):
    teacher, student = random_features((3, 4), (3, 2))
    arguments = {} if variance == 5.0 else {"init_pred_var": variance}
    loss = VariationalInformation(**arguments)
    loss.build((3, 4), (3, 2))
    mean, found = loss.layers[0](np.float32(student))
    np.testing.assert_allclose(found, [variance] * 4, rtol=1e-5)
    reference = expected(teacher, np.float64(mean), variance)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_log_scale_is_no_larger_than_needed():
    loss = VariationalInformation()
    loss.build((None, 4), (None, 2))
    # RepDistiller's: log(exp(5 - 1e-5) - 1).
    reference = np.log(np.exp(5 - 1e-5) - 1)
    np.testing.assert_allclose(loss.layers[0].log_scale, [reference] * 4, rtol=1e-6)


def test_regressor_and_scale_train():
    tf = pytest.importorskip("tensorflow")
    teacher, student = random_features((5, 4), (5, 4))
    loss = VariationalInformation()
    loss.build((5, 4), (5, 4))
    weights = loss.layers[0].trainable_variables
    assert [tuple(w.shape) for w in weights] == [(4,), (4, 4), (4, 4), (4, 4)]
    with tf.GradientTape() as tape:
        value = loss.compute_loss(teacher, student)
    assert all(np.any(x) for x in tape.gradient(value, [w.value for w in weights]))


def test_pairs_are_summed_and_have_regressors_of_their_own():
    (t1, s1), (t2, s2) = (random_features(*x) for x in (SHAPES[1], ((4, 6), (4, 5))))
    loss = VariationalInformation()
    loss.build([t1.shape, t2.shape], [s1.shape, s2.shape])
    weights = [random_weights(x, seed) for seed, x in enumerate(loss.layers)]
    reference = expected(t1, *regressed(s1, weights[0]))
    reference += expected(t2, *regressed(s2, weights[1]))
    found = loss.compute_loss([t1, t2], [s1, s2])
    np.testing.assert_allclose(found, reference, rtol=1e-5)


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_a_larger_map_is_averaged_before_the_regressor(larger):
    shapes = [(3, 4, 4, 2), (3, 2, 2, 2)]
    teacher, student = random_features(*(shapes if larger == "teacher" else shapes[::-1]))
    loss = VariationalInformation()
    loss.build(teacher.shape, student.shape)
    weights = random_weights(loss.layers[0])
    averaged = [
        x.reshape(3, 2, x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean(axis=(2, 4))
        for x in (teacher, student)
    ]
    reference = expected(averaged[0], *regressed(averaged[1], weights))
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_batch_of_one_and_of_two():
    loss = VariationalInformation()
    loss.build((None, 5), (None, 3))
    weights = random_weights(loss.layers[0])
    for count in (1, 2):
        teacher, student = random_features((count, 5), (count, 3))
        reference = expected(teacher, *regressed(student, weights))
        found = loss.compute_loss(teacher, student)
        np.testing.assert_allclose(found, reference, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_constant_and_large_features(value, dtype):
    loss = VariationalInformation()
    loss.build((4, 3, 3, 2), (4, 3, 3, 5))
    weights = random_weights(loss.layers[0])
    teacher = np.full((4, 3, 3, 2), -value)
    student = np.full((4, 3, 3, 5), value)
    tensors = [keras.ops.cast(x, dtype) for x in (teacher, student)]
    teacher, student = (np.float64(keras.ops.cast(x, "float32")) for x in tensors)
    found = loss.compute_loss(*tensors)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    mean, variance = regressed(student, weights)
    reference = np.mean(((teacher - mean) ** 2 / variance + np.log(variance)) / 2)
    np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert np.isfinite(student_gradient(loss, *tensors)).all()


def test_regressor_comes_back_from_its_config():
    loss = VariationalInformation(init_pred_var=2.0, eps=1e-3)
    loss.build((None, 4), (None, 3))
    (layer,) = loss.layers
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    again.set_weights(layer.get_weights())
    x = np.float32(random_features((2, 3), (2, 3))[0])
    for found, reference in zip(again(x), layer(x), strict=True):
        np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize("name", ["init_pred_var", "eps"])
@pytest.mark.parametrize("value", [0, -1, "2", None, float("inf"), True])
def test_bad_argument(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number greater than"):
        VariationalInformation(**{name: value})


def test_a_variance_below_the_smallest():
    with pytest.raises(ValueError, match="`init_pred_var` must be greater than `eps`"):
        VariationalInformation(init_pred_var=1e-5)
