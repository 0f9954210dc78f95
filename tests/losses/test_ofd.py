"""`ofd` against the authors' distance, in NumPy and float64."""

import math

import keras
import numpy as np
import pytest

from keras_kd.losses import FeatureOverhaul, batch_norm_margin, ofd
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [(6, 5), (4, 3, 3, 7), (2, 2, 2, 100)]


def expected(teacher, student, margin):
    """Heo et al. 2019, equation 3, case by case, a mean over the batch."""
    margin = np.broadcast_to(margin, teacher.shape).ravel()
    total = 0.0
    for t, s, m in zip(teacher.ravel(), student.ravel(), margin, strict=True):
        if t > 0:
            total += (s - t) ** 2
        elif t > m and s > t:
            total += (s - t) ** 2
        elif t <= m and s > m:
            total += (s - m) ** 2
    return total / len(teacher)


def mean_of_negatives(teacher):
    columns = teacher.reshape(-1, teacher.shape[-1]).T
    return np.array([x[x < 0].mean() if (x < 0).any() else 0.0 for x in columns])


def connected(student, weights):
    """A 1 x 1 convolution, then a batch normalisation, of the first four weights."""
    kernel, gamma, beta = map(np.float64, weights[:3])
    projected = student @ kernel
    rows = projected.reshape(-1, projected.shape[-1])
    return (projected - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * gamma + beta


def random_weights(loss, seed=1):
    """New weights of the layers, a list of each pair's: kernel, gamma, beta, moments."""
    rng = np.random.default_rng(seed)
    for layer in loss.layers:
        shapes = [w.shape for w in layer.get_weights()]
        layer.set_weights([rng.uniform(0.5, 2.0, size=shape) for shape in shapes])
    weights = [w for layer in loss.layers for w in layer.get_weights()]
    return [weights[i : i + 5] for i in range(0, len(weights), 5)]


@pytest.mark.parametrize("margin", [-0.7, 0.0, "channels", None], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, margin):
    teacher, student = random_features(shape, shape)
    if margin == "channels":
        margin = (-np.linspace(0.1, 2, shape[-1])).tolist()
    used = mean_of_negatives(teacher) if margin is None else margin
    reference = expected(teacher, student, used)
    values = ofd(teacher, student, margin=margin)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    loss = FeatureOverhaul([margin] if isinstance(margin, list) else margin)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_all_cases_are_reached():
    teacher, student = random_features(SHAPES[1], SHAPES[1])
    margin = mean_of_negatives(teacher)
    low, middle = teacher <= margin, (teacher > margin) & (teacher <= 0)
    for case in (low & (student > margin), low & (student <= margin)):
        assert case.any()
    for case in (middle & (student > teacher), middle & (student <= teacher)):
        assert case.any()
    assert (teacher > 0).any()


def test_by_default_the_margin_is_of_the_batch_and_equal_widths_need_no_layer():
    teacher, student = random_features((6, 5), (6, 5))
    loss = FeatureOverhaul()
    found = loss.compute_loss(teacher, student)
    reference = expected(teacher, student, mean_of_negatives(teacher))
    np.testing.assert_allclose(found, reference, rtol=1e-6)
    assert loss.layers == ()
    assert loss.uses_batch_statistics
    assert not FeatureOverhaul(-1.0).uses_batch_statistics


@pytest.mark.parametrize(
    "shapes", [((5, 7), (5, 3)), ((4, 3, 3, 7), (4, 3, 3, 2))], ids=str
)
def test_other_widths_go_through_a_connector(shapes):
    teacher, student = random_features(*shapes)
    loss = FeatureOverhaul(margin=-0.5)
    loss.build(*shapes)
    (weights,) = random_weights(loss)
    reference = expected(teacher, connected(student, weights), -0.5)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert loss.uses_batch_statistics and not loss.zero_at_agreement


def test_a_connector_always():
    teacher, student = random_features((5, 7), (5, 7))
    loss = FeatureOverhaul(margin=-0.5, connector="always")
    loss.build((5, 7), (5, 7))
    (weights,) = random_weights(loss)
    reference = expected(teacher, connected(student, weights), -0.5)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_late_pairs_count_most():
    pairs = [random_features((4, 3), (4, 3), seed=seed) for seed in range(3)]
    margins = [-0.2, [-0.1, -0.5, -2.0], -1.0]
    reference = sum(
        expected(*pair, margin) / 2 ** (3 - i - 1)
        for i, (pair, margin) in enumerate(zip(pairs, margins, strict=True))
    )
    found = FeatureOverhaul(margins).compute_loss(*map(list, zip(*pairs, strict=True)))
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_each_pair_has_its_own_connector():
    (t1, s1), (t2, s2), (t3, s3) = (
        random_features((4, 5), (4, width), seed=width) for width in (3, 5, 2)
    )
    loss = FeatureOverhaul(margin=-0.5)
    loss.build([(4, 5)] * 3, [(4, 3), (4, 5), (4, 2)])
    first, third = random_weights(loss)
    reference = expected(t1, connected(s1, first), -0.5) / 4
    reference += expected(t2, s2, -0.5) / 2
    reference += expected(t3, connected(s3, third), -0.5)
    found = loss.compute_loss([t1, t2, t3], [s1, s2, s3])
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_a_larger_map_is_averaged():
    teacher, student = random_features((3, 4, 4, 2), (3, 2, 2, 2))
    averaged = teacher.reshape(3, 2, 2, 2, 2, 2).mean(axis=(2, 4))
    found = FeatureOverhaul(-0.5).compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(averaged, student, -0.5), rtol=1e-6)


