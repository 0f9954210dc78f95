"""The figures of section 3 of Hinton, Vinyals, Dean, 2015, and those of a run.

A part of scripts/evidence/evidence.py. "Distilling the Knowledge in a Neural Network",
https://arxiv.org/abs/1503.02531.
"""

import dataclasses

import numpy as np

from keras_kd.evaluation.class_bias import best_shift, with_shift
from keras_kd.evaluation.predictions import predict
from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.tables import markdown_table
from keras_kd.training.loading import load_keras_file

NONE = "–"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the paper's, and what it is called in the table.

    Attributes:
        key: Of our own, as `hinton_figures` gives it.
        text: What it is.
        paper: The paper's value, or None.
        form: How one is written; a mean has a digit after the point in any case.
    """

    key: str
    text: str
    paper: float | None
    form: str = ",.0f"


ON_TRAINING, ON_TEST = "training", "test"
_WHERE = {
    ON_TRAINING: "bias found on the training images",
    ON_TEST: "bias found on the test images, as in the paper",
}
WITHOUT_3S, ONLY_7S_AND_8S = "student_without_3s", "student_7s_and_8s"
CHANGED = {WITHOUT_3S: (3,), ONLY_7S_AND_8S: (7, 8)}
STAGES = ("student_alone", "student", *CHANGED)


def _after(where):
    """The paper's figures of mended biases, with the bias found on these images."""
    in_paper = where == ON_TEST
    threes, both = f"no 3s, {_WHERE[where]}", f"7s and 8s only, {_WHERE[where]}"
    mended, others = f"{WITHOUT_3S} {where}", f"{ONLY_7S_AND_8S} {where}"
    return [
        Figure(mended, f"{threes}: errors", 109),
        Figure(f"{mended} 3s", f"{threes}: errors on threes", 14),
        Figure(
            f"{mended} shift", f"{threes}: added to it", 3.5 if in_paper else None, "+.1f"
        ),
        Figure(others, f"{both}: errors, %", 13.2, ".1f"),
        Figure(
            f"{others} shift", f"{both}: added to it", -7.6 if in_paper else None, "+.1f"
        ),
    ]


FIGURES = [
    Figure("teacher", "teacher, two layers of 1200: errors", 67),
    Figure("student_alone", "student alone, two layers of 800: errors", 146),
    Figure("student", "distilled student: errors", 74),
    Figure(WITHOUT_3S, "no 3s in the transfer set: errors", 206),
    Figure(f"{WITHOUT_3S} 3s", "no 3s in the transfer set: errors on threes", 133),
    Figure(ONLY_7S_AND_8S, "7s and 8s only: errors, %", 47.3, ".1f"),
    *_after(ON_TRAINING),
    *_after(ON_TEST),
]


def hinton_figures(run, splits):
    """The figures of one run.

    Args:
        run: A `run_reader.Run` in which `STAGES` are finished.
        splits: dict of `ON_TRAINING` and `ON_TEST` to batches of (images, labels).

    Returns:
        dict of a figure's key to its value.

    Raises:
        ValueError: Not one model taught the student.
    """
    teachers = run["student"].taught_by
    if len(teachers) != 1:
        raise ValueError(
            f"The student of {run.path} must have one teacher. Received: "
            f"{', '.join(teachers) or 'labels alone'}."
        )
    found = {"teacher": run[teachers[0]].metrics.evaluation.errors}
    for name in ("student_alone", "student"):
        found[name] = run[name].metrics.evaluation.errors
    for name, classes in CHANGED.items():
        model = load_keras_file(run[name].file("model.keras"))
        answers = {where: predict(model, examples) for where, examples in splits.items()}
        found |= _counts(name, answers[ON_TEST])
        for where, predictions in answers.items():
            shift = best_shift(predictions, classes)
            mended = predict(with_shift(model, shift), splits[ON_TEST])
            found |= _counts(f"{name} {where}", mended)
            found[f"{name} {where} shift"] = shift.value
    return found


def _counts(key, predictions):
    wrong = predictions.predicted != predictions.labels
    if key.startswith(ONLY_7S_AND_8S):
        return {key: 100 * np.mean(wrong)}
    return {key: np.sum(wrong), f"{key} 3s": np.sum(wrong[predictions.labels == 3])}


def hinton_table(of_runs):
    """Markdown: the paper's figures beside ours, dicts of key to value, one a seed."""
    rows = []
    for figure in FIGURES:
        values = [float(found[figure.key]) for found in of_runs]
        seeds, paper, ratio = over_seeds(values), NONE, NONE
        ours = format(seeds.mean, figure.form.replace("0f", "1f"))
        if seeds.deviation is not None:
            ours += f" ± {seeds.deviation:.1f}"
        if figure.paper is not None:
            paper = format(figure.paper, figure.form)
            ratio = f"{seeds.mean / figure.paper:.2f}"
        rows.append(
            {
                "Hinton et al. 2015, section 3": figure.text,
                "paper": paper,
                "ours": ours,
                "ratio": ratio,
                "each seed": ", ".join(format(x, figure.form) for x in values),
            }
        )
    return markdown_table(rows, numbers_from=1)
