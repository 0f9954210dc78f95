"""scripts/benchmarks/backends.py on few images; what it times is not looked at."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from keras_kd import data

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def backends(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28, 1)).astype("uint8")
    arrays = images, rng.integers(0, 10, 64)
    monkeypatch.setattr(data, "prepare", lambda *arguments: None)
    monkeypatch.setattr(data, "load_arrays", lambda *arguments: arrays)
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("backends")


def test_a_row_for_each_student(backends):
    arguments = ["--student", "mnist_student", "--student", "mnist_device_cnn"]
    arguments += ["--batch-size", "16", "--repeats", "2", "--steps", "2"]
    result = CliRunner().invoke(backends.main, [*arguments, "--examples", "48"])
    assert result.exit_code == 0, result.output
    rows = [x.split("|")[1:-1] for x in result.output.splitlines() if x[:1] == "|"]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] for row in rows[2:]] == [
        ["tensorflow", "mnist_student"],
        ["tensorflow", "mnist_device_cnn"],
    ]
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[2:])
