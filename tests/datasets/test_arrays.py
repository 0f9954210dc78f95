"""Arrays of a .npz file, and what is no such file."""

import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.arrays import read_arrays

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (80, 5, 4, 3), "uint8"), np.arange(80) % 4
ROWS, SERIES = RNG.normal(size=(80, 6)), RNG.normal(size=(80, 12, 2)).astype("float32")


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
        ({"x": X.reshape(-1), "y": Y}, r"x must be images.*\(4800,\)"),
        ({"x": X, "y": Y[:70]}, r"each of the 80 examples.*\(70,\)"),
        ({"x": X, "y": Y - 1}, "one class number from 0 on"),
        ({"x": X, "y": np.zeros(80)}, "y is one value alone"),
        ({"x": ROWS, "y": np.where(Y, Y, np.nan)}, "20 of 80 examples .* example 0"),
        ({"x": X[:0], "y": Y[:0]}, "must be images of bytes"),
        ({"x": X, "y": Y * 2}, "class '1' has no examples"),
        ({"x_train": X, "y_train": Y, "x": X, "y": Y}, "must hold the arrays"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "must hold the arrays.*x_test"),
        ({"x_train": X, "x_test": ROWS}, "must be of one shape and type"),
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


@pytest.mark.parametrize(
    ("x", "kind", "columns"),
    [(X, "images", 0), (ROWS, "table", 6), (SERIES, "sequences", 0)],
)
def test_what_an_array_is_and_its_values(tmp_path, x, kind, columns):
    y = Y + 0.5
    found = quiet(written(tmp_path, x=x, y=y), test=0.3)
    assert (found.kind, found.task, found.class_names) == (kind, "regression", None)
    assert found.train[0].dtype == ("uint8" if kind == "images" else "float32")
    assert found.train[1].dtype == np.float32 and len(found.columns or ()) == columns
    first = np.flatnonzero((x.astype("float32") == found.test[0][0]).reshape(80, -1).all(1))
    assert found.test[1][0] == y[first[0]]


def test_without_labels_and_with_names(tmp_path):
    path = written(tmp_path, x=SERIES, y=np.array(["b", "a"])[Y % 2])
    found = quiet(path)
    assert found.class_names == ("a", "b") and found.train[1].dtype == np.int64
    found = quiet(path, labels=False)
    assert found.train[1] is None and found.task is None
    assert quiet(written(tmp_path, x_train=X, x_test=X[:9])).test[1] is None


def test_a_task_that_is_said(tmp_path):
    path = written(tmp_path, x=ROWS, y=Y)
    assert quiet(path).class_names == ("0", "1", "2", "3")
    assert quiet(path, task="regression").train[1].dtype == np.float32
    with pytest.raises(DataError, match="`task` must be one of multiclass, regression"):
        quiet(path, task="binary")
    # What labels would be, where there are some.
    assert quiet(path, task="regression", labels=False).train[1] is None


def test_what_is_only_measured_need_not_be_learned_from(tmp_path):
    path = written(tmp_path, x=X, y=np.full(80, 2))
    with pytest.raises(DataError, match="The class '0' has no examples"):
        quiet(path)
    assert set(quiet(path, trains=False).test[1]) == {2}


def test_rows_of_no_numbers_can_be_left_out(tmp_path):
    x = np.where(np.arange(80)[:, None] == 7, np.inf, ROWS)
    lines = []
    path = written(tmp_path, x=x, y=Y)
    found = read_arrays(path, skip_unreadable=True, announce=lines.append)
    assert sum(len(part[1]) for part in (found.train, found.validation, found.test)) == 79
    assert "1 of 80 examples" in lines[0]
