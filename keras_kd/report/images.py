"""The test images on which a student and its teacher disagree."""

import base64
import dataclasses
import functools
import io
import math
from collections.abc import Callable

import matplotlib
import numpy as np
from PIL import Image

from keras_kd.report.drawing import drawn

# Pixels of the longer side, at most: a picture of this size shows what is in it.
_LARGEST = 160

# Images side by side in the one picture of all.
_COLUMNS = 5
# Letters of a class's name in it.
_LONGEST = 14


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One image.

    Attributes:
        index: Its place in the test data, from 0.
        label: The right class.
        teachers: The answer of each teacher, with the teacher's name: dict.
        student: The student's answer.
        source: The image, as a data URI.
        pixels: (height, width) or (height, width, 3), uint8.
        class_name: A function that gives what a label or an answer is called.
    """

    index: int
    label: int
    teachers: dict
    student: int
    source: str
    pixels: np.ndarray
    class_name: Callable


def disagreements(run, name):
    """The images on which a taught stage and its teacher answer differently.

    Args:
        run: A `runs.reader.Run`.
        name: Of a finished, taught stage.

    Returns:
        A list of `Disagreement`; None where the run has no images, and where an answer is
        no single class.
    """
    model = run[name]
    kept = model.disagreements
    if kept is None or not model.metrics.evaluation.is_right_or_wrong:
        return None
    teachers = {x: run[x].answers for x in model.taught_by if run.done(x)}
    shown = []
    for index, image in zip(*kept, strict=True):
        pixels = _pixels(image)
        shown.append(
            Disagreement(
                int(index),
                int(model.answers.labels[index]),
                {x: int(answers.predicted[index]) for x, answers in teachers.items()},
                int(model.answers.predicted[index]),
                _data_uri(pixels),
                pixels,
                model.class_name,
            )
        )
    return shown


def _pixels(image):
    """(height, width, channels) in [0, 1] as uint8: colours, or grey."""
    values = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype("uint8")
    if values.shape[-1] == 3:
        return values
    # Neither grey nor colours: the mean of the channels shows the most.
    return np.mean(values, axis=-1).astype("uint8")


def _data_uri(pixels):
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def contact_sheet(shown, name, number):
    """All the images in one `Picture`, for a page that has no other place for words.

    Its file has a number, since a name may hold what a file name in Markdown may not.
    """
    rows = math.ceil(len(shown) / _COLUMNS)
    return drawn(
        f"disagreements_{number}",
        f"Images on which {name} and its teacher disagree",
        "Above each image its label, the teacher's answer and the student's.",
        _draw_sheet,
        shown,
        rows,
        size=(6.4, 1.7 * rows + 0.4),
    )


def _draw_sheet(figure, shown, rows):
    axes = figure.add_subplot()
    axes.axis("off")
    for place, image in enumerate(shown):
        row, column = divmod(place, _COLUMNS)
        height, width = np.array(image.pixels.shape[:2]) / max(image.pixels.shape[:2])
        left, top = column + 0.5 - 0.4 * width, row + 0.02
        extent = (left, left + 0.8 * width, top + 0.63 * height, top)
        axes.imshow(image.pixels, cmap="gray", vmin=0, vmax=255, extent=extent)
        called = functools.partial(map, image.class_name)
        teachers = "/".join(map(_short, called(image.teachers.values())))
        label, student = map(_short, called((image.label, image.student)))
        # Names have no room side by side.
        between = ", " if len(f"{teachers}{student}") < 5 else "\n"
        text = f"label {label}\nT {teachers}{between}S {student}"
        axes.text(column + 0.5, row, text, ha="center", va="bottom", fontsize=10)
    # Square images, with room for three lines of text above each.
    axes.set(xlim=(0, _COLUMNS), ylim=(rows, -0.4), aspect="auto")


def _short(name):
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def picture_sheet(run, name, number):
    """Images whose answers are pictures: label, teacher, student and where they differ.

    Args:
        run: A `runs.reader.Run`.
        name: Of a finished, taught stage.
        number: Of its file.

    Returns:
        A `Picture` of the images on which the two differ most; None where answers are no
        pictures.
    """
    model = run[name]
    if model.pictures is None:
        return None
    index, images = model.disagreements
    task = model.metrics.evaluation.task
    words = {
        "multiclass": "A colour is a class; where teacher and student differ is white.",
        "binary": "White is a yes; the difference is that of the probabilities.",
        "multilabel": "The brighter, the more labels are a yes.",
        "regression": "Brighter is more, on one scale in each row.",
    }
    return drawn(
        f"answers_{number}",
        f"Label, answer of the teacher and of {name}, and where they differ",
        f"The {len(index)} test images on which {name} and its teacher differ most. "
        f"{words[task]} What has no label is blank.",
        _draw_pictures,
        index,
        images,
        model.pictures,
        task,
        size=(6.4, 1.35 * max(len(index), 1) + 0.4),
    )


def _draw_pictures(figure, index, images, pictures, task):
    heads = ("image", "label", "teacher", "student", "differ")
    every = figure.subplots(max(len(index), 1), len(heads), squeeze=False)
    for axes, head in zip(every[0], heads, strict=True):
        axes.set_title(head, fontsize=10)
    for axes in every.flat:
        axes.axis("off")
    of_classes = task == "multiclass"
    most = max(float(np.nanmax(x, initial=0)) for x in pictures.values())
    for row, axes, image, *answers in zip(
        index, every, images, *(pictures[x] for x in heads[1:4]), strict=True
    ):
        axes[0].imshow(_pixels(image), cmap="gray", vmin=0, vmax=255)
        axes[0].text(-0.08, 0.5, str(row), transform=axes[0].transAxes, ha="right")
        style = {"cmap": matplotlib.colormaps["tab20"], "vmin": 0, "vmax": max(most, 19)}
        if not of_classes:
            low, high = (f(answers[0], initial=x) for f, x in _LIMITS)
            style = {"cmap": "gray", "vmin": low, "vmax": high}
        if task == "binary":
            style |= {"vmin": 0, "vmax": 1}
        # Classes are not blended.
        style["interpolation"] = "nearest"
        for place, answer in zip(axes[1:4], answers, strict=True):
            place.imshow(answer, **style)
        _, teacher, student = answers
        differ = teacher != student if of_classes else np.abs(teacher - student)
        limits = {"vmin": 0, "vmax": 1 if task in ("multiclass", "binary") else None}
        axes[4].imshow(differ, cmap="gray", interpolation="nearest", **limits)


_LIMITS = ((np.nanmin, np.inf), (np.nanmax, -np.inf))
