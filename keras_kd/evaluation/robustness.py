"""How right models are on shifted, rotated and noisy images."""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_kd.evaluation.predictions import predict
from keras_kd.evaluation.sums import Sums
from keras_kd.losses.arguments import (
    check_integer,
    check_not_negative,
    is_finite_number,
)
from keras_kd.tables import markdown_table, plain

# Pixels, degrees, standard deviations of the noise.
SEVERITIES = {
    "shift": (1, 2, 3, 4),
    "rotation": (10, 20, 30),
    "noise": (0.1, 0.2, 0.3, 0.4),
}
_UNITS = {"shift": "{} px", "rotation": "{}°", "noise": "sigma {}"}

_BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Accuracies of models on corrupted images.

    Attributes:
        accuracies: dict of (corruption, severity), the first of them ("none", 0), to a dict
            of model name to the fraction answered right, in [0, 1].
    """

    accuracies: dict

    def table(self):
        """Accuracies in per cent, a column for each model, as a Markdown table."""
        rows = []
        for (corruption, severity), of_models in self.accuracies.items():
            name = f"{corruption} {_UNITS.get(corruption, '').format(severity)}".strip()
            cells = {plain(k): f"{100 * x:.2f}" for k, x in of_models.items()}
            rows.append({"accuracy (%)": name} | cells)
        return markdown_table(rows, numbers_from=1)


def robustness(models, images, labels, severities=SEVERITIES, seed=0, task=None):
    """Accuracies on images that are shifted, rotated, or covered with noise.

    Each shift is the mean of the four directions, each rotation that of both; the noise is
    the same for every model, and of every severity but for its size.

    Args:
        models: dict of name to a Keras classifier of images.
        images: (n, height, width, channels), in [0, 1].
        labels: (n,), integers.
        severities: dict of "shift" (pixels), "rotation" (degrees), "noise" (standard
            deviation) to numbers > 0; not all need be there.
        seed: Integer >= 0 of the noise.
        task: "multiclass" or "binary"; by default what a model shows.

    Returns:
        A `Robustness`.

    Raises:
        ValueError: An argument is something else, or a model cannot be measured: see
            `keras_kd.evaluation.predictions.predict`.
    """
    images = _check_images(images)
    check_integer("seed", seed, least=0)
    _check_severities(severities)
    if not models:
        raise ValueError("`models` must hold at least one model. Received: none.")
    found = {("none", 0): _accuracies(models, [images], labels, task)}
    for corruption, values in severities.items():
        for severity in values:
            corrupted = _corrupted(corruption, images, severity, seed)
            found[corruption, severity] = _accuracies(models, corrupted, labels, task)
    return Robustness(found)


def _corrupted(corruption, images, severity, seed):
    """Yields the images that the accuracy is the mean over."""
    if corruption == "shift":
        for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            yield shift(images, severity * right, severity * down)
    elif corruption == "rotation":
        yield rotate(images, severity)
        yield rotate(images, -severity)
    else:
        yield add_noise(images, severity, seed)


def _accuracies(models, corrupted, labels, task):
    right = {name: [] for name in models}
    for images in corrupted:
        starts = range(0, len(images), _BATCH_SIZE)
        slices = [slice(x, x + _BATCH_SIZE) for x in starts]
        for name, model in models.items():
            data = [(images[x], labels[x]) for x in slices]
            answers = predict(model, data, task=task).answers()
            if isinstance(answers, Sums):
                # What is said of pixels would have to move with them.
                raise ValueError(
                    "`models` must give one class an image. Received: {!r}, of the task "
                    "{!r}.".format(name, answers.task.name)
                )
            right[name].append(np.mean(answers.right))
    return {name: float(np.mean(x)) for name, x in right.items()}


def shift(images, right, down):
    """Moves images; what comes in at the edge is 0.

    Args:
        images: (n, height, width, channels), in [0, 1].
        right, down: Pixels; negative ones to the left and up, parts of one bilinearly.

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: An argument is something else.
    """
    right, down = _check_number("right", right), _check_number("down", down)
    return _moved(_check_images(images), [1, 0, -right, 0, 1, -down])


def rotate(images, degrees):
    """Turns images about their middle, bilinearly; what comes in at the corners is 0.

    Args:
        images: (n, height, width, channels), in [0, 1].
        degrees: Counter-clockwise as one looks at the image.

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: An argument is something else.
    """
    images = _check_images(images)
    angle = math.radians(_check_number("degrees", degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    y, x = ((size - 1) / 2 for size in images.shape[1:3])
    # Of each pixel of the result, where it comes from; rows count downwards.
    row = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
    return _moved(images, row)


def _moved(images, row):
    transform = np.array([*row, 0, 0], dtype="float32")
    moved = ops.image.affine_transform(
        images, transform, "bilinear", "constant", 0, data_format="channels_last"
    )
    return ops.convert_to_numpy(moved)


def add_noise(images, sigma, seed):
    """Adds Gaussian noise to images, and clips them to [0, 1].

    Args:
        images: (n, height, width, channels), in [0, 1].
        sigma: The noise's standard deviation, >= 0.
        seed: Integer >= 0; the same noise for the same seed, times `sigma`.

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: An argument is something else.
    """
    images = _check_images(images)
    sigma = np.float32(check_not_negative("sigma", sigma))
    rng = np.random.default_rng(check_integer("seed", seed, least=0))
    noise = rng.standard_normal(images.shape, dtype="float32")
    return np.clip(images + sigma * noise, 0.0, 1.0)


def _check_images(images):
    images = np.asarray(images)
    is_float = np.issubdtype(images.dtype, np.floating)
    if images.ndim != 4 or not images.size or not is_float:
        problem = f"shape {images.shape}, dtype {images.dtype}"
    elif not np.min(images) >= 0 or not np.max(images) <= 1:
        problem = f"values from {np.min(images):.4g} to {np.max(images):.4g}"
    else:
        return images.astype("float32", copy=False)
    raise ValueError(
        "`images` must be floats in [0, 1] of shape (n, height, width, channels). "
        f"Received: {problem}."
    )


def _check_number(name, value):
    if not is_finite_number(value):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}.")
    return float(value)


def _check_severities(severities):
    for corruption, values in severities.items():
        good = all(is_finite_number(x) and x > 0 for x in values)
        if corruption not in SEVERITIES or not good:
            raise ValueError(
                f"`severities` must be a dict of {', '.join(map(repr, SEVERITIES))} to "
                f"finite numbers > 0. Received: {corruption!r}: {values!r}."
            )
