"""keras-kd data: data sets, got and prepared."""

from pathlib import Path

import click

from keras_kd.cli.base import data_dir, main


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
@data_dir
def prepare(dataset, from_dir, data_dir):
    """Make DATASET readable by tfds.load, from the first source that works.

    DATASET is mnist or fashion_mnist.
    """
    from keras_kd import data

    data.prepare(dataset, data_dir, from_dir=from_dir)
