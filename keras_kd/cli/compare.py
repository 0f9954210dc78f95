"""keras-kd compare: runs side by side."""

from pathlib import Path

import click

from keras_kd.cli.base import main


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(runs):
    """Put RUNS side by side, as Markdown: their models, recipes, and McNemar's test."""
    from keras_kd.report.compare import compare_runs

    click.echo(compare_runs(runs))
