import errno
import hashlib
import json
import logging
import os
import re
import subprocess
import sys

import filelock
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import files


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path):
    path = files.create(tmp_path / "a" / "b")
    assert path.is_dir()
    assert files.create(path) == path


def test_make_takes_what_is_there_and_refuses_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert files.make(tmp_path) == tmp_path
    assert files.make(tmp_path / "a" / "b").is_dir()
    with pytest.raises(FileExistsError, match="mine.txt is a file"):
        files.make(tmp_path / "mine.txt")
    with pytest.raises(FileExistsError, match="/run cannot be made: .*mine.txt is a file"):
        files.make(tmp_path / "mine.txt" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for path in tmp_path / "link", tmp_path / "link" / "run":
        for refuse in files.make, files.create, files.check_new:
            if path.name == "run" and refuse is files.check_new:
                continue
            with pytest.raises(FileExistsError, match=f"{path} cannot be .*/link is a li"):
                refuse(path)


def test_what_is_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name, what in ("mine.txt", "is a file"), ("link", "is a link to nothing"):
        for path in tmp_path / name / "a.md", tmp_path / name / "b" / "a.md":
            message = f"{path} cannot be written: {tmp_path / name} {what}"
            with pytest.raises(FileExistsError, match=message):
                files.write_text(path, "text")
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_create_refuses_what_is_there(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    message = "is a file" if kind == "file" else "exists and is not empty"
    with pytest.raises(FileExistsError, match=f"{message}. Nothing was changed"):
        files.create(path)


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"accuracy": 0.5})
    with pytest.raises(OSError, match="disk full"):
        with files.renamed_when_done(path) as temporary:
            temporary.write_text("half of")
            raise OSError("disk full")
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_what_gets_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """Each file, then its folder, before the name; then the folder of the name."""
    calls, fsync, replace, folder = [], os.fsync, os.replace, tmp_path.resolve()

    def synced(handle):
        name = os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{folder}/")
        calls.append(re.sub(r"^\.[0-9a-f]{32}-", "", name))
        fsync(handle)

    def renamed(old, new):
        calls.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_text(folder / "a.md", "text")
    assert calls == ["a.md", "renamed", str(folder)]
    calls.clear()
    with files.renamed_when_done(folder / "b") as temporary:
        (temporary / "c").mkdir(parents=True)
        (temporary / "c" / "d").write_text("d")
    assert calls == ["b/c/d", "b/c", "b", "renamed", str(folder)]


def test_a_text_that_is_there_is_left(tmp_path):
    path = tmp_path / "a.md"
    files.write_text(path, "größer\n")
    before = path.stat().st_ino
    files.write_text(path, "größer\n")
    assert path.stat().st_ino == before
    files.write_text(path, "other\n")
    assert path.read_text() == "other\n"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_may_only_be_read_needs_no_lock(tmp_path, monkeypatch, number):
    def refused(lock):
        raise OSError(number, os.strerror(number), str(tmp_path / ".lock"))

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    with files.locked(tmp_path):
        pass
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda lock: 1 / 0)
    with pytest.raises(ZeroDivisionError), files.locked(tmp_path):
        pass


def test_an_error_removes_a_half_written_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with files.renamed_when_done(tmp_path / "saved_model") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text("")
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_models_in_both_formats(tmp_path, make_model, vectors, caplog):
    model = make_model()
    files.save_model(model, tmp_path / "model.keras")
    caplog.set_level("INFO", "tensorflow")
    files.export_saved_model(model, tmp_path / "saved_model")
    # Nothing of a folder that is there no more.
    assert not caplog.records and tf.get_logger().level == logging.INFO
    logits = model.predict(vectors[0], verbose=0)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(vectors[0], verbose=0), logits)
    served = keras.layers.TFSMLayer(tmp_path / "saved_model", call_endpoint="serve")
    np.testing.assert_allclose(served(vectors[0]), logits, rtol=1e-5, atol=1e-6)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.keras", "saved_model"]


