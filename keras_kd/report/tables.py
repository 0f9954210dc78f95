"""The tables of a report, as text in cells: the models, what they cost, each class."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.tables import markdown_table, plain, shown_count
from keras_kd.tasks.scores import SCORES

# A table of more classes than this shows those with the most errors.
MOST_CLASSES = 30


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in cells.

    Attributes:
        header: The columns' heads.
        rows: Lists of as many cells.
        numbers_from: From this column on they are numbers, aligned to the right.
    """

    header: list
    rows: list
    numbers_from: int

    def as_markdown(self):
        """The table as Markdown, in which no cell marks up anything."""
        header = [plain(cell) for cell in self.header]
        rows = [[plain(cell) for cell in row] for row in self.rows]
        rows = [dict(zip(header, row, strict=True)) for row in rows]
        return markdown_table(rows, self.numbers_from)


def accuracy_table(runs):
    """How right each finished model is, and how like its teacher.

    Args:
        runs: A list of `runs.reader.Run`, of the same recipe with different seeds.

    Returns:
        A `Table`.
    """
    models = list(finished(runs))
    measured = [x.metrics.evaluation for _, of_name in models for x in of_name]
    scores = dict.fromkeys(name for x in measured for name in x.scores)
    counted = [x for x in scores if any(y.counts == x for y in measured)]
    # What counts comes first, whatever the tasks of the models.
    columns = [_of_score(SCORES[x]) for x in counted]
    columns += [_ERRORS] * any(x.is_right_or_wrong for x in measured)
    columns += [_of_score(SCORES[x]) for x in scores if x not in counted]
    columns += [
        _Column(title, functools.partial(_fidelity, name, scale, digits))
        for name, title, scale, digits in _FIDELITY
        if any(getattr(x.fidelity, name, None) is not None for x in measured)
    ]
    if not any(x.fidelity for x in measured):
        columns += [_Column(title, lambda _: "–") for _, title, *_ in _FIDELITY[:2]]
    header = ["Model", "Taught by", *(x.title for x in columns)]
    rows = [
        [name, taught_by(of_name[0])]
        + [x.cell([y.metrics.evaluation for y in of_name]) for x in columns]
        for name, of_name in models
    ]
    return Table(header, rows, 2)


def notes(runs):
    """What the columns of `accuracy_table` are, a list of sentences.

    Args:
        runs: As `accuracy_table` takes them.
    """
    measured = [x.metrics.evaluation for _, of_name in finished(runs) for x in of_name]
    counted = dict.fromkeys(x.counts for x in measured if not x.is_right_or_wrong)
    sentences = []
    if any(getattr(run.manifest, "labels_of", None) for run in runs):
        sentences += [
            "The data have no labels: right is what the teacher answers, so its own scores "
            "say nothing."
        ]
    if any(x.is_right_or_wrong for x in measured):
        sentences += ["In brackets is the 95 % Wilson interval of the test accuracy."]
    if counted:
        words = " and ".join(SCORES[x].words for x in counted)
        sentences += [f"In brackets is the 95 % bootstrap interval of the {words}."]
    scores = [SCORES[x] for x in dict.fromkeys(y for x in measured for y in x.scores)]
    first, *more = [x for x in scores if x.note] or [None]
    words = [f"{first.short} is {first.note}"] if first else []
    words += [f"{x.short} {x.note}" for x in more]
    phrases = [", ".join(words)] if len(words) < 3 else words
    if any(x.fidelity and x.fidelity.rmse is not None for x in measured):
        phrases += ["RMSE to teacher is how far the two answer apart"]
    if any(x.task != "regression" for x in measured):
        phrases += [
            "agreement is how often model and teacher, of several the last, give the same "
            "answer, KL the mean divergence KL(teacher || student)"
        ]
    text = "; ".join(phrases)
    return [*sentences, text[:1].upper() + text[1:] + "."]


def cost_table(runs, latencies):
    """What each finished model costs.

    Args:
        runs: As `accuracy_table` takes them.
        latencies: dict of model name to milliseconds; a model not in it has none.

    Returns:
        A `Table`.
    """
    header = [
        "Model",
        "Parameters",
        "MACs",
        "MACs, pure",
        "Latency, ms",
        "File, kB",
        "Training",
    ]
    rows = []
    for name, models in finished(runs):
        cost = models[0].metrics
        latency = latencies.get(name)
        rows.append(
            [
                name,
                shown_count(cost.parameters),
                shown_count(cost.macs),
                shown_count(cost.pure_macs),
                "–" if latency is None else f"{latency:.3g}",
                "–" if cost.file_bytes is None else f"{cost.file_bytes / 1000:,.0f}",
                _training(models),
            ]
        )
    return Table(header, rows, 1)


