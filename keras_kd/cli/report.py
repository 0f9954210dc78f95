"""keras-kd report: a run as pages."""

from pathlib import Path

import click

from keras_kd.cli.base import main


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to write to.  [default: RUN_DIR/report]",
)
def report(run_dir, output):
    """Write the report of a run: report.html and report.md.

    RUN_DIR is what `keras-kd run` wrote, with one seed or several, finished or not.
    """
    from keras_kd.report.write import write_report

    headline, path = write_report(run_dir, output)
    click.echo(f"{headline}\nWritten to {path}")
