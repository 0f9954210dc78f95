"""Where examples are put on the device, and where not; what is learned is the same.

On JAX, too: tests/training/test_backends.py.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import data
from keras_kd.distribution.on_device import on_device
from tests.training.test_several_steps import (
    LOSS,
    LooksAtBatches,
    X,
    Y,
    assert_same,
    compiled,
    fit,
    make_distiller,
    make_model,
    run,
)

MOST = 1e6


def numbered(x=X):
    return kd.with_index((x, Y)).shuffle(64, seed=1).batch(5)


def cached(model):
    outputs = kd.cache_teacher(model.teacher, (X, Y), verbose=0)
    return outputs.shuffle(64, seed=0).repeat().batch(5)


CASES = {
    "shuffled": lambda model, folder: fit(model, numbered(), epochs=3),
    "steps_per_epoch": lambda model, folder: fit(
        model, cached(model).prefetch(1), steps_per_epoch=10, epochs=2
    ),
    "repeated batches": lambda model, folder: [
        fit(model, numbered().repeat(2), epochs=2),
        fit(model, numbered().repeat(), steps_per_epoch=7, epochs=2),
    ],
    "one after the other": lambda model, folder: [
        fit(model, numbered(), validation_data=numbered()),
        fit(model, numbered(X + 1), epochs=2),
        fit(model, X, Y, batch_size=5),
    ],
    "a loss that is no number": lambda model, folder: fit(
        model, numbered(np.where(np.arange(64)[:, None] == 7, np.nan, X)), epochs=2
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_all_is_as_streamed(tmp_path, monkeypatch, name):
    put = []

    def watched(x, limit):
        put.append(on_device(x, limit))
        return put[-1]

    monkeypatch.setattr("keras_kd.training.several_steps.on_device", watched)
    found, expected = (
        run(compiled(make_distiller, **arguments), CASES[name], tmp_path / str(i))
        for i, arguments in enumerate([{"device_bytes": MOST}, {"steps_per_execution": 1}])
    )
    assert_same(found, expected)
    assert put[0] is not None


def test_bytes_become_numbers_there(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (64, 4), dtype="uint8")

    def case(model, folder):
        return fit(model, data.batches(images, Y, 5, shuffle=True, seed=1), epochs=2)

    found, expected = (
        run(compiled(make_distiller, device_bytes=most), case, tmp_path / str(i))
        for i, most in enumerate([MOST, 0])
    )
    # A division is rounded otherwise among other operations.
    for weight, other in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def used(x, limit=MOST, **arguments):
    model = compiled(lambda: kd.Distiller(make_model(), make_model(), "kd"))
    model._device_bytes = limit
    found = []
    at_begin = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: found.append(model._on_device is not None)
    )
    callbacks = [at_begin, *arguments.pop("callbacks", [])]
    fit(model, x, callbacks=callbacks, **arguments)
    assert model._on_device is None
    return found[0]


def test_what_goes_there():
    assert used(numbered())
    # Of a CPU the memory is where they are already.
    assert not used(numbered(), None)
    size = X.nbytes + Y.nbytes
    assert used(numbered(), size) and not used(numbered(), size - 1)
    assert not used(numbered(), callbacks=[LooksAtBatches()])
    assert not used(numbered(), class_weight={0: 1.0, 1: 2.0, 2: 1.0})
    assert not used(numbered().map(lambda *x: x))
    assert not used(tf.data.Dataset.from_tensor_slices((X, Y)).batch(5))


def test_the_limit_is_saved_and_checked(tmp_path):
    model = compiled(make_distiller, device_bytes=MOST)
    fit(model, numbered())
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras")._device_bytes == MOST
    for limit in (-1, "1GB", True):
        with pytest.raises(ValueError, match="`device_bytes` must be None or a number of"):
            model.compile("sgd", LOSS, device_bytes=limit)
