"""A script: runs chains in processes that are killed, one after another, until one ends.

    python killed_chain.py FOLDER

Prints, as JSON, how many processes were killed before each run in the folder had ended.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_kd import DistillationChain, Stage, losses
from tests.killed import start, was_killed

DATA = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")


def model(units, dropout=0.3):
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(units, activation="relu", name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3),
        ]
    )


def run(folder):
    """Four stages with all that has a state: dropout, statistics, projections, order."""
    keras.utils.set_random_seed(0)
    hint = losses.FitNet(taps=("hidden", "hidden"))
    stages = [
        Stage("ta", model(8), 3, ["kd", hint], restore_best=True, monitor="val_accuracy"),
        Stage("branch", model(4), 2, "kd", patience=1),
        Stage("student", model(4), 3, "kd", taught_by=["teacher", "ta"]),
        Stage("alone", model(4), 2, optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
    ]
    labels = np.argmax(DATA[:, :3], axis=1)
    data = tf.data.Dataset.from_tensor_slices((DATA, labels))
    train_data = data.shuffle(96, seed=1).batch(16)
    chain = DistillationChain(model(8), stages)
    chain.fit(
        train_data, data.batch(48), run_dir=folder, verbose=0, test_data=data.batch(96)
    )


def die_at(moment):
    """Kills this process at that one of its steps that change the disk."""
    steps = itertools.count()

    def dying(change):
        def changed(*arguments, **keywords):
            for then in (lambda: change(*arguments, **keywords), lambda: None):
                if next(steps) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = then()
            return result

        return changed

    os.replace = dying(os.replace)
    Path.unlink = dying(Path.unlink)
    Path.write_text = dying(Path.write_text)
    np.savez = dying(np.savez)
    shutil.rmtree = dying(shutil.rmtree)


def run_and_die(folder, moment):
    die_at(moment)
    run(folder)


def killed_at_writes(folder):
    moments = random.Random(0)
    for count in itertools.count():
        # Later and later, as a process has the more to look through before it goes on.
        if not was_killed(start(run_and_die, folder, moments.randrange(2, 30 + 4 * count))):
            return count


def killed_at_random(folder, whole):
    # A fast machine would be done before it is killed three times, a slow one never.
    delays = random.Random(1)
    for count in itertools.count():
        process = start(run, folder)
        # Later and later, so that it ends; early first, as another may be twice as fast as
        # the unharmed one was.
        time.sleep(whole * delays.uniform(0.05, 0.2 + count / 12))
        os.kill(process, signal.SIGKILL)
        if not was_killed(process):
            return count


def main(folder):
    since = time.monotonic()
    kills = {"once": int(was_killed(start(run, folder / "once")))}
    whole = time.monotonic() - since
    kills["at-writes"] = killed_at_writes(folder / "at-writes")
    kills["at-random"] = killed_at_random(folder / "at-random", whole)
    print(json.dumps(kills))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
