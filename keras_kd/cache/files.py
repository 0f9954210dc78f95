"""Teacher outputs on disk: shards in NumPy's format, a manifest, checksums.

    manifest.json                       written last: settings, shards, checksums
    shard-00000-view-0-output-0.npy     one array of outputs, under one view
    shard-00000-examples.npy            one row an example, to know it again by
    shard-00000.json                    a shard's record, only while the cache is filled

A shard counts once its record is there, and that is written after its arrays. Every file is
written to a temporary name and renamed, so several processes may fill the same cache.
"""

import hashlib
import io
import json
import logging
import os
import re
import socket
import uuid
from pathlib import Path

import numpy as np

from keras_kd.files import in_the_way, sync
from keras_kd.runs.versions import changed

logger = logging.getLogger(__name__)

# Goes up when this code cannot read the files of an earlier one any more.
FORMAT = 1
_MANIFEST = "manifest.json"


class CacheError(ValueError):
    """A cache of teacher outputs is damaged, or of another teacher or data set.

    Example:

    ```python
    kd.cache_teacher(teacher, (images, labels), path="cache/teacher")
    try:
        kd.cache_teacher(student, (images, labels), path="cache/teacher")
    except kd.CacheError as error:
        print(error)  # names what differs, and what to do
    ```
    """


class CacheFolder:
    """The files of one cache.

    Args:
        path: Of the folder; made if it is not there.
        settings: dict of JSON values: what must be the same for the cache to be reused.
        former: The settings as earlier versions wrote them, which are as good; or None.

    Attributes:
        shards: Each shard's fingerprint and checksums, in order; None until all are there.

    Raises:
        CacheError: What is there is damaged, or was made with other settings.
    """

    def __init__(self, path, settings, former=None):
        self.path = Path(path)
        self._settings = _as_json(settings)
        self._former = self._settings if former is None else _as_json(former)
        if what := in_the_way(self.path):
            raise self.refusal(f"{what}, where a folder should be.")
        self.path.mkdir(parents=True, exist_ok=True)
        self.shards = self._read_manifest()
        self._tidy()

    def refusal(self, reason):
        """A CacheError that gives the reason, and says what to do."""
        return CacheError(
            f"The teacher outputs in {self.path} cannot be used: {reason} Give another "
            "path, or remove that folder to run the teacher anew."
        )

    def known_shard(self, number):
        """A shard that is whole already, as in `shards`, or None.

        Raises:
            CacheError: It was made with other settings.
        """
        record = self._read_json(_record_name(number))
        if record:
            files = record["shard"]["files"].items()
            whole = all(self._checksum(name) == checksum for name, checksum in files)
            return record["shard"] if whole else None
        # Another process may have finished meanwhile, and removed the records.
        shards = self._read_manifest() or []
        return shards[number] if number < len(shards) else None

    def write_shard(self, number, fingerprint, arrays):
        """Writes a shard's arrays, then its record.

        Args:
            number: From 0.
            fingerprint: dict that tells the shard's examples.
            arrays: dict of file name to array.

        Returns:
            The shard, as in `shards`.

        Raises:
            OSError: The disk is full, or the like. Shards written before are left.
        """
        files = {}
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            with data.getbuffer() as content:
                files[name] = _sha256(content)
                self._write(name, content)
        shard = {**fingerprint, "files": files}
        self._write_json(_record_name(number), {"shard": shard})
        return shard

    def finish(self, shards, notes):
        """Writes the manifest.

        Args:
            shards: All of them, in order.
            notes: dict of JSON values, for the reader alone.
        """
        self._write_json(_MANIFEST, {"notes": notes, "shards": shards})
        self.shards = shards
        self._tidy()

    def read(self, number, name):
        """An array of a shard, verified.

        Raises:
            CacheError: Its file is missing, truncated or changed.
        """
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise self.refusal(f"{name} is missing.") from error
        if _sha256(data) != self.shards[number]["files"][name]:
            raise self.refusal(f"{name} is damaged; its checksum is not the manifest's.")
        return np.load(io.BytesIO(data), allow_pickle=False)

    def verify(self):
        """Reads every array, one at a time.

        Raises:
            CacheError: A file is missing, truncated or changed.
        """
        for number, shard in enumerate(self.shards):
            for name in shard["files"]:
                self.read(number, name)

    def _checksum(self, name):
        path = self.path / name
        return _sha256(path.read_bytes()) if path.is_file() else None

    def _read_manifest(self):
        manifest = self._read_json(_MANIFEST)
        if manifest == {}:
            raise self.refusal(f"{_MANIFEST} is damaged.")
        return manifest and manifest["shards"]

    def _read_json(self, name):
        """A JSON file's content; None if it is missing, {} if it is damaged."""
        try:
            content = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            return {}
        reason = _version_difference(content["settings"], self._settings)
        if reason:
            raise self.refusal(reason)
        if content.pop("sha256", None) != _seal(content):
            return {}
        versions = changed(content.get("notes", {}))
        reason = _difference(content["settings"], self._settings)
        if reason and content["settings"] != self._former:
            made = f"it was made with {versions}; " if versions else ""
            raise self.refusal(made + reason)
        if versions:
            logger.warning(
                "The teacher outputs in %s were computed with %s; they are used as they "
                "are.",
                self.path,
                versions,
            )
        return content

    def _write_json(self, name, content):
        content = {"settings": self._settings, **content}
        content["sha256"] = _seal(content)
        self._write(name, (json.dumps(content, indent=1) + "\n").encode())

    def _write(self, name, data):
        owner = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
        temporary = self.path / f".{name}.{owner}.tmp"
        try:
            try:
                temporary.write_bytes(data)
                sync(temporary)
                os.replace(temporary, self.path / name)
                sync(self.path, within=False)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}. Teacher outputs could not be written; whole shards are "
                "kept. Make room and call cache_teacher again, it goes on from there",
                str(self.path / name),
            ) from error

    def _tidy(self):
        """Removes temporary files of dead processes and, once complete, the records."""
        paths = [path for path in self.path.glob(".*.tmp") if _is_abandoned(path.name)]
        if self.shards is not None:
            paths += self.path.glob("shard-[0-9]*[0-9].json")
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError:  # A cache that may only be read is as good.
                return


