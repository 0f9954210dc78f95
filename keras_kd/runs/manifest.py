"""What a run folder says of its run: what it is made of, how far it is, what it wrote."""

import datetime
import json
import logging
import os
import platform
from pathlib import Path

from keras_kd import files as run_dirs
from keras_kd.runs.versions import changed, versions

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
# What every manifest says, beside its `environment` and its run's description.
TAKEN = frozenset({"format", "kind", "random_state", "with_code"})
# Whether functions and classes are told by their code, which earlier versions left out.
_WITH_CODE = "with_code"
# What tells them there: see `keras_kd.runs.descriptions`.
CODE, ATTRIBUTES, UNKNOWN = "code_sha256", "attributes", "not known"
_KINDS = {"run": "one run", "seeds": "a run over several seeds", "tune": "a search"}
# What a model has of these changes while the run goes on.
_PROGRESS = ("state", "error", "files")
_MODELS = ("teacher", "stages")
# What a run, its classes and its columns are called; of the data there is a checksum.
_LABELS = ("recipe_name", "class_names", "columns")


class RunError(ValueError):
    """A run folder is damaged, or of another run."""


class Manifest:
    """The file `manifest.json` of one run folder.

    Attributes:
        folder: The run folder, a `pathlib.Path`.
        content: The file's content, a dict of JSON values.
        writes: Whether this process writes the file. Of several that run together the
            others follow its content by themselves.
    """

    def __init__(self, folder, content, writes=True):
        self.folder = folder
        self.content = content
        self.writes = writes

    @classmethod
    def open(cls, folder, description, writes=True):
        """Begins a run in a new folder, or goes on with the run in it.

        Args:
            folder: Its path.
            description: dict of JSON values, all that makes the run what it is. "teacher"
                (a dict or None) and each of the list "stages" get a "state" and "files".
            writes: See the attributes; if False, the run has begun.

        Raises:
            RunError: The folder holds another run, by the description, or a damaged one; or
                no run, which another process writes.
            FileExistsError: The folder holds something else.
        """
        path = Path(folder) / MANIFEST
        if path.is_file():
            manifest = cls(Path(folder), read(folder, "run"), writes)
            _check_description(folder, manifest.content, description)
            if not writes:
                return manifest
            manifest._say_versions()
            run_dirs.remove_unfinished(folder)
            return manifest
        if not writes:
            raise RunError(
                f"{path} is not here, although worker 0 has begun the run. All workers "
                "must see the same run folder: give one on a shared disk."
            )
        folder = run_dirs.create(folder)
        run_dirs.remove_unfinished(folder)
        begun = {"format": FORMAT, "kind": "run", _WITH_CODE: True}
        manifest = cls(folder, begun | environment())
        manifest.content |= json.loads(json.dumps(description))
        for model in manifest._models():
            model["state"] = "waiting"
        manifest._write()
        return manifest

    def _say_versions(self):
        """Says what may make a run that is gone on with end otherwise."""
        found = _changed(self.content)
        if found and not all(x["state"] == "done" for x in self._models()):
            logger.warning(
                "%s was begun with %s. What is left of the run may end with other digits "
                "than where all of it is done with the same versions.",
                self.folder,
                found,
            )

    def remember(self, name, value):
        """What was written under a name when the run began; the given value, if nothing."""
        if name not in self.content:
            self.content[name] = value
            self._write()
        return self.content[name]

    def state(self, name):
        """State of a model, "waiting", "training", "done" or "failed"."""
        return self._model(name)["state"]

    def set_state(self, name, state, **details):
        """Writes a model's state, and what belongs to it."""
        model = self._model(name)
        for key in _PROGRESS:
            model.pop(key, None)
        model |= {"state": state, **details}
        self._write()

    def set_done(self, name, files):
        """Writes that a model is done, with the checksums of its files.

        Args:
            name: The model's, which is also its folder's.
            files: Names of files in that folder.
        """
        if not self.writes:
            files = ()
        folder = self.folder / name
        sums = {file: run_dirs.checksum(folder / file) for file in files}
        self.set_state(name, "done", files=sums)

    def verify(self, name):
        """Compares the files of a model that is done with their checksums.

        Raises:
            RunError: A file is missing or differs; names it.
        """
        for file, wanted in self._model(name)["files"].items():
            path = self.folder / name / file
            if not path.is_file():
                raise RunError(f"{path} is missing from a finished stage. {_REPAIR}")
            if run_dirs.checksum(path) != wanted:
                raise RunError(f"{path} is not what the run wrote. {_REPAIR}")

    def _models(self):
        teacher = self.content["teacher"]
        return ([teacher] if teacher else []) + self.content["stages"]

    def _model(self, name):
        return next(x for x in self._models() if x["name"] == name)

    def _write(self):
        if self.writes:
            run_dirs.write_json(self.folder / MANIFEST, self.content)


_REPAIR = (
    "Put the file back, or, to train again from there, begin in a new folder. Nothing was "
    "changed."
)


def check_folder(folder):
    """Refuses a folder of something else, before anything is put there.

    Raises:
        FileExistsError: It is neither a run's nor new.
    """
    if not (Path(folder) / MANIFEST).is_file():
        run_dirs.check_new(folder)


