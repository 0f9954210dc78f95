"""Every format, run by its own runtime, against outputs computed with NumPy."""

import functools
import json
import os

import keras
import numpy as np
import pytest
from sklearn import datasets

import keras_kd as kd
from keras_kd.exporters import export, runtimes

litert = pytest.importorskip("ai_edge_litert.interpreter")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
X = RNG.random((1000, 4), "float32")
LABELS = RNG.integers(0, 3, 1000)
BYTES = RNG.integers(0, 256, (1000, 4)).astype("uint8")
SCALE = keras.layers.Rescaling(1 / 255)

# Name: format, suffix, quantisation, largest difference in the logits' range.
KINDS = {
    "saved_model": ("saved_model", "", None, 1e-6),
    "onnx": ("onnx", ".onnx", None, 1e-6),
    "litert": ("litert", ".tflite", None, 1e-6),
    "float16": ("litert", ".tflite", "float16", 2e-3),
    "dynamic": ("litert", ".tflite", "dynamic", 2e-2),
    "int8": ("litert", ".tflite", "int8", 3e-2),
}


def logits_of(model, x):
    """The outputs of conftest's model in float64."""
    first, bias, second, other = (w.astype("float64") for w in model.get_weights())
    return np.maximum(x.astype("float64") @ first + bias, 0) @ second + other


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def only(outputs):
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def run_file(path, format, x):
    """One batch, in the runtime alone: none of the library's code."""
    if format == "saved_model":
        served = keras.layers.TFSMLayer(path, call_endpoint="serve")
        return keras.tree.map_structure(np.asarray, served(x))
    if format == "onnx":
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        outputs = session.run(None, {session.get_inputs()[0].name: x})
        return only(dict(zip(names, outputs, strict=True)))
    interpreter = litert.Interpreter(str(path))
    (given,) = interpreter.get_input_details()
    gives = interpreter.get_signature_runner().get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    scale, zero = given["quantization"]
    if given["dtype"] == np.int8 and scale:
        x = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    outputs = {}
    for name, of_output in gives.items():
        outputs[name] = interpreter.get_tensor(of_output["index"])
        if of_output["dtype"] != np.float32:
            scale, zero = of_output["quantization"]
            outputs[name] = (outputs[name].astype("float64") - zero) * scale
    return only(outputs)


def exported(model, path, kind, x=X, labels=LABELS, **arguments):
    format, suffix, quantization, _ = KINDS[kind]
    path = path.with_name(path.name + suffix)
    if quantization == "int8":
        arguments["calibration"] = x[:200]
    return path, kd.export(
        model, path, format, quantization=quantization, examples=(x, labels), **arguments
    )


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_answers_as_the_model(tmp_path, make_model, kind, batch_size):
    model = make_model()
    path, report = exported(model, tmp_path / "model", kind, batch_size=batch_size)
    format, _, quantization, allowed = KINDS[kind]
    expected = logits_of(model, X)
    for size in (1, 7) if batch_size is None else (batch_size,):
        given = run_file(path, format, X[:size])
        difference = np.max(np.abs(given - expected[:size]))
        assert difference <= allowed * np.ptp(expected)
    assert report.input_shape == (batch_size, 4)
    assert report.input_dtype == ("int8" if kind == "int8" else "float32")
    right = float(np.mean(expected.argmax(axis=-1) == LABELS))
    assert report.proof["examples"] == 1000
    assert report.proof["keras_accuracy"] == pytest.approx(right, abs=0.002)
    assert report.proof["file_accuracy"] == pytest.approx(right, abs=0.02)
    assert report.proof["agreement"] >= 0.98
    assert report.calibration_examples == (200 if kind == "int8" else 0)
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        path.name,
        f"{path.name}.export.json",
    ]


@pytest.mark.parametrize("kind", ["saved_model", "onnx", "litert", "int8"])
def test_bytes_in_probabilities_out(tmp_path, make_model, kind):
    model = make_model()
    model.set_weights([3 * w for w in model.get_weights()])
    path, report = exported(model, tmp_path / "model", kind, BYTES, preprocessing=SCALE)
    given = run_file(path, KINDS[kind][0], BYTES[:50])
    expected = softmax(logits_of(model, BYTES[:50] / 255))
    assert np.max(np.abs(given - expected)) <= max(1e-5, 2 * KINDS[kind][3])
    assert (report.input_dtype, report.gives) == ("uint8", "probabilities")


