"""Every distillation loss on MNIST: two students, all labels or 1,000 of them.

The shipped teacher teaches the experiment's fully connected student, and a small CNN whose
maps feature losses can attach to. Each loss is tuned by the same number of trials, drawn
from the same seed, of its weight and, where it has one, its temperature, by the accuracy
on 5,000 held-out training images. Then it is trained with each seed on the other 55,000,
and the test images are looked at once. With 1,000 labels half of each batch is labelled,
the other half is not and only distilled; losses that need labels, and the student alone,
have the labelled images only.

Each cell (student, labels, loss, trial or seed) is a file in the run folder, so a run goes
on where it was stopped, and several processes can share it (--part).
"""

import collections
import functools
import inspect
import itertools
import json
import math
import statistics
import time
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf
from tabulate import tabulate
from tqdm import tqdm

import keras_kd as kd
from keras_kd import data, files
from keras_kd.recipes import recipe, zoo

BATCH_SIZE, HELD_OUT, LABELLED = 256, 5_000, 1_000
STUDENTS = {"fc": "mnist_student", "cnn": "mnist_small_cnn"}
LABELS = ("all", "1000")
SEARCH_SEED = 1_000
ALONE = "alone"

# What multiplies each loss in its authors' (else RepDistiller's) training; 1 where it is
# the loss's own scale. A trial multiplies it again.
WEIGHTS = collections.defaultdict(lambda: 1.0) | {
    "logit_std": 9.0,
    "ttm": 45.0,
    "fitnet": 100.0,
    "at": 1000.0,
    "nst": 50.0,
    "fsp": 50.0,
    "ft": 200.0,
    "pkt": 30_000.0,
    "sp": 3000.0,
    "cc": 0.02,
    "crd": 0.8,
}
# Points below the median of all losses at which one has failed.
FAILED = 10
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (2.0, 4.0, 8.0)

# The teacher's layers; the student's are the hidden layer before the logits, and the CNN's
# convolutions.
HIDDEN, MAPS = "hidden1", ("pool1", "pool2")
ON_HIDDEN = ("fitnet", "ab", "vid", "simkd", "pkt", "sp", "cc", "crd")
# On maps where there are any. One pair is the deepest.
ON_ONE_MAP = ("fitnet", "ab", "vid", "simkd", "at", "nst", "ft", "ofd")
ON_TWO_MAPS = ("fsp", "reviewkd")


def taps_of(method, student_name, student):
    """The `taps` of a loss; None for the models' own outputs."""
    if student_name == "cnn" and method in ON_TWO_MAPS:
        return list(zip(MAPS, ("conv1", "conv2"), strict=True))
    if student_name == "cnn" and method in ON_ONE_MAP:
        return [(MAPS[-1], "conv2")]
    return [(HIDDEN, student.layers[-2].name)] if method in ON_HIDDEN else None


def methods_for(student_name):
    """The losses that this student has layers for, the student alone first."""
    maps_only = set(ON_ONE_MAP + ON_TWO_MAPS) - set(ON_HIDDEN)
    names = [x for x in kd.losses.names() if student_name == "cnn" or x not in maps_only]
    return [ALONE, *names]


def arguments_of(method):
    return inspect.signature(kd.losses.LOSSES[method]).parameters


def needs_labels(method):
    return method == ALONE or kd.losses.LOSSES[method].needs_labels


def trials_of(method, count):
    """The settings to try: the authors' own, then some drawn from the grid."""
    has_temperature = "temperature" in arguments_of(method) and method != "crd"
    grid = list(itertools.product(FACTORS, TEMPERATURES if has_temperature else (None,)))
    drawn = np.random.default_rng(SEARCH_SEED).permutation(len(grid))
    settings = [(1.0, None), *(grid[i] for i in drawn)]
    return [{"factor": x, "temperature": t} for x, t in settings[:count]]


