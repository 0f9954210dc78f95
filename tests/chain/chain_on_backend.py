"""A script: chains on Keras's backend, whole and killed, and a cache there.

    KERAS_BACKEND=jax python chain_on_backend.py FOLDER

One process is forked for a chain that is never stopped and for what a cache is compared by;
one that kills itself as the second stage is at its second epoch; and one that goes on.
Prints, as JSON, digests of all weights and histories, and more of the first process.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.chain import result
from keras_kd.distribution import cluster
from keras_kd.distribution.workers import Workers
from keras_kd.evaluation.profile import Profile, latency
from tests import killed as processes

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(100, 5)).astype("float32"), RNG.integers(0, 3, 100)
LABELS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KILLED_IN = 3


class Kill(keras.callbacks.Callback):
    """Kills this process as the epoch of that number begins, over all stages."""

    def __init__(self, number):
        super().__init__()
        self._left = number

    def on_epoch_begin(self, epoch, logs=None):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def model(width, dtype="float32"):
    layers = [keras.layers.Dense(width, "relu", name="hidden", dtype=dtype)]
    layers += [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.layers.Input((5,)), *layers, keras.layers.Dense(3)])


def chain(folder, killed_in=0):
    """Two stages on shuffled data that they share, and one on a cache of its teacher."""
    keras.utils.set_random_seed(0)
    shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=3).batch(20)

    def cached(teacher):
        data = kd.cache_teacher(teacher, (X, Y), verbose=0)
        return data.shuffle(100, seed=5).batch(20)

    averaging = keras.optimizers.SGD(0.1, use_ema=True)
    stages = [
        # In validation it is what the optimizer averages.
        kd.Stage("ta", model(8), 1, "kd", optimizer=averaging, restore_best=True),
        # What it ships is a copy, in float32.
        kd.Stage("alone", model(4, "mixed_bfloat16"), 2),
        kd.Stage("student", model(4), 1, "kd", taught_by="ta", train_data=cached),
    ]
    validation, test = (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(50)
        for x, y in ((X[:50], Y[:50]), (X[50:], Y[50:]))
    )
    found = kd.DistillationChain(model(16), stages).fit(
        shuffled,
        validation,
        run_dir=folder,
        verbose=0,
        callbacks=[Kill(killed_in)],
        test_data=test,
    )
    digest = hashlib.sha256()
    for name, student in found.students.items():
        for weight in student.get_weights():
            digest.update(weight.tobytes())
        digest.update((folder / name / "history.csv").read_bytes())
    macs = {x.model: x.pure_macs for x in found.models}
    return {"digest": digest.hexdigest(), "macs": macs}


def losses(folder):
    """Of the same steps, live, and from a cache in memory and on disk."""
    keras.utils.set_random_seed(0)
    teacher, found = model(16), {}
    for name, path in (("live", None), ("memory", None), ("disk", folder / "cache")):
        data = tf.data.Dataset.from_tensor_slices((X, Y))
        if name != "live":
            options = {"dtype": "float32", "outputs": [None, "hidden"], "verbose": 0}
            data = kd.cache_teacher(teacher, (X, Y), path, **options)
        keras.utils.set_random_seed(1)
        loss = kd.losses.get("sp", taps=("hidden", "hidden"))
        distiller = kd.Distiller(teacher, model(4), ["kd", loss])
        distiller.compile("sgd", LABELS)
        history = distiller.fit(data.batch(20), shuffle=False, epochs=2, verbose=0)
        found[name] = history.history["distillation_loss"]
    return found


def refused():
    """What is said at once where TensorFlow alone can do it; dict of what to message."""
    zeros = lambda x: np.zeros((len(x), 3))  # noqa: E731
    teacher = kd.teachers.from_function(zeros, name="zeros", version="1")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    resolver = cluster.find(["localhost:1", "localhost:2"], index=0, environment={})
    live = kd.Distiller(teacher, model(4), "kd")
    taught = kd.Distiller(model(4), model(4), "kd")
    for distiller in (live, taught):
        distiller.compile("sgd", LABELS)

    def in_scope(make):
        with strategy.scope():
            make()

    asked = {
        "Distiller": lambda: in_scope(lambda: kd.Distiller(model(4), model(4), "kd")),
        "fit": lambda: in_scope(lambda: taught.fit(X, Y)),
        "mutual": lambda: in_scope(lambda: kd.MutualDistiller([model(4), model(4)])),
        "chain": lambda: in_scope(lambda: chain(None)),
        "workers": lambda: Workers(strategy),
        "cluster": lambda: cluster.join(resolver),
        "saved model": lambda: kd.teachers.from_saved_model("nowhere"),
        "live function": lambda: live.fit(X, Y),
    }
    return {name: message_of(ask) for name, ask in asked.items()}


def message_of(ask):
    try:
        ask()
    except ValueError as error:
        return str(error)


def whole(folder):
    told = chain(folder / "whole") | {"losses": losses(folder), "refused": refused()}
    told["milliseconds"] = latency(model(4), repeats=2).median
    (folder / "whole.json").write_text(json.dumps(told))


def interrupted(folder, killed_in):
    # Once is enough that MACs are counted.
    result.profile = lambda model: Profile(model.count_params(), None, None)
    told = chain(folder / "killed", killed_in)
    (folder / "killed.json").write_text(json.dumps(told))


def main(folder):
    first = processes.start(whole, folder)
    killed = processes.was_killed(processes.start(interrupted, folder, KILLED_IN))
    kept = (folder / "killed" / "alone" / "checkpoint.npz").is_file()
    processes.was_killed(processes.start(interrupted, folder, 0))
    processes.was_killed(first)
    told = {"backend": keras.backend.backend(), "killed": killed and kept}
    for name in ("whole", "killed"):
        told |= {f"{name} chain": json.loads((folder / f"{name}.json").read_text())}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
