"""Layers that converters and runtimes do not know, types that they do not take."""

import math
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.exporters import conversion, converter
from keras_kd.exporters.runtimes import open_file
from tests.exporters.test_export import BYTES, LABELS, SCALE, exported, run_file

pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
X = RNG.random((1000, 4), "float32")
IMAGES = RNG.random((1000, 6, 6, 4), "float32")
STEPS = RNG.random((1000, 3, 2), "float32")
SUFFIXES = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}


def sequential(*layers_, like, dtype=None):
    return keras.Sequential([keras.Input(like.shape[1:], dtype=dtype), *layers_])


def normalised():
    norm = layers.Normalization()
    norm.adapt(X)
    model = sequential(norm, layers.Dense(3), like=X)
    kernel, bias = model.layers[1].get_weights()
    return model, X, (X - X.mean(axis=0)) / X.std(axis=0) @ kernel + bias


def gelu():
    model = sequential(layers.Dense(3, "gelu"), like=X)
    logits = (X @ model.get_weights()[0]).astype("float64")
    erf = np.vectorize(math.erf)
    return model, X, logits * (1 + erf(logits / math.sqrt(2))) / 2


def grouped():
    conv = layers.Conv2D(6, 6, groups=2)
    model = sequential(conv, layers.Flatten(), like=IMAGES)
    kernel = conv.get_weights()[0]
    halves = [
        np.einsum("nhwc,hwck->nk", IMAGES[..., half], kernel[..., outputs])
        for half, outputs in (
            (slice(0, 2), slice(0, 3)),
            (slice(2, 4), slice(3, 6)),
        )
    ]
    return model, IMAGES, np.concatenate(halves, axis=1)


def depthwise():
    conv = layers.DepthwiseConv2D(6, depth_multiplier=2)
    model = sequential(conv, layers.Flatten(), like=IMAGES)
    outputs = np.einsum("nhwc,hwcm->ncm", IMAGES, conv.get_weights()[0])
    return model, IMAGES, outputs.reshape(len(IMAGES), -1)


def as_in_inference():
    random = [layers.RandomFlip(), layers.Dropout(0.5), layers.GaussianNoise(1.0)]
    model = sequential(*random, layers.Flatten(), layers.Dense(3), like=IMAGES)
    return model, IMAGES, IMAGES.reshape(1000, -1) @ model.get_weights()[-2]


def of_dtype(dtype):
    def make():
        words = RNG.integers(0, 2, X.shape).astype(dtype)
        model = sequential(layers.Rescaling(0.5), layers.Dense(3), like=X, dtype=dtype)
        return model, words, words.astype("float32") / 2 @ model.get_weights()[0]

    return make


MODELS = {x.__name__: x for x in (normalised, gelu, grouped, depthwise, as_in_inference)}
MODELS |= {x: of_dtype(x) for x in "int8 uint8 int16 int32 int64 bool".split()}


@pytest.mark.parametrize(
    "name, format",
    [("as_in_inference", "saved_model")]
    + [(name, format) for name in MODELS for format in ("litert", "onnx")],
)
def test_the_file_computes_what_the_layers_do(tmp_path, name, format):
    model, x, expected = MODELS[name]()
    path = tmp_path / f"m{SUFFIXES[format]}"
    report = kd.export(model, path, format, examples=x)
    np.testing.assert_allclose(run_file(path, format, x[:9]), expected[:9], atol=1e-5)
    assert report.input_dtype == x.dtype


