"""On JAX, a batch divided over several devices trains the same student as one device."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "train_on_devices.py"


@pytest.fixture(scope="module")
def told():
    """What the script says; virtual devices are made before JAX starts."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Small models take longer to be compiled than to be trained.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_student_is_on_all_devices_alike(told):
    for expected, one in zip((1, 4), told, strict=True):
        assert one["weight_on"] == expected
        assert one["copies_are_equal"] and one["teacher_unchanged"]


def test_four_devices_train_as_one_does(told):
    one, four = told
    assert len(one["losses"]) == 50 and np.ptp(one["losses"]) > 0.1
    np.testing.assert_allclose(four["losses"], one["losses"], atol=1e-5)
    for weight, expected in zip(four["student"], one["student"], strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4)
    for name, value in one["evaluate"].items():
        assert four["evaluate"][name] == pytest.approx(value, abs=1e-5), name
