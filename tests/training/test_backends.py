"""The other backends of Keras train the same student as TensorFlow's."""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.training import checkpoint_on_backend, train_on_backend
from tests.training.test_callbacks import assert_files

# What Keras's own losses do is said; here they are given weights.
pytestmark = pytest.mark.filterwarnings("ignore:FeatureDistillation ignores sample_weight")


@functools.cache
def told_by(backend, folder):
    """What the script says; a process of its own, as Keras has one backend in each."""
    folder = folder / backend
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Small models take longer to be compiled than to be trained.
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, train_on_backend.__file__, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(params=["jax", "torch"])
def other(request, folder):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return told_by(request.param, folder)


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory):
    """The same in this process, whose backend is TensorFlow."""
    told = train_on_backend.tell(tmp_path_factory.mktemp("tensorflow"))
    assert told["backend"] == "tensorflow"
    return told


def test_each_batch_has_the_same_loss(tensorflow, other):
    assert len(tensorflow["losses"]) == 10
    # A loss that did not change would agree on any backend.
    assert np.ptp(tensorflow["losses"]) > 0.1
    np.testing.assert_allclose(other["losses"], tensorflow["losses"], atol=1e-4)


def test_the_student_is_the_same(tensorflow, other):
    for weight, expected in zip(other["student"], tensorflow["student"], strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4)


def test_evaluate_and_predict_are_the_same(tensorflow, other):
    assert other["evaluate"].keys() == tensorflow["evaluate"].keys()
    for name, value in tensorflow["evaluate"].items():
        assert other["evaluate"][name] == pytest.approx(value, abs=1e-4), name
    for name in ("predict", "ensemble"):
        np.testing.assert_allclose(other[name], tensorflow[name], atol=1e-3)


def test_files_with_and_without_teacher_go_on(other):
    assert other["files_come_back"] == [True, True]


def test_a_loss_with_a_memory_remembers_and_resumes(other):
    memory = other["memory"]
    # Both memories, both normalisation constants, and the count of draws.
    assert memory["changed"] == [True] * 4 and memory["draws"] == 10
    assert min(memory["losses"]) > 0
    np.testing.assert_allclose(memory["from_file"], memory["losses"][1:], rtol=1e-5)


def test_the_teacher_is_unchanged(other):
    assert other["teacher_unchanged"]


def test_a_student_that_is_frozen_as_a_whole_is_refused(tensorflow, other):
    assert tensorflow["frozen"].startswith("There is nothing to train: all layers of `stud")
    assert other["frozen"] == tensorflow["frozen"]


def test_a_step_that_fails_leaves_all_weights(tensorflow, other):
    assert tensorflow["kept"] == other["kept"] == [True, True]


def test_examples_on_the_device_teach_what_streamed_ones_do(tensorflow, other):
    for told in (tensorflow, other):
        for streamed, found in told["on_device"]:
            is_able = told["backend"] != "torch"
            assert (streamed.pop("on_device"), found.pop("on_device")) == (False, is_able)
            for name in ("history", "weights"):
                expected = keras.tree.flatten(streamed.pop(name))
                np.testing.assert_allclose(
                    keras.tree.flatten(found.pop(name)), expected, rtol=1e-5, atol=1e-6
                )
            # Where it stopped at a bad loss, and after how many steps.
            assert found == streamed
        whole, bad = told["on_device"]
        assert whole[0]["steps"] == 80 and whole[0]["stopped"] is None
        steps = bad[0]["steps"]
        assert 0 < steps <= 40 and f"epoch 1, batch {steps}" in bad[0]["stopped"]


@pytest.mark.parametrize("name", checkpoint_on_backend.ELSEWHERE)
def test_student_checkpoint_saves_what_it_does_on_tensorflow(name, other):
    assert_files(other["checkpoints"][name])
