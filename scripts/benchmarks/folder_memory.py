"""Peak memory and time of reading a folder of images, caching a teacher, and an epoch.

    python scripts/benchmarks/folder_memory.py [IMAGES ...]

Each number of images, 10,000 and 100,000 by default, is measured in a process of its own,
on noise of 32 x 32 in colours, a PNG file each. The last column but one is what the images
would take as an array.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from cache_memory import peak

from keras_kd import datasets
from keras_kd.cache.cache import cache_teacher
from keras_kd.data import scale

SHAPE = (32, 32, 3)
CLASSES = 10


def write_images(folder, count):
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, SHAPE, "uint8")
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.png"
        path.write_bytes(tf.io.encode_png(pixels).numpy())


def measure(folder, count):
    layers = [keras.layers.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(10)]
    teacher = keras.Sequential(layers)
    teacher.predict(np.zeros((256, *SHAPE)), verbose=0)
    peaks, seconds = [peak()], []

    def timed(step):
        start = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - start)
        peaks.append(peak())
        return result

    parts = timed(lambda: datasets.load(str(folder), announce=lambda line: None))
    images, labels = parts.train
    cached = timed(lambda: cache_teacher(teacher, (scale(images), labels), verbose=0))

    def epoch():
        for _ in cached.shuffle(len(labels), seed=0).batch(256):
            pass

    timed(epoch)
    array = count * np.prod(SHAPE) / 2**20
    columns = [f"{x:.0f}" for x in [*peaks, *seconds, array, len(labels) / seconds[-1]]]
    print(f"| {count:,} | " + " | ".join(columns) + " |", flush=True)


def main(counts):
    print(
        "| images | peak before, MiB | after reading | after the cache | after an epoch | "
        "reading, s | cache, s | epoch, s | as an array, MiB | images a second |"
    )
    print("|" + "---|" * 10, flush=True)
    for count in counts or ["10000", "100000"]:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), int(count))
            command = [sys.executable, __file__, "--alone", folder, count]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
