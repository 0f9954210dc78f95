"""keras-kd card: the model card of a stage."""

from pathlib import Path

import click

from keras_kd.cli.base import main


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
    from keras_kd.report.card import write_card

    click.echo(f"Written to {write_card(run_dir, stage, **arguments)}")
