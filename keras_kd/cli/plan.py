"""keras-kd plan: assistants between teacher and student."""

from pathlib import Path

import click

from keras_kd.cli.base import main


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
    from keras_kd.recipes.planner import plan as propose

    proposed = propose(teacher, student, assistants)
    if output:
        proposed.write(output)
    click.echo(f"{proposed.table()}\n\n{proposed.spacing()}\n")
    click.echo(f"Written to {output}" if output else proposed.recipe())