def labelled_cross_entropy(y_true, logits):
    """Mean over the labelled examples; -1 is no label."""
    y_true = keras.ops.reshape(y_true, (-1,))
    mask = keras.ops.cast(y_true >= 0, logits.dtype)
    losses = keras.losses.sparse_categorical_crossentropy(
        keras.ops.maximum(y_true, 0), logits, from_logits=True
    )
    # Keras divides by the batch.
    share = keras.ops.mean(mask)
    return losses * keras.ops.cast(mask / share, losses.dtype)


class Bench:
    """The data, the teacher, and what it says of the data, each made once.

    Args:
        cache: Folder for the teacher's outputs.
    """

    def __init__(self, cache):
        self._cache = cache
        self._teacher = recipe.load_model("mnist/teacher")
        images, labels = data.load_arrays("mnist", "train")
        order = np.random.default_rng(SEARCH_SEED).permutation(len(labels))
        held_out, training = order[:HELD_OUT], order[HELD_OUT:]
        per_class = [training[labels[training] == c][: LABELLED // 10] for c in range(10)]
        labelled = np.concatenate(per_class)
        # The labelled ones come first.
        rest = training[~np.isin(training, labelled)]
        self._rows = np.concatenate([labelled, rest])
        self._images, self._labels = images, labels
        self._held_out = data.scale(images[held_out]), labels[held_out]
        images, labels = data.load_arrays("mnist", "test")
        self._test = data.scale(images), labels

    @functools.lru_cache
    def _examples(self, names):
        """Training examples with the teacher's outputs of these layers."""
        folder = self._cache / "-".join(map(str, names))
        examples = data.scale(self._images[self._rows]), self._labels[self._rows]
        return kd.cache_teacher(
            self._teacher, examples, folder, outputs=list(names), verbose=0
        )

    def _batches(self, names, labels, only_labelled, seed):
        examples = self._examples(names)
        count = len(self._rows)
        steps = count // BATCH_SIZE
        if labels == "all":
            return examples.shuffle(count, seed=seed).batch(BATCH_SIZE, drop_remainder=True)
        few = examples.take(LABELLED).shuffle(LABELLED, seed=seed).repeat()
        if only_labelled:
            return few.batch(BATCH_SIZE).take(steps)
        half = BATCH_SIZE // 2
        others = examples.skip(LABELLED).shuffle(count - LABELLED, seed=seed)

        def both(labelled, others):
            x, y = tf.nest.map_structure(
                lambda *parts: tf.concat(parts, axis=0), labelled, others
            )
            return x, tf.concat([y[:half], -tf.ones_like(y[half:])], axis=0)

        pairs = tf.data.Dataset.zip(
            few.batch(half), others.batch(half, drop_remainder=True)
        )
        return pairs.map(both).take(steps).prefetch(2)

    def train(self, method, student_name, labels, settings, epochs, seed):
        """Trains one student; accuracy on held-out and test images, seconds per epoch."""
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy("mixed_bfloat16")
        student = zoo.build(STUDENTS[student_name])
        keras.config.set_dtype_policy("float32")
        taps = None if method == ALONE else taps_of(method, student_name, student)
        names = tuple(pair[0] for pair in taps) if taps else (None,)
        batches = self._batches(names, labels, needs_labels(method), seed)
        if method == ALONE:
            distiller = kd.Distiller(self._teacher, student, "kd", student_loss_weight=1)
        else:
            loss = self._loss(method, taps, settings["temperature"])
            weight = WEIGHTS[method] * settings["factor"]
            distiller = kd.Distiller(self._teacher, student, loss, weight)
        distiller.compile(keras.optimizers.Adam(0.001), labelled_cross_entropy)
        timer = EpochTimer()
        distiller.fit(batches, epochs=epochs, verbose=0, shuffle=False, callbacks=[timer])
        held_out, test = (
            float(np.mean(np.argmax(student.predict(x, 1000, verbose=0), axis=-1) == y))
            for x, y in (self._held_out, self._test)
        )
        keras.backend.clear_session()
        # The first epoch has the tracing in it.
        return {"held_out": held_out, "test": test, "seconds": min(timer.seconds)}

    def _loss(self, method, taps, temperature):
        arguments = {"taps": taps} if taps else {}
        if temperature is not None:
            arguments["temperature"] = temperature
        if method == "crd":
            # A quarter of the authors' negatives, of a data set as large as theirs.
            arguments |= {"num_examples": len(self._rows), "negatives": 4096}
        return kd.losses.get(method, **arguments)


class EpochTimer(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


class Cells:
    """The files of a run folder, one for each trained student.

    Args:
        folder: Of the run.
        settings: dict of what must be the same for a run to go on.

    Raises:
        click.ClickException: The folder is of a run with other settings.
    """

    def __init__(self, folder, settings):
        self._folder = folder
        path = folder / "settings.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise click.ClickException(
                f"{folder} is of a run with other settings: {path.read_text()}. "
                "Choose another --run-dir."
            )
        files.write_json(path, settings)

    def get(self, *key):
        path = self._path(key)
        return json.loads(path.read_text()) if path.exists() else None

    def find_or_make(self, make, *key):
        found = self.get(*key)
        if found is None:
            found = make()
            files.write_json(self._path(key), found)
        return found

    def _path(self, key):
        return self._folder / "cells" / f"{'-'.join(map(str, key))}.json"


def run_group(bench, cells, group, trials, search_epochs, epochs, seeds, progress):
    """Tunes one loss on one student and kind of labels, and trains it with each seed."""
    student_name, labels, method = group
    settings = [{"factor": None, "temperature": None}]
    settings = settings if method == ALONE else trials_of(method, trials)
    scores = []
    for trial, setting in enumerate(settings if method != ALONE else []):

        def search(setting=setting):
            found = bench.train(
                method, student_name, labels, setting, search_epochs, SEARCH_SEED
            )
            # Of the test images a trial knows nothing.
            return {"held_out": found["held_out"], **setting}

        scores.append(cells.find_or_make(search, *group, "trial", trial))
        progress.update()
    best = max(scores, key=lambda x: x["held_out"], default=settings[0])
    for seed in range(seeds):

        def final(seed=seed):
            return bench.train(method, student_name, labels, best, epochs, seed) | {
                "factor": best["factor"],
                "temperature": best["temperature"],
            }

        cells.find_or_make(final, *group, "seed", seed)
        progress.update()


def results(cells, groups, seeds):
    """Rows of the table, for each (student, labels): a dict of method to its summary."""
    found = collections.defaultdict(dict)
    for student_name, labels, method in groups:
        group = (student_name, labels, method)
        values = [cells.get(*group, "seed", seed) for seed in range(seeds)]
        if None not in values:
            accuracies = [100 * x["test"] for x in values]
            found[student_name, labels][method] = {
                "accuracies": accuracies,
                "mean": statistics.mean(accuracies),
                "deviation": statistics.stdev(accuracies) if seeds > 1 else math.nan,
                "seconds": statistics.median(x["seconds"] for x in values),
                "factor": values[0]["factor"],
                "temperature": values[0]["temperature"],
            }
    return found


def tables(found):
    """Markdown: a table for each student, a row for each loss."""
    texts = []
    for student_name in dict.fromkeys(key[0] for key in found):
        columns = {key[1]: x for key, x in found.items() if key[0] == student_name}
        rows = []
        for method in methods_for(student_name):
            row = {f"loss, {student_name}": method}
            for labels, summaries in columns.items():
                row |= _cells(f"{labels} labels (%)", labels, method, summaries)
            rows.append(row)
        align = ["left"] + ["right"] * (len(rows[0]) - 1)
        texts.append(
            tabulate(
                rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=align
            )
        )
    return "\n\n".join(texts)


def _cells(title, labels, method, summaries):
    """Mean and deviation, difference from `kd`, time per epoch relative to no loss."""
    names = (title, f"- kd, {labels}", f"time, {labels}")
    if method not in summaries:
        return dict.fromkeys(names, "")
    x = summaries[method]
    from_kd = x["mean"] - summaries["kd"]["mean"] if "kd" in summaries else math.nan
    plain = summaries[ALONE]["seconds"] if ALONE in summaries else math.nan
    texts = (
        f"{x['mean']:.2f} ± {x['deviation']:.2f}",
        f"{from_kd:+.2f}",
        f"{x['seconds'] / plain:.1f}",
    )
    return dict(zip(names, texts, strict=True))


def plot(found, path):
    """Mean and standard deviation of each method, one panel for each column."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [ALONE, *kd.losses.names()]
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.4 * len(found) + 0.8, 6), sharey=True, squeeze=False
    )
    for axis, ((student_name, labels), summaries) in zip(
        axes[0], found.items(), strict=True
    ):
        shown = [i for i, name in enumerate(names) if name in summaries]
        means = [summaries[names[i]]["mean"] for i in shown]
        deviations = [summaries[names[i]]["deviation"] for i in shown]
        # One that failed is named at the edge, so that the others can be told apart.
        lowest = statistics.median(means) - FAILED
        drawn = [d if x > lowest else 0 for x, d in zip(means, deviations, strict=True)]
        axis.errorbar(means, shown, xerr=drawn, fmt="o", color="tab:blue", capsize=2)
        for reference, style in (("kd", "-"), (ALONE, "--")):
            if reference in summaries:
                axis.axvline(
                    summaries[reference]["mean"], color="0.6", ls=style, lw=1, zorder=0
                )
        starts = [x - d for x, d in zip(means, deviations, strict=True) if x > lowest]
        axis.set_xlim(min(starts) - 0.2, max(means) + 0.6)
        for i, mean in zip(shown, means, strict=True):
            if mean < lowest:
                text = f"< {mean:.1f}"
                place = {"transform": axis.get_yaxis_transform(), "va": "center"}
                axis.text(0.02, i, text, backgroundcolor="white", **place)
        axis.set(title=f"{student_name}, {labels} labels", xlabel="test accuracy (%)")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@click.command(context_settings={"show_default": True}, help=__doc__.split("\n")[0])
@click.option("--run-dir", default="runs/methods", type=click.Path(path_type=Path))
@click.option("--trials", default=6, help="Settings tried for each loss.")
@click.option("--search-epochs", default=4)
@click.option("--epochs", default=12)
@click.option("--seeds", default=5, help="Seeds 0 to this minus 1.")
@click.option("--student", "students", multiple=True, default=tuple(STUDENTS))
@click.option("--labels", multiple=True, default=LABELS)
@click.option("--loss", "losses", multiple=True, help="Only these. [default: all]")
@click.option("--part", default="1/1", help="K/N: every N-th group, from the K-th.")
@click.option("--only-report", is_flag=True, help="Train nothing; show what is there.")
def main(
    run_dir,
    trials,
    search_epochs,
    epochs,
    seeds,
    students,
    labels,
    losses,
    part,
    only_report,
):
    settings = {"trials": trials, "search_epochs": search_epochs, "epochs": epochs}
    cells = Cells(run_dir, settings)
    groups = [
        (student, kind, method)
        for kind in labels
        for student in students
        for method in methods_for(student)
        if not losses or method in losses
    ]
    if not only_report:
        first, step = map(int, part.split("/"))
        data.prepare("mnist", None)
        bench = Bench(run_dir / "cache")
        mine = groups[first - 1 :: step]
        total = sum(seeds + trials * (group[-1] != ALONE) for group in mine)
        with tqdm(total=total, unit=" cells", mininterval=5) as progress:
            for group in mine:
                progress.set_postfix_str(" ".join(group))
                run_group(
                    bench, cells, group, trials, search_epochs, epochs, seeds, progress
                )
    found = results(cells, groups, seeds)
    if found:
        click.echo(tables(found))
        files.write_text(run_dir / "table.md", tables(found) + "\n")
        files.write_json(
            run_dir / "results.json",
            {" ".join(key): summaries for key, summaries in found.items()},
        )
        plot(found, run_dir / "methods.png")


if __name__ == "__main__":
    main()
