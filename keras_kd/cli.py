"""The command line: parse, call, print."""

import datetime
from pathlib import Path

import click


class _Group(click.Group):
    """Shows an expected error as one message, without a traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, FloatingPointError, ImportError) as error:
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
@click.argument("model")
@click.option("--format", required=True, help="saved_model, litert or onnx.")
@click.option("--quantization", help="Of litert: float16, dynamic or int8.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The new file or folder. [default: the model's name, here or in its run folder]",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="A run folder; MODEL is the name of a stage in it.",
)
@click.option("--batch-size", type=int, help="Of the file. [default: free]")
@click.option(
    "--preprocessing",
    is_flag=True,
    help="Into the file: uint8 images in, scaled to [0, 1] for MODEL; probabilities out.",
)
@click.option("--tolerance", type=float, help="Allowed difference / outputs' range.")
@click.option("--min-agreement", type=float, help="Least fraction of equal classes.")
@click.option("--overwrite", is_flag=True, help="Replace what an export left before.")
@click.option("--dataset", default="mnist", show_default=True)
@_data_dir
def export(model, out, run_dir, preprocessing, dataset, data_dir, **arguments):
    """Write a MODEL as a file for a device, and prove it on a data set's test images.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student. int8 is
    calibrated on the first 1,000 training images.
    """
    import keras

    from keras_kd import data, export_checks, exporters
    from keras_kd.recipe import load_model
    from keras_kd.run_dir import inside

    source = inside(run_dir, model) / "model.keras" if run_dir else model
    format, quantization = arguments["format"], arguments["quantization"]
    if out is None:
        name = exporters.file_name(model, format, quantization)
        out = inside(run_dir, model) / name if run_dir else Path(name)
    # Before the data are prepared, which may take a while.
    export_checks.check_target(out, format, arguments["overwrite"])
    loaded = load_model(source)
    data.prepare(dataset, data_dir)
    images, labels = data.load_arrays(dataset, "test", data_dir)
    if quantization == "int8":
        arguments["calibration"] = data.load_arrays(dataset, "train", data_dir)[0][:1000]
    if preprocessing:
        arguments["preprocessing"] = keras.layers.Rescaling(1 / 255)
    elif quantization == "int8":
        arguments["calibration"] = data.scale(arguments["calibration"])
    examples = (images if preprocessing else data.scale(images), labels)
    exported = exporters.export(loaded, out, examples=examples, **arguments)
    click.echo(f"{exported}\nWritten to {out}, the proof to {exporters.proof_path(out)}")


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
