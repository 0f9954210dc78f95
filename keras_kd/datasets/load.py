"""A data set by its name, its folder or its file."""

import dataclasses
from pathlib import Path

from keras_kd import data
from keras_kd.datasets.arrays import read_arrays
from keras_kd.datasets.folders import read_folder
from keras_kd.datasets.parts import Parts


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's own data, as `load` takes them.

    Attributes:
        path: Of a folder of images, or of a .npz file.
        image_size, channels, skip_unreadable, labels: As
            `keras_kd.datasets.folders.read_folder` takes them; of a folder.
        validation, test: Shares that are held out, where the data have no such parts.
    """

    path: str
    image_size: tuple | None = None
    channels: int | None = None
    validation: float = 0.1
    test: float = 0.1
    skip_unreadable: bool = False
    labels: bool = True


def load(dataset, data_dir=None, announce=print, wanted=("train", "test"), like=None):
    """A labelled data set of images, uint8 (n, height, width, channels), in its parts.

    Args:
        dataset: A key of `keras_kd.data.DATASETS`; the path of a folder or of a .npz file;
            or an `Own`.
        data_dir: TFDS's data folder, for named data sets.
        announce: Called with each line that is told.
        wanted: Which parts of a named data set are read; others are None.
        like: Of a folder whose image size is not said: the shape (height, width, channels)
            that a model takes.

    Returns:
        `keras_kd.datasets.parts.Parts`. Named ones have no validation part.

    Raises:
        DataError: It cannot be had, or is damaged, or not what is described; the message
            names the file.
    """
    if isinstance(dataset, str) and dataset in data.DATASETS:
        data.prepare(dataset, data_dir, announce=announce)
        read = {x: data.load_arrays(dataset, x, data_dir) for x in wanted}
        class_names = data.DATASETS[dataset].class_names
        return Parts(read.get("train"), None, read.get("test"), class_names)
    own = dataset if isinstance(dataset, Own) else Own(str(dataset))
    shares = {"validation": own.validation, "test": own.test, "announce": announce}
    if Path(own.path).suffix == ".npz":
        idle = [x for x in ("image_size", "channels", "skip_unreadable") if getattr(own, x)]
        if idle:
            raise data.DataError(f"{idle[0]} is for folders of images, not for {own.path}.")
        return read_arrays(own.path, **shares)
    if not Path(own.path).is_dir():
        raise data.DataError(
            f"{own.path!r} is no data set: give {', '.join(data.DATASETS)}, a folder with "
            "a folder of images for each class, or a .npz file."
        )
    *size, channels = like if like and len(like) == 3 else (None, None, None)
    size = own.image_size or (size if None not in size else None)
    channels = own.channels or channels
    skip = own.skip_unreadable
    return read_folder(
        own.path, size, channels, skip_unreadable=skip, labels=own.labels, **shares
    )
