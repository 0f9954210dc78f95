"""keras-kd run: a recipe."""

import datetime
import glob
from pathlib import Path

import click

from keras_kd.cli.base import data_dir, main, shown_log


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
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Run so many of --seeds at a time, each on its share of the cores.",
)
@click.option("--epochs", type=int, help="Epochs of every stage that is trained.")
@click.option("--batch-size", type=int, help="Examples a step, of every such stage.")
@click.option("--seed", type=int, help="Seed of weights, dropout and data order.")
@click.option(
    "--dtype-policy",
    help="Of the students in training: float32, mixed_bfloat16, mixed_float16, or auto, "
    "mixed_bfloat16 where it is faster.",
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
@data_dir
def run(
    recipe,
    run_dir,
    resume,
    seeds,
    jobs,
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
    if jobs is not None and seeds is None:
        raise click.UsageError("--jobs is how many of --seeds run at a time: give both.")
    strategy = _join_cluster(workers, worker_index, start_timeout, run_dir, seeds)
    from keras_kd.distribution.workers import Workers
    from keras_kd.recipes import recipe as recipes
    from keras_kd.recipes import run as recipe_run
    from keras_kd.recipes.seeds import run_seeds

    name = Path(recipe).stem
    is_chief = Workers(strategy).is_chief
    if is_chief and resume and run_dir is None:
        run_dir = _newest_run_dir(name)
    loaded = recipes.load(recipe, run_dir=run_dir, **overrides)
    if is_chief:
        run_dir = _choose_run_dir(run_dir, name, resume)
        click.echo(f"Run folder: {run_dir}")
    options = {"data_dir": data_dir, "verbose": 1 if verbose else "auto", "name": name}
    try:
        with shown_log():
            if seeds is None:
                options["strategy"] = strategy
                result, accuracies = recipe_run.run(loaded, run_dir, **options)
                table = result.table()
            else:
                table = run_seeds(loaded, seeds, run_dir, **options, jobs=jobs or 1)
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
    from keras_kd.distribution import cluster

    addresses = workers.split(",") if workers else None
    resolver = cluster.find(addresses, worker_index)
    if resolver is not None and (run_dir is None or seeds is not None):
        raise click.UsageError(
            "Several workers need --run-dir, one folder that all of them see, and take one "
            "seed, not --seeds."
        )
    return cluster.join(resolver, start_timeout)


def _newest_run_dir(name):
    """The folder of the recipe's newest run in runs/."""
    # A name may hold what stands for others in a pattern.
    pattern = f"{glob.escape(name)}-{'[0-9]' * 8}-{'[0-9]' * 6}"
    found = sorted(Path("runs").glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"There is no run to resume: no folder runs/{name}-DATE-TIME. Say which "
            "with --run-dir."
        )
    return found[-1]


def _choose_run_dir(run_dir, name, resume):
    """The folder of a run; an existing one only to resume it."""
    from keras_kd import files

    if run_dir is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = Path("runs") / f"{name}-{now}"
    if not resume and (run_dir / "manifest.json").is_file():
        raise FileExistsError(
            f"The run folder {run_dir} holds a run. Nothing was changed: give --resume to "
            "go on with it, or choose another folder."
        )
    if not (run_dir / "manifest.json").is_file():
        files.check_new(run_dir)
        if resume:
            click.echo(f"There is no run in {run_dir} to go on with: it begins.")
    return run_dir
