"""Runs a recipe: its data, its chain, its run folder."""

import contextlib
import dataclasses
import logging
import shutil
from pathlib import Path

import keras
import numpy as np
import platformdirs

from keras_kd import data, files
from keras_kd.distribution.workers import Workers
from keras_kd.models.symbolic import input_shapes
from keras_kd.recipes import data as recipe_data
from keras_kd.recipes import recipe as recipes
from keras_kd.recipes.model_files import is_there, load_model
from keras_kd.recipes.recipe import AS_JSON, make_chain
from keras_kd.recipes.shapes import task_without_labels
from keras_kd.tables import markdown_table
from keras_kd.teachers.of_texts import of_bytes, takes_texts
from keras_kd.teachers.scales import scaled

logger = logging.getLogger(__name__)

# A folder of a run folder, while it runs.
TEACHER_OUTPUTS = ".teacher_outputs"


def run(
    recipe,
    run_dir,
    data_dir=None,
    verbose="auto",
    name=None,
    outputs_dir=None,
    strategy=None,
    teacher=None,
    settings=None,
    parts=None,
):
    """Runs a recipe: prepares the data, trains every stage, writes the run folder.

    Args:
        recipe: A `keras_kd.recipes.recipe.Recipe`.
        run_dir: A folder, new or of this recipe's run, which then goes on; see
            `DistillationChain.fit`. The recipe as resolved and the per-epoch accuracies are
            added.
        data_dir: TFDS's data folder; None for TFDS's default.
        verbose: As `DistillationChain.fit` takes it.
        name: The recipe's, for the manifest.
        outputs_dir: Where teacher outputs are kept. Defaults to a folder in `run_dir`,
            which is removed when the run is done.
        strategy: A `tf.distribute.Strategy` to train under; all its workers call this,
            with a `run_dir` that all of them see. Defaults to None: on one device.
        teacher: A `keras.Model` instead of the recipe's, one that no file holds.
        settings: As `DistillationChain.fit` takes them, beside the recipe.
        parts: The recipe's data, where they are read already.

    Returns:
        `(result, accuracies)`: the chain's `ChainResult`, and the accuracies after each
        epoch as a Markdown table, published ones beside them.

    Raises:
        RunError, FileExistsError: `run_dir` holds another run, or something else; nothing
            is trained.
        ValueError: A model does not fit the data or another model.
    """
    workers = Workers(strategy)
    teacher, chain, parts = models_and_data(
        recipe, data_dir, verbose, strategy=strategy, teacher=teacher, parts=parts
    )
    settings = dict(settings or {})
    if parts.task is None:
        task = task_without_labels(recipe, teacher)
        parts = recipe_data.answered(parts, teacher, task)
        settings["labels_of"] = "teacher"
    own_outputs = Path(run_dir) / TEACHER_OUTPUTS
    train_data = recipe_data.TrainData(
        recipe, parts.train, outputs_dir or own_outputs, verbose=int(verbose in (1, 2))
    )
    give_data(recipe, chain, train_data, parts)
    test_data = data.batches(*parts.test, batch_size=1000)
    validation_data = test_data if recipe.test_each_epoch else None
    if parts.validation is not None:
        validation_data = data.batches(*parts.validation, batch_size=1000)
    settings |= {"recipe_name": name, "recipe": recipe.model_dump(**AS_JSON)}
    if not isinstance(recipe.dataset, str):
        # A run is of the examples that it was begun with.
        settings["data"] = parts.digest()
    if parts.names:
        settings["class_names"] = parts.names
    if parts.columns:
        settings["columns"] = list(map(dataclasses.asdict, parts.columns))
    keras.utils.set_random_seed(recipe.seed)
    result = chain.fit(
        None,
        validation_data,
        run_dir,
        verbose,
        test_data=None if validation_data is test_data else test_data,
        settings=settings,
    )
    accuracies = _accuracies(recipe, result)
    if workers.is_chief:
        # They were kept for a run that is stopped.
        shutil.rmtree(own_outputs, ignore_errors=True)
        files.write_text(Path(run_dir) / "accuracies.md", accuracies + "\n")
    return result, accuracies


