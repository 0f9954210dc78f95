"""The pictures of a report that look into models' answers: reliability, confusion."""

import numpy as np

from keras_kd.report.drawing import drawn, legend, short
from keras_kd.tasks.scores import BINS

# A bin of fewer answers says nothing of how reliable they are.
_LEAST_ANSWERS = 5

# More classes than these have no room for numbers in the confusion matrix.
_MOST_NUMBERS = 20

# Letters of a class's name there.
_LONGEST = 14

# More than these would be smaller than what can be seen, and a matrix of millions.
_MOST_CLASSES = 200


def reliability(models, style, seed):
    """How often a model is right against how sure it says it is.

    Args:
        models: Finished `runs.reader.Model`s of one run.
        style: What `styles` gives.
        seed: Of the run, where it is one of several; else None.

    Returns:
        A `Picture`; None of values, which have no confidence.
    """
    models = [x for x in models if "bin_count" in x.answers.arrays]
    if not models:
        return None
    return drawn(
        "reliability",
        "Share of right answers against confidence, of each model",
        "Reliability: of the answers given with a confidence (15 equal bins), the share "
        "that is right. On the grey line confidence is deserved; below it a model is too "
        f"sure. Bins of fewer than {_LEAST_ANSWERS} answers are left out. Beneath, how "
        "many answers each bin holds." + (f" Of seed {seed}." if seed is not None else ""),
        _draw_reliability,
        models,
        style,
        size=(5, 5),
    )


def _draw_reliability(figure, models, style):
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    axes.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1.03))
    counts.set(xlabel="confidence", ylabel="answers", yscale="log")
    counts.yaxis.set_major_formatter(short)
    handles = []
    for model in models:
        arrays = model.answers.arrays
        held, confidence, right = (
            arrays[f"bin_{x}"].sum(axis=0) for x in ("count", "confidence", "right")
        )
        some = held >= _LEAST_ANSWERS
        x, y = confidence[some] / held[some], right[some] / held[some]
        handles += axes.plot(x, y, markersize=5, clip_on=False, **style[model.name])
        line = {key: style[model.name][key] for key in ("color", "linestyle")}
        counts.stairs(held, np.linspace(0, 1, BINS + 1), linewidth=1.3, **line)
    legend(figure, handles, [model.name for model in models])


def confusion(model, name):
    """Labels against answers of one model.

    Args:
        model: A finished `runs.reader.Model`.
        name: The picture's name.

    Returns:
        A `Picture`; of the classes with the most mistakes, where there are many.
    """
    classes = _most_mistaken(model.answers)
    cut = f" Of the {len(classes)} classes with the most mistakes."
    return drawn(
        name,
        f"Confusion matrix of {model.name}",
        f"Confusion matrix of {model.name}: examples by label and answer. Mistakes are "
        "shaded by their number; right answers, on the diagonal, are not."
        + cut
        * (len(classes) == _MOST_CLASSES),
        _draw_confusion,
        model.answers,
        classes,
        [model.class_name(x) for x in classes.tolist()],
        size=(5, 4.8),
    )


def _most_mistaken(answers):
    """The classes in ascending order, those with the most mistakes of too many."""
    classes = np.unique([answers.labels, answers.predicted])
    wrong = [answers.labels[~answers.right], answers.predicted[~answers.right]]
    mistakes = np.sum([_counts(classes, x) for x in wrong], axis=0)
    most = np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES]
    return classes[np.sort(most)]


def _counts(classes, values):
    return np.bincount(np.searchsorted(classes, values), minlength=len(classes))


def _draw_confusion(figure, answers, classes, names):
    shown = np.isin(answers.labels, classes) & np.isin(answers.predicted, classes)
    pairs = [
        np.searchsorted(classes, x[shown]) for x in (answers.labels, answers.predicted)
    ]
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, tuple(pairs), 1)
    mistakes = np.ma.masked_equal(counts * (1 - np.eye(len(classes), dtype=int)), 0)
    # A single mistake stays pale.
    most = max(5, mistakes.filled(0).max())
    axes = figure.add_subplot(xlabel="answer", ylabel="label")
    axes.grid(False)
    shaded = axes.imshow(mistakes, cmap="Blues", vmin=0, vmax=most)
    if len(classes) > _MOST_NUMBERS:
        figure.colorbar(shaded, ax=axes, label="mistakes", shrink=0.8)
        return
    names = [x if len(x) <= _LONGEST else f"{x[: _LONGEST - 1]}…" for x in names]
    across = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    are_long = any(len(x) > 2 for x in names)
    axes.set_xticks(range(len(classes)), names, **(across if are_long else {}))
    axes.set_yticks(range(len(classes)), names)
    size = 9.5 if len(classes) <= 10 else 6.5
    for (row, column), count in np.ndenumerate(counts):
        right = row == column
        if count:
            axes.text(
                column,
                row,
                f"{count}",
                ha="center",
                va="center",
                size=size,
                color="white" if not right and count > 0.6 * most else "black",
                weight="bold" if right else "normal",
            )
