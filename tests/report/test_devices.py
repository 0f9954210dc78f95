"""The table of exported files, from an exports.json made by hand."""

import json

import pytest

from keras_kd.report import devices
from keras_kd.report.devices import conditions, device_table
from keras_kd.report.write import write_report
from keras_kd.runs import reader
from tests.runs.sample_run import make_run, make_task_run, write_json


def device_file(model, quantization, file_bytes, milliseconds, keras_accuracy=0.9):
    """An entry of exports.json; batch 32 takes ten times as long as batch 1."""
    name = f"{model}{f'-{quantization}' if quantization else ''}.tflite"
    return {
        "model": model,
        "export": {
            "file": name,
            "format": "litert",
            "quantization": quantization,
            "batch_size": None,
            "input_dtype": "float32",
            "gives": "logits",
            "parameters": 1000,
            "file_bytes": file_bytes,
            "gzip_bytes": file_bytes // 2,
            "calibration_examples": 0,
            "proof": {
                "examples": 1000,
                "largest_difference": 0.1,
                "output_range": 20.0,
                "agreement": 0.998,
                "keras_accuracy": keras_accuracy,
                "file_accuracy": keras_accuracy - 0.004,
            },
        },
        "profile": {
            "latencies": [
                {"batch_size": size, "median_ms": x, "p95_ms": 2 * x, "runs": 300}
                for size, x in ((1, milliseconds), (32, 10 * milliseconds))
            ],
            "threads": 1,
            "peak_memory_bytes": 50_000_000,
            "runtime_memory_bytes": 38_000_000,
        },
    }


def exports(*files):
    return {
        "format": 1,
        "created": "2026-05-04T00:00:00Z",
        "machine": {"system": "Linux <b>", "processor": "A processor", "cores": 2},
        "files": list(files),
    }


@pytest.fixture
def run_with(tmp_path):
    """Makes a sample run with an exports.json of these files, and reads it."""

    def make(*files):
        folder = make_run(tmp_path / "run", examples=20)
        (folder / "exports.json").write_text(json.dumps(exports(*files)))
        (run,) = reader.read(folder).runs.values()
        return run

    return make


def test_factors_are_over_the_teacher_in_float32(run_with):
    run = run_with(
        device_file("teacher", None, 4_000_000, 1.0),
        device_file("teacher", "int8", 1_000_000, 0.5),
        device_file("student", "int8", 32_000, 0.04),
    )
    table = devices.device_table(run, run.exports.files)
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(x["Model"], x["Format"]) for x in rows] == [
        ("teacher", "LiteRT, float32"),
        ("teacher", "LiteRT, int8"),
        ("student", "LiteRT, int8"),
    ]
    student = rows[-1]
    assert student["File, kB (gzip)"] == "32 (16)"
    assert student["Batch 1, ms (95 %)"] == "0.04 (0.08)"
    assert student["Batch 32, ms (95 %)"] == "0.4 (0.8)"
    assert student["Memory, MB (own)"] == "50 (12)"
    assert (student["Accuracy, %"], student["Lost, points"]) == ("89.60", "0.40")
    assert student["Agreement, %"] == "99.80"
    assert student["Speed-up, batch 1"] == student["Speed-up, batch 32"] == "25.0×"
    assert student["Shrink factor"] == "125.0×"
    assert [x["Shrink factor"] for x in rows[:2]] == ["1.0×", "4.0×"]
    assert student["MACs"] == f"{run['student'].metrics.macs:,}"


def test_without_the_teachers_file_there_are_no_factors(run_with):
    run = run_with(device_file("student", None, 32_000, 0.04))
    (row,) = devices.device_table(run, run.exports.files).rows
    assert row[-3:] == ["–", "–", "–"]


def test_conditions_name_threads_runs_and_examples(run_with):
    run = run_with(device_file("student", None, 32_000, 0.04))
    text = " ".join(devices.conditions(run, run.exports, seed=3))
    assert "of seed 3" in text and "2026-05-04" in text and "A processor, 2 cores" in text
    assert "with 1 thread." in text and "of 300 runs" in text and "1,000 examples" in text
    assert "over “teacher” in float32" in text


def test_the_report_has_the_table_if_there_is_one(run_with, tmp_path):
    run = run_with(device_file("teacher", None, 4_000_000, 1.0))
    write_report(run.path)
    page = (run.path / "report" / "report.html").read_text()
    assert "On the device" in page and "LiteRT, float32" in page
    assert "Linux &lt;b&gt;" in page and "Linux <b>" not in page
    assert "On the device" in (run.path / "report" / "report.md").read_text()
    (run.path / "exports.json").unlink()
    write_report(run.path)
    assert "On the device" not in (run.path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda x: x["files"][0].update(model="nobody"), "no model 'nobody' in this one"),
        (lambda x: x["files"][0]["export"].update(file_bytes=-1), "file_bytes"),
        (lambda x: x["files"][0]["export"].update(file="../../passwd"), "file"),
        (lambda x: x["files"].append(x["files"][0]), "two files of one format"),
        (lambda x: x.update(format=2), "format"),
    ],
)
def test_a_damaged_exports_json_is_refused(tmp_path, damage, message):
    content = exports(device_file("student", None, 32_000, 0.04))
    damage(content)
    folder = make_run(tmp_path / "run", examples=20)
    (folder / "exports.json").write_text(json.dumps(content))
    (run,) = reader.read(folder).runs.values()
    with pytest.raises(ValueError, match=f"(?s)exports.json.*{message}"):
        run.exports


def test_files_of_values(tmp_path):
    """What is right, and agreement, have no meaning; how far they are apart has."""
    path = make_task_run(tmp_path / "run", "regression")
    file = device_file("student", None, 4000, 1.0)
    proof = {"agreement": None, "keras_accuracy": None, "file_accuracy": None}
    proof |= {"rmse": 0.0125, "file_rmse": 3.5, "task": "regression"}
    file["export"]["proof"] |= proof
    write_json(path / "exports.json", exports(file))
    run = reader.read(path).runs[None]
    table = device_table(run, run.exports.files)
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["RMSE"], row["RMSE to model"]) == ("3.5", "0.0125")
    assert row["Accuracy, %"] == row["Agreement, %"] == row["Lost, points"] == "–"
    assert "RMSE is that to the labels." in " ".join(conditions(run, run.exports))
