"""Runs a recipe: its data, its chain, its run folder; over one seed or several."""

import functools
from pathlib import Path

import keras
import numpy as np

from keras_kd import data, manifest
from keras_kd import run_dir as run_dirs
from keras_kd.chain import DistillationChain
from keras_kd.recipe import AS_JSON, load_model
from keras_kd.tables import markdown_table
from keras_kd.teacher_cache import cache_teacher
from keras_kd.uncertainty import over_seeds


def run(recipe, run_dir, data_dir=None, verbose="auto", name=None):
    """Runs a recipe: prepares the data, trains every stage, writes the run folder.

    Args:
        recipe: A `keras_kd.recipe.Recipe`.
        run_dir: A folder, new or of this recipe's run, which then goes on; see
            `DistillationChain.fit`. The recipe as resolved and the per-epoch accuracies are
            added.
        data_dir: TFDS's data folder; None for TFDS's default.
        verbose: As `DistillationChain.fit` takes it.
        name: The recipe's, for the manifest.

    Returns:
        `(result, accuracies)`: the chain's `ChainResult`, and the accuracies after each
        epoch as a Markdown table, published ones beside them.

    Raises:
        RunError, FileExistsError: `run_dir` holds another run, or something else; nothing
            is trained.
        ValueError: A model does not fit the data or another model.
    """
    teacher = load_model(recipe.teacher) if recipe.teacher else None
    stages = [stage.make(recipe.seed, recipe.dtype_policy) for stage in recipe.stage]
    chain = DistillationChain(
        teacher, stages, recipe.dense, recipe.drop_rate, seed=recipe.seed
    )
    data.prepare(recipe.dataset, data_dir)
    train = data.load_arrays(recipe.dataset, "train", data_dir)
    test = data.load_arrays(recipe.dataset, "test", data_dir)
    for stage in stages:
        _check_labels(stage, train[1])
    train, held_out = _hold_out(train, recipe.validation_examples)
    test_data = data.batches(*test, batch_size=1000)
    keras.utils.set_random_seed(recipe.seed)
    result = chain.fit(
        functools.partial(_train_data, recipe, train, _tap_layers(stages), verbose),
        test_data if held_out is None else data.batches(*held_out, batch_size=1000),
        run_dir,
        verbose,
        test_data=None if held_out is None else test_data,
        settings={"recipe_name": name, "recipe": recipe.model_dump(**AS_JSON)},
    )
    accuracies = _accuracies(recipe, result)
    run_dirs.write_text(Path(run_dir) / "accuracies.md", accuracies + "\n")
    return result, accuracies


def run_seeds(recipe, count, run_dir, data_dir=None, verbose="auto", name=None):
    """Runs a recipe with several seeds: its own, and those after it.

    Args:
        recipe, data_dir, verbose, name: As `run` takes them.
        count: How many seeds.
        run_dir: A folder, new or of this recipe over seeds, for one run folder a seed,
            "seed-0" and so on, and a table of all. Finished seeds are skipped, the
            interrupted one goes on; a larger `count` adds to what is there.

    Returns:
        A Markdown table of mean and standard deviation over the seeds.

    Raises:
        RunError, FileExistsError: As `run`.
        ValueError: `count` is less than 1, or as `run`.
    """
    if count < 1:
        raise ValueError(f"`seeds` must be at least 1. Received: seeds={count}.")
    seeds = list(range(recipe.seed, recipe.seed + count))
    settings = {"recipe_name": name, "recipe": recipe.model_dump(**AS_JSON)}
    folder = manifest.open_seeds(run_dir, settings, seeds)
    results = []
    for seed in seeds:
        one = recipe.model_copy(update={"seed": seed})
        results.append(run(one, folder / f"seed-{seed}", data_dir, verbose, name)[0])
    table = _over_seeds(results)
    run_dirs.write_text(folder / "results.md", table + "\n")
    rows = [[x.to_dict() for x in result.models] for result in results]
    run_dirs.write_json(folder / "results.json", dict(zip(map(str, seeds), rows)))
    return table


def _hold_out(arrays, count):
    """Training arrays, and those of the last `count` examples, or None."""
    if count == 0:
        return arrays, None
    examples = len(arrays[0])
    if count >= examples:
        raise ValueError(
            f"validation_examples must be less than the {examples:,} training images. "
            f"Received: {count}."
        )
    return [x[:-count] for x in arrays], [x[-count:] for x in arrays]


def _train_data(recipe, arrays, taps_layers, verbose, teacher):
    """Batches for a stage; with its teacher's outputs where they are few."""
    images, labels = arrays
    # A teacher's outputs can be kept; the maps inside it are too many.
    if teacher is None or taps_layers:
        return data.batches(
            images,
            labels,
            recipe.batch_size,
            shuffle=True,
            seed=recipe.seed,
            drop_remainder=True,
        )
    # float32, as so few outputs need no compression.
    cached = cache_teacher(
        teacher,
        (data.scale(images), labels),
        dtype="float32",
        verbose=int(verbose in (1, 2)),
    )
    shuffled = cached.shuffle(len(images), seed=recipe.seed)
    return shuffled.batch(recipe.batch_size, drop_remainder=True)


def _tap_layers(stages):
    losses = (loss for stage in stages for loss in stage.distillation_losses or ())
    return any(pair.teacher is not None for loss in losses for pair in loss.taps)


def _check_labels(stage, labels):
    num_classes = stage.student.output_shape[-1]
    if np.min(labels) < 0 or np.max(labels) >= num_classes:
        raise ValueError(
            f"Stage {stage.name!r}: labels must be in 0..{num_classes - 1}, the outputs "
            f"of {stage.student.name!r}. Received labels from {np.min(labels)} to "
            f"{np.max(labels)}."
        )


def _accuracies(recipe, result):
    rows = []
    for stage in recipe.stage:
        history = result.histories.get(stage.name, {"val_accuracy": []})
        ours = [100 * x for x in history["val_accuracy"]]
        curves = {stage.name: ours, f"{stage.name}, published": stage.published_accuracy}
        for label, values in curves.items():
            if values:
                cells = {str(i + 1): f"{x:.2f}" for i, x in enumerate(values)}
                rows.append({"after epoch": label} | cells)
    return markdown_table(rows, numbers_from=1) if rows else ""


def _over_seeds(results):
    rows = []
    for same in zip(*(result.models for result in results), strict=True):
        first = same[0]
        errors = over_seeds([x.errors for x in same])
        seconds = [x.seconds for x in same]
        rows.append(
            {
                "model": first.model,
                "taught by": first.taught_by,
                "seeds": len(same),
                "accuracy (%)": over_seeds([x.accuracy for x in same]).percent(),
                f"errors in {first.examples:,}": f"{errors.mean:.1f}",
                "parameters": f"{first.parameters:,}",
                "MACs": f"{first.macs:,}",
                "seconds": "-" if None in seconds else f"{sum(seconds) / len(same):.0f}",
            }
        )
    return markdown_table(rows, numbers_from=2)
