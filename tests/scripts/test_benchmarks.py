"""Scripts of scripts/benchmarks on few examples; what they time is not looked at."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from keras_kd import data
from keras_kd.evaluation.profile import profile

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script, which finds a few images for MNIST."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28, 1)).astype("uint8")
    arrays = images, rng.integers(0, 10, 64)
    monkeypatch.setattr(data, "prepare", lambda *arguments: None)
    monkeypatch.setattr(data, "load_arrays", lambda *arguments: arrays)
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def rows_of(main, *arguments):
    """What it prints as a table: rows of cells, the headings first."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [x.split("|")[1:-1] for x in result.output.splitlines() if x[:1] == "|"]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [rows[0], *rows[2:]]


def test_backends(script):
    main = script("backends").main
    students = "--student", "mnist_student", "--student", "mnist_device_cnn"
    few = "--batch-size", "16", "--repeats", "2", "--steps", "2", "--examples", "48"
    headings, *rows = rows_of(main, *students, *few)
    assert [row[:2] for row in rows] == [
        ["tensorflow", "mnist_student"],
        ["tensorflow", "mnist_device_cnn"],
    ]
    assert "on the device / cached" in headings
    assert all(float(cell) > 0 for row in rows for cell in row[2:])


def test_losses(script, monkeypatch):
    losses = script("losses")
    monkeypatch.setattr(losses, "BATCH_SIZE", 16)
    few = "--student", "fc", "--repeats", "1", "--steps", "1"
    headings, *rows = rows_of(losses.main, *few, "--loss", "kd", "--loss", "rkd")
    assert headings[0] == "loss, fc" and [row[0] for row in rows] == ["kd", "rkd"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


class TestGpu:
    """gpu.py, of which nothing needs a GPU."""

    def test_each_library_trains_the_same_students(self, script):
        torch = pytest.importorskip("torch")
        gpu = script("gpu")
        for name, (shape, _) in gpu.STUDENTS.items():
            own = gpu.keras_model(name, "float32")
            other = gpu.torch_model(name)
            assert other(torch.zeros(2, *shape[2:], *shape[:2])).shape == (2, 10)
            count = sum(x.numel() for x in other.parameters())
            assert count == sum(np.prod(x.shape) for x in own.trainable_variables)

    @pytest.mark.parametrize("name, macs", [("FC", 1.24e6), ("ResNet", 41e6)])
    def test_its_students_are_the_known_ones(self, script, name, macs):
        """The published student, and ResNet-20 (He et al. 2016) with projections."""
        policy = keras.config.dtype_policy()
        model = script("gpu").keras_model(name, "mixed_bfloat16")
        assert keras.config.dtype_policy() == policy
        assert model.outputs[0].dtype == "float32"
        assert profile(model).macs == pytest.approx(macs, rel=0.02)

    def test_the_part_of_the_peak(self, script):
        gpu = script("gpu")
        row = {"library": "JAX", "student": "FC", "dtype": "mixed_bfloat16", "batch": 256}
        row |= {"macs": 1e6, "found": {"plain": 1e6, "cached": 5e5}}
        lines = gpu.table([row], gpu.PEAKS["H100"]).splitlines()[2:]
        cells = [[x.strip() for x in line.split("|")[4:-1]] for line in lines]
        # Three million million of the 494.5 that the card does.
        assert cells == [
            ["JAX, plain", "1,000,000", "0.6 %"],
            ["JAX, cached", "500,000", "0.3 %"],
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("library", ["JAX", "PyTorch"])
    def test_a_few_examples(self, script, library):
        if library == "PyTorch":
            pytest.importorskip("torch")
        told = [library, [["FC", "float32", 16]], 32, 0.01]
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "gpu.py"), "--child", json.dumps(told)],
            env=os.environ | {"KERAS_BACKEND": "jax"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (row,) = (x[4:] for x in done.stdout.splitlines() if x.startswith("ROW "))
        found = json.loads(row)["found"]
        ways = ["plain", "live, streamed", "live", "cached, streamed", "cached"]
        assert list(found) == (ways if library == "JAX" else ["eager"])
        assert all(value > 0 for value in found.values())
