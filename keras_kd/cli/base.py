"""What all commands share: the group, options, the log."""

import contextlib
import dataclasses
import json
import logging
import signal
import threading
from pathlib import Path

import click

import keras_kd
from keras_kd.cli.quiet import without_remarks


class Command(click.Command):
    """Loads Keras once its arguments are read, so that --help answers before that."""

    def invoke(self, ctx):
        with _ended_by_ctrl_c(), without_remarks():
            keras_kd.register()
            _look_for_devices()
        return super().invoke(ctx)


@contextlib.contextmanager
def _ended_by_ctrl_c():
    """Lets Ctrl-C end the process at once, while there is nothing to be saved.

    An exception would reach the user as a traceback out of a library that is being loaded,
    or be swallowed by one.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not is_main or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _look_for_devices():
    """What TensorFlow would say of devices and of its own deprecated parts is held back."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Starts no device: a cluster is joined before that.
        tf.config.list_physical_devices()
        tf.get_logger().setLevel("ERROR")


class Group(click.Group):
    """Shows an expected error as one message, without a traceback."""

    command_class = Command
    # Of groups in the group.
    group_class = type

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, FloatingPointError, ImportError) as error:
            raise click.ClickException(str(error)) from error


data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="TFDS data folder. [default: TFDS's own, ~/tensorflow_datasets]",
)

_dataset = click.option(
    "--dataset",
    help="mnist, fashion_mnist or tfds:NAME; a folder of images or texts, with a folder "
    "for each class; or a .npz, .csv or .parquet file. "
    "[default: the run's own, else mnist]",
)
_label = click.option(
    "--label", help="A table's column of labels. [default: the run's own, else label]"
)


def dataset_options(command):
    """`--dataset` and `--label`."""
    return _dataset(_label(command))


def manifest_of(run_dir):
    """The manifest of a folder, a dict; empty where it is no run's."""
    from keras_kd.runs import manifest

    is_run = run_dir and (Path(run_dir) / manifest.MANIFEST).is_file()
    return manifest.read(run_dir) if is_run else {}


def run_of(*models):
    """The folder that a run's models lie in, each in one of its stage; it need be no run's.

    Args:
        *models: As commands take them, paths or names; or None.

    Raises:
        DataError: Two are of runs on other columns or classes.
    """
    from keras_kd.data import DataError

    folders = [Path(x).parent.parent for x in models if x is not None]
    runs = [x for x in folders if manifest_of(x)]
    learned = [(columns_of(x), manifest_of(x).get("class_names")) for x in runs]
    if learned != learned[:1] * len(learned):
        raise DataError(
            f"The runs in {runs[0]} and {runs[1]} have other columns or classes, or in "
            "another order, so that what one model says is nothing to the other."
        )
    return (runs or folders)[0]


def columns_of(run_dir):
    """The columns of the table that a run was on, as `datasets.load` takes them; or None.

    Args:
        run_dir: A folder; it need not be a run's.
    """
    from keras_kd.datasets.parts import Column

    columns = manifest_of(run_dir).get("columns")
    if not columns:
        return None
    kinds = [(x["name"], x["categories"]) for x in columns]
    return [Column(name, kind and tuple(kind)) for name, kind in kinds]


def examples_for(
    model, run_dir, dataset, label, data_dir, wanted, announce=print, task=None
):
    """What a model is measured on, with columns and classes as it learned them.

    Args:
        model: The `keras.Model`; None of a run without one.
        run_dir: A folder; it need not be a run's.
        dataset, label, data_dir: As the options give them.
        wanted, announce: As `keras_kd.datasets.load` takes them.
        task: What the outputs mean, where the user says it.

    Returns:
        `(dataset, parts, task)`: what was read; `keras_kd.datasets.parts.Parts`; and what
        the outputs mean, where that is known of the labels, or None.

    Raises:
        DataError: As `keras_kd.datasets.load`; the examples are not what the model takes;
            or a class is none of the model's, or it cannot be told which one it is.
    """
    from keras_kd import data, datasets
    from keras_kd.datasets.load import Own

    dataset = data_of(dataset, label, run_dir)
    path = getattr(dataset, "path", dataset)
    if task == "regression" and Path(path).suffix in (".csv", ".parquet", ".npz"):
        # Of whole numbers nothing else tells that they are values.
        own = dataset if isinstance(dataset, Own) else None
        own = own or Own(path)
        dataset = dataclasses.replace(own, task=task)
    shape = None if model is None else model.input_shape
    like = shape[1:] if isinstance(shape, tuple) else None
    columns = columns_of(run_dir)
    parts = datasets.load(dataset, data_dir, announce, wanted, like, columns)
    if columns and parts.columns is None:
        raise data.DataError(f"The run in {run_dir} is of a table; these data are none.")
    if like is not None and not _fits(like, parts.test[0].shape[1:]):
        raise data.DataError(
            f"An example of these data has the shape {parts.test[0].shape[1:]}, and the "
            f"model takes {like}."
        )
    is_known = manifest_of(run_dir) or dataset in data.DATASETS
    if not is_known and (parts.names or any(x.categories for x in parts.columns or ())):
        announce(
            "Numbering: the model lies in no run that would tell it, so classes and "
            "categories have their numbers by the order of these data's own"
        )
    parts = numbered_as_learned(parts, run_dir, model, Path(path).is_dir())
    if task is None and parts.task == "regression":
        task = "regression"
    is_one_unit = getattr(model, "output_shape", ())[1:] == (1,)
    if task is None and parts.task == "multiclass" and is_one_unit:
        # Of classes one unit says no or yes.
        task = "binary"
    return dataset, parts, task


