"""keras-kd profile: what a model costs."""

import click

from keras_kd.cli.base import main


@main.command()
@click.argument("model")
def profile(model):
    """Print a MODEL's parameters and multiply-accumulates (MACs)."""
    from keras_kd.evaluation.profile import profile as measure
    from keras_kd.recipes.model_files import load_model
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
