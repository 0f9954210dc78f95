"""A data set by its name, folder or file."""

import numpy as np
import pytest

from keras_kd import data, datasets
from keras_kd.data.idx import DataError
from keras_kd.datasets.load import Own


def quiet(dataset, **arguments):
    return datasets.load(dataset, announce=lambda line: None, **arguments)


def test_a_folder_in_the_size_that_a_model_takes(photos):
    assert quiet(str(photos)).train[0].shape[1:] == (6, 8, 3)
    assert quiet(str(photos), like=(4, 4, 1)).train[0].shape[1:] == (4, 4, 1)
    own = Own(str(photos), image_size=(5, 5))
    assert quiet(own, like=(4, 4, 1)).train[0].shape[1:] == (5, 5, 1)
    # What takes any size says none.
    assert quiet(str(photos), like=(None, None, 3)).train[0].shape[1:] == (6, 8, 3)


def test_a_file(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 3), "uint8")
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(40) % 2)
    path = str(tmp_path / "data.npz")
    assert quiet(path).train[0].shape[1:] == (3, 3, 1)


def test_a_name_reads_what_is_wanted(monkeypatch):
    read = []

    def load_arrays(name, split, data_dir):
        read.append((name, split))
        return np.zeros((3, 28, 28, 1), "uint8"), np.arange(3)

    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data, "load_arrays", load_arrays)
    found = quiet("fashion_mnist", wanted=["test"])
    assert read == [("fashion_mnist", "test")]
    assert found.train is None and found.class_names[0] == "T-shirt/top"


def test_what_is_neither(tmp_path):
    with pytest.raises(DataError, match="is no data set: give mnist, fashion_mnist, tfd"):
        quiet("cifar")


@pytest.mark.parametrize(
    ("suffix", "field"),
    [
        (".npz", {"image_size": (3, 3)}),
        (".csv", {"channels": 1}),
        ("", {"label": "price"}),
        ("", {"length": 9}),
        ("texts", {"image_size": (3, 3)}),
        ("texts", {"task": "regression"}),
        ("tfds:tiny", {"skip_unreadable": True}),
        (".csv", {"task": "regression", "labels": False}),
    ],
)
def test_what_has_no_effect_is_refused(photos, suffix, field):
    for name in ("pos", "neg"):
        (photos.parent / "texts" / name).mkdir(parents=True)
        (photos.parent / "texts" / name / "a.txt").write_text("a text")
    path = {"texts": photos.parent / "texts"}.get(suffix, f"{photos}{suffix}")
    path = suffix if suffix.startswith("tfds:") else path
    with pytest.raises(DataError, match=f"`{next(iter(field))}` .*Received: "):
        quiet(Own(str(path), **field))


def test_texts_in_the_length_that_a_model_takes(tmp_path):
    for name in ("pos", "neg"):
        for number in range(30):
            path = tmp_path / "texts" / name / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {number}")
    found = quiet(str(tmp_path / "texts"), like=(5,))
    assert found.kind == "text" and found.train[0].shape[1:] == (5,)
    assert found.class_names == ("neg", "pos")
    assert quiet(Own(str(tmp_path / "texts"), length=7)).train[0].shape[1:] == (7,)
