"""Distillations under a strategy of two replicas, beside the same on one device."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_kd.distribution.distribute import _RestoreAlone, _without_writers

SCRIPT = Path(__file__).parent / "train_on_replicas.py"


@pytest.fixture(scope="module")
def told():
    # A process of its own, as devices are divided before TensorFlow does anything.
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["several", "cached", "alone"])
def test_two_replicas_train_as_one_device_does(told, name):
    one, two = told[name]
    assert two["iterations"] == one["iterations"] == 8
    assert two["history"].keys() == one["history"].keys()
    # A loss that stood still would agree, too.
    assert np.ptp(one["history"]["loss"]) > 0.05
    for metric, values in one["history"].items():
        np.testing.assert_allclose(two["history"][metric], values, atol=1e-5)
    for weight, expected in zip(two["student"], one["student"], strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["several", "cached", "alone"])
def test_evaluate_counts_each_example_once(told, name):
    one, two = told[name]
    assert two["evaluate"].keys() == one["evaluate"].keys()
    for metric, value in one["evaluate"].items():
        assert two["evaluate"][metric] == pytest.approx(value, abs=1e-5)
        assert two["on_batch"][metric] == pytest.approx(one["on_batch"][metric], abs=1e-5)


def test_replicas_keep_the_mean_of_their_moving_averages(told):
    first, second = told["normalized"]["mean"]
    assert first == second
    # Momentum 0.5, one step: half of what it was, and half of the whole batch's mean.
    rng = np.random.default_rng(2)
    shapes = [(4, 8), (8,), (8,), (8,), (8,), (8,), (8, 3), (3,)]
    before = [rng.uniform(0, 0.9, size=shape) for shape in shapes][4]
    expected = (before + told["normalized"]["before"]) / 2
    np.testing.assert_allclose(first, expected, atol=1e-5)
    # The mean of no example is no number.
    first, second = told["normalized"]["after_a_small_batch"]
    assert first == second and np.all(np.isfinite(first))


def test_the_teacher_is_unchanged_and_a_student_can_leave_the_strategy(told):
    assert told["normalized"]["teacher_unchanged"]
    assert told["normalized"]["alone"]


def test_what_replicas_cannot_share_is_refused(told):
    memory, mutual = told["refused"]
    assert "ContrastiveRepresentation keeps a memory" in memory and "2 replicas" in memory
    assert "one device" in mutual


def test_only_the_chief_has_callbacks_that_write(tmp_path):
    stop = keras.callbacks.EarlyStopping()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    writers = [
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    kept = _without_writers([stop, *writers, backup])
    assert kept[0] is stop and isinstance(kept[1], _RestoreAlone) and len(kept) == 2
    assert _without_writers(None) == [] and _without_writers(stop) == [stop]
    with pytest.raises(ValueError, match="must be a list"):
        _without_writers(keras.callbacks.CallbackList())


def test_a_student_of_another_scope_is_refused(make_model):
    import tensorflow as tf

    import keras_kd as kd

    student = make_model()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        distiller = kd.Distiller(make_model(), student, "kd")
    distiller.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="`student` must be made in the scope.*Distiller"):
        distiller.fit([[0.0] * 4], [[0.0] * 3], verbose=0)
