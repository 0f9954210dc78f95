"""An export in a process of its own, as JAX and PyTorch need it; from here, too."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_kd.exporters import elsewhere
from keras_kd.exporters.runtimes import open_file

pytestmark = pytest.mark.slow
X = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
ARGUMENTS = {
    "quantization": None,
    "calibration": None,
    "examples": X,
    "batch_size": None,
    "preprocessing": None,
    "task": None,
    "tolerance": None,
    "min_agreement": None,
    "overwrite": False,
}


@pytest.fixture
def here(monkeypatch):
    """Serves in this process, which is on TensorFlow, too: what is there is the same."""

    def run(command, **arguments):
        *_, served = command[-1].strip().splitlines()
        exec(f"from keras_kd.exporters import elsewhere\n{served}", {})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(elsewhere.subprocess, "run", run)


def exported(model, path, format="onnx", **arguments):
    return elsewhere.export(model, path, format, ARGUMENTS | arguments)


def test_labels_of_several_outputs_and_layers_go_along(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    outputs = {"kind": keras.layers.Dense(3)(inputs), "size": keras.layers.Dense(1)(inputs)}
    model = keras.Model(inputs, outputs)
    answers = model.predict(X, verbose=0)
    labels = {"kind": answers["kind"].argmax(1), "size": answers["size"][:, 0]}
    batches = [(X[:600], {k: y[:600] for k, y in labels.items()})]
    batches += [(X[600:], {k: y[600:] for k, y in labels.items()})]
    found = exported(
        model, tmp_path / "m.onnx", examples=batches,
        task={"kind": "multiclass", "size": "regression"},
    )  # fmt: skip
    proofs = found["proof"]["outputs"]
    assert proofs["kind"]["keras_accuracy"] == proofs["kind"]["file_accuracy"] == 1
    assert proofs["size"]["keras_rmse"] == pytest.approx(0, abs=1e-6)
    given = open_file(tmp_path / "m.onnx").predict(X)
    np.testing.assert_allclose(given["kind"], answers["kind"], atol=1e-5)
    written = json.loads((tmp_path / "m.onnx.export.json").read_text())
    assert written["proof"] == found["proof"]


def test_preprocessing_and_calibration_go_along(tmp_path, here):
    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((2, 2, 1)), *layers])
    images = np.random.default_rng(1).integers(0, 256, (1000, 2, 2, 1), "uint8")
    found = exported(
        model,
        tmp_path / "m.tflite",
        "litert",
        quantization="int8",
        calibration=images[:200],
        examples=images,
        preprocessing=keras.layers.Rescaling(1 / 255),
        min_agreement=0.9,
    )
    assert found["input_dtype"] == "uint8" and found["gives"] == "probabilities"
    assert found["calibration_examples"] == 200


class Unknown(keras.layers.Layer):
    def call(self, x):
        return x


def test_what_goes_wrong_there_is_told_here(tmp_path):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must be at least 1,000"):
        exported(model, tmp_path / "m.onnx", examples=X[:10])
    own = keras.Sequential([keras.layers.Input((4,)), Unknown(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="cannot be loaded by the process on TensorFlow"):
        exported(own, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, keras, numpy as np, keras_kd as kd
x = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
kd.export(model, sys.argv[1], "onnx", examples=x)
np.save(sys.argv[1] + ".npy", model.predict(x, verbose=0))
"""


def test_from_jax(tmp_path):
    pytest.importorskip("jax")
    path = tmp_path / "m.onnx"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Keras is on jax: a process on TensorFlow exports." in done.stderr
    answers = np.load(f"{path}.npy")
    np.testing.assert_allclose(open_file(path).predict(X), answers, atol=1e-5)