def test_an_onnx_file_is_small_and_its_tensors_have_names(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x, _ = normalised()
    report = kd.export(model, tmp_path / "m.onnx", "onnx", examples=x)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [i.name for i in session.get_inputs()] == ["args_0"]
    assert [i.name for i in session.get_outputs()] == ["Identity:0"]
    content = (tmp_path / "m.onnx").read_bytes()
    # No temporary name, and no names of functions around functions.
    assert b"-m.onnx" not in content and report.file_bytes < 1500


def test_words_numbers_stay_integers_in_int8(tmp_path):
    words = RNG.integers(0, 5, (1000, 4))
    embedding = layers.Embedding(5, 3)
    model = sequential(embedding, layers.Flatten(), layers.Dense(3), like=X, dtype="int64")
    path = tmp_path / "m.tflite"
    report = kd.export(
        model, path, "litert", quantization="int8", calibration=words, examples=words
    )
    table, kernel, _ = model.get_weights()
    expected = table[words[:9]].reshape(9, -1) @ kernel
    # A step of the outputs, and of what is between.
    allowed = 0.03 * np.ptp(expected)
    np.testing.assert_allclose(run_file(path, "litert", words[:9]), expected, atol=allowed)
    assert report.input_dtype == "int64"


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_int8_takes_real_numbers_of_whatever_dtype(tmp_path, dtype):
    """Bytes are not the file's own numbers, which go by its scale and zero point."""
    model = keras.Sequential([keras.Input((4,)), SCALE, layers.Dense(3)])
    pixels = BYTES.astype(dtype)
    path = tmp_path / "m.tflite"
    report = kd.export(
        model,
        path,
        "litert",
        quantization="int8",
        calibration=pixels,  # So that no answer is beyond what it met.
        examples=(pixels, LABELS),
        min_agreement=0.9,
    )
    expected = BYTES / 255 @ model.get_weights()[0]
    answers = open_file(path).predict(pixels)
    assert np.max(np.abs(answers - expected)) <= 0.03 * np.ptp(expected)
    assert report.input_dtype == "int8"


def test_an_input_of_bytes_stays_one_in_int8(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,), dtype="uint8"), SCALE, layers.Dense(3)]
    )
    path, report = exported(model, tmp_path / "m", "int8", BYTES, min_agreement=0.9)
    expected = BYTES[:50] / 255 @ model.get_weights()[0]
    answers = run_file(path, "litert", BYTES[:50])
    assert np.max(np.abs(answers - expected)) <= 0.03 * np.ptp(expected)
    assert report.input_dtype == "uint8"


def lstm(**arguments):
    return sequential(layers.LSTM(2, **arguments), layers.Dense(2), like=STEPS), STEPS


def in_float(dtype):
    return sequential(layers.Dense(3, dtype=dtype), like=X), X


def untraceable():
    @keras.saving.register_keras_serializable("test_conversion")
    class Python(keras.layers.Layer):
        def call(self, inputs):
            if not tf.executing_eagerly():
                raise RuntimeError("It is no graph.")
            return inputs

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape)

    return sequential(Python(), layers.Dense(3), like=X), X


# A model, arguments, and what the message says.
REFUSED = {
    "free batch": (
        lstm,
        {},
        "ai_edge_litert, which .* says: .*TensorList.* unroll=True.* batch_size=1",
    ),
    "int8, free batch": (
        lstm,
        {"quantization": "int8"},
        "converter says: .* element_shape to be static .* unroll=True",
    ),
    "int8, batch of 1": (
        lstm,
        {"quantization": "int8", "batch_size": 1},
        r"stopped by signal 11 \(SIGSEGV\)\. What may help: unroll=True .*'dynamic'",
    ),
    "float16": (
        lambda: in_float("float16"),
        {},
        "FlexMatMul.*dtype='float32' .* in float16",
    ),
    "float64": (lambda: in_float("float64"), {}, "MatMul.*dtype='float32' .* in float64"),
    "no graph": (untraceable, {}, "exporter says: .*no graph.* another layer in place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_who_what_and_what_may_help(tmp_path, case):
    make, arguments, message = REFUSED[case]
    model, x = make()
    if "quantization" in arguments:
        arguments = arguments | {"calibration": x[:50]}
    with pytest.raises(ValueError, match=message) as caught:
        kd.export(model, tmp_path / "m.tflite", "litert", examples=x, **arguments)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'm.tflite'} was not written, because the model ")
    assert "damaged" not in said and "-m.tflite" not in said and "\n" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_full_disk_is_not_for_want_of_an_operator(tmp_path, full_disk, format):
    model = sequential(layers.Dense(300), layers.Dense(3), like=X)
    path = tmp_path / f"m{SUFFIXES[format]}"
    converter.start()  # Else it would keep the limit.
    # A LiteRT file's model lies there in between.
    named = tempfile.gettempdir() if format == "litert" else path
    with full_disk(), pytest.raises(OSError, match=f"File too large.*: '{named}'"):
        kd.export(model, path, format, examples=X)
    assert list(tmp_path.iterdir()) == []


def test_unrolled_an_lstm_works_in_int8(tmp_path):
    model, x = lstm(unroll=True)
    given = {"calibration": x[:50], "examples": x, "min_agreement": 0.9}
    kd.export(model, tmp_path / "m.tflite", "litert", quantization="int8", **given)


def signature(batch_size, dtype="float32"):
    return keras.InputSpec(shape=(batch_size, 4), dtype=dtype)


@pytest.mark.parametrize("batch_size, kept", [(None, 10), (5, 10), (4, 8)])
def test_calibration_is_of_whole_batches(batch_size, kept):
    given = conversion.calibration_inputs(X[:10], signature(batch_size), as_bytes=False)
    np.testing.assert_array_equal(given, X[:kept])


def test_two_pixels_stretch_the_range_to_all_bytes():
    images = np.full((10, 4), 100, "uint8")
    given = conversion.calibration_inputs(images, signature(None), as_bytes=True)
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given[0], [0, 255, 100, 100])
    assert np.all(given[1:] == 100) and np.all(images == 100)


