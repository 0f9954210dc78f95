"""Trains one student on 1, 2 and 4 workers, and puts what they learned side by side.

    python scripts/benchmarks/workers.py [--workers 1 2 4] [--markdown FILE]

The workers are processes on this machine. Each cluster sees the same batches in the same
order, a worker its part of each. Printed are the largest differences of the losses of 50
steps and of the weights from those of one worker, whether the workers' own weights are the
same bit for bit, and the time of a step. Exits with 1 where they differ by more than 1e-5
(losses) or 1e-4 (weights), or between workers at all.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

BATCH_SIZE, STEPS = 64, 50
LOSSES, WEIGHTS = 1e-5, 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--markdown", type=Path, help="A file for the table.")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        train(arguments.worker)
        return
    clusters = {count: run(count) for count in arguments.workers}
    rows, good = compare(clusters)
    from keras_kd.tables import markdown_table

    table = markdown_table(rows, numbers_from=1)
    print(table)
    if arguments.markdown:
        arguments.markdown.write_text(table + "\n")
    sys.exit(0 if good else 1)


def train(folder):
    """What one worker does."""
    from keras_kd.distribution import cluster

    strategy = cluster.join(cluster.find())
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_kd as kd
    from keras_kd.distribution.workers import Workers

    class Losses(keras.callbacks.Callback):
        """Keras's mean of the losses so far turned into each step's."""

        def __init__(self):
            super().__init__()
            self.values, self._sum = [], 0.0

        def on_train_batch_end(self, batch, logs=None):
            total = float(logs["loss"]) * (batch + 1)
            self.values.append(total - self._sum)
            self._sum = total

    class EpochTimes(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_epoch_end(self, epoch, logs=None):
            self.ends.append(time.perf_counter())

    def model(units, regularizer=None):
        dense = keras.layers.Dense(units, "relu", kernel_regularizer=regularizer)
        layers = [keras.layers.Input((32,)), dense, keras.layers.Dense(10)]
        return keras.Sequential(layers)

    keras.utils.set_random_seed(0)
    with strategy.scope():
        student = model(64, keras.regularizers.L2(1e-3))
        distiller = kd.Distiller(model(128), student, "kd")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(BATCH_SIZE * STEPS, 32)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.argmax(x[:, :10], axis=1)))
    data = data.shuffle(len(x), seed=1).batch(BATCH_SIZE, drop_remainder=True)
    losses, times = Losses(), EpochTimes()
    told = distiller.fit(
        data,
        validation_data=(x[:1000], np.argmax(x[:1000, :10], axis=1)),
        verbose=0,
        callbacks=[losses],
    ).history
    weights = student.get_weights()
    # The first epoch traces the step; nobody looks at single steps now.
    distiller.fit(data, epochs=4, verbose=0, callbacks=[times])
    seconds = min(b - a for a, b in zip(times.ends, times.ends[1:])) / STEPS
    index = Workers(strategy).index
    np.savez(folder / f"worker-{index}.npz", *weights)
    content = {
        "losses": losses.values,
        "metrics": {name: values[-1] for name, values in told.items()},
        "weights": hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest(),
        "seconds": seconds,
    }
    (folder / f"worker-{index}.json").write_text(json.dumps(content))


def run_all(command, count):
    """Runs a command in each process of a cluster; exits where one of them fails."""
    from keras_kd.distribution import cluster

    for code, text in cluster.run_locally(command, count, timeout=500):
        if code != 0:
            sys.exit(f"A worker of {count} failed with {code}.\n{text[-3000:]}")


def run(count):
    """What each worker of a cluster tells: a list of dicts, weights as arrays in them."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        run_all([sys.executable, __file__, "--worker", folder], count)
        told = []
        for index in range(count):
            path = Path(folder, f"worker-{index}.json")
            told.append(json.loads(path.read_text()))
            with np.load(path.with_suffix(".npz")) as arrays:
                told[-1]["arrays"] = [arrays[name] for name in arrays.files]
        return told


def compare(clusters):
    """Rows of the table, and whether all differences are within the limits."""
    first = next(iter(clusters.values()))[0]
    rows, good = [], True
    for count, told in clusters.items():
        chief = told[0]
        pairs = zip(chief["losses"], first["losses"], strict=True)
        losses = max(abs(a - b) for a, b in pairs)
        pairs = zip(chief["arrays"], first["arrays"], strict=True)
        weights = max(float(abs(a - b).max()) for a, b in pairs)
        names = first["metrics"]
        metrics = max(abs(chief["metrics"][x] - first["metrics"][x]) for x in names)
        same = len({x["weights"] for x in told}) == 1
        good &= losses <= LOSSES and weights <= WEIGHTS and metrics <= LOSSES and same
        rows.append(
            {
                "workers": count,
                "largest difference of losses": f"{losses:.1e}",
                "of metrics": f"{metrics:.1e}",
                "of weights": f"{weights:.1e}",
                "workers' weights": "identical" if same else "DIFFER",
                "ms a step": f"{1000 * chief['seconds']:.1f}",
            }
        )
    return rows, good


if __name__ == "__main__":
    main()
