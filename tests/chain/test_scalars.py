"""Event files, read as TensorBoard does."""

import errno

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from keras_kd.chain.scalars import Scalars


def read(folder):
    """dict of tag to (step, value) of each of its events."""
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        assert plugin == "scalars", "else TensorBoard shows no curve"
        found[tag] = [
            (x.step, float(make_ndarray(x.tensor_proto))) for x in events.Tensors(tag)
        ]
    return found


def test_each_epoch_has_its_values(tmp_path):
    with Scalars(tmp_path / "events", {}) as scalars:
        scalars.write(0, {"loss": 1.5, "val_accuracy": 0.5})
        scalars.write(1, {"loss": np.float32(0.75), "val_accuracy": float("nan")})
        # What is written can be looked at while training goes on.
        assert read(tmp_path / "events")["epoch_loss"] == [(0, 1.5), (1, 0.75)]
    found = read(tmp_path / "events")
    assert set(found) == {"epoch_loss", "epoch_val_accuracy"}
    assert found["epoch_val_accuracy"][0] == (0, 0.5)
    assert np.isnan(found["epoch_val_accuracy"][1][1])


def test_going_on_has_each_epoch_once(tmp_path):
    """The second epoch was written, but its checkpoint was not, so it comes again."""
    with pytest.raises(KeyboardInterrupt):
        with Scalars(tmp_path / "events", {}) as scalars:
            scalars.write(0, {"loss": 4.0})
            scalars.write(1, {"loss": 3.0})
            raise KeyboardInterrupt
    with Scalars(tmp_path / "events", {"loss": [4.0]}) as scalars:
        scalars.write(1, {"loss": 2.0})
        scalars.write(2, {"loss": 1.0})
    assert read(tmp_path / "events") == {"epoch_loss": [(0, 4.0), (1, 2.0), (2, 1.0)]}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Scalars(None, {"loss": [1.0]}) as scalars:
        scalars.write(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error, number, words",
    [
        (tf.errors.PermissionDeniedError, errno.EIO, "events cannot be written: Read-only"),
        (tf.errors.ResourceExhaustedError, errno.ENOSPC, "make room, and do the same"),
    ],
)
def test_what_the_system_refuses_is_an_os_error(
    tmp_path, monkeypatch, error, number, words
):
    text = "Read-only file system" if number == errno.EIO else "No space left on device"

    def refused(*_):
        raise error(None, None, text)

    monkeypatch.setattr(tf.summary, "create_file_writer", refused)
    with pytest.raises(OSError, match=words) as caught:
        with Scalars(tmp_path / "events", {}):
            pass
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path / "events")
