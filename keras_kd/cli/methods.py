"""keras-kd methods: the distillation losses."""

import click

from keras_kd.cli.base import main


@main.command()
def methods():
    """List every distillation loss: its paper, what it compares, arguments and defaults."""
    from keras_kd.losses.methods import methods

    click.echo("\n\n".join(map(str, methods())))