def test_int8_bytes_stand_for_themselves(tmp_path, make_model):
    # Of pixels in 3..200 alone, the converter would make a scale of its own.
    dull = np.clip(BYTES, 3, 200)
    path, _ = exported(make_model(), tmp_path / "m", "int8", dull, preprocessing=SCALE)
    interpreter = litert.Interpreter(str(path))
    assert interpreter.get_input_details()[0]["quantization"] == (1.0, 0)
    dtypes = {x["dtype"] for x in interpreter.get_tensor_details()}
    assert dtypes <= {np.uint8, np.int8, np.int32}


def test_probabilities_are_not_softened_twice(tmp_path, make_model):
    logits = make_model()
    model = keras.Model(logits.inputs, keras.layers.Softmax()(logits.outputs[0]))
    path, _ = exported(model, tmp_path / "model", "onnx", BYTES, preprocessing=SCALE)
    expected = softmax(logits_of(model, BYTES[:50] / 255))
    given = run_file(path, "onnx", BYTES[:50])
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_the_proof_is_beside_the_file(tmp_path, make_model):
    model = make_model()
    names = ["cat", "dog", "eel"]
    new = tmp_path / "new" / "student"
    path, report = exported(model, new, "litert", class_names=names)
    written = json.loads((tmp_path / "new" / "student.tflite.export.json").read_text())
    assert written["proof"] == report.proof
    assert written["file_bytes"] == path.stat().st_size
    assert written["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    assert written["real_examples"] is True
    assert written["class_names"] == report.class_names == names
    assert set(written["versions"]) == {"keras", "tensorflow", "ai-edge-litert"}
    assert (written["tolerance"], written["min_agreement"]) == (1e-4, 0.999)
    assert f"{written['file_bytes']:,}" in str(report)


@pytest.mark.parametrize("kind", ["saved_model", "float16"])
def test_beyond_the_tolerance_nothing_is_left(tmp_path, make_model, kind, monkeypatch):
    if kind == "saved_model":  # Its difference is 0: the file is made to lie.
        make = runtimes.open_file

        def lying(path):
            loaded = make(path)
            run = loaded.run
            loaded.run = lambda inputs: run(inputs) + 0.01
            return loaded

        monkeypatch.setattr(runtimes, "open_file", lying)
    with pytest.raises(ValueError, match="not written, .* largest difference .*1e-05"):
        exported(make_model(), tmp_path / "model", kind, tolerance=1e-5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["saved_model", "litert"])
def test_an_existing_target(tmp_path, make_model, kind):
    old, new = make_model(), make_model()
    path, _ = exported(old, tmp_path / "model", kind)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        exported(new, tmp_path / "model", kind)
    given = run_file(path, KINDS[kind][0], X[:3])
    np.testing.assert_allclose(given, logits_of(old, X[:3]), atol=1e-5)
    exported(new, tmp_path / "model", kind, overwrite=True)
    given = run_file(path, KINDS[kind][0], X[:3])
    np.testing.assert_allclose(given, logits_of(new, X[:3]), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_overwrite_leaves_the_old_file_and_its_proof(tmp_path, make_model):
    path, _ = exported(make_model(), tmp_path / "model", "float16")
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not written"):
        exported(make_model(), tmp_path / "model", "float16", tolerance=0, overwrite=True)
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before


def test_an_old_proof_never_lies_beside_a_new_file(tmp_path, make_model, monkeypatch):
    path, _ = exported(make_model(), tmp_path / "model", "litert")
    before, replace = path.read_bytes(), os.replace

    def killed(source, target):
        if target == tmp_path / "model.tflite.export.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        exported(make_model(), tmp_path / "model", "litert", overwrite=True)
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def test_of_a_distiller_the_student(tmp_path, make_model):
    student = make_model()
    distiller = kd.Distiller(make_model(units=16), student, "kd")
    path, report = exported(distiller, tmp_path / "model", "onnx")
    given = run_file(path, "onnx", X[:3])
    np.testing.assert_allclose(given, logits_of(student, X[:3]), atol=1e-5)
    assert report.parameters == 4 * 8 + 8 + 8 * 3 + 3


def test_mixed_precision_is_exported_in_float32(tmp_path, make_model):
    model = make_model(dtype="mixed_bfloat16")
    path, report = exported(model, tmp_path / "model", "onnx")
    given = run_file(path, "onnx", X[:3])
    assert given.dtype == np.float32 and report.input_dtype == "float32"
    # bfloat16 would be off by a thousand times as much.
    np.testing.assert_allclose(given, logits_of(model, X[:3]), atol=1e-5)


def test_an_adapted_layer_is_exported_as_it_was_trained(tmp_path):
    norm = keras.layers.Normalization()
    norm.adapt(50 * X + 100)
    keras.config.set_dtype_policy("mixed_bfloat16")
    parts = [keras.Input((4,)), norm, keras.layers.Dense(8), keras.layers.Dense(3)]
    model = keras.Sequential(parts)
    keras.config.set_dtype_policy("float32")
    path, _ = exported(model, tmp_path / "model", "litert", x=50 * X + 100)
    (_, first, second) = model.layers
    (kernel, bias), (last, more) = first.get_weights(), second.get_weights()
    x = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(
        run_file(path, "litert", 50 * X + 100), (x @ kernel + bias) @ last + more, atol=1e-3
    )


def test_a_float32_copy_that_answers_otherwise_is_not_exported(tmp_path):
    """Where the half precision cannot tell the inputs apart."""
    norm = keras.layers.Normalization(dtype="mixed_bfloat16")
    norm.adapt(X + 50_000)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(3)])
    keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="answers otherwise in float32"):
        exported(model, tmp_path / "model", "litert", x=X + 50_000)
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable("test_exporters")
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_subclassed_model_takes_the_shape_of_the_examples(tmp_path):
    model = Subclassed()
    model(X[:1])
    path, report = exported(model, tmp_path / "model", "litert")
    kernel, bias = model.get_weights()
    given = run_file(path, "litert", X[:3])
    np.testing.assert_allclose(given, X[:3] @ kernel + bias, atol=1e-5)
    assert report.input_shape == (None, 4)


