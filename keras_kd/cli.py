"""The command line: parse, call, print."""

import datetime
import functools
from pathlib import Path

import click


class _Group(click.Group):
    """Shows an expected error as one message, without a traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error)) from error


_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="TFDS data folder. [default: TFDS's own, ~/tensorflow_datasets]",
)


# Each command imports what it needs, so that --help answers at once.
@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras_kd")
def main():
    """Knowledge distillation for Keras models."""


@main.command()
@click.argument("recipe")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="A new folder for the results. [default: runs/RECIPE-DATE-TIME]",
)
@click.option("--epochs", type=int, help="Epochs of every stage.")
@click.option("--batch-size", type=int, help="Examples a step.")
@click.option("--seed", type=int, help="Seed of weights, dropout and data order.")
@click.option(
    "--dtype-policy",
    help="Of the students while they train: float32, mixed_bfloat16 or mixed_float16.",
)
@_data_dir
def run(recipe, run_dir, data_dir, **overrides):
    """Run a RECIPE: its name (mnist), or a path to a .toml file."""
    from keras_kd import recipe as recipes

    loaded = recipes.load(recipe, **overrides)
    if run_dir is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = Path("runs") / f"{Path(recipe).stem}-{now}"
    result, accuracies = recipes.run(loaded, run_dir, data_dir)
    click.echo(f"\nAccuracy (%) on the test images\n\n{accuracies}")
    click.echo(f"\n{result.table()}\n\nWritten to {run_dir}")


@main.command()
@click.argument("model")
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--teacher", help="A model to compare MODEL with, as MODEL is given.")
@_data_dir
def evaluate(model, dataset, teacher, data_dir):
    """Measure a MODEL on a data set's test images.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student.
    """
    from keras_kd import data
    from keras_kd.evaluate import Evaluation
    from keras_kd.predictions import predict
    from keras_kd.recipe import load_model

    loaded, loaded_teacher = load_model(model), teacher and load_model(teacher)
    # Standard output holds the measurements alone.
    data.prepare(dataset, data_dir, announce=functools.partial(click.echo, err=True))
    test = data.batches(*data.load_arrays(dataset, "test", data_dir), batch_size=1000)
    predictions, fidelity = predict(loaded, test, name=model), None
    if teacher:
        fidelity = predictions.fidelity(predict(loaded_teacher, test, name=teacher))
    measured = Evaluation.of(predictions.answers(), fidelity)
    click.echo(f"{measured.summary()}\n\n{measured.table()}")


@main.command()
@click.argument("model")
def profile(model):
    """Print a MODEL's parameters and multiply-accumulates (MACs)."""
    from keras_kd.profile import profile as measure
    from keras_kd.recipe import load_model

    cost = measure(load_model(model))
    click.echo(
        f"parameters  {cost.parameters:,}\n"
        f"MACs        {cost.macs:,}  half of all float operations, as published\n"
        f"pure MACs   {cost.pure_macs:,}  matrix products and convolutions alone"
    )


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
def report(run_dir):
    """Write the report of a run: RUN_DIR/report/report.html and report.md.

    RUN_DIR is what `keras-kd run` wrote, with one seed or several, finished or not.
    """
    from keras_kd.report import write_report

    headline, path = write_report(run_dir)
    click.echo(f"{headline}\nWritten to {path}")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(runs):
    """Put RUNS side by side, as Markdown: their models, recipes, and McNemar's test."""
    from keras_kd.compare import compare_runs

    click.echo(compare_runs(runs))


@main.command()
def methods():
    """List every distillation loss: its paper, what it compares, arguments and defaults."""
    from keras_kd.methods import methods

    click.echo("\n\n".join(map(str, methods())))


@main.group(name="data")
def data_group():
    """Get and prepare data sets."""


@data_group.command()
@click.argument("dataset")
@click.option(
    "--from",
    "from_dir",
    type=click.Path(path_type=Path),
    help="Folder of the four original IDX files, gzipped or not.",
)
@_data_dir
def prepare(dataset, from_dir, data_dir):
    """Make DATASET (mnist) readable by tfds.load, from the first source that works."""
    from keras_kd import data

    data.prepare(dataset, data_dir, from_dir=from_dir)
