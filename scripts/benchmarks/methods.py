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
import json
import math
import statistics
from pathlib import Path

import click
from method_training import (
    ALONE,
    LABELS,
    SEARCH_SEED,
    STUDENTS,
    Bench,
    methods_for,
    trials_of,
)
from tabulate import tabulate
from tqdm import tqdm

import keras_kd as kd
from keras_kd import data, files

# Points below the median of all losses at which one has failed.
FAILED = 10


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
