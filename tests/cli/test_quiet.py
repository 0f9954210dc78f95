"""The command line without TensorFlow's remarks about the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_kd.cli.quiet import without_remarks

REMARK = "I0000 cudart_stub.cc:31] Could not find cuda drivers on your machine\n"


def test_remarks_are_held_back_and_all_else_is_written(capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with without_remarks():
        os.write(2, f"first\n{REMARK}second\n".encode())
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\n"
    assert os.environ.pop("TF_CPP_MIN_LOG_LEVEL") == "2"


def test_an_error_within_is_not_lost(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    with pytest.raises(OSError, match="no disk"), without_remarks():
        os.write(2, b"before it\n")
        raise OSError("no disk")
    assert capfd.readouterr().err == "before it\n"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_who_asks_for_remarks_has_them(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with without_remarks():
        os.write(2, REMARK.encode())
    assert capfd.readouterr().err == REMARK


def test_a_command_says_its_answer_alone(tmp_path, make_model):
    """In a process without the variables that the scripts set."""
    make_model().save(tmp_path / "small.keras")
    set_by_scripts = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    environment = {k: x for k, x in os.environ.items() if k not in set_by_scripts}
    process = subprocess.run(
        [Path(sys.executable).with_name("keras-kd"), "profile", tmp_path / "small.keras"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert process.stderr == "" and process.stdout.startswith("parameters")


def test_help_loads_neither_keras_nor_tensorflow():
    code = """
import sys
sys.argv = ["keras-kd", "run", "--help"]
from keras_kd.cli import main
try:
    main()
finally:
    assert not {"keras", "tensorflow", "numpy"} & set(sys.modules), "loaded"
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Usage: keras-kd run")
