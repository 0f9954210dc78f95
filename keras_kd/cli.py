"""The command line: parse, call, print."""

import datetime
from pathlib import Path

import click


class _Group(click.Group):
    """Shows an expected error as one message, without a traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, FloatingPointError) as error:
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
@_data_dir
def evaluate(model, dataset, data_dir):
    """Count a MODEL's errors on a data set's test images.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student.
    """
    from keras_kd import data
    from keras_kd.evaluate import evaluate as count
    from keras_kd.recipe import load_model

    loaded = load_model(model)
    data.prepare(dataset, data_dir)
    test = data.load_arrays(dataset, "test", data_dir)
    counted = count(loaded, data.batches(*test, batch_size=1000))
    click.echo(
        f"{100 * counted.accuracy:.2f} % right, "
        f"{counted.errors} errors in {counted.examples:,}"
    )


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
@click.option("--teacher", required=True, help="A model, as above.")
@click.option("--student", required=True, help="A smaller one.")
@click.option("--assistants", type=int, default=1, show_default=True, help="How many.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="A new .toml file for the recipe. [default: printed]",
)
def plan(teacher, student, assistants, output):
    """Propose teacher assistants between a teacher and a student, as a recipe.

    A model is a .keras file, a shipped one's name, for instance mnist/teacher, or an
    architecture's, mnist_student or with widths of your own, mnist_fc_64_64.
    """
    from keras_kd.planner import plan as propose

    proposed = propose(teacher, student, assistants)
    if output:
        proposed.write(output)
    click.echo(f"{proposed.table()}\n\n{proposed.spacing()}\n")
    click.echo(f"Written to {output}" if output else proposed.recipe())


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
