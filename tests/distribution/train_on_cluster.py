"""A worker that test_cluster starts: a chain, or the example of the README.

    TF_CONFIG=... python tests/distribution/train_on_cluster.py chain FOLDER [INDEX_TO_KILL]
    TF_CONFIG=... python tests/distribution/train_on_cluster.py readme
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

# The killed worker dies in this batch of the student's third epoch.
EPOCH, BATCH = 2, 3


def run_chain(folder, killed=None):
    from keras_kd.distribution import cluster

    strategy = cluster.join(cluster.find(), timeout=120)
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_kd as kd
    from keras_kd.cache import filling
    from keras_kd.distribution.workers import Workers

    index = Workers(strategy).index
    filling.SHARD_EXAMPLES = 16
    if killed == str(index):
        kill_in_an_epoch(kd.callbacks.StopOnBadLoss)
    written = count_shards(filling.CacheFolder)
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)

    def model(units):
        layers = [
            keras.layers.Input((4,)),
            keras.layers.Dense(units, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
        return keras.Sequential(layers)

    def train_data(teacher):
        path = folder / f"outputs-{teacher.layers[0].units}"
        cached = kd.cache_teacher(teacher, (x, y), path, verbose=0)
        return cached.shuffle(96, seed=1).batch(16)

    keras.utils.set_random_seed(0)
    with strategy.scope():
        stages = [
            kd.Stage("ta", model(8), 2, "kd", restore_best=True),
            kd.Stage("student", model(6), 4, "kd"),
        ]
        chain = kd.DistillationChain(model(16), stages)
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    result = chain.fit(
        train_data,
        examples.take(50).batch(32),
        folder / "run",
        verbose=0,
        test_data=examples.batch(96),
    )
    told = {
        "loss": result.histories["student"]["loss"],
        "weights": [
            hashlib.sha256(b"".join(w.tobytes() for w in x.get_weights())).hexdigest()
            for x in result.students.values()
        ],
        "errors": [x.errors for x in result.models],
        "shards": written,
    }
    (folder / f"told-{index}.json").write_text(json.dumps(told))


def kill_in_an_epoch(callback):
    def die(self, batch, logs=None):
        if self.model.student.layers[0].units == 6 and self._epoch == EPOCH:
            print(f"killed at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    # After a step, in the middle of the epoch as the others see it.
    callback.on_train_batch_end = die


def count_shards(folder):
    """A list to which the numbers of the shards that are written here are added."""
    written, write = [], folder.write_shard

    def counted(self, number, *arguments):
        written.append(number)
        return write(self, number, *arguments)

    folder.write_shard = counted
    return written


def run_readme():
    page = Path(__file__).parents[2] / "keras_kd" / "distribution" / "README.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_kd as kd
    from keras_kd.distribution.workers import Workers

    def make_model():
        return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])

    def make_train_ds():
        # Not before `cluster.join`, which TensorFlow must not have run before.
        x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
        examples = (x, np.argmax(x[:, :3], axis=1))
        return tf.data.Dataset.from_tensor_slices(examples).batch(16)

    code = code.replace("train_ds", "make_train_ds()")
    names = {"keras": keras, "kd": kd, "make_train_ds": make_train_ds}
    names |= {"make_teacher": make_model, "make_student": make_model}
    exec(compile(code, str(page), "exec"), names)
    distiller = names["distiller"]
    weights = [w.tolist() for w in distiller.student.get_weights()]
    epochs = len(distiller.history.epoch)
    print("the seeds differ", flush=True)
    tf.random.set_seed(Workers.of(distiller).index)
    distiller.fit(make_train_ds(), verbose=0)
    print(json.dumps({"epochs": epochs, "weights": weights}))


if __name__ == "__main__":
    if sys.argv[1] == "chain":
        run_chain(Path(sys.argv[2]), *sys.argv[3:])
    else:
        run_readme()
