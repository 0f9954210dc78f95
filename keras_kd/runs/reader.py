"""A run folder as `keras-kd run` and `DistillationChain.fit` leave it, read and checked.

Nothing in it is taken on trust: files must be what the manifest's checksums say, and
nothing is unpickled.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pydantic

from keras_kd.evaluation.answers import Answers
from keras_kd.evaluation.sums import Sums
from keras_kd.runs.schema import (
    AnyManifest,
    ExportEntry,
    Exports,
    Metrics,
    RunManifest,
    SeedsManifest,
    StageEntry,
)

# What was measured of a run's exported files, in its folder.
EXPORTS = "exports.json"
# What is kept of answers that are pictures, beside the images.
_PICTURES = ("label", "teacher", "student")


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of a run; its files are read, and checked, when they are first asked for.

    Attributes:
        name: "teacher", or the stage's name.
        folder: Where its files lie.
        stage: Its `StageEntry`; None for the given teacher.
        done: Whether it is finished, so that all but `history` can be read.
        files: dict of file name to SHA-256, as the manifest has them.
        class_names: Of the run's labels, in their order; None where they have none.
    """

    name: str
    folder: Path
    stage: StageEntry | None
    done: bool
    files: dict
    class_names: list | None = None

    def class_name(self, label):
        """What a label is called, a string; its number where it has no name."""
        known = self.class_names or ()
        return known[label] if 0 <= label < len(known) else str(label)

    @property
    def taught_by(self):
        """Names of its teachers; empty for labels alone, and for the given teacher."""
        return self.stage.taught_by if self.stage else []

    @property
    def has_model(self):
        """Whether a file holds it; none does of a function, or of given outputs."""
        return "model.keras" in self.files

    @property
    def architecture(self):
        """What is equal for two stages whose students differ in weights alone, or None."""
        return self.stage and self.stage.architecture

    @functools.cached_property
    def metrics(self):
        """Its `Metrics`."""
        return _parsed(Metrics, self.file("metrics.json"))

    @functools.cached_property
    def answers(self):
        """Its answers to the test data: `Answers`; of more than one an example, `Sums`."""
        counted = self.metrics.evaluation
        if counted.is_right_or_wrong:
            path = self.file("answers.csv")
            answers = Answers.read_csv(path)
        else:
            path = self.file("answers.npz")
            answers = Sums.read(path)
        if answers.examples != counted.examples:
            raise ValueError(
                f"{path} has {answers.examples} answers, but metrics.json beside it is "
                f"of {counted.examples} examples."
            )
        return answers

    @functools.cached_property
    def history(self):
        """dict of metric name to one number an epoch; empty where there is none yet.

        A stage without epochs, such as an ensemble, has none.
        """
        is_trained = self.stage is not None and self.stage.epochs > 0
        if not is_trained or not (self.done or (self.folder / "history.csv").is_file()):
            return {}
        path = self.file("history.csv")
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, strict=True))
            return {key: [float(row[key]) for row in rows] for key in rows[0]}
        except (ValueError, TypeError, IndexError, csv.Error) as error:
            raise ValueError(f"{path} is not a table of numbers: {error}.") from error

    @property
    def disagreements(self):
        """(index (k,), images (k, height, width, channels) in [0, 1]), or None."""
        return self._disagreements and self._disagreements[:2]

    @property
    def pictures(self):
        """Where answers are pictures, dict of "label", "teacher", "student" to them.

        As `keras_kd.evaluation.predictions.SummedPredictions.pictures` gives them, of the
        images of `disagreements`; None where there are none.
        """
        return self._disagreements and self._disagreements[2]

    @functools.cached_property
    def _disagreements(self):
        if "disagreements.npz" not in self.files:
            return None
        path = self.file("disagreements.npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index, images = arrays["index"], arrays["images"]
                pictures = {x: arrays[x] for x in _PICTURES if x in arrays}
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold index and images: {error}.") from error
        examples = self.metrics.evaluation.examples
        if images.ndim != 4 or index.shape != images.shape[:1] or index.dtype.kind != "i":
            problem = f"index {index.shape} and images {images.shape}"
        elif np.any(index < 0) or np.any(index >= examples):
            problem = f"an index that is not below {examples}"
        elif pictures and not _are_pictures(pictures, len(index)):
            problem = f"pictures of {', '.join(pictures)} that do not go together"
        else:
            return index, images, pictures or None
        raise ValueError(f"{path} does not hold images of test examples, but {problem}.")

    @functools.cached_property
    def exported(self):
        """The `ExportEntry` of each file that was exported into its folder, by name."""
        return [read_export(x) for x in sorted(self.folder.glob("*.export.json"))]

    def file(self, name):
        """The path of a file of its folder, which is there and is what was written.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: Its checksum is not the manifest's.
        """
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; without it there is no report.")
        wanted = self.files.get(name)
        if wanted and hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise ValueError(
                f"{path} is not the file that the run wrote: its SHA-256 differs from the "
                "one in manifest.json."
            )
        return path


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with one seed.

    Attributes:
        path: Its folder.
        manifest: Its `RunManifest`.
        models: A `Model` each, the given teacher first, then the stages in order.
    """

    path: Path
    manifest: RunManifest
    models: list

    @functools.cached_property
    def exports(self):
        """Its `Exports`, what exports.json says; None where there is no such file."""
        path = self.path / EXPORTS
        if not path.exists():
            return None
        exports = _parsed(Exports, path)
        unknown = {x.model for x in exports.files} - {x.name for x in self.models}
        if unknown:
            raise ValueError(
                f"{path} is of another run: there is no model {min(unknown)!r} in this one."
            )
        return exports

    def __getitem__(self, name):
        return next(model for model in self.models if model.name == name)

    def done(self, name):
        """Whether there is a finished model of that name."""
        return any(model.name == name and model.done for model in self.models)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run folder of either kind.

    Attributes:
        path: The folder.
        manifest: A `RunManifest` or a `SeedsManifest`.
        runs: dict of seed to `Run`, of the seeds that have begun; the one key is None for a
            run with one seed.
    """

    path: Path
    manifest: RunManifest | SeedsManifest
    runs: dict


def _are_pictures(pictures, count):
    shapes = {x.shape for x in pictures.values()}
    kinds = {x.dtype.kind for x in pictures.values()}
    are_all = len(pictures) == len(_PICTURES) and len(shapes) == 1 and kinds == {"f"}
    return are_all and len(min(shapes)) == 3 and min(shapes)[0] == count


def read(path):
    """Reads a run folder.

    Args:
        path: The folder of a run, or of a run over several seeds.

    Returns:
        A `RunFolder`.

    Raises:
        FileNotFoundError: There is no such folder, or no manifest in it.
        ValueError: A file is damaged, or is not of a run.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    if manifest.kind == "run":
        return RunFolder(path, manifest, {None: _run(path, manifest)})
    runs = {}
    for seed in manifest.seeds:
        folder = path / f"seed-{seed}"
        if not folder.exists():
            continue
        of_seed = _read_manifest(folder)
        if of_seed.kind != "run":
            raise ValueError(f"{folder} must hold the run of one seed, not of several.")
        runs[seed] = _run(folder, of_seed)
    if not runs:
        raise ValueError(f"No seed of {path} has begun; there is nothing to report yet.")
    return RunFolder(path, manifest, runs)


def read_export(path):
    """The `ExportEntry` in an `.export.json`.

    Raises:
        ValueError: It is damaged, or is not of the file beside it.
    """
    entry = _parsed(ExportEntry, path)
    if f"{entry.file}.export.json" != path.name:
        raise ValueError(f"{path} is of another file, {entry.file!r}.")
    return entry


def _read_manifest(path):
    if not path.is_dir():
        raise FileNotFoundError(f"There is no run folder {path}.")
    if not (path / "manifest.json").is_file():
        raise FileNotFoundError(
            f"{path} is not a run folder, as there is no manifest.json in it. One is made "
            "by keras-kd run, or by DistillationChain.fit with run_dir=..."
        )
    manifest = _parsed(AnyManifest, path / "manifest.json").root
    if manifest.kind == "tune":
        raise ValueError(
            f"{path} is the folder of a search, whose table is trials.md and whose picture "
            "is trials.png. A run of its best.toml can be reported."
        )
    return manifest


def _run(path, manifest):
    entries = [(x.name, x, x) for x in manifest.stages]
    if manifest.teacher:
        entries.insert(0, ("teacher", None, manifest.teacher))
    models = [_model(path, *x, manifest.class_names) for x in entries]
    return Run(path, manifest, models)


def _model(path, name, stage, entry, class_names):
    done = entry.state == "done"
    return Model(name, path / name, stage, done, entry.files, class_names)


def _parsed(cls, path):
    """The JSON file at `path` as `cls`; one that does not fit is refused by name."""
    try:
        return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = " > ".join(str(x) for x in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"{path} is not what this version of keras_kd writes. {place}: {message}."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
