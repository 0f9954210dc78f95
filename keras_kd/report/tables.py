"""The tables of a report, as text in cells: the models, what they cost, each class."""

import dataclasses

from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.tables import markdown_table, plain, shown_count

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
    header = [
        "Model",
        "Taught by",
        "Accuracy, %",
        "Errors",
        "NLL, nats",
        "ECE, %",
        "Agreement, %",
        "KL, nats",
    ]
    return Table(header, [_accuracy_row(*x) for x in finished(runs)], 2)


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
                f"{cost.parameters:,}",
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
    header = ["Label", "Examples", f"{first.name}: errors", "precision, %", "accuracy, %"]
    header += [f"{x.name}: accuracy, %" for x in others]
    accuracies = [
        {row.label: row.accuracy for row in x.metrics.evaluation.per_class} for x in others
    ]
    classes = first.metrics.evaluation.per_class
    if len(classes) > MOST_CLASSES:
        classes = sorted(classes, key=lambda row: -row.errors)[:MOST_CLASSES]
    rows = [
        [
            str(row.label),
            f"{row.examples:,}",
            f"{row.errors:,}",
            _percent(row.precision),
            _with_interval(row.accuracy, row.accuracy_interval),
            *(_percent(x.get(row.label)) for x in accuracies),
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


def _accuracy_row(name, models):
    counted = [model.metrics.evaluation for model in models]
    accuracy = [x.accuracy for x in counted]
    if len(models) > 1:
        shown = over_seeds(accuracy).percent()
    else:
        shown = _with_interval(accuracy[0], counted[0].accuracy_interval)
    fidelity = [x.fidelity for x in counted if x.fidelity]
    return [
        name,
        taught_by(models[0]),
        shown,
        mean_errors([x.errors for x in counted]),
        spread([x.negative_log_likelihood for x in counted], 4),
        spread([100 * x.calibration_error for x in counted], 2),
        spread([100 * x.agreement for x in fidelity], 2),
        spread([x.kl for x in fidelity], 4),
    ]


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
