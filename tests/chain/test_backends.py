"""Chains, run folders and caches on the other backends; one is killed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.chain import chain_on_backend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["jax", "torch"])
def told(request, tmp_path_factory):
    """What the script says; a process of its own, as Keras has one backend in each."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    environment = os.environ | {"KERAS_BACKEND": request.param}
    # Small models take longer to be compiled than to be trained.
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, chain_on_backend.__file__, tmp_path_factory.mktemp("chain")],
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == request.param
    return found


def test_a_killed_chain_goes_on_to_the_same_bits(told):
    assert told["killed"]
    assert told["killed chain"]["digest"] == told["whole chain"]["digest"]


def test_cached_is_live(told):
    losses = told["whole chain"]["losses"]
    assert losses["live"][0] != losses["live"][1]
    for name in ("memory", "disk"):
        assert losses[name] == pytest.approx(losses["live"], rel=1e-4)


def test_macs_are_counted(told):
    by_hand = {"teacher": 16, "ta": 8, "alone": 4, "student": 4}
    by_hand = {name: 5 * width + width * 3 for name, width in by_hand.items()}
    assert told["whole chain"]["macs"] == by_hand
    assert told["whole chain"]["milliseconds"] > 0


@pytest.mark.parametrize(
    "asked",
    ["Distiller", "fit", "mutual", "chain", "workers", "cluster"]
    + ["saved model", "live function"],
)
def test_what_is_tensorflows_alone_says_so(told, asked):
    message = told["whole chain"]["refused"][asked]
    names = {"saved model": "a SavedModel teaches", "live function": "which runs live"}
    names |= {"cluster": "a cluster of workers trains"}
    name = names.get(asked, "a `tf.distribute` strategy trains")
    assert name in message and "on TensorFlow alone" in message