def test_a_subclassed_model_of_words_takes_integers(tmp_path):
    model = Subclassed()
    words = RNG.integers(0, 9, (1000, 4), "int32")
    model(words)
    path, report = exported(model, tmp_path / "model", "onnx", words)
    kernel, bias = model.get_weights()
    given = run_file(path, "onnx", words[:3])
    np.testing.assert_allclose(given, words[:3] @ kernel + bias, atol=1e-4)
    assert report.input_dtype == "int32"


@keras.saving.register_keras_serializable("test_exporters")
class NamedOutput(keras.layers.Layer):
    def call(self, inputs):
        return {"logits": inputs}


def nested(kind):
    """A model from one tensor to another, in a dict or a list."""
    x, dense = keras.Input((4,), name="features"), keras.layers.Dense(3)
    if kind == "dict layer":
        return keras.Sequential([x, dense, NamedOutput()])
    if kind == "subclassed":
        model = keras.Sequential([dense, NamedOutput()])
        model.build((None, 4))
        model = DictSubclassed(model)
        model(X[:1])
        return model
    given = {"dict in": {"features": x}, "list in": [x], "both": {"features": x}}
    gives = {"dict out": "logits", "both": "logits"}
    outputs = dense(x)
    if kind in gives:
        outputs = {"logits": outputs}
    return keras.Model(given.get(kind, x), [outputs] if kind == "list out" else outputs)


