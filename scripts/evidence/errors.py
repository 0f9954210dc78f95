"""The test errors of every model of some runs, as a table and as a picture.

A part of scripts/evidence/evidence.py.
"""

import collections
import math

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from keras_kd.report import drawing
from keras_kd.report.tables import finished, mean_errors, taught_by
from keras_kd.tables import markdown_table, plain

_LINE_STYLES = ("--", ":", "-.", (0, (8, 2)), (0, (1, 4)))
_LINE_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")


def errors_of(models):
    return [model.metrics.evaluation.errors for model in models]


def all_errors(folders):
    """The test errors of every finished model.

    Args:
        folders: dict of a folder's name to its runs, a list of `run_reader.Run`.

    Returns:
        A list, in chain order, of (name, `run_reader.Model` of the first seed, errors of
        each seed).

    Raises:
        ValueError: No model is finished.
    """
    found = [
        (folder, name, models)
        for folder, runs in folders.items()
        for name, models in finished(runs)
    ]
    if not found:
        raise ValueError(f"No model is finished in {', '.join(folders)}.")
    counts = collections.Counter(name for _, name, _ in found)
    return [
        (f"{folder}: {name}" if counts[name] > 1 else name, models[0], errors_of(models))
        for folder, name, models in found
    ]


def errors_table(rows):
    return markdown_table(
        [
            {
                "model": plain(name),
                "taught by": plain(taught_by(model)),
                "errors": mean_errors(errors),
                "each seed": ", ".join(f"{x:,}" for x in errors),
            }
            for name, model, errors in rows
        ],
        numbers_from=2,
    )


def errors_picture(rows, lines):
    """A `drawing.Picture`: a dot for each seed, a bar at the mean, lines at `lines`."""
    names, of_models = [row[0] for row in rows], [row[2] for row in rows]
    legend_rows = math.ceil((2 + len(lines)) / 2)
    lowest = min(*map(min, of_models), *lines.values(), np.inf)
    highest = max(*map(max, of_models), *lines.values(), 0)
    return drawing.drawn(
        "errors",
        "Test errors of each model",
        "Test errors of each model; fewer is better. A dot is a seed, a bar the mean.",
        _draw_errors,
        names,
        of_models,
        lines,
        highest > 8 * max(lowest, 1),
        size=(6, 1 + 0.3 * len(rows) + 0.23 * legend_rows),
    )


def _draw_errors(figure, names, of_models, lines, log):
    axes = figure.add_subplot(xlabel="errors on the test images")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(drawing.short)
    for place, errors in enumerate(of_models):
        # Seeds of equal counts are drawn beside each other.
        below = [errors[:i].count(x) for i, x in enumerate(errors)]
        places = [place + 0.16 * x for x in below]
        axes.plot(errors, places, "o", color="#0072B2", markersize=4.5, alpha=0.75)
        mean = [np.mean(errors)] * 2
        axes.plot(mean, [place - 0.33, place + 0.33], color="black", linewidth=2)
    handles = [
        Line2D([], [], color="#0072B2", marker="o", linestyle="none", markersize=4.5),
        Line2D([], [], color="black", marker="|", linestyle="none", markeredgewidth=2),
    ]
    for i, value in enumerate(lines.values()):
        style = {
            "color": _LINE_COLOURS[i % len(_LINE_COLOURS)],
            "linestyle": _LINE_STYLES[i % len(_LINE_STYLES)],
            "linewidth": 1.3,
        }
        handles.append(axes.axvline(value, zorder=0.9, **style))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    known = [f"{text}: {value:g}" for text, value in lines.items()]
    figure.legend(handles, ["a seed", "mean", *known], loc="outside lower center", ncols=2)
