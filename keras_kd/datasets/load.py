"""A data set by its name, its folder or its file."""

import dataclasses
from pathlib import Path

from keras_kd import data
from keras_kd.datasets import images, prepared, tables, texts
from keras_kd.datasets.arrays import read_arrays
from keras_kd.datasets.folders import read_folder
from keras_kd.datasets.layout import has_any
from keras_kd.datasets.parts import Parts


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's own data, as `load` takes them.

    Attributes:
        path: Of a folder of images or texts, or of a .npz, .csv or .parquet file; or
            "tfds:NAME".
        image_size, channels: Of images in files, as
            `keras_kd.datasets.folders.read_folder` takes them.
        validation, test: Shares that are held out, where the data have no such parts.
        skip_unreadable: Whether what cannot be read is left out, and counted.
        labels: Whether labels are read.
        label: Name of a table's column of labels.
        length: Of texts, in bytes, as `keras_kd.datasets.texts.as_bytes` takes it.
        task: What labels are, "multiclass" or "regression", of a table or a .npz file.
    """

    path: str
    image_size: tuple | None = None
    channels: int | None = None
    validation: float = 0.1
    test: float = 0.1
    skip_unreadable: bool = False
    labels: bool = True
    label: str | None = None
    length: int | None = None
    task: str | None = None


# What says something of every data set; and of each kind what else it takes.
_OF_ALL = {"path", "validation", "test", "labels"}
_TAKES = {
    "folder": {"image_size", "channels", "skip_unreadable"},
    "texts": {"length", "skip_unreadable"},
    ".npz": {"task", "skip_unreadable"},
    "table": {"label", "task", "length", "skip_unreadable"},
    "tfds": {"image_size", "channels", "length"},
}
_WORDS = {
    "image_size": "images in files",
    "channels": "images in files",
    "label": "tables",
    "length": "texts",
    "task": "tables and .npz files",
    "skip_unreadable": "folders and files",
}


def load(
    dataset,
    data_dir=None,
    announce=print,
    wanted=("train", "test"),
    like=None,
    columns=None,
):
    """A data set in its parts.

    Args:
        dataset: A key of `keras_kd.data.DATASETS`; the path of a folder, or of a .npz, .csv
            or .parquet file; "tfds:NAME" or "tfds:NAME/CONFIG"; or an `Own`.
        data_dir: TFDS's data folder, for data sets by name.
        announce: Called with each line that is told.
        wanted: Which parts of a named data set are read; others are None. Of the others,
            without "train" nothing is refused because it could not be learned from.
        like: The shape that a model takes: (height, width, channels) for images in files
            whose size is not said, or (length,) for texts whose length is not.
        columns: Those of a table that a model has learned from, as
            `keras_kd.datasets.tables.read_table` takes them; or None.

    Returns:
        `keras_kd.datasets.parts.Parts`. Named ones have no validation part.

    Raises:
        DataError: It cannot be had, or is damaged, or not what is described; the message
            names the file. A field of `Own` has no effect on it.
        ModuleNotFoundError: What reads tables is not installed.
    """
    if isinstance(dataset, str) and dataset in data.DATASETS:
        data.prepare(dataset, data_dir, announce=announce)
        read = {x: data.load_arrays(dataset, x, data_dir) for x in wanted}
        class_names = data.DATASETS[dataset].class_names
        return Parts(read.get("train"), None, read.get("test"), class_names)
    own = dataset if isinstance(dataset, Own) else Own(str(dataset))
    source = _source(own.path)
    _refuse_idle(own, source)
    path, skip = own.path, own.skip_unreadable
    of_all = {
        "validation": own.validation,
        "test": own.test,
        "labels": own.labels,
        "announce": announce,
    }
    if source != "tfds":
        of_all["trains"] = "train" in wanted
    size, channels, length = _sizes(own, like)
    if source == "tfds":
        name = path.removeprefix(prepared.PREFIX)
        return prepared.read_prepared(name, data_dir, size, channels, length, **of_all)
    of_all["skip_unreadable"] = skip
    if source == "table":
        length = own.length
        of_all |= {"like": like, "known": columns}
        return tables.read_table(path, own.label, own.task, length, **of_all)
    if source == ".npz":
        return read_arrays(path, task=own.task, **of_all)
    if source == "texts":
        return texts.read_texts(path, length, **of_all)
    return read_folder(path, size, channels, **of_all)


def _source(path):
    """Of which kind a data set is, a key of `_TAKES`."""
    suffix = Path(path).suffix.lower()
    if path.startswith(prepared.PREFIX):
        return "tfds"
    if Path(path).is_dir():
        has_images = has_any(Path(path), images.SUFFIXES)
        are_texts = not has_images and has_any(Path(path), texts.SUFFIXES)
        return "texts" if are_texts else "folder"
    if suffix in tables.SUFFIXES:
        return "table"
    if suffix == ".npz":
        return suffix
    raise data.DataError(
        f"{path!r} is no data set: give {', '.join(data.DATASETS)}, tfds:NAME, a folder of "
        "images or texts, with a folder for each class, or a .npz, .csv or .parquet file."
    )


def _refuse_idle(own, source):
    """Refuses what is said and would have no effect."""
    for field in dataclasses.fields(own):
        name = field.name
        if name in _OF_ALL | _TAKES[source] or getattr(own, name) == field.default:
            continue
        raise data.DataError(
            f"`{name}` is for {_WORDS[name]}, and has no effect on {own.path}. Leave it "
            f"out. Received: {name}={getattr(own, name)!r}."
        )
    if own.task is not None and not own.labels:
        raise data.DataError(
            "`task` says what labels are, and with labels=False there are none. Received: "
            f"task={own.task!r}."
        )


def _sizes(own, like):
    """(image_size, channels, length) as said, else as a model takes them."""
    size, channels, length = own.image_size, own.channels, own.length
    if like and len(like) == 3:
        size = size or (None if None in like[:2] else tuple(like[:2]))
        channels = channels or like[2]
    if like and len(like) == 1:
        length = length or like[0]
    return size, channels, length
