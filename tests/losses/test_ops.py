import keras
import numpy as np
import pytest

from keras_kd.losses.ops import at_least_float32, log_softmax


@pytest.mark.parametrize(
    "dtype, raised",
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_at_least_float32(dtype, raised):
    x = at_least_float32(np.ones(2, dtype))
    assert keras.backend.standardize_dtype(x.dtype) == raised


def test_log_softmax_at_a_temperature():
    logits = np.array([[2.0, 0.0, -4.0]])
    powers = np.exp(logits / 2.0)
    np.testing.assert_allclose(
        log_softmax(logits, 2.0), np.log(powers / powers.sum()), rtol=1e-12
    )
