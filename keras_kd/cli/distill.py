"""keras-kd distill: from a teacher and data to a file for a device."""

import sys
from pathlib import Path

import click

from keras_kd.cli.base import (
    begun_again_by_the_same_command,
    data_dir,
    main,
    shown_log,
)


@main.command()
@click.argument("teacher")
@click.argument("data")
@click.option(
    "--student",
    help="A family, or a .keras file. [default: the family for such data]",
)
@click.option(
    "--task",
    help="What the outputs mean: multiclass, binary, multilabel or regression. "
    "[default: as teacher and labels show]",
)
@click.option(
    "--scale",
    help="How TEACHER wants images: unit, symmetric, imagenet, bgr or bytes. "
    "[default: as its answers show]",
)
@click.option("--max-bytes", help="Of the file: 100kB, 64KiB.")
@click.option("--max-macs", help="Multiply-accumulates of the student: 1M.")
@click.option("--max-parameters", help="Weights of the student: 50k.")
@click.option("--max-latency", help="Milliseconds of one example on this machine: 0.5.")
@click.option("--minutes", type=float, help="For all of it. [default: 10]")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of --minutes.")
@click.option(
    "--format",
    default="litert",
    show_default=True,
    help="litert, onnx or saved_model.",
)
@click.option(
    "--quantization",
    help="Of litert: float16, dynamic or int8. [default: int8, or what answers as the "
    "student does]",
)
@click.option("--no-labels", is_flag=True, help="Leave the labels of DATA unread.")
@click.option(
    "--no-baseline",
    is_flag=True,
    help="Leave out the same student on the labels alone.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    nargs=2,
    help="Height and width of the student's images. [default: the teacher's]",
)
@click.option(
    "--import",
    "imports",
    help="A module of your own that registers the classes of which TEACHER is.",
)
@click.option("--label", help="Name of a table's column of labels. [default: label]")
@click.option("--skip-unreadable", is_flag=True, help="Leave out what cannot be read.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the results. [default: runs/distill-DATA]",
)
@data_dir
def distill(teacher, data, no_labels, no_baseline, label, skip_unreadable, **arguments):
    """Make the best student of a TEACHER that fits, as a proved file for a device.

    TEACHER is a .keras file, or a shipped model's name. DATA is a folder of images or
    texts, with a folder for each class or without classes; a table (.csv, .parquet), a
    .npz file, tfds:NAME, mnist or fashion_mnist. Given again after a stop it goes on.
    """
    from keras_kd.datasets.load import Own
    from keras_kd.distillation.distill import distill as make
    from keras_kd.exporters import converter

    if arguments["format"] == "litert":
        # It gets ready while the model and the data are loaded.
        converter.start()
    if arguments["imports"]:
        # As with `python script.py`, a module that lies here is found.
        sys.path.insert(0, "")
    arguments["image_size"] = arguments["image_size"] or None
    if label is not None or skip_unreadable:
        data = Own(data, label=label, skip_unreadable=skip_unreadable)
    with begun_again_by_the_same_command(), shown_log():
        found = make(
            teacher,
            data,
            labels=not no_labels,
            baseline=not no_baseline,
            announce=click.echo,
            **arguments,
        )
    click.echo(f"\n{found.result.table()}\n\n{found}")
