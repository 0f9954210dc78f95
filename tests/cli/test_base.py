"""What all commands share, in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_ctrl_c_while_libraries_are_loaded(seconds):
    """It ends the command without a word: no traceback, and nothing that goes on."""
    command = [Path(sys.executable).with_name("keras-kd"), "methods"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    # On a fast machine it may have been done before.
    assert process.returncode == -signal.SIGINT or output.startswith("kd  ")
    assert "Traceback" not in error