def test_batch_of_one_and_of_two():
    for count in (1, 2):
        teacher, student = random_features((count, 5), (count, 5))
        found = FeatureOverhaul().compute_loss(teacher, student)
        reference = expected(teacher, student, mean_of_negatives(teacher))
        np.testing.assert_allclose(found, reference, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_constant_and_large_features(value, dtype):
    teacher = keras.ops.cast(np.full((4, 3), value), dtype)
    student = keras.ops.cast(np.full((4, 3), 1e4), dtype)
    loss = FeatureOverhaul()
    found = loss.compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    teacher64, student64 = (
        np.float64(keras.ops.cast(x, "float32")) for x in (teacher, student)
    )
    reference = expected(teacher64, student64, min(teacher64[0, 0], 0))
    np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()
    # Through a connector, whose batch normalisation has a variance of zero.
    narrow = student[:, :2]
    assert np.isfinite(loss_value := float(FeatureOverhaul().compute_loss(teacher, narrow)))
    assert loss_value >= 0
    assert np.isfinite(student_gradient(FeatureOverhaul(), teacher, narrow)).all()


def batch_norm(gamma, beta, **arguments):
    layer = keras.layers.BatchNormalization(**arguments)
    layer.build((None, len(gamma)))
    given = [gamma] * layer.scale + [beta] * layer.center
    layer.set_weights([*map(np.float32, given), *layer.get_weights()[-2:]])
    return layer


def test_margin_of_a_batch_norm():
    # Means of the negative part of normal distributions, by adding up their density.
    gamma, beta = [1.0, -2.0, 0.5, 1.0, 3.0], [0.0, 1.0, -4.0, 3.0, -2.0]
    reference = []
    for s, m in zip(gamma, beta, strict=True):
        x = np.linspace(m - 12 * abs(s), 0, 200_001)
        density = np.exp(-(((x - m) / s) ** 2) / 2)
        reference.append((x * density).sum() / density.sum())
    found = batch_norm_margin(batch_norm(gamma, beta))
    np.testing.assert_allclose(found, reference, rtol=1e-3)
    np.testing.assert_allclose(found[0], -math.sqrt(2 / math.pi), rtol=1e-12)


def test_margin_of_a_channel_that_is_hardly_ever_negative():
    # P(x < 0) is 0.00097 at 3.1 deviations, 0.00104 at 3.08.
    found = batch_norm_margin(batch_norm([2.0, 2.0, 0.0, 0.0], [6.2, 6.16, 1.0, -1.0]))
    assert found[0] == -6.0
    assert -1.5 < found[1] < 0
    assert found[2:] == [0.0, -1.0]


def test_margin_of_a_batch_norm_without_scale_or_center():
    half = -math.sqrt(2 / math.pi)
    found = batch_norm_margin(batch_norm([1.0], [1.0], center=False, scale=False))
    np.testing.assert_allclose(found, [half])
    found = batch_norm_margin(batch_norm([2.0], [1.0], center=False))
    np.testing.assert_allclose(found, [2 * half])
    found = batch_norm_margin(batch_norm([1.0], [0.0], scale=False))
    np.testing.assert_allclose(found, [half])


@pytest.mark.parametrize("layer", [None, "bn", keras.layers.ReLU()], ids=str)
def test_margin_of_something_else(layer):
    with pytest.raises(ValueError, match="`layer` must be a built keras.layers.BatchN"):
        batch_norm_margin(layer)
    with pytest.raises(ValueError, match="`layer` must be a built keras.layers.BatchN"):
        batch_norm_margin(keras.layers.BatchNormalization())


@pytest.mark.parametrize("margin", [1, "auto", float("nan"), True, [0.5], [[-1, None]]])
def test_bad_margin(margin):
    with pytest.raises(ValueError, match="`margin` must be a finite number, 0 or less"):
        FeatureOverhaul(margin)


def test_margin_that_does_not_fit():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"one entry for each pair.*: 3 entries for 1"):
        FeatureOverhaul([-1, -1, -1]).compute_loss(x, x)
    with pytest.raises(ValueError, match=r"each of the teacher's channels.*: 2 numbers"):
        FeatureOverhaul([[-1, -1]]).build((None, 3), (None, 3))


@pytest.mark.parametrize("value", [None, True, "never"])
def test_bad_connector(value):
    with pytest.raises(ValueError, match="`connector` must be one of 'where_needed', 'al"):
        FeatureOverhaul(connector=value)
