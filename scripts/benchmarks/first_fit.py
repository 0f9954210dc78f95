"""What a first `fit` takes until it trains: a Distiller's beside plain Keras's.

    python scripts/benchmarks/first_fit.py

Models so small, and so few batches, that compiling the step is all there is. Interleaved.
"""

import statistics
import time

import click
import keras
import numpy as np
from tabulate import tabulate

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make(units):
    layers = [keras.layers.Dense(units, activation="relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


def student():
    return make(4)


def distiller():
    return kd.Distiller(make(8), make(4), "kd")


def mutual():
    return kd.MutualDistiller({"one": make(4), "other": make(4)})


MODELS = {"plain Keras": student, "Distiller": distiller, "MutualDistiller": mutual}


def seconds(model):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model.compile("adam", LOSS, metrics=["accuracy"])
    since = time.perf_counter()
    model.fit(x, np.arange(32) % 3, batch_size=8, verbose=0)
    return time.perf_counter() - since


@click.command(help=__doc__.split("\n")[0])
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(min=1))
def main(repeats):
    found = {name: [] for name in MODELS}
    # The first of a process loads libraries.
    for repeat in range(repeats + 1):
        for name, build in MODELS.items():
            keras.backend.clear_session()
            found[name].append(seconds(build()))
    medians = {name: statistics.median(x[1:]) for name, x in found.items()}
    rows = [
        {"model": name, "seconds": f"{x:.2f}", "ratio": f"{x / medians['plain Keras']:.2f}"}
        for name, x in medians.items()
    ]
    print(tabulate(rows, headers="keys", tablefmt="pipe", colalign=("left", "right")))


if __name__ == "__main__":
    main()