def test_calibration_is_of_the_inputs_dtype():
    whole = np.round(9 * X[:10])
    given = conversion.calibration_inputs(whole, signature(None, "int32"), False)
    assert given.dtype == np.int32


def of_bytes():
    inputs = keras.Input((4,), dtype="uint8")
    return keras.Model(inputs, layers.Dense(3)(layers.Rescaling(1 / 255)(inputs)))


@pytest.mark.parametrize(
    "format, argument", [("litert", "calibration"), ("onnx", "examples")]
)
def test_an_integer_input_takes_no_fractions(tmp_path, format, argument):
    """They would be cut off to zero, and agree."""
    whole = np.round(255 * X).astype("uint8")
    given = {"examples": whole}
    if format == "litert":
        given |= {"quantization": "int8", "calibration": whole}
    given[argument] = whole / 255
    with pytest.raises(ValueError, match=f"`{argument}` must be what the model takes, ui"):
        kd.export(of_bytes(), tmp_path / f"m{SUFFIXES[format]}", format, **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given, message",
    [
        ((X, np.zeros((1000, 7))), "`examples` must have one label .*'n', 7"),
        ((X[:256], np.zeros(256)), "`examples` must be at least 1,000"),
        (np.full_like(X, np.nan), "answers `examples` with NaN or infinite"),
    ],
)
def test_what_the_proof_would_refuse_is_refused_first(
    tmp_path, monkeypatch, given, message
):
    monkeypatch.setattr(conversion.Conversion, "write", lambda *_: 1 / 0)
    model = sequential(layers.Dense(3), like=X)
    if "NaN" in message:
        monkeypatch.undo()
    with pytest.raises(ValueError, match=message):
        kd.export(model, tmp_path / "m.onnx", "onnx", examples=given)


def test_one_hot_labels_and_numbers_of_numpy(tmp_path):
    model = sequential(layers.Dense(3), like=X)
    labels = np.argmax(model.predict(X, verbose=0), axis=-1)
    given = {"batch_size": np.int64(4), "tolerance": np.float32(0.1)}
    how = {"examples": (X, np.eye(3)[labels]), "min_agreement": np.float32(0.9)}
    found = kd.export(model, tmp_path / "m.onnx", "onnx", **given, **how)
    assert found.proof["keras_accuracy"] == 1.0 and found.batch_size == 4


def test_texts_have_no_file(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "b"])
    words = layers.Flatten()(layers.Embedding(3, 4)(lookup(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(words))
    with pytest.raises(ValueError, match="`model` must take numbers, and its input is of"):
        kd.export(model, tmp_path / "m", "saved_model", examples=np.array([["a"]] * 1000))


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_a_model_that_keras_has_quantised_says_so(tmp_path):
    model = sequential(layers.Dense(8), layers.Dense(3), like=X)
    model.quantize("int8")
    with pytest.raises(ValueError, match="What may help: the model as it was before keras"):
        kd.export(model, tmp_path / "m.tflite", "litert", examples=X)
