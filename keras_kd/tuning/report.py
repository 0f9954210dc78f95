"""What a search leaves: a table of its trials, a picture, and the best one as a recipe."""

import math

import matplotlib
from matplotlib.ticker import NullFormatter

from keras_kd.recipes.recipe import AS_JSON
from keras_kd.report.drawing import drawn, short
from keras_kd.report.recipe import as_toml
from keras_kd.tables import code, markdown_table
from keras_kd.tuning.recipe import NUMBERS, Range

_BEST, _OTHERS = "#D55E00", "#0072B2"


def ranked(recipe, trials):
    """The trials, the best first; those that failed come last."""
    sign = 1 if recipe.tune.objective.endswith("loss") else -1
    return sorted(
        trials,
        key=lambda x: (math.inf if x.objective is None else sign * x.objective, x.number),
    )


def best_recipe(recipe, best):
    """The text of a recipe file that has the best trial's values."""
    made = recipe.with_values(best.values)
    table = made.model_dump(**AS_JSON, exclude_unset=True)
    metric = recipe.tune.objective
    return (
        f"# Trial {best.number} of a search over the held-out images: {metric} "
        f"{best.objective:.4f} of stage {recipe.judged!r}.\n\n{as_toml(table)}"
    )


def table(recipe, trials):
    """The trials as a Markdown table, the best first."""
    dimensions = sorted(recipe.dimensions, key=lambda x: x.key in NUMBERS)
    rows = []
    for trial in ranked(recipe, trials):
        row = {"trial": str(trial.number)}
        for dimension in dimensions:
            row[dimension.name] = _cell(dimension, trial)
        if recipe.tune.strategy == "hyperband":
            row["epochs"] = str(trial.epochs)
        failed = trial.objective is None
        row[recipe.tune.objective] = "failed" if failed else f"{trial.objective:.4f}"
        rows.append(row)
    words = sum(x.key not in NUMBERS for x in dimensions)
    return markdown_table(rows, numbers_from=1 + words)


def _cell(dimension, trial):
    if dimension.name not in trial.values:
        return "-"
    label = dimension.label(trial.values[dimension.name])
    return label if dimension.key in NUMBERS else code(label)


def picture(recipe, trials):
    """The objective by each thing searched, a `keras_kd.report.drawing.Picture`."""
    count, objective = len(recipe.dimensions), recipe.tune.objective
    failed = sum(x.objective is None for x in trials)
    rows = math.ceil(count / 2)
    return drawn(
        "trials",
        f"{objective} of each trial against each value that was searched",
        "A point is a trial; the star is the best one."
        + " Hollow ones had fewer epochs." * (len({x.epochs for x in trials}) > 1)
        + f" {failed} failed." * bool(failed),
        _draw,
        recipe,
        [x for x in ranked(recipe, trials) if x.objective is not None],
        size=(7 if count > 1 else 4.5, 0.4 + 3 * rows),
    )


def _draw(figure, recipe, trials):
    figure.supylabel(recipe.tune.objective)
    count = len(recipe.dimensions)
    columns = min(count, 2)
    first = None
    for i, dimension in enumerate(recipe.dimensions):
        axes = figure.add_subplot(math.ceil(count / columns), columns, i + 1, sharey=first)
        first = first or axes
        axes.margins(y=0.1)
        axes.set_xlabel(dimension.name)
        _draw_panel(axes, dimension, trials)


def _draw_panel(axes, dimension, trials):
    _set_scale(axes, dimension)
    most = max((x.epochs or 0 for x in trials), default=0)
    # The best last, so that it lies above the others.
    for rank, trial in reversed(list(enumerate(trials))):
        if dimension.name not in trial.values:
            continue
        value = trial.values[dimension.name]
        if not isinstance(dimension.values, Range):
            value = list(dimension.values).index(dimension.label(value))
        color = _BEST if rank == 0 else _OTHERS
        short_trial = trial.epochs is not None and trial.epochs < most
        axes.plot(
            value,
            trial.objective,
            linestyle="none",
            marker="o" if rank else "*",
            markersize=6 if rank else 15,
            color=color,
            markerfacecolor="white" if short_trial else color,
        )


def _set_scale(axes, dimension):
    values = dimension.values
    if not isinstance(values, Range):
        labels = [x if len(x) <= 22 else f"{x[:21]}…" for x in values]
        turned = {"rotation": 25, "ha": "right"} if max(map(len, labels)) > 6 else {}
        axes.set_xticks(range(len(labels)), labels, fontsize=10, **turned)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        return
    margin = 0.06
    if values.sampling == "log":
        axes.set_xscale("log")
        beyond = (values.max / values.min) ** margin
        axes.set_xlim(values.min / beyond, values.max * beyond)
        if values.max < 30 * values.min:
            ticks = matplotlib.ticker.LogLocator(subs=(1, 2, 5))
            axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        beyond = (values.max - values.min) * margin
        axes.set_xlim(values.min - beyond, values.max + beyond)
    axes.xaxis.set_major_formatter(short)