@keras.saving.register_keras_serializable("test_exporters")
class DictSubclassed(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


# Keras would warn of inputs in another structure than the model's.
@pytest.mark.parametrize(
    "kind, preprocessing",
    [
        ("dict in", None),
        ("dict out", None),
        ("list in", None),
        ("list out", None),
        ("both", SCALE),
        ("dict layer", SCALE),
        ("subclassed", SCALE),
    ],
)
def test_one_tensor_alone_in_a_dict_or_list(tmp_path, kind, preprocessing):
    model = nested(kind)
    x = X if preprocessing is None else BYTES
    given = {"preprocessing": preprocessing, "examples": ({"features": x}, LABELS)}
    path = tmp_path / "m.tflite"
    given |= {"quantization": "int8", "calibration": {"features": x[:200]}}
    report = kd.export(model, path, "litert", min_agreement=0.9, **given)
    logits = (x if preprocessing is None else x / 255) @ model.get_weights()[0]
    expected = logits if preprocessing is None else softmax(logits)
    answers = run_file(path, "litert", x[:50])
    assert np.max(np.abs(answers - expected[:50])) <= 0.03 * np.ptp(logits)
    right = np.mean(expected.argmax(axis=-1) == LABELS)
    assert report.proof["keras_accuracy"] == pytest.approx(right, abs=0.002)


def test_without_examples_the_proof_says_so(tmp_path, make_model):
    report = kd.export(make_model(), tmp_path / "model.onnx", "onnx")
    assert report.real_examples is False
    assert report.proof["examples"] == 1000
    assert report.proof["file_accuracy"] is None
    assert "accuracy" not in str(report)


def test_labels_change_nothing_but_the_accuracy(tmp_path, make_model):
    model = make_model()
    _, with_labels = exported(model, tmp_path / "a", "onnx")
    batches = ((X[i : i + 300], LABELS[i : i + 300]) for i in range(0, 1000, 300))
    streamed = kd.export(model, tmp_path / "b.onnx", "onnx", examples=batches)
    alone = kd.export(model, tmp_path / "c.onnx", "onnx", examples=X)
    assert streamed.proof == pytest.approx(with_labels.proof, abs=1e-6)
    assert alone.proof["agreement"] == with_labels.proof["agreement"]
    assert alone.proof["keras_accuracy"] is None


@pytest.mark.parametrize(
    "name, format, quantization, expected",
    [
        ("mnist/student", "litert", None, "student.tflite"),
        ("runs/1/ta/model.keras", "litert", "int8", "ta-int8.tflite"),
        ("mine.keras", "onnx", None, "mine.onnx"),
        ("mnist/teacher", "saved_model", None, "teacher_saved_model"),
    ],
)
def test_file_name(name, format, quantization, expected):
    assert export.file_name(name, format, quantization) == expected


def conv(filters, **arguments):
    return keras.layers.Conv2D(filters, 3, padding="same", activation="relu", **arguments)


def segments(classes):
    """A model of pixels with a way down and up again."""
    x = keras.Input((8, 8, 1))
    fine = conv(8)(x)
    coarse = keras.layers.UpSampling2D()(conv(8)(keras.layers.MaxPooling2D()(fine)))
    joined = keras.layers.Concatenate()([fine, coarse])
    activation = "sigmoid" if classes == 1 else None
    return keras.Model(x, keras.layers.Conv2D(classes, 1, activation=activation)(joined))


def tags(unroll=True):
    x = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(12, 8, mask_zero=True)(x)
    steps = keras.layers.GRU(8, return_sequences=True, unroll=unroll)(embedded)
    return keras.Model(x, keras.layers.Dense(3)(steps))


def dense(units, **arguments):
    hidden = keras.layers.Dense(32, activation="relu")
    last = keras.layers.Dense(units, **arguments)
    return keras.Sequential([keras.Input((64,)), hidden, last])


def heads():
    """Several outputs whose order in a list is none that a file may have by itself."""
    x = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu")(x)
    yes = keras.layers.Dense(1, activation="sigmoid", name="zero")(hidden)
    digit = keras.layers.Dense(10, name="digit")(hidden)
    return keras.Model(x, [yes, keras.layers.Dense(1, name="ink")(hidden), digit])


SPARSE = keras.losses.SparseCategoricalCrossentropy
HEAD_TASKS = {"zero": "binary", "ink": "regression", "digit": "multiclass"}


@functools.cache
def trained(name):
    """(model, inputs, labels, arguments of `export`) of a small trained model."""
    keras.utils.set_random_seed(1)
    rng, (x, y) = np.random.default_rng(1), datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    pictures = x.reshape(-1, 8, 8, 1)
    words = rng.integers(1, 12, (1500, 6)).astype("int32")
    words[np.arange(6) >= rng.integers(2, 7, 1500)[:, None]] = 0
    ink = x.sum(axis=1) / 10
    by_name = {"zero": y == 0, "ink": ink, "digit": y}
    from_logits = keras.losses.BinaryCrossentropy(from_logits=True)
    # Two borders in the brightness, and what is beside ink is left out.
    levels = np.digitize(pictures[..., 0], [0.3, 0.8])
    levels[:, 0] = 255
    model, x, y, loss, said = {
        "binary": (dense(1), x, y % 2, from_logits, {"task": "binary"}),
        "multilabel": (
            dense(4, activation="sigmoid"),
            x,
            y[:, None] >> np.arange(4) & 1,
            "binary_crossentropy",
            {},
        ),
        "regression": (dense(1), x, ink, "mse", {}),
        "edges": (segments(1), pictures, levels == 2, "binary_crossentropy", {}),
        "levels": (
            segments(3),
            pictures,
            levels,
            SPARSE(from_logits=True, ignore_class=255),
            {},
        ),
        "tags": (tags(), words, words % 3, SPARSE(from_logits=True), {}),
        "heads": (
            heads(),
            x,
            by_name,
            ["binary_crossentropy", "mse", SPARSE(from_logits=True)],
            {},
        ),
    }[name]
    model.compile("adam", loss)
    model.optimizer.learning_rate = 0.01
    model.fit(x, y, batch_size=100, epochs=12, verbose=0)
    return model, x, y, said


# Of a kind each: what the others add costs time alone.
EACH_TASK = {
    "binary": ("onnx", "int8"),
    "multilabel": ("onnx", "litert"),
    "regression": ("onnx", "litert", "dynamic"),
    "edges": ("onnx", "int8", "float16"),
    "levels": ("onnx", "litert"),
    "tags": ("onnx", "int8", "saved_model"),
    "heads": ("onnx", "litert", "int8", "saved_model"),
}


def each_task():
    return [(name, kind) for name, kinds in EACH_TASK.items() for kind in kinds]


@pytest.mark.parametrize("name, kind", each_task())
def test_each_task_in_each_format(tmp_path, name, kind):
    """Against the file in its own runtime, compared here in NumPy."""
    model, x, y, said = trained(name)
    format, suffix, quantization, _ = KINDS[kind]
    path, arguments = tmp_path / f"m{suffix}", dict(said)
    if quantization == "int8":
        arguments["calibration"] = x[:300]
    report = kd.export(
        model, path, format, quantization=quantization, examples=(x, y), **arguments
    )
    given, expected = run_file(path, format, x), model.predict(x, verbose=0)
    if name != "heads":
        task = {"edges": "binary", "levels": "multiclass", "tags": "multiclass"}
        compare(report.proof, task.get(name, name), given, expected, y, x)
        return
    assert set(given) == set(report.proof["outputs"]) == set(HEAD_TASKS)
    for head, answers in zip(("zero", "ink", "digit"), expected, strict=True):
        proof = report.proof["outputs"][head]
        compare(proof, HEAD_TASKS[head], given[head], answers, y[head], x)
        assert f"output               {head}\n" in str(report)
    of_each = report.proof["outputs"].values()
    relative = [p["largest_difference"] / p["output_range"] for p in of_each]
    of_all = report.proof["largest_difference"] / report.proof["output_range"]
    assert of_all == max(relative)


def test_a_loop_over_masked_steps_in_onnx(tmp_path):
    """Steps of any number, and a graph with a loop and a mask in it."""
    x = keras.Input((None,), dtype="int64")
    embedded = keras.layers.Embedding(12, 4, mask_zero=True)(x)
    steps = keras.layers.LSTM(4, return_sequences=True)(embedded)
    model = keras.Model(x, keras.layers.Dense(1)(steps))
    words = RNG.integers(1, 12, (300, 5))
    words[np.arange(5) >= RNG.integers(2, 6, 300)[:, None]] = 0
    path = tmp_path / "m.onnx"
    report = kd.export(model, path, "onnx", examples=(words, words % 2), task="binary")
    given, expected = run_file(path, "onnx", words), model.predict(words, verbose=0)
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert (report.input_dtype, report.input_shape) == ("int64", (None, 5))
    assert report.proof["answers"] == np.sum(words > 0)
    right = np.mean(((expected[..., 0] > 0) == words % 2)[words > 0])
    assert report.proof["keras_accuracy"] == pytest.approx(right)


def compare(proof, task, given, expected, labels, x):
    """A proof with the same numbers calculated here."""
    given, expected = given.astype("float64"), expected.astype("float64")
    kept = np.full(expected.shape[:-1], True) if x.dtype != np.int32 else x > 0
    given, expected = given[kept], expected[kept]
    labels = np.asarray(labels).reshape((*kept.shape, -1))[kept]
    assert proof["task"] == task
    difference = np.abs(given - expected).max()
    assert proof["largest_difference"] == pytest.approx(difference, abs=1e-5)
    assert proof["output_range"] == pytest.approx(np.ptp(expected), rel=1e-5)
    if task == "regression":
        assert proof["agreement"] is None and proof["file_accuracy"] is None
        errors = {"rmse": given - expected, "file_rmse": given - labels}
        for key, error in (errors | {"keras_rmse": expected - labels}).items():
            root = np.sqrt(np.mean(error**2))
            assert proof[key] == pytest.approx(root, rel=1e-3, abs=1e-6)
        # It learned what it says it did.
        assert proof["file_rmse"] < 0.4 * np.std(labels)
        return
    border = 0.5 if np.all((expected >= 0) & (expected <= 1)) else 0.0
    yes = [x > border for x in (given, expected)]
    if task == "multiclass":
        yes = [x.argmax(axis=-1)[..., None] for x in (given, expected)]
    assert proof["agreement"] == pytest.approx(np.mean(yes[0] == yes[1]), abs=2e-3)
    counted = labels != 255
    for key, answers in zip(("file_accuracy", "keras_accuracy"), yes, strict=True):
        right = np.mean((answers == labels)[counted])
        assert proof[key] == pytest.approx(right, abs=2e-3)
        assert proof[key] > 0.9
    assert proof["rmse"] is None


@pytest.mark.parametrize(
    "task, activation, gives",
    [
        ("binary", None, "probabilities"),
        ("binary", "sigmoid", "probabilities"),
        ("multilabel", None, "probabilities"),
        ("regression", None, "the model's outputs"),
    ],
)
def test_what_preprocessing_makes_of_each_task(tmp_path, task, activation, gives):
    units = 1 if task == "binary" else 2
    last = keras.layers.Dense(units, activation=activation)
    model, path = keras.Sequential([keras.Input((4,)), last]), tmp_path / "m.onnx"
    labels = BYTES[:, :units] > 128
    report = kd.export(
        model, path, "onnx", examples=(BYTES, labels), preprocessing=SCALE, task=task
    )
    logits = BYTES / 255 @ model.get_weights()[0].astype("float64")
    expected = logits if task == "regression" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(run_file(path, "onnx", BYTES), expected, atol=1e-6)
    assert (report.gives, report.proof["task"]) == (gives, task)
    assert report.min_agreement == (None if task == "regression" else 0.999)
    if task != "regression":
        # Both sides of the border are there, so that a wrong one would be seen.
        assert 0.02 < np.mean(expected > 0.5) < 0.98
        right = np.mean((expected > 0.5) == labels)
        assert report.proof["file_accuracy"] == pytest.approx(right)


def test_preprocessing_of_several_outputs(tmp_path):
    x = keras.Input((4,))
    yes, kind, size = (keras.layers.Dense(n) for n in (1, 3, 1))
    model = keras.Model(x, {"yes": yes(x), "kind": kind(x), "size": size(x)})
    path, task = tmp_path / "m.tflite", {"yes": "binary", "size": "regression"}
    examples = (BYTES, {"kind": LABELS})
    report = kd.export(
        model, path, "litert", examples=examples, preprocessing=SCALE, task=task
    )
    logits = {k: BYTES / 255 @ v.kernel.numpy() for k, v in (("yes", yes), ("kind", kind))}
    expected = {"yes": 1 / (1 + np.exp(-logits["yes"])), "kind": softmax(logits["kind"])}
    expected["size"] = BYTES / 255 @ size.kernel.numpy()
    given = run_file(path, "litert", BYTES)
    assert set(given) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, atol=1e-5)
    assert report.gives == "probabilities, and values of 'size'"
    right = np.mean(expected["kind"].argmax(axis=1) == LABELS)
    proofs = report.proof["outputs"]
    assert proofs["kind"]["file_accuracy"] == pytest.approx(right, abs=0.002)
    assert proofs["size"]["agreement"] is None


@keras.saving.register_keras_serializable("test_exporters")
class TwoHeads(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(3)

    def call(self, inputs):
        return {"z": self.first(inputs), "a": self.second(inputs)}


@pytest.mark.parametrize("kind", ["saved_model", "onnx", "litert", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_several_outputs_of_a_subclassed_model(tmp_path, kind, dtype):
    """Of one shape, so that their names alone tell them apart."""
    model = TwoHeads(dtype=dtype)
    model(X[:1])
    path, report = exported(
        model,
        tmp_path / "m",
        kind,
        labels={"a": LABELS},
        task={"z": "regression"},
        min_agreement=0.9,
    )
    given, allowed = run_file(path, KINDS[kind][0], X), KINDS[kind][3]
    for name, layer in (("z", model.first), ("a", model.second)):
        expected = X.astype("float64") @ layer.kernel.numpy()
        # In int8, what is larger than in the calibration is cut off.
        difference = np.quantile(np.abs(given[name] - expected), 0.99)
        assert difference <= allowed * np.ptp(expected)
    a, z = report.proof["outputs"]["a"], report.proof["outputs"]["z"]
    assert a["keras_accuracy"] is not None and z["keras_accuracy"] is None
