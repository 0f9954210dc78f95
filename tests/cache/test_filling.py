"""A cache is filled shard by shard, and what killed or crossed it leaves no trace."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_kd.cache import filling
from keras_kd.cache.cache import cache_teacher
from keras_kd.cache.files import CacheError, CacheFolder

SCRIPT = Path(__file__).parent / "killed_fill.py"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(filling, "SHARD_EXAMPLES", 16)


@pytest.fixture
def teacher(make_model):
    return make_model(name="teacher")


@pytest.fixture
def written(monkeypatch):
    """The numbers of the shards that were written."""
    numbers, write_shard = [], CacheFolder.write_shard

    def write_and_tell(folder, number, *args):
        numbers.append(number)
        return write_shard(folder, number, *args)

    monkeypatch.setattr(CacheFolder, "write_shard", write_and_tell)
    return numbers


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def fill(teacher, x, path, **arguments):
    return cache_teacher(teacher, (x,), path, batch_size=8, verbose=0, **arguments)


def full_disk(monkeypatch, at):
    """The disk is full, half-way through the file that begins with `at`."""
    write = Path.write_bytes

    def write_bytes(path, data):
        if not path.name.startswith(f".{at}"):
            return write(path, data)
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize(
    "file, whole_shards",
    [
        ("shard-00000-view", 0),
        ("shard-00002-examples", 2),
        ("shard-00002.json", 2),
        ("manifest", 4),
    ],
)
def test_after_a_full_disk_it_goes_on_with_the_next_shard(
    tmp_path, teacher, vectors, written, monkeypatch, file, whole_shards
):
    x, _ = vectors
    fill(teacher, x, tmp_path / "whole")
    with monkeypatch.context() as context:
        full_disk(context, at=file)
        with pytest.raises(OSError, match="No space left.*whole shards are kept"):
            fill(teacher, x, tmp_path / "cache")
    records = list((tmp_path / "cache").glob("shard-?????.json"))
    assert len(records) == whole_shards
    written.clear()
    fill(teacher, x, tmp_path / "cache")
    assert written == list(range(whole_shards, 4))
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_a_bad_answer_keeps_nothing_of_its_shard(tmp_path, vectors, written):
    teacher = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    x = vectors[0].copy()
    x[37] = np.nan
    with pytest.raises(ValueError, match="example 37 of the data set"):
        fill(teacher, x, tmp_path)
    assert written == [0, 1]
    assert not list(tmp_path.glob("*00002*"))


@pytest.mark.parametrize("change", ["teacher", "examples", "order", "fewer"])
def test_an_unfinished_cache_is_not_continued_with_something_else(
    tmp_path, teacher, vectors, monkeypatch, change
):
    x = vectors[0].copy()
    with monkeypatch.context() as context:
        full_disk(context, at="shard-00002-view")
        with pytest.raises(OSError):
            fill(teacher, x, tmp_path)
    before = content(tmp_path)
    if change == "teacher":
        teacher.weights[0].assign(teacher.weights[0] + 1)
    elif change == "examples":
        x[20] += 1
    else:
        x = x[::-1] if change == "order" else x[:16]
    reason = {
        "teacher": "weights differ",
        "examples": "gives other examples",
        "order": "gives other examples",
        "fewer": "had 16 examples in shard 1. Received: 0",
    }[change]
    with pytest.raises(CacheError, match=reason):
        fill(teacher, x, tmp_path)
    assert content(tmp_path) == before


def test_a_process_that_finished_meanwhile_is_believed(
    tmp_path, teacher, vectors, written, monkeypatch
):
    x, _ = vectors
    known_shard = CacheFolder.known_shard

    def finish_before_the_third(folder, number):
        if number == 2 and not (tmp_path / "manifest.json").exists():
            with monkeypatch.context() as context:
                context.setattr(CacheFolder, "known_shard", known_shard)
                fill(teacher, x, tmp_path)
        return known_shard(folder, number)

    monkeypatch.setattr(CacheFolder, "known_shard", finish_before_the_third)
    fill(teacher, x, tmp_path)
    assert written == [0, 1, 2, 3]


def test_the_last_shard_may_be_shorter(tmp_path, teacher, vectors):
    x = vectors[0][:37]
    dataset = fill(teacher, x, tmp_path)
    assert len(dataset) == 37
    assert np.load(tmp_path / "shard-00002-view-0-output-0.npy").shape == (5, 3)


def test_large_outputs_make_shorter_shards(tmp_path, teacher, vectors, monkeypatch):
    monkeypatch.setattr(filling, "SHARD_BYTES", 4 * 3 * 2)
    fill(teacher, vectors[0], tmp_path)
    assert np.load(tmp_path / "shard-00015-view-0-output-0.npy").shape == (4, 3)


@pytest.mark.slow
def test_however_it_was_filled_the_files_are_the_same(tmp_path):
    """By processes with SIGKILL at each step, and whenever; and by several at once."""
    result = subprocess.run(
        [sys.executable, SCRIPT, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])},
    )
    kills, whole = json.loads(result.stdout), content(tmp_path / "once")
    least = {"killed-at-each-step": 20, "killed-at-random": 1, "at-once": 0, "once": 0}
    for how, count in least.items():
        assert kills[how] >= count, how
        assert content(tmp_path / how) == whole, how
