"""Files of earlier versions load, resume and are reused; see old_files/README.md."""

import csv
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

OLD = Path(__file__).parent / "old_files"
X = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)
EXAMPLES = tf.data.Dataset.from_tensor_slices((X, Y))


def model(units):
    """Its first kernels are the same on every machine, to the bit."""
    layers = [
        keras.layers.Input((4,)),
        keras.layers.Dense(units, activation="relu", name="hidden"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3),
    ]
    made, draw = keras.Sequential(layers), np.random.default_rng(units)
    for kernel in [w for w in made.weights if len(w.shape) == 2]:
        kernel.assign(draw.uniform(-0.5, 0.5, kernel.shape))
    return made


def fit_chain(folder):
    """Two stages, with layers of a loss, statistics, dropout and an order of the data."""
    keras.utils.set_random_seed(0)
    hint = kd.losses.FitNet(taps=("hidden", "hidden"))
    stages = [
        kd.Stage("ta", model(8), 1, ["kd", hint]),
        kd.Stage("student", model(4), 3, "kd", patience=3),
    ]
    chain = kd.DistillationChain(model(8), stages)
    train_ds = EXAMPLES.shuffle(96, seed=1).batch(16)
    data = {"validation_data": EXAMPLES.batch(48), "test_data": EXAMPLES.batch(96)}
    return chain.fit(train_ds, **data, run_dir=folder, verbose=0)


def test_a_distiller_whose_loss_has_layers():
    distiller = keras.saving.load_model(OLD / "distiller.keras")
    answers = np.load(OLD / "answers.npy")
    np.testing.assert_allclose(distiller.predict(X, verbose=0), answers, atol=1e-5)
    before = [w.copy() for w in distiller.student.get_weights()]
    distiller.fit(X, Y, batch_size=16, verbose=0)
    changed = zip(before, distiller.student.get_weights(), strict=True)
    assert any(np.any(a != b) for a, b in changed)


# Keras's `fit` tells everybody so who gives it a tf.data.Dataset.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_a_cache_is_reused():
    teacher = keras.saving.load_model(OLD / "teacher.keras")
    before = {x: x.read_bytes() for x in (OLD / "cache").iterdir()}
    cached = kd.cache_teacher(teacher, (X, Y), path=OLD / "cache", verbose=0)
    assert {x: x.read_bytes() for x in (OLD / "cache").iterdir()} == before
    distiller = kd.Distiller(teacher, model(4), "kd")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss)
    distiller.fit(cached.batch(16), verbose=0)


def rows(folder):
    with open(folder / "student" / "history.csv") as file:
        return list(csv.DictReader(file))


def test_an_interrupted_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    before = rows(folder)
    assert len(before) == 2
    result = fit_chain(folder)
    assert rows(folder)[:2] == before and len(rows(folder)) == 3
    # The assistant is the one that was there.
    old = (OLD / "run" / "ta" / "model.keras").read_bytes()
    assert (folder / "ta" / "model.keras").read_bytes() == old
    weights = np.load(OLD / "student.npz")
    for name, weight in zip(weights, result.students["student"].get_weights(), strict=True):
        np.testing.assert_allclose(weight, weights[name], atol=1e-4)


def make():
    """What wrote the files: to be run with the version that they shall be of."""
    keras.utils.set_random_seed(0)
    OLD.mkdir(exist_ok=True)
    hint = kd.losses.FitNet(taps=("hidden", "hidden"))
    distiller = kd.Distiller(model(8), model(4), ["kd", hint])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"])
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    distiller.save(OLD / "distiller.keras")
    np.save(OLD / "answers.npy", distiller.predict(X, verbose=0))
    distiller.teacher.save(OLD / "teacher.keras")
    teacher = keras.saving.load_model(OLD / "teacher.keras")
    kd.cache_teacher(teacher, (X, Y), path=OLD / "cache", verbose=0)
    whole = fit_chain(OLD / "whole").students["student"].get_weights()
    np.savez(OLD / "student.npz", *whole)
    shutil.rmtree(OLD / "whole")
    with pytest.MonkeyPatch.context() as patch:

        def stop(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(kd.callbacks.StopOnBadLoss, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_chain(OLD / "run")
    for events in (OLD / "run").rglob("events"):
        shutil.rmtree(events)


if __name__ == "__main__":
    make()