def _fits(takes, given):
    """Whether a model takes examples of a shape; Keras adds, or leaves out, a last 1."""

    def bare(shape):
        while shape and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    takes, given = bare(takes), bare(given)
    pairs = zip(takes, given, strict=False)
    return len(takes) == len(given) and all(a in (None, b) for a, b in pairs)


def numbered_as_learned(parts, run_dir, model, are_folders=False):
    """Data with classes numbered as those that a model has learned.

    Data number the classes that they have, so that in others a number may stand for
    another class. What the model learned is known of a run. Of other models, data of as
    many classes as there are outputs have them in their order; of fewer, they must be the
    first ones by their numbers.

    Args:
        parts: The `keras_kd.datasets.parts.Parts`.
        run_dir: A folder; it need not be a run's.
        model: The `keras.Model`.
        are_folders: Whether classes are folders, of which "10" comes before "2".

    Raises:
        DataError: A class is none of the model's, or it cannot be told which one it is.
    """
    from keras_kd.data import DataError
    from keras_kd.datasets.parts import with_classes

    shape = getattr(model, "output_shape", None)
    # Of several outputs, or of pixels, a class is no example's.
    if parts.class_names is None or not isinstance(shape, tuple) or len(shape) != 2:
        return parts
    run, names = manifest_of(run_dir), parts.class_names
    known, count = run.get("class_names"), 2 if shape[1] == 1 else shape[1]
    if known is None and run.get("recipe") and not run.get("labels_of"):
        # Only names that say more than their numbers are kept.
        known = list(map(str, range(count)))
    if known is None:
        are_first = parts.names is None and not (are_folders and count > 10)
        if len(names) == count or are_first:
            return parts
        raise DataError(
            f"The data have {len(names)} classes ({', '.join(names[:10])}) and the "
            f"model {count}, and nothing tells which are which. Give data with all of "
            "its classes; or, for an export, data without labels."
        )
    return with_classes(parts, known, "The data's classes")


def data_of(dataset, label, run_dir):
    """The data set to measure on: what is given, or what a run was on, or MNIST.

    Of the run's own data its own test part, whatever shares it held out. Of another table
    the same column is the label, and as much a class or a value.

    Args:
        dataset, label: As the options give them; None where they do not.
        run_dir: A folder; it need not be a run's.
    """
    from keras_kd.datasets.load import Own
    from keras_kd.recipes.sections import DataRecipe

    recipe = manifest_of(run_dir).get("recipe") or {}
    own = recipe.get("dataset", "mnist")
    if isinstance(own, dict):
        own = DataRecipe(**own).make()
        if dataset is not None and Path(dataset).resolve() == Path(own.path).resolve():
            dataset = None
    found = own if dataset is None else dataset
    if found is dataset and isinstance(own, Own) and _are_tables(own.path, dataset):
        # Another table with the same columns.
        found = Own(dataset, label=own.label, task=own.task or _task_of(run_dir))
    if label is None:
        return found
    found = found if isinstance(found, Own) else Own(found)
    return dataclasses.replace(found, label=label)


def _are_tables(*paths):
    from keras_kd.datasets.tables import SUFFIXES

    return all(Path(x).suffix.lower() in SUFFIXES for x in paths)


def _task_of(run_dir):
    """What the labels of a run's table are, "multiclass" or "regression", or None."""
    for path in sorted(Path(run_dir).glob("*/metrics.json")):
        task = json.loads(path.read_text(encoding="utf-8"))["evaluation"].get("task")
        return "regression" if task == "regression" else "multiclass"
    return None


# Each command imports what it needs, so that --help answers at once.
@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras_kd")
def main():
    """Knowledge distillation for Keras models."""


@contextlib.contextmanager
def begun_again_by_the_same_command():
    """Says so, where Ctrl-C ends the block, and ends the process."""
    try:
        yield
    except KeyboardInterrupt as stop:
        click.echo("\nStopped. To go on, give the same command.", err=True)
        raise SystemExit(130) from stop


@contextlib.contextmanager
def shown_log():
    """Shows what the library logs while the block runs; above the bar if there is one."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record):
            tqdm.write(self.format(record))

    # Not the root logger, which others log to and may show, too.
    logger, handler = logging.getLogger("keras_kd"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True