def models_and_data(
    recipe,
    data_dir=None,
    verbose=0,
    announce=print,
    *,
    strategy=None,
    teacher=None,
    parts=None,
):
    """What a recipe's run begins with.

    Args:
        recipe, data_dir, verbose, strategy, teacher, parts: As `run` takes them.
        announce: As `keras_kd.recipes.data.load` takes it.

    Returns:
        `(teacher, chain, parts)`: the teacher as its students' inputs reach it, or None;
        the `DistillationChain`, without data; and the data.

    Raises:
        ValueError: As `run`.
    """
    workers = Workers(strategy)
    scope = strategy.scope if strategy else contextlib.nullcontext
    with scope():
        if teacher is None and workers.count == 1:
            teacher = _trained_first(recipe, data_dir, verbose)
        teacher = teacher_of(recipe, teacher)
        chain = None if recipe.is_sized_by_data else make_chain(recipe, teacher)
    shown = teacher if teacher is not None else chain and chain.stages[0].student
    like = recipe_data.takes(shown)
    if parts is None:
        # The chief prepares what the others then read.
        parts = workers.after_chief(
            lambda: recipe_data.load(recipe, data_dir, announce, like=like)
        )
    if chain is None:
        with scope():
            chain = make_chain(recipe, teacher, parts)
    return teacher, chain, parts


def _trained_first(recipe, data_dir, verbose):
    """A shipped teacher that is not there, outside a clone: trained now, and kept.

    Returns:
        The teacher; None where the recipe's is there, or no recipe trains it.
    """
    made_by = (recipe.teacher or "").replace("/", "_")
    if recipe.teacher is None or is_there(recipe.teacher) or made_by not in recipes.names():
        return None
    trained = recipes.load(made_by)
    folder = platformdirs.user_cache_path("keras_kd") / made_by
    path = folder / trained.stage[-1].name / "model.keras"
    if not (folder / "results.json").is_file():
        logger.info(
            "The teacher %s ships with a clone alone: it is trained first, by the recipe "
            "%s, and kept in %s.",
            recipe.teacher,
            made_by,
            folder,
        )
        run(trained, folder, data_dir, verbose, made_by)
    return load_model(path)


def teacher_of(recipe, teacher=None):
    """The teacher of a recipe as its students' inputs reach it; or None.

    Args:
        recipe: A `Recipe`.
        teacher: Instead of the recipe's own.

    Raises:
        FileNotFoundError, ValueError: As `load_model`, or as `teachers.scales.scaled`.
    """
    if teacher is None and recipe.teacher is not None:
        teacher = load_model(recipe.teacher)
    if teacher is not None and takes_texts(teacher):
        return of_bytes(teacher)
    if recipe.teacher_scale is None:
        return teacher
    if teacher is None:
        raise ValueError("teacher_scale goes with a teacher, and the recipe has none.")
    shape, own = None, recipe.dataset
    if not isinstance(own, str) and own.image_size:
        known = input_shapes(teacher)
        shape = (*own.image_size, own.channels or (known[0][-1] if known else 3))
    return scaled(teacher, recipe.teacher_scale, shape)


def give_data(recipe, chain, train_data, parts):
    """Gives each stage of a recipe's chain what it is trained on.

    Args:
        recipe, chain: The `Recipe`, and its `DistillationChain`.
        train_data: A `keras_kd.recipes.data.TrainData`.
        parts: `keras_kd.datasets.parts.Parts`, of which the labels are read.

    Raises:
        ValueError: A student has fewer outputs than there are classes.
    """
    labels = [x[1] for x in (parts.train, parts.validation) if x is not None]
    for section, stage in zip(recipe.stage, chain.stages, strict=True):
        if parts.task == "multiclass":
            _check_labels(stage, np.concatenate(labels), section.task)
        if stage.epochs:
            stage.train_data = train_data.of(section)
            if parts.train[1] is None:
                # Keras measures them in training, too.
                stage.metrics = None


def _check_labels(stage, labels, task):
    # One unit says no or yes.
    num_classes = 2 if task == "binary" else stage.student.output_shape[-1]
    if np.min(labels) < 0 or np.max(labels) >= num_classes:
        raise ValueError(
            f"Stage {stage.name!r}: labels must be in 0..{num_classes - 1}, the outputs "
            f"of {stage.student.name!r}. Received labels from {np.min(labels)} to "
            f"{np.max(labels)}."
        )


def _accuracies(recipe, result):
    rows = []
    for stage in recipe.stage:
        history = result.histories.get(stage.name, {})
        ours = [100 * x for x in history.get("val_accuracy", [])]
        curves = {stage.name: ours, f"{stage.name}, published": stage.published_accuracy}
        for label, values in curves.items():
            if values:
                cells = {str(i + 1): f"{x:.2f}" for i, x in enumerate(values)}
                rows.append({"after epoch": label} | cells)
    return markdown_table(rows, numbers_from=1) if rows else ""
