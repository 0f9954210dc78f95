"""A script: a chain on JAX, killed or not, and a cache there.

    KERAS_BACKEND=jax python chain_on_jax.py FOLDER KILL

KILL is the number of the epoch, over all stages, at whose beginning the process kills
itself; 0 is none. Prints, as JSON, a digest of all weights and histories, and the
distillation losses of a Distiller that asks its teacher live, and from a cache.
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

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(100, 5)).astype("float32"), RNG.integers(0, 3, 100)


class Kill(keras.callbacks.Callback):
    begun = 0

    def on_epoch_begin(self, epoch, logs=None):
        Kill.begun += 1
        if Kill.begun == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)


def model(width):
    layers = [keras.layers.Dense(width, "relu", name="hidden")]
    layers += [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.layers.Input((5,)), *layers, keras.layers.Dense(3)])


def chain(folder):
    """A stage on shuffled data that all share, and one on a cache of its teacher."""
    keras.utils.set_random_seed(0)
    shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=3).batch(20)

    def cached(teacher):
        data = kd.cache_teacher(teacher, (X, Y), verbose=0)
        return data.shuffle(100, seed=5).batch(20)

    stages = [
        kd.Stage("ta", model(8), 2, "kd"),
        kd.Stage("alone", model(4), 2),
        kd.Stage("student", model(4), 2, "kd", taught_by="ta", train_data=cached),
    ]
    validation = tf.data.Dataset.from_tensor_slices((X, Y)).batch(50)
    result = kd.DistillationChain(model(16), stages).fit(
        shuffled, validation, run_dir=folder, verbose=0, callbacks=[Kill()]
    )
    digest = hashlib.sha256()
    for name, student in result.students.items():
        for weight in student.get_weights():
            digest.update(weight.tobytes())
        digest.update((Path(folder) / name / "history.csv").read_bytes())
    return digest.hexdigest()


def losses(folder):
    """Of the same steps, live, and from a cache in memory and on disk."""
    keras.utils.set_random_seed(0)
    teacher, found = model(16), {}
    for name, path in (("live", None), ("memory", None), ("disk", Path(folder) / "cache")):
        data = tf.data.Dataset.from_tensor_slices((X, Y))
        if name != "live":
            options = {"dtype": "float32", "outputs": [None, "hidden"], "verbose": 0}
            data = kd.cache_teacher(teacher, (X, Y), path, **options)
        keras.utils.set_random_seed(1)
        loss = kd.losses.get("sp", taps=("hidden", "hidden"))
        distiller = kd.Distiller(teacher, model(4), ["kd", loss])
        labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", labels)
        history = distiller.fit(data.batch(20), shuffle=False, epochs=2, verbose=0)
        found[name] = history.history["distillation_loss"]
    return found


if __name__ == "__main__":
    told = {"backend": keras.backend.backend(), "digest": chain(Path(sys.argv[1]) / "run")}
    print(json.dumps(told | {"losses": losses(sys.argv[1])}))
