"""What the losses on feature maps share: `at`, `ft` and `nst`, each by its own formula."""

import keras
import numpy as np
import pytest

from keras_kd.losses import AttentionTransfer, FactorTransfer, NeuronSelectivity
from tests.losses import test_at, test_ft, test_nst
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

# Each with its value of one place against all four alike, (1, 0, 0, 0) and halves:
# a mean of squares; a mean of absolutes; kernels of 1, 1 and 1/4.
LOSSES = {
    "at": (AttentionTransfer(), test_at.expected, 0.25),
    "ft": (FactorTransfer(), test_ft.expected, 0.5),
    "nst": (NeuronSelectivity(), test_nst.expected, 1.5),
}
SHAPES = [((5, 3, 3, 6), (5, 3, 3, 6)), ((5, 4, 2, 7), (5, 4, 2, 3))]


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param][0]


@pytest.fixture
def expected(loss):
    return next(x[1] for x in LOSSES.values() if x[0] is loss)


def test_pairs_are_summed(loss, expected):
    (t1, s1), (t2, s2) = (random_features(*shapes) for shapes in SHAPES)
    found = loss.compute_loss([t1, t2], [s1, s2])
    np.testing.assert_allclose(found, expected(t1, s1) + expected(t2, s2), rtol=1e-6)


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_a_larger_map_is_averaged_first(loss, expected, larger):
    small, large = random_features((3, 2, 2, 2), (3, 4, 4, 5))
    averaged = large.reshape(3, 2, 2, 2, 2, 5).mean(axis=(2, 4))
    given, compared = (small, large), (small, averaged)
    if larger == "teacher":
        given, compared = given[::-1], compared[::-1]
    np.testing.assert_allclose(loss.compute_loss(*given), expected(*compared), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_small_batch(loss, expected, count):
    teacher, student = random_features((count, 2, 3, 4), (count, 2, 3, 3))
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", LOSSES)
def test_right_for_large_features(name, dtype):
    loss, _, expected = LOSSES[name]
    teacher = np.zeros((1, 2, 2, 3))
    teacher[:, 0, 0] = 1e4
    teacher = keras.ops.cast(teacher, dtype)
    student = keras.ops.cast(np.full((1, 2, 2, 3), -1e4), dtype)
    value = loss.compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()
