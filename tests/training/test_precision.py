"""Mixed precision in training, float32 in what ships."""

import keras
import numpy as np
import pytest

from keras_kd.training.precision import in_float32


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed(request):
    keras.config.set_dtype_policy(request.param)
    inner = keras.Sequential(
        [keras.layers.Input((6, 6, 1)), keras.layers.Conv2D(3, 3, name="conv")],
        name="inner",
    )
    inputs = keras.Input((6, 6, 1))
    outputs = keras.layers.BatchNormalization()(inner(inputs))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(outputs))
    model = keras.Model(inputs, outputs, name="outer")
    keras.config.set_dtype_policy("float32")
    model.compile("adam", "mse")
    return model


def test_every_layer_computes_in_float32_with_the_same_weights(mixed, tmp_path):
    plain = in_float32(mixed)
    layers = plain._flatten_layers()
    assert {layer.dtype_policy.name for layer in layers} == {"float32"}
    assert plain.outputs[0].dtype == "float32"
    for weight, other in zip(plain.get_weights(), mixed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert [layer.name for layer in plain.layers] == [x.name for x in mixed.layers]
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
    # Rounded to 8 or 11 bits on the way in the one, not in the other.
    np.testing.assert_allclose(plain(x), np.float32(mixed(x)), atol=0.05)
    assert np.any(plain(x) != np.float32(mixed(x)))
    plain.save(tmp_path / "plain.keras")
    again = keras.saving.load_model(tmp_path / "plain.keras")
    assert again.dtype_policy.name == "float32"
    np.testing.assert_array_equal(again(x), plain(x))


def test_the_mixed_model_stays_as_it_is(mixed):
    before = [w.tobytes() for w in mixed.get_weights()]
    in_float32(mixed).set_weights([0 * w for w in mixed.get_weights()])
    assert [w.tobytes() for w in mixed.get_weights()] == before
    assert mixed.dtype_policy.name.startswith("mixed_")


def test_float32_is_the_model_itself(make_model):
    model = make_model()
    assert in_float32(model) is model


class Subclassed(keras.Model):
    """Not registered; with an argument that is no JSON it has no configuration either."""

    def __init__(self, argument):
        super().__init__(dtype="mixed_bfloat16")
        self.dense = keras.layers.Dense(2, dtype="mixed_bfloat16")

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("argument", [3, object()], ids=["not registered", "no config"])
def test_what_cannot_be_made_anew_stays_as_it_is(argument):
    model = Subclassed(argument)
    model(np.zeros((1, 4), "float32"))
    assert in_float32(model) is model
