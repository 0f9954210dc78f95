"""A script: fills caches in processes that are killed, and in several at once.

    python killed_fill.py FOLDER

Prints, as JSON, how many processes were killed before each cache in the folder was full.
"""

import functools
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

from keras_kd.cache import filling
from keras_kd.cache.cache import cache_teacher
from tests.killed import start, was_killed

filling.SHARD_EXAMPLES = 32


def fill(path):
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(500, 4)).astype("float32")
    cache_teacher(teacher, (x,), path, batch_size=16, verbose=0)


def die_at(moment):
    """Kills this process at the given one of all steps that change the disk."""
    steps = itertools.count()

    def step():
        if next(steps) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    write, replace, unlink = Path.write_bytes, os.replace, Path.unlink

    def write_bytes(path, data):
        step()
        write(path, data[: len(data) // 2])
        step()
        write(path, data)

    def replace_and_step(source, target):
        step()
        replace(source, target)
        step()

    def unlink_and_step(path, missing_ok=False):
        step()
        unlink(path, missing_ok=missing_ok)

    Path.write_bytes, os.replace, Path.unlink = (
        write_bytes,
        replace_and_step,
        unlink_and_step,
    )


def fill_and_die(path, moment):
    die_at(moment)
    fill(path)


def killed_at_each_step(path):
    """One process a moment, each a step later; how many it took."""
    for moment in itertools.count():
        if not was_killed(start(fill_and_die, path, moment)):
            return moment


def killed_at_random(path):
    """One process after another, each killed sometime; how many it took."""
    delays = random.Random(0)
    for count in itertools.count():
        process = start(fill, path)
        # Later and later, so that it ends on a slow machine too.
        time.sleep(delays.uniform(0.1, 0.3 + count / 50))
        os.kill(process, signal.SIGKILL)
        if not was_killed(process):
            return count


def at_once(path, processes=3):
    """Several processes fill the same cache; how many were killed."""
    return sum(map(was_killed, [start(fill, path) for _ in range(processes)]))


WAYS = {
    "killed-at-each-step": killed_at_each_step,
    "killed-at-random": killed_at_random,
    "at-once": at_once,
    "once": functools.partial(at_once, processes=1),
}


if __name__ == "__main__":
    print(json.dumps({how: way(Path(sys.argv[1], how)) for how, way in WAYS.items()}))
