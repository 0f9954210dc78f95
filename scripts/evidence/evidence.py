"""Tables and pictures of finished run folders, of one seed or of several, as Markdown.

    python scripts/evidence/evidence.py curves RUN_DIR --output FIGURE
    python scripts/evidence/evidence.py hinton RUN_DIR
    python scripts/evidence/evidence.py fidelity RUN_DIR...
    python scripts/evidence/evidence.py robustness RUN_DIR --models teacher,ta,student
    python scripts/evidence/evidence.py errors RUN_DIR... --line "NAME=70" --output FIGURE

They train nothing. Models that are not finished are left out.
"""

import collections
import dataclasses
import functools
from pathlib import Path

import click
import numpy as np
from errors import all_errors, errors_of, errors_picture, errors_table
from hinton import (
    NONE,
    ON_TEST,
    ON_TRAINING,
    STAGES,
    hinton_figures,
    hinton_table,
)

from keras_kd import data, files
from keras_kd.cli.base import Group
from keras_kd.evaluation.robustness import Robustness, robustness
from keras_kd.evaluation.similarity import layer_similarity
from keras_kd.models.taps import logits_layer
from keras_kd.report.plots import curves as curves_picture
from keras_kd.report.tables import finished, mean_errors, spread, taught_by
from keras_kd.runs import reader
from keras_kd.tables import markdown_table, plain
from keras_kd.training.loading import load_keras_file


def runs_of(path):
    """The runs of a folder, one for each seed that has begun."""
    return list(reader.read(path).runs.values())


def folders_of(paths):
    """dict of each folder's recipe, or its path if that is another's too, to its runs."""
    recipes = {path: reader.read(path).manifest.recipe_name for path in paths}
    counts = collections.Counter(recipes.values())
    return {
        name if name and counts[name] == 1 else str(path): runs_of(path)
        for path, name in recipes.items()
    }


def recipe_of(runs):
    recipe = runs[0].manifest.recipe
    if recipe is None:
        raise ValueError(
            f"{runs[0].path} must be of a recipe, which tells the data set. Received: a "
            "run without one."
        )
    return recipe


def whole_runs(runs, names):
    """The runs in which all models of these names are finished."""
    missing = [name for name in names if not any(run.done(name) for run in runs)]
    whole = [run for run in runs if all(map(run.done, names))]
    if missing or not whole:
        raise ValueError(
            f"{runs[0].path} must have these models, finished: {', '.join(names)}. Not "
            f"there or not finished: {', '.join(missing) or 'each in one seed or another'}."
        )
    return whole


def load_data(runs, split, data_dir):
    """A split of a run's data set: float32 images in [0, 1], labels."""
    images, labels = data.load_arrays(recipe_of(runs)["dataset"], split, data_dir)
    return data.scale(images), labels


def batched(images, labels, size=1000):
    starts = range(0, len(labels), size)
    return [(images[i : i + size], labels[i : i + size]) for i in starts]


def load(model):
    return load_keras_file(model.file("model.keras"))


def write_picture(picture, path):
    """Writes a `drawing.Picture` as PNG, or as SVG where the path ends so."""
    content = picture.svg if path.suffix == ".svg" else picture.png
    with files.renamed_when_done(path) as temporary:
        temporary.write_bytes(content)


# Accuracy after each epoch, beside published ones.


def curves_of(runs):
    """(runs, published): the stages with published accuracies, of the finished runs."""
    published = {
        stage["name"]: stage["published_accuracy"]
        for stage in recipe_of(runs)["stage"]
        if stage.get("published_accuracy")
    }
    if not published:
        raise ValueError(
            f"The recipe of {runs[0].path} has no published_accuracy to show ours beside."
        )
    shown = []
    for run in whole_runs(runs, published):
        models = [run[name] for name in published]
        for model in models:
            if "val_accuracy" not in model.history:
                raise ValueError(
                    f"{model.folder} has no accuracy after each epoch: there is no "
                    "val_accuracy in its history.csv."
                )
        shown.append(dataclasses.replace(run, models=models))
    return shown, published


def curves_table(runs, published):
    columns = {}
    for name, accuracies in published.items():
        ours = [run[name].history["val_accuracy"] for run in runs]
        columns[f"{name} (%)"] = [
            spread([100 * x for x in epoch], 2) for epoch in zip(*ours, strict=False)
        ]
        columns[f"{name}, published"] = [f"{x:.2f}" for x in accuracies]
    length = max(map(len, columns.values()))
    rows = [
        {"after epoch": str(i + 1)}
        | {plain(key): x[i] if i < len(x) else NONE for key, x in columns.items()}
        for i in range(length)
    ]
    return markdown_table(rows, numbers_from=0)


# How closely students follow their teachers.


def fidelity_rows(runs, images):
    """dicts of column to text, one for each finished model that was trained."""
    # A given teacher is the same file with every seed.
    loaded = functools.lru_cache(maxsize=4)(load_keras_file)
    for name, models in finished(runs):
        of_runs = [run for run in runs if run.done(name)]
        if models[0].metrics.taught_by == "given":
            continue
        counted = [model.metrics.evaluation for model in models]
        fidelity = [x.fidelity for x in counted if x.fidelity]
        alike = [hidden_similarity(run, name, images, loaded) for run in of_runs]
        yield {
            "model": plain(name),
            "taught by": plain(taught_by(models[0])),
            "errors": mean_errors(errors_of(models)),
            "agreement (%)": spread([100 * x.agreement for x in fidelity], 2),
            "KL (nats)": spread([x.kl for x in fidelity], 4),
            "CKA": NONE if None in alike else spread(alike, 3),
            "ECE (%)": spread([100 * x.calibration_error for x in counted], 2),
        }


