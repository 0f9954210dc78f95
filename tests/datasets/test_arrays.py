"""Arrays of a .npz file, and what is no such file."""

import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.arrays import read_arrays

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (80, 5, 4, 3), "uint8"), np.arange(80) % 4


def written(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def quiet(path, **arguments):
    return read_arrays(path, announce=lambda line: None, **arguments)


def rows_of(images):
    return [np.flatnonzero((X == image).all(axis=(1, 2, 3)))[0] for image in images]


def test_parts_by_the_bytes(tmp_path):
    found = quiet(written(tmp_path, x=X, y=Y), validation=0.2, test=0.2)
    rows = [rows_of(part[0]) for part in (found.train, found.validation, found.test)]
    assert sorted(sum(rows, [])) == list(range(80)) and all(rows)
    labels = [part[1] for part in (found.train, found.validation, found.test)]
    for some, numbers in zip(labels, rows, strict=True):
        np.testing.assert_array_equal(some, Y[numbers])
    assert found.class_names == ("0", "1", "2", "3")
    # In another order each image is in the part where it was.
    order = RNG.permutation(80)
    again = quiet(written(tmp_path, x=X[order], y=Y[order]), validation=0.2, test=0.2)
    assert set(rows_of(again.test[0])) == set(rows[2])


def test_kerass_own_names(tmp_path):
    names = {"x_train": X[:60, ..., 0], "y_train": Y[:60, None]}
    names |= {"x_test": X[60:, ..., 0], "y_test": Y[60:, None]}
    found = quiet(written(tmp_path, **names), validation=0, test=0.5)
    np.testing.assert_array_equal(found.train[0], X[:60, ..., :1])
    np.testing.assert_array_equal(found.test[1], Y[60:])
    assert found.validation is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": X, "y": Y}, "must hold the arrays x and y.*Received: images, y"),
        ({"x": X.astype("float32"), "y": Y}, "must be images of bytes.*float32"),
        ({"x": X.reshape(80, -1), "y": Y}, r"\(80, 60\)"),
        ({"x": X, "y": Y[:70]}, r"each of the 80 images.*\(70,\)"),
        ({"x": X, "y": Y - 1}, "one class number from 0 on"),
        ({"x": X, "y": Y.astype("float32")}, "float32"),
        ({"x": X[:0], "y": Y[:0]}, "must be images of bytes"),
        ({"x": X, "y": Y * 2}, "class '1' has no examples"),
        ({"x_train": X, "y_train": Y, "x": X, "y": Y}, "must hold the arrays"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "must hold the arrays.*x_test"),
        ({"x": X, "y": Y, "y_test": Y}, "must hold the arrays.*y_test"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        quiet(written(tmp_path, **arrays))


def test_what_else_is_in_the_file_is_told(tmp_path):
    lines = []
    read_arrays(written(tmp_path, x=X, y=Y, x_val=X, y_val=Y), announce=lines.append)
    assert lines[0].startswith("Data: x_val, y_val in ")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        quiet(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(DataError, match="does not hold arrays"):
        quiet(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}]), y=np.array([0]))
    with pytest.raises(DataError, match="does not hold arrays.*allow_pickle"):
        quiet(tmp_path / "objects.npz")
