"""The pictures of a report that compare all models: what they cost, how they learned."""

import functools

import numpy as np
from matplotlib.ticker import NullFormatter

from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.report import stage_settings
from keras_kd.report.drawing import drawn, legend, short, styles
from keras_kd.report.tables import finished
from keras_kd.tasks.scores import SCORES


def pareto(runs, costs, name, unit):
    """The score that counts against cost; a line joins what no cheaper model beats.

    Args:
        runs: A list of `runs.reader.Run`, of the same recipe with different seeds.
        costs: dict of model name to its cost, more than 0.
        name: What it costs, the picture's name.
        unit: The words at the axis.

    Returns:
        A `Picture`, or None without a model. Of models that another score counts of than
        of the first, none is drawn.
    """
    every = list(finished(runs))
    counts = [models[0].metrics.evaluation.counts for _, models in every]
    every = [x for x, y in zip(every, counts, strict=True) if y == counts[0]]
    score = SCORES[counts[0]] if counts else None
    points = [
        (model, costs[model], *_spread(score, models))
        for model, models in every
        if costs.get(model)
    ]
    if not points:
        return None
    bars = _bars([len(models) for _, models in every])
    equal = len({point[1] for point in points}) < len(points)
    words = score.words[0].upper() + score.words[1:]
    way = "up" if score.higher_is_better else "down"
    return drawn(
        f"{score.name}_{name}",
        f"{words} of each model against its {unit}",
        f"{words} against {unit}; {way} and to the left is better. Bars are {bars}. The "
        "grey line joins the models that no cheaper one equals."
        + " Models of equal cost are drawn side by side."
        * equal,
        _draw_pareto,
        points,
        unit,
        score,
        styles(runs),
    )


def _bars(counts):
    """What the bars are, of models with so many seeds each."""
    words = []
    if max(counts) > 1:
        words.append("standard deviations over the seeds")
    if min(counts) == 1:
        words.append("95 % intervals" + " of a model that is of one seed" * bool(words))
    return ", or ".join(words)


def _spread(score, models):
    """(the score, what is below and above it), a fraction in per cent."""
    scored = [model.metrics.evaluation.scores[score.name] for model in models]
    values = [score.scale * x.value for x in scored]
    if len(models) > 1:
        spread = over_seeds(values)
        return spread.mean, (spread.deviation, spread.deviation)
    if scored[0].interval is None:
        return values[0], (0, 0)
    low, high = (score.scale * x for x in scored[0].interval)
    return values[0], (max(values[0] - low, 0), max(high - values[0], 0))


def _draw_pareto(figure, points, unit, score, style):
    axes = figure.add_subplot(xlabel=unit, ylabel=score.label)
    costs = [point[1] for point in points]
    if max(costs) > 8 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(short)
    places = _side_by_side(costs, axes.get_xscale() == "log")
    best, front = -np.inf, []
    cheapest = functools.partial(_cheap_and_good, score.sign)
    by_cost = sorted(zip(costs, places, points, strict=True), key=cheapest)
    for _, place, (_, _, value, _) in by_cost:
        if score.sign * value > best:
            best = score.sign * value
            front.append((place, value))
    axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=1)
    for place, (name, _, value, bars) in zip(places, points, strict=True):
        line = style[name] | {"linestyle": "none"}
        axes.errorbar(place, value, np.reshape(bars, (2, 1)), capsize=4, **line)
    axes.margins(x=0.12)
    legend(figure, axes.containers, [point[0] for point in points])


def _cheap_and_good(sign, ranked):
    cost, _, (_, _, value, _) = ranked
    return cost, -sign * value


def _side_by_side(costs, log):
    """Where to draw each cost: equal ones would hide each other's bars."""
    places = np.log(costs) if log else np.array(costs, dtype=float)
    width = np.ptp(places) or abs(places[0]) or 1.0
    shifts = [
        sum(abs(place - x) < 0.02 * width for x in places[:i])
        for i, place in enumerate(places)
    ]
    places = places + 0.03 * width * np.array(shifts)
    return np.exp(places) if log else places


def curves(runs, published):
    """Accuracy after each epoch, of every trained stage, on validation data; or on the test
    data where the recipe holds none out.

    Args:
        runs: As `pareto` takes them.
        published: dict of stage name to published accuracies after each epoch, in per cent.

    Returns:
        A `Picture`, or None where no stage has a history.
    """
    histories = {
        model.name: [run[model.name].history for run in runs if run[model.name].history]
        for model in runs[0].models
        if model.stage
    }
    histories = {name: x for name, x in histories.items() if x}
    metric = _metric(histories)
    if metric is None:
        return None
    scale = 100 if "acc" in metric else 1
    lines = {
        name: [scale * np.array(x[metric]) for x in of_seeds]
        for name, of_seeds in histories.items()
    }
    seeds = " Each is the mean over the seeds, its band from the least to the most."
    beside = " Thin lines with hollow markers are published values."
    published = {name: x for name, x in published.items() if x and name in lines}
    watched = _watched(runs[0]) if metric.startswith("val_") else "training"
    words = f"{watched} {metric.removeprefix('val_')}".replace("_", " ")
    return drawn(
        "curves",
        f"{words} of every stage that was trained, after each epoch",
        f"{words.capitalize()} of every stage that was trained, after each epoch."
        + seeds * (len(runs) > 1)
        + beside * bool(published and scale == 100),
        _draw_curves,
        lines,
        published if scale == 100 else {},
        words + " (%)" * (scale == 100),
        styles(runs),
    )


def _watched(run):
    """Which data a run looks at after each epoch, as far as its recipe tells."""
    recipe = run.manifest.recipe or {}
    tells = "validation_examples" in recipe or isinstance(recipe.get("dataset"), dict)
    return "test" if tells and not stage_settings.held_out(recipe) else "validation"


def _metric(histories):
    """The first metric that every stage has: an accuracy on validation data if there is."""
    keys = [set(x) for of_seeds in histories.values() for x in of_seeds]
    common = sorted(set.intersection(*keys)) if keys else []
    wanted = [
        "val_accuracy",
        *(key for key in common if key.startswith("val_") and "acc" in key),
        *(f"val_{name}" for name in SCORES),
        "val_loss",
        "loss",
    ]
    return next((key for key in wanted if key in common), None)


def _draw_curves(figure, lines, published, label, style):
    axes = figure.add_subplot(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    handles, names = [], []
    for name, of_seeds in lines.items():
        # Seeds that still train are shorter; the band goes as far as all of them.
        epochs = min(map(len, of_seeds))
        values = np.stack([x[:epochs] for x in of_seeds])
        x = np.arange(1, epochs + 1)
        handles += axes.plot(x, values.mean(axis=0), markersize=5, **style[name])
        names.append(name)
        if len(of_seeds) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(x, low, high, color=style[name]["color"], alpha=0.15, lw=0)
        if name in published:
            thin = {"linewidth": 0.9, "markersize": 5, "markerfacecolor": "white"}
            x = np.arange(1, len(published[name]) + 1)
            handles += axes.plot(x, published[name], **style[name] | thin)
            names.append(f"{name}, published")
    legend(figure, handles, names)