def hidden_similarity(run, name, images, loaded):
    """CKA of the last hidden layers; None where the teacher has no single one."""
    teachers = run[name].taught_by
    if len(teachers) != 1:
        return None
    teacher, student = (loaded(run[x].file("model.keras")) for x in (teachers[0], name))
    try:
        taps = [logits_layer(model)[1] for model in (teacher, student)]
    except ValueError:
        return None
    batches = [images[i : i + 500] for i in range(0, len(images), 500)]
    return layer_similarity(teacher, student, batches, taps)


# How right models are on corrupted images.


def robustness_over_seeds(runs, names, images, labels):
    """A `Robustness` of mean accuracies over the seeds."""
    known = dict(finished(runs))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"`--models` must be finished models of {runs[0].path}: {', '.join(known)}. "
            f"Received: {', '.join(unknown)}."
        )
    models = {
        (name, i): load(model)
        for name in names or known
        for i, model in enumerate(known[name])
    }
    found = robustness(models, images, labels).accuracies
    means = {}
    for corruption, accuracies in found.items():
        of_models = collections.defaultdict(list)
        for (name, _), accuracy in accuracies.items():
            of_models[name].append(accuracy)
        means[corruption] = {name: float(np.mean(x)) for name, x in of_models.items()}
    return Robustness(means)


class _Line(click.ParamType):
    name = "TEXT=NUMBER"

    def convert(self, value, param, ctx):
        text, _, number = value.rpartition("=")
        try:
            found = float(number)
        except ValueError:
            found = np.nan
        if not text or not np.isfinite(found) or found <= 0:
            self.fail(
                f"{value!r} is not a text, = and a number above 0, as in 'Simard 2003=70'."
            )
        return text, found


_run_dir = click.argument("run_dir", type=click.Path(path_type=Path))
_run_dirs = click.argument(
    "run_dir_paths", nargs=-1, required=True, type=click.Path(path_type=Path)
)
_data_dir = click.option("--data-dir", help="TFDS data folder. [default: TFDS's own]")
_output = click.option(
    "--output", type=click.Path(path_type=Path), help="The picture, .png or .svg."
)


@click.group(cls=Group, help=__doc__.split("\n")[0])
def main():
    pass


@main.command()
@_run_dir
@_output
def curves(run_dir, output):
    """Accuracy after each epoch over the seeds, beside the published ones."""
    runs, published = curves_of(runs_of(run_dir))
    click.echo(curves_table(runs, published))
    if output:
        write_picture(curves_picture(runs, published), output)


@main.command()
@_run_dir
@_data_dir
def hinton(run_dir, data_dir):
    """The figures of Hinton et al. 2015, section 3, and those of a run of that recipe."""
    runs = whole_runs(runs_of(run_dir), STAGES)
    splits = {
        ON_TRAINING: batched(*load_data(runs, "train", data_dir)),
        ON_TEST: batched(*load_data(runs, "test", data_dir)),
    }
    click.echo(hinton_table([hinton_figures(run, splits) for run in runs]))
    click.echo(
        "\nThe training images on which a bias is found are all of them, those of the "
        "classes that the transfer set lacks as well."
    )


@main.command()
@_run_dirs
@_data_dir
@click.option("--examples", type=click.IntRange(min=2), default=2000, show_default=True)
def fidelity(run_dir_paths, data_dir, examples):
    """How closely each student follows its teacher, over the seeds."""
    for name, runs in folders_of(run_dir_paths).items():
        images, _ = load_data(runs, "test", data_dir)
        rows = list(fidelity_rows(runs, images[:examples]))
        if not rows:
            raise ValueError(f"{name} has no finished model that was trained.")
        heading = f"{plain(name)}\n\n" if len(run_dir_paths) > 1 else ""
        click.echo(heading + markdown_table(rows, numbers_from=2) + "\n")


@main.command("robustness")
@_run_dir
@click.option("--models", default="", help="Names, with commas between. [default: all]")
@_data_dir
@click.option("--examples", type=click.IntRange(min=1), help="Of the test images.")
def robustness_command(run_dir, models, data_dir, examples):
    """Accuracy on shifted, rotated and noisy test images, the mean over the seeds."""
    runs = runs_of(run_dir)
    images, labels = load_data(runs, "test", data_dir)
    names = [x for x in models.split(",") if x]
    found = robustness_over_seeds(runs, names, images[:examples], labels[:examples])
    click.echo(found.table())


@main.command()
@_run_dirs
@_output
@click.option("--line", "lines", type=_Line(), multiple=True, help="A published figure.")
def errors(run_dir_paths, output, lines):
    """The errors of every model on the test images, a dot a seed."""
    rows = all_errors(folders_of(run_dir_paths))
    click.echo(errors_table(rows))
    if output:
        write_picture(errors_picture(rows, dict(lines)), output)


if __name__ == "__main__":
    main()
