"""Bad input to `export`: a clear error, and nothing written."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.exporters import checks

pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("onnxruntime")

X = np.random.default_rng(0).random((1000, 4), "float32")
BYTES = (255 * X).astype("uint8")


def model_of(units=3, shape=(4,), **arguments):
    layers = [keras.layers.Input(shape), keras.layers.Dense(units, **arguments)]
    return keras.Sequential(layers)


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], keras.layers.Dense(3)(a + b))


# Arguments, and what the message must say.
REFUSED = {
    "near miss": ({"format": "onxx"}, "`format` .*'onxx'; did you mean 'onnx'"),
    "unknown format": ({"format": "pickle"}, "'saved_model', 'litert', 'onnx'. Received"),
    "format of no kind": ({"format": None}, "`format` must be one of"),
    "wrong suffix": ({"path": "m.onnx"}, "end in '.tflite' .*m.onnx"),
    "no suffix": ({"path": "m"}, "end in '.tflite'"),
    "file for a folder": (
        {"format": "saved_model", "path": "m.keras"},
        "name a folder",
    ),
    "unknown quantisation": ({"quantization": "int9"}, "did you mean 'int8'"),
    "quantisation of ONNX": (
        {"format": "onnx", "path": "m.onnx", "quantization": "float16"},
        "goes with format='litert'",
    ),
    "int8 without calibration": ({"quantization": "int8"}, "`calibration`.*needs it"),
    "idle calibration": ({"calibration": X}, "goes with quantization='int8'"),
    "calibration of another shape": (
        {"quantization": "int8", "calibration": X[:, :3]},
        r"`calibration` must be .*\(4,\).*\(3,\)",
    ),
    "empty calibration": (
        {"quantization": "int8", "calibration": X[:0]},
        "`calibration` must be",
    ),
    "calibration less than a batch": (
        {"quantization": "int8", "calibration": X[:3], "batch_size": 4},
        "fill a batch .* 4 examples. Received: 3",
    ),
    "batch of 0": ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
    "batch of True": ({"batch_size": True}, "`batch_size` must be"),
    "tolerance": ({"tolerance": -0.1}, "`tolerance` must be .*-0.1"),
    "tolerance NaN": ({"tolerance": float("nan")}, "`tolerance` must be"),
    "agreement in percent": ({"min_agreement": 99}, "`min_agreement` must be"),
    "no model": ({"model": "m.keras"}, "`model` must be a keras.Model"),
    "unbuilt": ({"model": keras.Sequential([keras.layers.Dense(2)])}, "no weights yet"),
    "two inputs": (
        {"model": two_inputs()},
        "`model` must have one input.*with 2: 'a', 'b'. Give a model of one input",
    ),
    "no such task": ({"task": "binry"}, "`task` must be one of.*'binry'"),
    "task of other units": ({"task": "binary"}, "one unit.*`model` .* with 3"),
    "agreement of values": (
        {"task": "regression", "min_agreement": 0.9},
        r"`min_agreement` is .* values \(task=regression\).*`tolerance` alone.*0\.9",
    ),
    "too few class names": ({"class_names": ["a", "b"]}, "must be 3 names.*'a', 'b'"),
    "a class name twice": ({"class_names": ["a", "b", "a"]}, "must be 3 names, each ano"),
    "class numbers": ({"class_names": [0, 1, 2]}, "`class_names` must be strings"),
    "a word": ({"class_names": "abc"}, "`class_names` must be strings"),
    "class names of values": (
        {"class_names": ["a", "b", "c"], "task": "regression"},
        "`class_names` are of one output's classes, and the model's outputs are values",
    ),
    "class names of a yes or no": (
        {"class_names": ["a"], "task": "binary", "model": model_of(1)},
        "must be 2 names",
    ),
    "agreement of who knows what": (
        {"model": model_of(1), "min_agreement": 0.9},
        r"`min_agreement` is .* values \(task=None\).*say another `task`",
    ),
    "labels of another class": (
        {"examples": (X, np.full(1000, 3))},
        r"labels that are in 0\.\.2.*Received: 3",
    ),
    "labels of no yes or no": (
        {"examples": (X, np.full(1000, 2)), "model": model_of(1), "task": "binary"},
        "0 or 1, as its task 'binary'",
    ),
    "labels of several outputs": (
        {"examples": (X, {"a": X[:, 0], "b": X[:, 1]})},
        r"one label for each answer.*Received: a dict of 'a', 'b'",
    ),
    "few examples": ({"examples": X[:999]}, "at least 1,000.* Received: 999"),
    "no examples": ({"examples": X[:0]}, "`examples` is empty"),
    "examples of another shape": (
        {"examples": X[:, :3]},
        r"`examples` must be inputs of .*'n', 4.*'n', 3",
    ),
    "examples of several shapes": (
        {"examples": [X[:999], X[:1, :3]]},
        r"one shape. Received: \(4,\) and \(3,\)",
    ),
    "examples of no kind": ({"examples": 3}, "`examples` must be .* Received: int"),
    "labels too few": ({"examples": (X, X[:5, 0])}, "equally long.*1000, 5"),
    "labels one-hot": ({"examples": (X, np.ones((1000, 3)))}, "one label for each answer"),
    "no layer": (
        {"preprocessing": "scale", "examples": BYTES},
        "`preprocessing` must be a Keras layer",
    ),
    "preprocessing of floats": (
        {"preprocessing": keras.layers.Rescaling(1 / 255)},
        "as uint8 .* Received: float32",
    ),
    "preprocessing to another shape": (
        {"preprocessing": keras.layers.Reshape((2, 2)), "examples": BYTES},
        "after preprocessing",
    ),
    "examples needed": (
        {"model": model_of(shape=(None, 4)), "examples": None},
        "`examples` must be given",
    ),
    "NaN": (
        {"model": model_of(kernel_initializer=keras.initializers.Constant(np.nan))},
        "answers `examples` with NaN or infinite",
    ),
}


def test_names_that_fit():
    names = ["a", "b", "c"]
    assert checks.fitting(names, model_of(3)) == names
    assert checks.fitting(names, model_of(4)) is None
    assert checks.fitting(None, model_of(3)) is None


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    changed, message = REFUSED[case]
    arguments = {"model": model_of(), "path": "m.tflite", "format": "litert"}
    arguments |= {"examples": X} | changed
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message):
        kd.export(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="no SavedModel, so it is not replaced"):
        kd.export(model_of(), tmp_path / "mine", "saved_model", examples=X, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "m.tflite").mkdir()
    with pytest.raises(FileExistsError, match="is no file"):
        kd.export(model_of(), tmp_path / "m.tflite", "litert", examples=X, overwrite=True)
