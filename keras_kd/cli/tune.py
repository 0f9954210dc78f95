"""keras-kd tune: a search over a recipe."""

from pathlib import Path

import click

from keras_kd.cli.base import (
    begun_again_by_the_same_command,
    data_dir,
    main,
    shown_log,
)


@main.command()
@click.argument("recipe")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="A folder for the trials and the outcome. [default: runs/RECIPE]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    help="Train so many trials at a time, each on its share of the cores.",
)
@data_dir
def tune(recipe, run_dir, jobs, data_dir):
    """Search over a RECIPE with a table [tune], and write the best one.

    Given again it goes on with what is in its folder. With the KERASTUNER_ variables of the
    environment it is the chief of several processes, or one of its workers.
    """
    from keras_kd.recipes import recipe as recipes
    from keras_kd.tuning.recipe import TunedRecipe
    from keras_kd.tuning.tune import tune as search

    name = Path(recipe).stem
    run_dir = run_dir or Path("runs") / name
    loaded = recipes.load(recipe, TunedRecipe, run_dir)
    click.echo(f"Folder: {run_dir}")
    with begun_again_by_the_same_command(), shown_log():
        table = search(loaded, run_dir, data_dir, name=name, jobs=jobs)
    if table is not None:
        click.echo(f"\n{table}\n\nTo run the best: keras-kd run {run_dir / 'best.toml'}")
