"""The data of a recipe: which images its stages are trained on, and how they see them."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from keras_kd import data, datasets
from keras_kd.cache.cache import cache_teacher
from keras_kd.data.rows import digest, select
from keras_kd.data.views import stored_views
from keras_kd.evaluation.unlabelled import decisions
from keras_kd.models.fingerprints import model_fingerprint


def load(recipe, data_dir, announce=print, wanted=("train", "test"), like=None):
    """The images of a recipe.

    Args:
        recipe: A `keras_kd.recipes.recipe.Recipe`.
        data_dir: TFDS's data folder; None for TFDS's default.
        announce, wanted, like: As `keras_kd.datasets.load` takes them.

    Returns:
        `keras_kd.datasets.parts.Parts`; `validation` is what is held out.

    Raises:
        DataError: As `keras_kd.datasets.load`.
        ValueError: As `hold_out`.
    """
    own = recipe.dataset if isinstance(recipe.dataset, str) else recipe.dataset.make()
    parts = datasets.load(own, data_dir, announce, wanted, like)
    if parts.validation is None:
        train, held_out = hold_out(parts.train, recipe.validation_examples)
        parts = dataclasses.replace(parts, train=train, validation=held_out)
    return parts


def takes(model):
    """The shape of one example that a model takes; None if it is not known, or several."""
    shape = getattr(model, "input_shape", None)
    return shape[1:] if isinstance(shape, tuple) else None


def answered(parts, teacher, task, announce=print):
    """`Parts` without labels, with the teacher's answers as those of what is measured.

    What is right is then what the teacher says. Training data stay without labels.

    Args:
        parts: `keras_kd.datasets.parts.Parts`.
        teacher: A `keras.Model`, of inputs as `data.for_models` gives them.
        task: What its outputs mean, a key of `keras_kd.tasks.find.ACTIVATIONS`.
        announce: Called with a line that tells it.
    """
    announce("Labels: none, so right is what the teacher answers")
    held_out = {"validation": parts.validation, "test": parts.test}
    return dataclasses.replace(
        parts,
        **{
            name: part and (part[0], decisions(teacher, data.for_models(part[0]), task))
            for name, part in held_out.items()
        },
    )


def hold_out(arrays, count):
    """Training arrays, and those of the last `count` examples, or None.

    Raises:
        ValueError: `count` leaves nothing to train on.
    """
    if count == 0:
        return arrays, None
    examples = len(arrays[0])
    if count >= examples:
        raise ValueError(
            f"validation_examples must be less than the {examples:,} training images. "
            f"Received: {count}."
        )
    rows = np.arange(examples)
    return (
        [select(x, rows[:-count]) for x in arrays],
        [select(x, rows[-count:]) for x in arrays],
    )


def choose(stage, arrays, seed):
    """The images and labels that a stage is trained on, each as often as in an epoch.

    Args:
        stage: A `StageRecipe`, of which `classes`, `examples` and `repeat`
            are read.
        arrays: (images, labels), (n, ...) and (n,); images may be
            `keras_kd.data.rows.Rows`, labels None.
        seed: Integer, of the draw of `examples`: of each class as many, or one more.

    Raises:
        ValueError: There are no such images, or not so many.
    """
    images, labels = arrays
    rows = _rows_of(stage, arrays, seed)
    if len(rows) == len(images) and stage.repeat == 1:
        return images, labels
    rows = np.tile(rows, stage.repeat)
    return select(images, rows), None if labels is None else labels[rows]


def _rows_of(stage, arrays, seed):
    """Which of the training images a stage is trained on, each once, in their order."""
    images, labels = arrays
    rows = np.arange(len(images))
    if labels is None and (stage.classes or stage.examples):
        which = "classes" if stage.classes else "examples"
        raise ValueError(
            f"Stage {stage.name!r}: `{which}` goes by labels, and the data have none."
        )
    if stage.classes is not None:
        missing = sorted(set(stage.classes) - set(labels.tolist()))
        if missing:
            raise ValueError(
                f"Stage {stage.name!r}: `classes` must be labels of training images. "
                f"Received: {missing[0]}, of which there is none."
            )
        rows = rows[np.isin(labels, stage.classes)]
    if stage.examples is not None:
        if stage.examples > len(rows):
            raise ValueError(
                f"Stage {stage.name!r}: `examples` must be at most the {len(rows):,} "
                f"training images. Received: {stage.examples}."
            )
        rows = _balanced(rows, labels, stage.examples, seed)
    return rows


def _balanced(rows, labels, count, seed):
    """`count` of the rows, drawn at random, of each class as many, or one more."""
    rows = np.random.default_rng(seed).permutation(rows)
    turn = np.empty(len(rows), int)
    for label in np.unique(labels):
        of_class = labels[rows] == label
        turn[of_class] = np.arange(np.sum(of_class))
    return np.sort(rows[np.argsort(turn, kind="stable")[:count]])


class TrainData:
    """What the stages of a recipe are trained on.

    Where a stage's losses look at the teacher's outputs alone, these are cached; else the
    teacher runs beside the student.

    Args:
        recipe: A `keras_kd.recipes.recipe.Recipe`.
        arrays: All training images and labels.
        folder: Where teacher outputs are kept, one folder for the same teacher and images.
        verbose: As `cache_teacher` takes it.

    Raises:
        ValueError: A stage asks for images that there are not, or for larger batches than
            its images make.
    """

    def __init__(self, recipe, arrays, folder, verbose=0):
        # Now, not when the stages before it have been trained.
        for stage in recipe.stage:
            if stage.epochs > 0:
                _check_stage(stage, recipe, arrays)
        self._recipe, self._arrays = recipe, arrays
        self._folder, self._verbose = Path(folder), verbose
        # Of the last stage that had them; there is not memory for those of all.
        self._stored, self._stored_of = None, None

    def of(self, stage):
        """The `train_data` of a stage: a function of its teacher that gives batches."""
        return functools.partial(self._make, stage)

    def _make(self, stage, teacher):
        recipe = self._recipe
        images, labels = choose(stage, self._arrays, recipe.seed)
        views, augment = self._views(stage, images)
        seed = recipe.augmentation.seed if augment else 0
        order = stage.seed_of(recipe.seed)
        batch_size = recipe.batch_size_of(stage)
        # A teacher's outputs can be kept; the maps inside it are too many.
        if teacher is None or stage.taps_teacher():
            return data.batches(
                images,
                labels,
                batch_size,
                shuffle=True,
                seed=order,
                drop_remainder=True,
                views=views,
                augment=augment,
                augment_seed=seed,
                with_index=stage.needs_index(),
            )
        # float32, as so few outputs need no compression.
        cached = cache_teacher(
            teacher,
            (data.for_models(images), labels),
            path=self._folder / _cache_name(teacher, images, views if augment else 0),
            dtype="float32",
            views=views,
            augment=augment,
            seed=seed,
            verbose=self._verbose,
        )
        shuffled = cached.shuffle(len(images), seed=order)
        return shuffled.batch(batch_size, drop_remainder=True)

    def _views(self, stage, images):
        """How many views the stage sees, and the function that makes or reads them."""
        views, augment = self._recipe.views_of(stage)
        if augment is None or not self._recipe.augmentation.stored:
            return views, augment
        wanted = [views, stage.classes, stage.examples, stage.repeat]
        if wanted != self._stored_of:
            self._stored = None
            seed = self._recipe.augmentation.seed
            self._stored = stored_views(images, augment, views, seed)
            self._stored_of = wanted
        return views, self._stored


def _check_stage(stage, recipe, arrays):
    if arrays[1] is None and not (stage.losses and stage.student_loss_weight == 0):
        raise ValueError(
            f"Stage {stage.name!r}: the data have no labels, so it must have `losses`, and "
            f"student_loss_weight = 0. Received: {len(stage.losses)} losses, "
            f"student_loss_weight={stage.student_loss_weight!r}."
        )
    count = len(_rows_of(stage, arrays, recipe.seed)) * stage.repeat
    batch_size = recipe.batch_size_of(stage)
    if count < batch_size:
        raise ValueError(
            f"Stage {stage.name!r}: `batch_size` must be at most the {count:,} images of "
            f"an epoch. Received: {batch_size}."
        )


def _cache_name(teacher, images, views):
    what = json.dumps([model_fingerprint(teacher), views], sort_keys=True)
    return hashlib.sha256(what.encode() + digest(images).encode()).hexdigest()[:16]
