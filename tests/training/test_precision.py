"""Mixed precision in training, float32 in what ships."""

import keras
import numpy as np
import pytest

from keras_kd.training import precision
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


X86 = "processor\t: {i}\nflags\t\t: fpu avx512f {flag}\n"
ARM = "processor\t: {i}\nFeatures\t: fp asimd {flag}\n"


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (X86, ["avx512_bf16", "avx512_bf16"], True),
        (X86, ["amx_bf16", "amx_bf16"], True),
        (X86, ["avx512_vnni", "avx512_vnni"], False),
        # A core that lacks them makes the others wait.
        (X86, ["avx512_bf16", "avx512_vnni"], False),
        (ARM, ["bf16", "bf16"], True),
        (ARM, ["asimddp", "asimddp"], False),
        ("model name: not known\n", ["bf16"], False),
        ("", [], False),
    ],
)
def test_bfloat16_instructions(text, flags, expected, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("".join(text.format(i=i, flag=x) for i, x in enumerate(flags)))
    assert precision._has_bfloat16_instructions(path) is expected
    assert not precision._has_bfloat16_instructions(tmp_path / "none")


def test_other_systems_are_not_known(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text(X86.format(i=0, flag="avx512_bf16"))
    monkeypatch.setattr(precision.platform, "system", lambda: "Darwin")
    assert not precision._has_bfloat16_instructions(path)


@pytest.mark.parametrize(
    ("accelerator", "backend", "instructions", "expected", "said"),
    [
        (False, "tensorflow", True, "mixed_bfloat16", ""),
        (False, "tensorflow", False, "float32", "not known to have instructions"),
        (False, "jax", True, "float32", "jax on a processor gains nothing"),
        (False, "torch", True, "float32", "torch on a processor gains nothing"),
        (True, "jax", False, "mixed_bfloat16", ""),
    ],
)
def test_the_policy_that_is_fastest(
    accelerator, backend, instructions, expected, said, monkeypatch, caplog
):
    monkeypatch.setattr(precision, "_has_accelerator", lambda: accelerator)
    monkeypatch.setattr(precision, "_has_bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr(precision.keras.backend, "backend", lambda: backend)
    precision._say_float32.cache_clear()
    assert [precision.chosen_policy("auto") for _ in range(2)] == [expected] * 2
    # In one line, once.
    assert len(caplog.messages) == bool(said) and said in "".join(caplog.messages)
    for asked in ("float32", "mixed_bfloat16", "mixed_float16"):
        assert precision.chosen_policy(asked) == asked
    assert len(caplog.messages) == bool(said)