def class_table(models):
    """The classes one by one.

    Args:
        models: Finished `runs.reader.Model`s of one run; the first one's errors, precision
            and interval are shown, of the others the accuracy.

    Returns:
        A `Table`, of the classes with the most errors where there are many.
    """
    first, *others = models
    measured = first.metrics.evaluation
    classes = measured.per_class
    # Of pixels what overlaps counts, of labels of their own those that are found.
    name, word, wrong = "accuracy", "accuracy, %", "errors"
    if measured.task == "multilabel" or (measured.task == "binary" and measured.places):
        word, wrong = "recall, %", "missed"
    if any(row.iou is not None for row in classes):
        name, word = "iou", "IoU, %"
    header = ["Label", "Examples", f"{first.name}: {wrong}", "precision, %", word]
    header += [f"{x.name}: {word}" for x in others]
    beside = [
        {row.label: getattr(row, name) for row in x.metrics.evaluation.per_class}
        for x in others
    ]
    if len(classes) > MOST_CLASSES:
        classes = sorted(classes, key=lambda row: -row.errors)[:MOST_CLASSES]
    rows = [
        [
            first.class_name(row.label),
            f"{row.examples:,}",
            f"{row.errors:,}",
            _percent(row.precision),
            # Neighbouring pixels are no independent examples, of which it would tell.
            _percent(getattr(row, name))
            if measured.places
            else _with_interval(row.accuracy, row.accuracy_interval),
            *(_percent(x.get(row.label)) for x in beside),
        ]
        for row in classes
    ]
    return Table(header, rows, 1)


def spread(values, digits):
    """One value, or mean ± standard deviation of several; a dash for none."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    seeds = over_seeds(values)
    return f"{seeds.mean:,.{digits}f} ± {seeds.deviation:,.{digits}f}"


def mean_errors(errors):
    """The errors of one seed, a whole number; or `spread` over several."""
    return spread(errors, 1 if len(errors) > 1 else 0)


def taught_by(model):
    """The names of a `runs.reader.Model`'s teachers, or "labels" or "given"."""
    return ", ".join(model.taught_by) or model.metrics.taught_by


def duration(seconds):
    """Seconds in words: "59 s", "12.5 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def finished(runs):
    """(name, its finished models over the seeds) of each model that has any.

    A given model that is the same one with every seed, such as the teacher, comes once.
    """
    for model in runs[0].models:
        models = [run[model.name] for run in runs if run.done(model.name)]
        if models:
            yield model.name, models[:1] if _is_one(models) else models


def _is_one(models):
    """Whether these are one given model, not one of each seed, as an ensemble may be."""
    stages = [x.stage for x in models]
    if None in stages:
        return True
    same = {x.initial_weights for x in stages}
    return stages[0].epochs == 0 and len(same) == 1 and None not in same


class _Column(NamedTuple):
    """A column's head, and the function of a model's evaluations that gives its cell."""

    title: str
    cell: Callable


def _of_score(score):
    def cell(evaluations):
        if all(x.counts == score.name for x in evaluations):
            return score_cell(score, evaluations)
        return score_cell(score, evaluations, with_interval=False)

    return _Column(score.title, cell)


def score_cell(score, evaluations, with_interval=True):
    """A score of one seed, with its interval, or its mean ± deviation over several.

    Args:
        score: A `keras_kd.tasks.scores.Score`.
        evaluations: `runs.schema.EvaluationEntry`s, one a seed.
        with_interval: Whether one seed's is shown with its 95 % interval.

    Returns:
        A cell's text, "–" where it is not defined.
    """
    found = [x.scores[score.name] for x in evaluations if score.name in x.scores]
    if not found or any(x.value is None for x in found):
        return "–"
    if len(found) > 1:
        seeds = over_seeds([x.value for x in found])
        return f"{score.shown(seeds.mean)} ± {score.shown(seeds.deviation)}"
    text, (one,) = score.shown(found[0].value), found
    if not with_interval or one.interval is None:
        return text
    return "{} ({}–{})".format(text, *map(score.shown, one.interval))


def _errors(evaluations):
    counts = [x.errors for x in evaluations if x.errors is not None]
    return mean_errors(counts)


def _fidelity(name, scale, digits, evaluations):
    found = [getattr(x.fidelity, name, None) for x in evaluations]
    return spread([scale * x for x in found if x is not None], digits)


_ERRORS = _Column("Errors", _errors)
# Attribute of a `Fidelity`, head of its column, scale and digits.
_FIDELITY = (
    ("agreement", "Agreement, %", 100, 2),
    ("kl", "KL, nats", 1, 4),
    ("rmse", "RMSE to teacher", 1, 4),
)


def _training(models):
    seconds = [x.metrics.seconds for x in models if x.metrics.seconds is not None]
    if not seconds:
        return "–"
    mean = over_seeds(seconds)
    if mean.deviation is None:
        return duration(mean.mean)
    return f"{duration(mean.mean)} ± {duration(mean.deviation)}"


def _percent(fraction):
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _with_interval(fraction, interval):
    if fraction is None or interval is None:
        return "–"
    low, high = (f"{100 * x:.2f}" for x in interval)
    return f"{100 * fraction:.2f} ({low}–{high})"
