"""Texts as numbers, and folders of them."""

import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.texts import as_bytes, read_texts


def quiet(folder, **arguments):
    return read_texts(folder, announce=lambda line: None, **arguments)


def test_bytes_and_one():
    lines = []
    x = as_bytes(["hä".encode(), b"", b"\x00abc"], 4, lines.append)
    assert x.dtype == np.int32
    # UTF-8 of "hä" is 68 c3 a4.
    assert x.tolist() == [[0x69, 0xC4, 0xA5, 0], [0] * 4, [1, 98, 99, 100]]
    assert as_bytes([b"\xff"], 1).tolist() == [[256]]
    assert "0 of 3 are cut" in lines[0]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([16] * 20, 16), ([17] * 20, 32), ([5] * 97 + [900] * 3, 16), ([5000], 1024)],
)
def test_the_length_in_which_most_fit(sizes, expected):
    assert as_bytes([b"a" * x for x in sizes]).shape == (len(sizes), expected)


def test_a_length_that_is_none():
    for length in (0, -1, True, 2.5):
        with pytest.raises(DataError, match="`length` must be a whole number from 1 on"):
            as_bytes([b"a"], length)


def texts(folder, count=40):
    for number in range(count):
        path = folder / ("neg", "pos")[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {number}")
    return folder


def test_a_folder_of_classes(tmp_path):
    found = quiet(texts(tmp_path), test=0.3)
    assert (found.kind, found.task, found.class_names) == (
        "text",
        "multiclass",
        ("neg", "pos"),
    )
    for x, label in zip(*found.test, strict=True):
        number = int(bytes((x[x > 0] - 1).tolist()).decode().removeprefix("text "))
        assert label == number % 2
    assert quiet(tmp_path / "neg").train[1] is None
    assert quiet(tmp_path, labels=False).task is None


def test_what_is_no_text_is_told(tmp_path):
    folder = texts(tmp_path)
    (folder / "pos" / "bad.txt").write_bytes(b"\xff\xfe")
    (folder / "pos" / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="2 of 42 files .*bad.txt: it is no UTF-8"):
        quiet(folder)
    lines = []
    found = read_texts(folder, skip_unreadable=True, announce=lines.append)
    assert "2 of 42 files" in lines[0] and "40 texts of 2 classes" in lines[-1]
    assert found.train[0].max() > 0
