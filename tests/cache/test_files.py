"""The folder: what is written whole, what is recognised, what is refused."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_kd.cache.files import CacheError, CacheFolder

SETTINGS = {
    "keras_kd": "1.0",
    "teacher": {"architecture": "a", "weights": "b"},
    "dtype": "float16",
}
ARRAY = np.arange(6.0).reshape(3, 2)
NAME = "shard-00000-view-0-output-0.npy"


def filled(path, settings=SETTINGS):
    folder = CacheFolder(path, settings)
    shard = folder.write_shard(0, {"examples": 3}, {NAME: ARRAY})
    folder.finish([shard], notes={})
    return folder


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_filled_cache_is_read_again(tmp_path):
    filled(tmp_path / "cache")
    folder = CacheFolder(tmp_path / "cache", SETTINGS)
    folder.verify()
    np.testing.assert_array_equal(folder.read(0, NAME), ARRAY)
    np.testing.assert_array_equal(np.load(tmp_path / "cache" / NAME), ARRAY)
    assert sorted(content(tmp_path / "cache")) == ["manifest.json", NAME]


def test_a_shard_counts_once_its_record_is_there(tmp_path):
    folder = CacheFolder(tmp_path, SETTINGS)
    shard = folder.write_shard(0, {"examples": 3}, {NAME: ARRAY})
    again = CacheFolder(tmp_path, SETTINGS)
    assert again.shards is None
    assert again.known_shard(0) == shard
    assert again.known_shard(1) is None
    (tmp_path / "shard-00000.json").unlink()
    assert again.known_shard(0) is None


@pytest.mark.parametrize("name", [NAME, "shard-00000.json"])
def test_a_damaged_shard_of_an_unfinished_cache_is_computed_again(tmp_path, name):
    folder = CacheFolder(tmp_path, SETTINGS)
    folder.write_shard(0, {"examples": 3}, {NAME: ARRAY})
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-3])
    assert folder.known_shard(0) is None


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", [NAME, "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damage_is_refused_and_named(tmp_path, name, damage):
    filled(tmp_path)
    file = tmp_path / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        middle = len(data) // 2
        file.write_bytes(flip(data, middle) if damage == "flipped" else data[:middle])
    if (name, damage) == ("manifest.json", "missing"):
        assert CacheFolder(tmp_path, SETTINGS).shards is None
        return
    with pytest.raises(CacheError, match=f"{name} is (damaged|missing)") as error:
        CacheFolder(tmp_path, SETTINGS).verify()
    assert str(tmp_path) in str(error.value)
    assert "remove that folder" in str(error.value)


def test_no_flipped_byte_of_the_manifest_passes(tmp_path):
    filled(tmp_path)
    file = tmp_path / "manifest.json"
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(flip(data, place))
        if data[place : place + 1].isspace():
            continue
        with pytest.raises(CacheError):
            CacheFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"keras_kd": "0.9"}, r"written by keras_kd 1.0, format 1; this is keras_kd 0.9"),
        ({"format": 2}, r"written by keras_kd 1.0, format 1; this is .* format 2"),
        ({"teacher": {"architecture": "a", "weights": "c"}}, "teacher's weights differ"),
        ({"teacher": {"architecture": "c", "weights": "b"}}, "teacher's architecture"),
        ({"dtype": "float32"}, "`dtype` was 'float16'. Received: dtype='float32'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(tmp_path, change, reason, finished):
    filled(tmp_path)
    if not finished:
        (tmp_path / "manifest.json").unlink()
        CacheFolder(tmp_path, SETTINGS).write_shard(0, {"examples": 3}, {NAME: ARRAY})
    before = content(tmp_path)
    with pytest.raises(CacheError, match=reason):
        CacheFolder(tmp_path, SETTINGS | change).known_shard(0)
    assert content(tmp_path) == before


def test_settings_as_an_earlier_version_wrote_them_are_as_good(tmp_path):
    filled(tmp_path)
    now = SETTINGS | {"teacher": {"architecture": "new", "weights": "b"}}
    assert CacheFolder(tmp_path, now, SETTINGS).shards
    with pytest.raises(CacheError, match="teacher's architecture differs"):
        CacheFolder(tmp_path, now | {"dtype": "float32"}, SETTINGS | {"dtype": "float32"})


def test_other_versions_are_named_first(tmp_path, caplog):
    folder = CacheFolder(tmp_path, SETTINGS)
    shard = folder.write_shard(0, {"examples": 3}, {NAME: ARRAY})
    folder.finish([shard], notes={"keras": "3.0.1"})
    caplog.clear()
    assert CacheFolder(tmp_path, SETTINGS).shards
    assert "were computed with keras 3.0.1 (" in caplog.text
    with pytest.raises(CacheError, match="it was made with keras 3.0.1 .*; `dtype` was"):
        CacheFolder(tmp_path, SETTINGS | {"dtype": "float32"})


def test_a_manifest_of_an_older_version_says_so(tmp_path):
    filled(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["settings"]["format"] = 0
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="format 0; this is keras_kd 1.0, format 1"):
        CacheFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"settings": 1}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CacheError, match="manifest.json is damaged"):
        CacheFolder(tmp_path, SETTINGS)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    told = ("file", "is a file"), ("file/a", "is a file"), ("link", "to nothing")
    for path, what in told:
        with pytest.raises(CacheError, match=f"{what}, where a folder should be"):
            CacheFolder(tmp_path / path, SETTINGS)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    folder = CacheFolder(tmp_path, SETTINGS)
    folder.write_shard(0, {"examples": 3}, {NAME: ARRAY})
    before = content(tmp_path)

    def write_half(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left .* whole shards are kept") as error:
        folder.write_shard(1, {"examples": 3}, {"shard-00001-examples.npy": ARRAY})
    assert error.value.errno == errno.ENOSPC
    assert content(tmp_path) == before


def test_temporary_files_of_dead_processes_alone_are_removed(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    host, number = socket.gethostname(), "0" * 32
    leftover = tmp_path / f".{NAME}.{host}.{dead}.{number}.tmp"
    others = [
        tmp_path / f".{NAME}.{host}.{os.getpid()}.{number}.tmp",
        tmp_path / f".{NAME}.{host}.elsewhere.{dead}.{number}.tmp",
        tmp_path / "mine.tmp",
    ]
    for file in [leftover, *others]:
        file.write_text("")
    CacheFolder(tmp_path, SETTINGS)
    assert not leftover.exists()
    assert all(file.exists() for file in others)