def _as_json(settings):
    """Settings as JSON gives them back."""
    return json.loads(json.dumps({"format": FORMAT, **settings}))


def _record_name(number):
    return f"shard-{number:05d}.json"


def examples_name(number):
    """File name of the array that tells a shard's examples apart."""
    return f"shard-{number:05d}-examples.npy"


def output_name(number, view, output):
    """File name of a shard's array of one output under one view."""
    return f"shard-{number:05d}-view-{view}-output-{output}.npy"


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _seal(content):
    """Checksum of a JSON file's content, which it carries itself."""
    return _sha256(json.dumps(content, sort_keys=True).encode())


def _is_abandoned(temporary_name):
    """Whether a temporary file's process, if it ran on this machine, is dead."""
    host = re.escape(socket.gethostname())
    owner = re.fullmatch(rf"\..+\.{host}\.(\d+)\.[0-9a-f]{{32}}\.tmp", temporary_name)
    if owner is None or os.name != "posix":
        return False
    try:
        os.kill(int(owner[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # It lives, and belongs to somebody else.
        return False
    return False


def _version_difference(cached, settings):
    def version(settings):
        return f"keras_kd {settings.get('keras_kd')}, format {settings.get('format')}"

    if version(cached) != version(settings):
        return f"they were written by {version(cached)}; this is {version(settings)}."
    return None


def _difference(cached, settings):
    """What differs between two settings, as a sentence; None if nothing does."""
    for key, value in settings.items():
        if cached.get(key) == value:
            continue
        if key == "teacher":
            if cached[key]["weights"] != value["weights"]:
                return "the teacher's weights differ."
            return "the teacher's architecture differs; its weights are the same."
        if key == "augment":
            return "`augment` makes something else of the first examples."
        return f"`{key}` was {cached.get(key)!r}. Received: {key}={value!r}."
    return None
