"""What is kept of answers that are more than a class an example: what they add up to."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from keras_kd.files import renamed_when_done
from keras_kd.tasks.known import TASKS

_TASK, _PLACES = "task", "places"
# What is kept of each example for scores of ranks.
_ROWS = ("label", "logit", "error")


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """A model's answers, added up in each example.

    Attributes:
        task: A `keras_kd.tasks.task.Task`.
        places: How many axes of positions the outputs have, see `Task.sums`.
        arrays: dict of name to (n, ...), what `Task.sums` gives.
        rows: dict of name to (n, ...), what scores of ranks need: "label" and "logit", or
            "error". Empty where they have no meaning.

    Raises:
        ValueError: They are not of the same examples, of one or more.
    """

    task: object
    places: int
    arrays: dict
    rows: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        arrays = {**self.arrays, **self.rows}
        counts = {len(x) if np.ndim(x) else None for x in arrays.values()}
        if len(counts) != 1 or counts & {0, None} or "count" not in arrays:
            raise ValueError(
                "Sums must hold what is added up in each of the same examples. Received: "
                f"{', '.join(f'{key} {np.shape(x)}' for key, x in arrays.items())}."
            )

    @property
    def examples(self):
        """How many examples there are."""
        return len(self.arrays["count"])

    def write(self, path):
        """Writes them to `path`, a .npz, whole or not at all."""
        head = {_TASK: np.array(self.task.name), _PLACES: np.array(self.places)}
        with renamed_when_done(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **head, **self.arrays, **self.rows)

    @classmethod
    def read(cls, path):
        """What `write` wrote to `path`; nothing is unpickled.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = dict(file)
            task, places = str(arrays.pop(_TASK)), int(arrays.pop(_PLACES))
            rows = {key: arrays.pop(key) for key in _ROWS if key in arrays}
            kinds = {x.dtype.kind for x in arrays.values()}
            if task not in TASKS or kinds - set("biuf"):
                raise ValueError(f"numbers of a known task. Received: {task!r}")
            return cls(TASKS[task], places, arrays, rows)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold a model's answers: {error}.") from error
