"""What many workers and many classes cost: a model, beside what is measured here.

    python scripts/benchmarks/cost_model.py workers [--rounds 1]
    python scripts/benchmarks/cost_model.py cache [--rounds 5]
    python scripts/benchmarks/cost_model.py imagenet

`workers` trains students of three sizes on processes of this machine. The model's two
numbers are fitted to clusters of 2, and the others' step times are what it says of them.
`cache` does the same with the teacher cache: fitted to some, it says what the others take.
`imagenet` puts a data set and a machine that are not here into these formulas.

    step  = compute(batch / W) max(1, W / cores) + (W - 1) (message + 8 P byte)
    bytes = N V (2 K), or N V (2 (k + 1) + 2 k) with top-k; and 8 N to know the examples by
    fill  = start + N V (example + K class), and N V sort with top-k of 1,000 classes

W workers on one machine send 2 (W - 1) times the P float32 gradients among them, in a ring;
N examples under V views have K classes, of which the k largest are kept.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from workers import run_all

BATCH_SIZE, STEPS = 256, 16
UNITS = (64, 512, 1536)
COUNTS = (1, 2, 4)
EPOCHS = 5

# (examples, classes, top_k): the model is fitted to the first four.
FITTED = [(8192, 10, None), (32768, 10, None), (16384, 1000, None), (16384, 1000, 20)]
CACHES = [*FITTED, (131072, 10, None), (65536, 100, None), (65536, 1000, None)]
CACHES += [(65536, 1000, 20)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["workers", "cache", "imagenet"])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        time_steps(arguments.worker)
        return
    rows = {
        "workers": lambda: workers(arguments.rounds or 1),
        "cache": lambda: caches(arguments.rounds or 5),
        "imagenet": imagenet,
    }[arguments.part]()
    from keras_kd.tables import markdown_table

    print(markdown_table(rows, numbers_from=1))


def student(units):
    import keras

    layers = [keras.layers.Dense(units, "relu") for _ in range(2)]
    return keras.Sequential([keras.layers.Input((784,)), *layers, keras.layers.Dense(10)])


def time_steps(folder):
    """What one worker does: seconds a step of each student, with all and with a share.

    A median of five epochs, between which the other students have theirs.
    """
    from keras_kd.distribution import cluster

    strategy = cluster.join(cluster.find())
    import keras
    import numpy as np

    import keras_kd as kd
    from keras_kd.distribution.workers import Workers

    here = Workers(strategy)
    # What one worker of 2 or of 4 computes, alone.
    shares = COUNTS if here.count == 1 else [1]
    runs = {}
    for units in UNITS:
        for share in shares:
            with strategy.scope():
                distiller = kd.Distiller(student(64), student(units), "kd")
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                distiller.compile("adam", loss)
            runs[units, share] = distiller
    x = np.random.default_rng(0).normal(size=(BATCH_SIZE * STEPS, 784)).astype("float32")
    y = np.argmax(x[:, :10], axis=1)
    seconds = {key: [] for key in runs}
    for epoch in range(EPOCHS + 1):
        for key, distiller in runs.items():
            size = BATCH_SIZE // key[1]
            began = time.perf_counter()
            distiller.fit(x[: size * STEPS], y[: size * STEPS], batch_size=size, verbose=0)
            # The first traces the step.
            if epoch:
                seconds[key].append((time.perf_counter() - began) / STEPS)
    told = [[*key, statistics.median(x)] for key, x in seconds.items()]
    Path(folder, f"{here.index}.json").write_text(json.dumps(told))


def workers(rounds):
    """Rows of the table of step times."""
    import os

    import numpy as np

    seconds = {}
    for _ in range(rounds):
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                run_all([sys.executable, __file__, "workers", "--worker", folder], count)
                told = json.loads(Path(folder, "0.json").read_text())
            for units, share, value in told:
                seconds.setdefault((count, units, share), []).append(value)
    median = {key: statistics.median(x) for key, x in seconds.items()}
    parameters = {units: student(units).count_params() for units in UNITS}

    def compute(count, units):
        return median[1, units, count] * max(1, count / os.cpu_count())

    factors = [[1, 8 * parameters[units]] for units in UNITS]
    exchanges = [median[2, units, 1] - compute(2, units) for units in UNITS]
    message, byte = np.linalg.lstsq(np.array(factors), np.array(exchanges), rcond=None)[0]
    print(f"message {1000 * message:.1f} ms, byte {1e9 * byte:.2f} ns\n")
    rows = []
    for units in UNITS:
        for count in COUNTS:
            exchange = (count - 1) * (message + 8 * parameters[units] * byte)
            model = compute(count, units) + exchange
            measured = median[count, units, 1]
            rows.append(
                {
                    "parameters": f"{parameters[units]:,}",
                    "workers": count,
                    "measured (ms a step)": f"{1000 * measured:.1f}",
                    "model (ms)": f"{1000 * model:.1f}" + (" fitted" * (count == 2)),
                    "ratio": f"{measured / model:.2f}",
                }
            )
    return rows


def stored_bytes(examples, classes, top_k=None, views=1):
    """What a cache takes on disk, but for its manifest."""
    row = 2 * classes
    if top_k is not None:
        # Log-probabilities, that of all other classes, and the classes' numbers.
        row = 2 * (top_k + 1) + top_k * (1 if classes <= 256 else 2)
    return examples * (views * row + 8)


def fill_factors(examples, classes, top_k=None):
    """What start, example, class and sort are multiplied with."""
    return [1, examples, examples * classes, examples * (top_k is not None)]


def caches(rounds):
    """Rows of the table of what caches take."""
    import numpy as np

    fills, reads, sizes = {}, {}, {}
    time_cache(*CACHES[0])  # The first builds what TensorFlow keeps.
    for _ in range(rounds):
        for kind in CACHES:
            fill, read, sizes[kind] = time_cache(*kind)
            fills.setdefault(kind, []).append(fill)
            reads.setdefault(kind, []).append(read)
    fill = {kind: statistics.median(x) for kind, x in fills.items()}
    factors = np.array([fill_factors(*kind) for kind in CACHES])
    costs = np.linalg.solve(factors[: len(FITTED)], [fill[kind] for kind in FITTED])
    start, *others = costs
    example, one_class, sort = (1e6 * x for x in others)
    print(
        f"start {start:.2f} s; example {example:.1f} us, class {one_class:.3f} us, sort "
        f"{sort:.1f} us\n"
    )
    models = dict(zip(CACHES, factors @ costs, strict=True))
    rows = []
    for kind in CACHES:
        examples, classes, top_k = kind
        stored = stored_bytes(*kind)
        read = statistics.median(reads[kind])
        rows.append(
            {
                "examples": f"{examples:,}",
                "classes": f"{classes:,}" + (f", top {top_k}" if top_k else ""),
                "MB": f"{sizes[kind] / 1e6:.2f}",
                "model (MB)": f"{stored / 1e6:.2f}",
                "fill (s)": f"{fill[kind]:.2f}",
                "model (s)": f"{models[kind]:.2f}" + (" fitted" * (kind in FITTED)),
                "read (examples/s)": f"{examples / read:,.0f}",
                "read (MB/s)": f"{sizes[kind] / read / 1e6:.1f}",
            }
        )
    return rows


def time_cache(examples, classes, top_k):
    """Seconds to fill a cache, seconds of an epoch over it, and its bytes."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_kd.cache.cache import cache_teacher

    teacher = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(classes)])
    x = np.random.default_rng(0).normal(size=(examples, 64)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(examples, "int64")))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        cached = cache_teacher(teacher, data, folder, top_k=top_k, verbose=0)
        filled = time.perf_counter()
        for _ in cached.batch(256):
            pass
        read = time.perf_counter()
        stored = sum(f.stat().st_size for f in Path(folder).glob("*.npy"))
    return filled - began, read - filled, stored


def imagenet():
    """Rows for 1,281,167 images, 1,000 classes and 8 GPUs; see the README for the rates."""
    images, gpus, images_a_second = 1_281_167, 8, 2500
    rows = []
    for top_k in (None, 20):
        for views in (1, 300):
            stored = stored_bytes(images, 1000, top_k, views)
            row = stored_bytes(1, 1000, top_k) * gpus * images_a_second
            rows.append(
                {
                    "kept": f"top {top_k}" if top_k else "all 1,000",
                    "views": views,
                    "cache (GB)": f"{stored / 1e9:,.2f}",
                    "read (MB/s)": f"{row / 1e6:.1f}",
                    "MB/s where each of 8 workers reads all": f"{gpus * row / 1e6:.0f}",
                }
            )
    return rows


if __name__ == "__main__":
    main()
