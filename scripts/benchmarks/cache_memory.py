"""Peak memory of caching a teacher's outputs on disk and of one epoch over the cache.

    python scripts/benchmarks/cache_memory.py [EXAMPLES ...]

Each number of examples, 60,000 and 600,000 by default, is measured in a process of its own.
The examples are made one by one as they are read, 28 x 28 x 1 float32, so that whatever
grows is ours.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_kd.cache.cache import cache_teacher

SHAPE = (28, 28, 1)


def peak():
    """This process's largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def examples(count):
    """A tf.data.Dataset of (x, y), the same each time."""

    def example(number):
        seed = tf.stack([number, 0])
        return tf.random.stateless_uniform(SHAPE, seed), number % 10

    return tf.data.Dataset.range(count).map(example, num_parallel_calls=2)


def measure(count):
    teacher = keras.Sequential(
        [
            keras.layers.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="features"),
            keras.layers.Dense(10),
        ]
    )
    teacher.predict(np.zeros((256, *SHAPE)), verbose=0)
    peaks, seconds = [peak()], []
    with tempfile.TemporaryDirectory() as path:

        def cached():
            return cache_teacher(
                teacher, examples(count), path, outputs=[None, "features"], verbose=0
            )

        def epoch():
            for _ in cached().shuffle(1000).batch(256):
                pass

        for step in (cached, cached, epoch):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
            peaks.append(peak())
        size = sum(file.stat().st_size for file in Path(path).iterdir()) / 2**20
    columns = [f"{count:,}", f"{size:.0f}", *(f"{x:.0f}" for x in peaks + seconds)]
    print("| " + " | ".join(columns) + " |", flush=True)


def main(counts):
    print(
        "| examples | cache, MiB | peak before, MiB | after filling | after reuse | after "
        "an epoch | filling, s | reuse, s | reuse and epoch, s |"
    )
    print("|" + "---|" * 9, flush=True)
    for count in counts or ["60000", "600000"]:
        subprocess.run([sys.executable, __file__, "--alone", count], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        measure(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
