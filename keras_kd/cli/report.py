"""keras-kd report: a run as pages."""

from pathlib import Path

import click

from keras_kd.cli.base import main


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
def report(run_dir):
    """Write the report of a run: RUN_DIR/report/report.html and report.md.

    RUN_DIR is what `keras-kd run` wrote, with one seed or several, finished or not.
    """
    from keras_kd.report.write import write_report

    headline, path = write_report(run_dir)
    click.echo(f"{headline}\nWritten to {path}")
