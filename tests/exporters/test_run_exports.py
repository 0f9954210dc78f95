"""Every model of a run in every format; here in two, of tiny models."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from keras_kd import DistillationChain, Stage
from keras_kd.cli import main
from keras_kd.exporters import export, run_exports
from keras_kd.report.devices import device_table
from keras_kd.runs import reader

pytest.importorskip("ai_edge_litert.interpreter")


@pytest.fixture
def run(make_model, vectors, tmp_path, monkeypatch):
    """A finished run of a teacher and a student, and 1,000 examples."""
    monkeypatch.setattr(run_exports, "KINDS", (("litert", None), ("litert", "dynamic")))
    data = tf.data.Dataset.from_tensor_slices(vectors).batch(16)
    stages = [Stage("student", make_model(4), 1, "kd")]
    folder = tmp_path / "run"
    DistillationChain(make_model(16), stages).fit(data, data, run_dir=folder, verbose=0)
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
    return folder, (x, np.argmax(x[:, :3], axis=1))


def test_written_once_measured_and_read_back(run):
    folder, examples = run
    quick = {"batch_sizes": (1,), "repeats": 2, "rounds": 1}
    exports = run_exports.export_run(folder, examples, None, **quick)
    names = [(x.model, x.export.file) for x in exports.files]
    assert names == [
        ("teacher", "teacher.tflite"),
        ("teacher", "teacher-dynamic.tflite"),
        ("student", "student.tflite"),
        ("student", "student-dynamic.tflite"),
    ]
    for file in exports.files:
        assert (folder / file.model / file.export.file).stat().st_size == (
            file.export.file_bytes
        )
        assert [x.batch_size for x in file.profile.latencies] == [1]
    (read,) = reader.read(folder).runs.values()
    assert read.exports == exports

    times = {x: x.stat().st_mtime_ns for x in folder.rglob("*.tflite*")}
    again = run_exports.export_run(folder, examples, None, **quick)
    assert {x: x.stat().st_mtime_ns for x in folder.rglob("*.tflite*")} == times
    assert [x.export for x in again.files] == [x.export for x in exports.files]

    proof = folder / "student" / "student.tflite.export.json"
    proof.unlink()
    before = (folder / "exports.json").read_bytes()
    with pytest.raises(FileExistsError, match="student.tflite.export.json .* missing"):
        run_exports.export_run(folder, examples, None, **quick)
    assert (folder / "exports.json").read_bytes() == before


def test_the_task_reaches_every_file(run):
    """And what has no meaning for it is empty wherever it is read."""
    folder, (x, _) = run
    exports = run_exports.export_run(
        folder, x, None, task="regression", batch_sizes=(1,), repeats=2, rounds=1
    )
    (read,) = reader.read(folder).runs.values()
    assert read.exports == exports
    for file in exports.files:
        proof = file.export.proof
        assert proof.task == "regression"
        assert proof.agreement is None and proof.file_accuracy is None
        assert proof.rmse >= 0 and proof.outputs is None
    table = device_table(read, exports.files)
    header, rows = table.header, table.rows
    assert {row[header.index("Agreement, %")] for row in rows} == {"–"}


def test_a_format_that_fails_is_named_and_the_others_are_written(run, monkeypatch):
    folder, examples = run
    kinds = (("litert", None), ("litert", "int8"))
    monkeypatch.setattr(run_exports, "KINDS", kinds)
    # Too few to calibrate with: refused.
    few = examples[0][:0]
    exports = run_exports.export_run(
        folder, examples, few, batch_sizes=(1,), repeats=2, rounds=1
    )
    assert [x.file for x in exports.refused] == [
        "teacher-int8.tflite",
        "student-int8.tflite",
    ]
    assert "calibration" in exports.refused[0].reason
    assert len(json.loads((folder / "exports.json").read_text())["files"]) == 2


def test_whatever_fails_the_others_are_written(run, monkeypatch):
    folder, examples = run
    make, failures = export.export, [RuntimeError("no such operator"), MemoryError()]

    def failing(*args, **arguments):
        if arguments["quantization"] and failures:
            raise failures.pop(0)
        return make(*args, **arguments)

    monkeypatch.setattr(export, "export", failing)
    quick = {"batch_sizes": (1,), "repeats": 2, "rounds": 1}
    exports = run_exports.export_run(folder, examples, None, **quick)
    (read,) = reader.read(folder).runs.values()
    assert read.exports == exports
    assert [(x.model, x.file, x.reason) for x in exports.refused] == [
        ("teacher", "teacher-dynamic.tflite", "RuntimeError: no such operator"),
        ("student", "student-dynamic.tflite", "MemoryError"),
    ]
    assert len(exports.files) == 2


def test_a_run_none_of_whose_models_can_be_exported_says_why(run, monkeypatch):
    folder, examples = run

    def failing(*args, **arguments):
        raise RuntimeError(f"no {arguments['quantization']}")

    monkeypatch.setattr(export, "export", failing)
    with pytest.raises(ValueError, match="No file was written") as caught:
        run_exports.export_run(folder, examples, None)
    assert str(caught.value).splitlines()[1:3] == [
        "teacher/teacher.tflite: RuntimeError: no None",
        "teacher/teacher-dynamic.tflite: RuntimeError: no dynamic",
    ]

    def stopped(*args, **arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "export", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_exports.export_run(folder, examples, None)


def test_nothing_is_finished(run):
    folder, examples = run
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for model in (manifest["teacher"], *manifest["stages"]):
        model["state"] = "waiting"
        del model["files"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="No model of .* is finished"):
        run_exports.export_run(folder, examples, None)


def test_the_command_takes_a_model_or_all(tmp_path):
    for arguments in (["export", "--all"], ["export", "--run-dir", str(tmp_path)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code != 0 and "Error" in result.output
    assert keras.backend.backend() == "tensorflow"