def read(folder, kind=None):
    """A run folder's manifest, a dict.

    Args:
        folder: Its path.
        kind: "run", "seeds" or "tune", the one that it must be; None takes any.

    Raises:
        RunError: There is none, or it is damaged, or of a later version of the library,
            or of the other kind.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no {MANIFEST}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"] == FORMAT and content["kind"] in _KINDS
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    if not known:
        raise RunError(
            f"{path} is of a format that this version does not read. Received: "
            f"format={content['format']!r}, kind={content['kind']!r}."
        )
    if kind not in (None, content["kind"]):
        raise RunError(
            f"{folder} holds {_KINDS[content['kind']]}, not {_KINDS[kind]}. Nothing was "
            "changed: choose another folder, or say what was said there (with --seeds, or "
            "without)."
        )
    return content


def open_seeds(folder, settings, seeds):
    """Begins a folder of one run a seed, or goes on with the one that is there.

    Args:
        folder: Its path.
        settings: dict of JSON values that the runs share; another folder's are refused.
        seeds: list of integers.

    Returns:
        The folder, a `pathlib.Path`.

    Raises:
        RunError, FileExistsError: As `Manifest.open`.
    """
    folder = Path(folder)
    content = _read_or_begin(folder, "seeds", settings)
    seeds = sorted({*content.get("seeds", []), *seeds})
    run_dirs.write_json(folder / MANIFEST, content | {"seeds": seeds})
    return folder


def open_search(folder, settings, **progress):
    """Begins a folder of a search, or goes on with the one that is there.

    Args:
        folder: Its path.
        settings: dict of JSON values that make the search what it is; another folder's are
            refused.
        **progress: JSON values that may be others each time.

    Raises:
        RunError, FileExistsError: As `Manifest.open`.
    """
    folder = Path(folder)
    content = _read_or_begin(folder, "tune", settings)
    run_dirs.write_json(folder / MANIFEST, content | progress)


def _read_or_begin(folder, kind, settings):
    """The content of a folder's manifest; of a new folder, what it begins with."""
    if (folder / MANIFEST).is_file():
        content = read(folder, kind)
        check_same(folder, content, settings)
    else:
        run_dirs.create(folder)
        content = {"format": FORMAT, "kind": kind} | environment()
    return content | settings


def _check_description(folder, found, wanted):
    """As `check_same`, of a run, with no more of it than can be compared."""
    reason = None
    python = found.get("versions", {}).get("python", "").split(".")[:2]
    if _WITH_CODE not in found:
        reason = "an earlier version of keras_kd began the run"
    elif python != platform.python_version().split(".")[:2]:
        reason = "another version of Python began the run"
    if reason and without_code(wanted) != wanted:
        logger.warning(
            "%s: %s, so the code of your functions and classes is not compared. The run is "
            "gone on with as if they were the same.",
            folder,
            reason,
        )
        found, wanted = without_code(found), without_code(wanted)
    check_same(folder, found, wanted)


def without_code(description):
    """A description as manifests of before have it."""
    if isinstance(description, dict):
        return {
            key: without_code(x)
            for key, x in description.items()
            if key not in (CODE, ATTRIBUTES, UNKNOWN)
        }
    is_list = isinstance(description, list)
    return list(map(without_code, description)) if is_list else description


def check_same(folder, found, wanted):
    """Compares what a folder's manifest says with what its run should be.

    Raises:
        RunError: They differ; names each difference.
    """
    content, found = found, {key: found.get(key) for key in wanted}
    found |= {key: _without_progress(found[key]) for key in found if key in _MODELS}
    different = list(_differences(found, json.loads(json.dumps(wanted))))
    # A recipe may have been renamed: what it holds tells the run.
    if all(place in _LABELS for place, _, _ in different):
        return
    lines = [
        f"  {place}: {_shown(a)} in the run, {_shown(b)} now" for place, a, b in different
    ]
    if any(place.endswith("initial_weights") for place, _, _ in different):
        lines.append(
            "The same initial weights come of building the models anew after "
            "keras.utils.set_random_seed with the same seed."
        )
    versions = _changed(content)
    if versions:
        lines.insert(0, f"  versions: the run was begun with {versions}")
    raise RunError(
        f"{folder} holds another run. Nothing was changed: choose another folder, or run "
        "what was run there. Different are\n" + "\n".join(lines)
    )


def _changed(content):
    """As `versions.changed`, of a manifest."""
    kept = content.get("versions", {}) | {"keras_kd": content.get("keras_kd")}
    return changed({name: x for name, x in kept.items() if x is not None})


def environment():
    """Versions, machine and time, a dict of JSON values."""
    found = versions()
    return {
        "keras_kd": found.pop("keras_kd"),
        "versions": found,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": _cores(),
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on macOS.
        return os.cpu_count()


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    return next(names, platform.processor())


def _differences(found, wanted, place=""):
    """Where two JSON values differ: tuples of the place, and what is there in each."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [*wanted, *(key for key in found if key not in wanted)]
        for key in keys:
            within = f"{place} > {key}" if place else key
            yield from _differences(found.get(key), wanted.get(key), within)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(a, b, f"{place} {i + 1}")
    elif found != wanted:
        yield place, found, wanted


def _shown(value):
    """A value in a line; of a list of models, which may be long, their names."""
    if isinstance(value, list) and all(isinstance(x, dict) and "name" in x for x in value):
        value = [x["name"] for x in value]
    return repr(value)


def _without_progress(models):
    if isinstance(models, list):
        return list(map(_without_progress, models))
    if isinstance(models, dict):
        return {key: x for key, x in models.items() if key not in _PROGRESS}
    return models