def test_inside(tmp_path):
    assert files.inside(tmp_path, "a/../b") == tmp_path / "a" / ".." / "b"
    for name in ("../b", "a/../../b", "/etc/passwd", tmp_path.parent):
        with pytest.raises(ValueError, match="leads out of the folder"):
            files.inside(tmp_path, name)


# Loads the module alone, which takes no time.
LOCKER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("run_dir", {files.__file__!r})
run_dir = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_dir)
with run_dir.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locker(tmp_path):
    """Another process that keeps `tmp_path` locked until its input ends."""
    command = [sys.executable, "-c", LOCKER, tmp_path]
    pipes = {x: subprocess.PIPE for x in ("stdin", "stdout")}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_folder_is_locked_until_the_process_ends(locker, tmp_path, end):
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=f"process is running in {tmp_path}"):
            with files.locked(tmp_path):
                pytest.fail("it is not locked")
    if end == "killed":
        locker.kill()
    else:
        locker.stdin.close()
    assert locker.wait() == (-9 if end == "killed" else 0)
    with files.locked(tmp_path):
        files.check_new(tmp_path)


def test_the_lock_ends_with_the_block_and_lets_its_errors_through(tmp_path):
    for _ in range(2):
        with pytest.raises(BlockingIOError, match="^a pipe"):
            with files.locked(tmp_path):
                raise BlockingIOError("a pipe")


def test_remove_unfinished_removes_temporary_names_alone(tmp_path):
    stage = tmp_path / "ta"
    for name in ("saved_model", f".{'0' * 32}-saved_model/variables"):
        (stage / name).mkdir(parents=True)
    kept = [".hidden", f".{'0' * 31}-a", f".{'g' * 32}-a", f"{'0' * 32}-a", "model.keras"]
    killed = [f".{'0' * 32}-a.npz", f".{'0123456789abcdef' * 2}-saved_model/b"]
    for name in kept + killed:
        (stage / name).parent.mkdir(exist_ok=True)
        (stage / name).write_text("")
    (tmp_path / f".{'f' * 32}-manifest.json").write_text("{")
    files.remove_unfinished(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["ta"]
    assert {x.name for x in stage.iterdir()} == {*kept, "saved_model"}


def test_checksum(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert files.checksum(tmp_path / "file") == hashlib.sha256(content).hexdigest()


WRITERS = {
    "json": lambda path, model: files.write_json(path, ["much"] * 1000),
    "model": lambda path, model: files.save_model(model, path),
    "saved model": lambda path, model: files.export_saved_model(model, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_what_was_there(tmp_path, make_model, full_disk, writer):
    path = tmp_path / "a.keras"
    if writer != "saved model":
        path.write_text("before")
    with full_disk(), pytest.raises(OSError) as error:
        WRITERS[writer](path, make_model(units=100))
    assert error.value.errno == errno.EFBIG and error.value.filename == str(path)
    assert "make room, and do the same again" in str(error.value)
    assert [x.read_text() for x in tmp_path.iterdir()] == ["before"][: path.is_file()]
    WRITERS[writer](path, make_model())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["ta", "a b", "größer", "results", "teacher", "x" * 221])
def test_names_of_a_stages_folder(name):
    assert files.check_folder_name(name) == name


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "non-empty"),
        (None, "non-empty"),
        ("..", "non-empty"),
        ("a/b", "not a path"),
        ("a\\b", "not a path"),
        ("a\nb", "printable"),
        (".teacher_outputs", "something else"),
        ("results.md", "something else"),
        ("Manifest.JSON", "something else"),
        ("report", "something else"),
        ("x" * 222, "longer than the 221 bytes"),
        ("ö" * 111, "longer than"),
    ],
)
def test_names_that_no_folder_can_have(name, words):
    with pytest.raises(ValueError, match=words):
        files.check_folder_name(name)


def test_pytorch_makes_no_saved_model(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="keras_kd.export makes one"):
        files.export_saved_model(make_model(), tmp_path / "saved_model")
    assert list(tmp_path.iterdir()) == []
