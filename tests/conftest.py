"""Seeds, small models and data, a full disk."""

import contextlib
import gc
import gzip
import resource
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_kd import data

SAMPLE = Path(__file__).parent / "data" / "mnist_sample"


def pytest_collection_finish(session):
    """What is imported by now stays; no collection of garbage need look through it."""
    gc.collect()
    gc.freeze()
    # Graphs are many objects, which come and go together.
    gc.set_threshold(100_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def _garbage_of_a_module():
    yield
    gc.collect()
    # TensorFlow and Keras keep a part of each graph for ever.
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Slow tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    keras.utils.set_random_seed(0)
    yield
    # With a collection of garbage it took longer than most tests.
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts():
    """As in a terminal; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _read(name, offset):
    return np.frombuffer(gzip.decompress((SAMPLE / name).read_bytes())[offset:], "uint8")


@pytest.fixture(scope="session")
def mnist_sample():
    """((train images, labels), (test images, labels)): float32 in [0, 1], int64."""
    splits = []
    for prefix in ("train", "t10k"):
        images = _read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        labels = _read(f"{prefix}-labels-idx1-ubyte.gz", 8)
        splits.append((images.astype("float32") / 255, labels.astype("int64")))
    return tuple(splits)


@pytest.fixture(scope="session")
def make_model():
    """Builds a small classifier of vectors of 4, ending in logits."""

    def make(units=8, num_classes=3, name=None, **dense_arguments):
        return keras.Sequential(
            [
                keras.layers.Input((4,)),
                keras.layers.Dense(units, activation="relu", **dense_arguments),
                keras.layers.Dense(num_classes),
            ],
            name=name,
        )

    return make


@pytest.fixture(scope="session")
def vectors():
    """64 vectors of 4 with labels in 0..2 that a small model can learn."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    # They are all tests'.
    x.flags.writeable = y.flags.writeable = False
    return x, y


@pytest.fixture
def full_disk():
    """A context in which no file of this process can grow beyond so many bytes."""

    @contextlib.contextmanager
    def limited(size=1000):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


MINIMAL = """
dataset = "mnist"
batch_size = 50
{extra}
[[stage]]
name = "first"
model = "mnist_student"
epochs = 1
{stage}
"""


@pytest.fixture
def write_recipe(tmp_path):
    """Writes a recipe of one stage, with more keys in it, or the given text."""

    def write(extra="", stage="", text=None):
        path = tmp_path / "mine.toml"
        path.write_text(text or MINIMAL.format(extra=extra, stage=stage))
        return path

    return write


@pytest.fixture
def sample_data(monkeypatch, mnist_sample):
    """The shipped sample in place of the prepared data set."""

    def load_arrays(name, split, data_dir):
        images, labels = mnist_sample[split == "test"]
        return np.round(images * 255).astype("uint8"), labels

    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data, "load_arrays", load_arrays)
