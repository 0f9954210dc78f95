"""The command line: parse, call, print."""

import contextlib
import datetime
import functools
import logging
from pathlib import Path

import click


class Group(click.Group):
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
@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --run-dir, by default the recipe's newest in runs/.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help="Run with so many seeds, from the recipe's on.",
)
@click.option("--epochs", type=int, help="Epochs of every stage that is trained.")
@click.option("--batch-size", type=int, help="Examples a step, of every such stage.")
@click.option("--seed", type=int, help="Seed of weights, dropout and data order.")
@click.option(
    "--dtype-policy",
    help="Of the students while they train: float32, mixed_bfloat16 or mixed_float16.",
)
@click.option(
    "--workers",
    help="All of a cluster's HOST:PORT,HOST:PORT; each runs this command. The first writes "
    "the run folder, which all must see. [default: TF_CONFIG's, or Slurm's]",
)
@click.option("--worker-index", type=int, help="Which of --workers this is, from 0.")
@click.option(
    "--start-timeout",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Seconds in which all workers must have come.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show Keras's bar for each epoch.")
@_data_dir
def run(
    recipe,
    run_dir,
    resume,
    seeds,
    data_dir,
    verbose,
    workers,
    worker_index,
    start_timeout,
    **overrides,
):
    """Run a RECIPE: its name (mnist), or a path to a .toml file.

    Ctrl-C stops it when the epoch is saved; --resume goes on.
    """
    strategy = _join_cluster(workers, worker_index, start_timeout, run_dir, seeds)
    from keras_kd import recipe as recipes
    from keras_kd import recipe_run
    from keras_kd.distribute import Workers

    loaded = recipes.load(recipe, **overrides)
    name = Path(recipe).stem
    is_chief = Workers(strategy).is_chief
    if is_chief:
        run_dir = _choose_run_dir(run_dir, name, resume)
        click.echo(f"Run folder: {run_dir}")
    options = {"data_dir": data_dir, "verbose": 1 if verbose else "auto", "name": name}
    try:
        with _shown_log():
            if seeds is None:
                options["strategy"] = strategy
                result, accuracies = recipe_run.run(loaded, run_dir, **options)
                table = result.table()
            else:
                table = recipe_run.run_seeds(loaded, seeds, run_dir, **options)
                accuracies = None
    except KeyboardInterrupt as stop:
        why = f": {stop}" if str(stop) else ""
        to_go_on = f"give the same command with --run-dir {run_dir} --resume"
        click.echo(f"\nStopped{why}. To go on, {to_go_on}", err=True)
        raise SystemExit(130) from stop
    if not is_chief:
        return
    if accuracies:
        click.echo(f"\nAccuracy (%) after each epoch\n\n{accuracies}")
    click.echo(f"\n{table}\n\nWritten to {run_dir}")


def _join_cluster(workers, worker_index, start_timeout, run_dir, seeds):
    """The strategy of the cluster that this process is told to be in, or None."""
    from keras_kd import cluster

    addresses = workers.split(",") if workers else None
    resolver = cluster.find(addresses, worker_index)
    if resolver is not None and (run_dir is None or seeds is not None):
        raise click.UsageError(
            "Several workers need --run-dir, one folder that all of them see, and take one "
            "seed, not --seeds."
        )
    return cluster.join(resolver, start_timeout)


def _choose_run_dir(run_dir, name, resume):
    """The folder of a run; an existing one only to resume it."""
    from keras_kd import run_dir as run_dirs

    if run_dir is None and resume:
        found = sorted(Path("runs").glob(f"{name}-{'[0-9]' * 8}-{'[0-9]' * 6}"))
        if not found:
            raise FileNotFoundError(
                f"There is no run to resume: no folder runs/{name}-DATE-TIME. Say which "
                "with --run-dir."
            )
        return found[-1]
    if run_dir is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = Path("runs") / f"{name}-{now}"
    if not resume and (run_dir / "manifest.json").is_file():
        raise FileExistsError(
            f"The run folder {run_dir} holds a run. Nothing was changed: give --resume to "
            "go on with it, or choose another folder."
        )
    if not (run_dir / "manifest.json").is_file():
        run_dirs.check_new(run_dir)
        if resume:
            click.echo(f"There is no run in {run_dir} to go on with: it begins.")
    return run_dir


@contextlib.contextmanager
def _shown_log():
    """Shows what the library logs while the block runs; above the bar if there is one."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record):
            tqdm.write(self.format(record))

    # Not the root logger, which others log to and may show, too.
    logger, handler = logging.getLogger("keras_kd"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


@main.command()
@click.argument("recipe")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="A folder for the trials and the outcome. [default: runs/RECIPE]",
)
@_data_dir
def tune(recipe, run_dir, data_dir):
    """Search over a RECIPE with a table [tune], and write the best one.

    Given again it goes on with what is in its folder. With the KERASTUNER_ variables of the
    environment it is the chief of several processes, or one of its workers.
    """
    from keras_kd import recipe as recipes
    from keras_kd.tune import tune as search
    from keras_kd.tune_recipe import TunedRecipe

    loaded = recipes.load(recipe, TunedRecipe)
    name = Path(recipe).stem
    run_dir = run_dir or Path("runs") / name
    click.echo(f"Folder: {run_dir}")
    try:
        with _shown_log():
            table = search(loaded, run_dir, data_dir, name=name)
    except KeyboardInterrupt as stop:
        click.echo("\nStopped. To go on, give the same command.", err=True)
        raise SystemExit(130) from stop
    if table is not None:
        click.echo(f"\n{table}\n\nTo run the best: keras-kd run {run_dir / 'best.toml'}")


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
    from keras_kd.tables import shown_count

    cost = measure(load_model(model))
    click.echo(
        f"parameters  {cost.parameters:,}\n"
        f"MACs        {shown_count(cost.macs)}  "
        "half of all float operations, as published\n"
        f"pure MACs   {shown_count(cost.pure_macs)}  "
        "matrix products and convolutions alone"
    )
    if cost.unknown:
        click.echo(cost.unknown)


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
@click.argument("model", required=False)
@click.option("--format", help="saved_model, litert or onnx.")
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
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Every model of the run, in every format; then measure the files in turn.",
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
def export(model, out, run_dir, every, preprocessing, dataset, data_dir, **arguments):
    """Write a MODEL as a file for a device, and prove it on a data set's test images.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student. int8 is
    calibrated on the first 1,000 training images. With --all and --run-dir alone the files
    of a run's models are written, but for those that are there, and measured together;
    keras-kd report then shows the table.
    """
    import keras

    from keras_kd import data, export_checks, exporters
    from keras_kd.recipe import load_model
    from keras_kd.run_dir import inside

    if every:
        given = {"MODEL": model, "--out": out, "--preprocessing": preprocessing}
        given |= {f"--{k.replace('_', '-')}": v for k, v in arguments.items()}
        return _export_all(run_dir, given, dataset, data_dir)
    for name, value in {"MODEL": model, "--format": arguments["format"]}.items():
        if value is None:
            raise click.UsageError(f"{name} is missing; or give --all with --run-dir.")
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


def _export_all(run_dir, given, dataset, data_dir):
    from keras_kd import data, run_reader
    from keras_kd.report_devices import conditions, device_table
    from keras_kd.run_exports import export_run

    overwrite = given.pop("--overwrite")
    idle = [name for name, value in given.items() if value not in (None, False)]
    if run_dir is None or idle:
        raise click.UsageError(
            f"--all goes with --run-dir, not with {' and '.join(idle) or 'a model file'}."
        )
    data.prepare(dataset, data_dir)
    images, labels = data.load_arrays(dataset, "test", data_dir)
    calibration = data.load_arrays(dataset, "train", data_dir)[0][:1000]
    with _shown_log():
        exports = export_run(
            run_dir,
            (data.scale(images), labels),
            data.scale(calibration),
            overwrite=overwrite,
        )
    run = next(iter(run_reader.read(run_dir).runs.values()))
    click.echo(f"\n{device_table(run, exports.files).as_markdown()}\n")
    click.echo("\n".join(conditions(run, exports)))
    click.echo(f"\nWritten to {run.path / run_reader.EXPORTS}")
    if exports.refused:
        raise click.ClickException(
            f"{len(exports.refused)} of {len(exports.refused) + len(exports.files)} files "
            "were not written, for the reasons above; the others were, and measured."
        )


@main.command()
@click.argument("stage")
@click.option(
    "--run-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The run folder that STAGE is in.",
)
@click.option("--license", help="The model's, as hubs name it: apache-2.0. [default: none]")
@click.option("--title", help="The model's name in the card. [default: STAGE]")
@click.option("--dataset", help="The hub's name of the data, if the run is of no recipe.")
@click.option("--data-license", help="The licence of that data set.")
@click.option("--overwrite", is_flag=True, help="Replace a README.md that is there.")
def card(stage, run_dir, **arguments):
    """Write the model card of a STAGE of a run, or of its teacher: README.md beside it.

    The card is in the form that the Hugging Face hub reads. It tells what the run folder
    knows: export the model first, and its files are in it.
    """
    from keras_kd.model_card import write_card

    click.echo(f"Written to {write_card(run_dir, stage, **arguments)}")


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
