"""Chains, run folders and caches on JAX, in processes of their own; one is killed."""

import functools
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.chain import chain_on_jax

pytest.importorskip("jax")
pytestmark = pytest.mark.slow


@functools.cache
def process(folder, kill=0):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, chain_on_jax.__file__, str(folder), str(kill)],
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )


def told(folder):
    done = process(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "jax"
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return told(tmp_path_factory.mktemp("jax") / "whole")


def test_a_killed_chain_goes_on_to_the_same_bits(whole, tmp_path_factory):
    """Killed as the second stage is at its second epoch."""
    folder = tmp_path_factory.mktemp("jax") / "killed"
    assert process(folder, kill=4).returncode == -signal.SIGKILL
    assert (folder / "run" / "alone" / "checkpoint.npz").is_file()
    assert told(folder)["digest"] == whole["digest"]


def test_cached_is_live(whole):
    live = whole["losses"]["live"]
    assert live[0] != live[1]
    for name in ("memory", "disk"):
        assert whole["losses"][name] == pytest.approx(live, rel=1e-4)
