import numpy as np
import pytest

from keras_kd.evaluation.sums import Sums
from keras_kd.tasks.known import TASKS


def sums(count=3):
    arrays = {"count": np.full(count, 4.0), "hits": np.arange(2.0 * count).reshape(-1, 2)}
    rows = {"logit": np.float32(np.linspace(-1, 1, count))[:, None]}
    return Sums(TASKS["multilabel"], 1, arrays, rows)


def test_comes_back_as_it_was(tmp_path):
    sums().write(tmp_path / "answers.npz")
    again = Sums.read(tmp_path / "answers.npz")
    assert (again.task.name, again.places, again.examples) == ("multilabel", 1, 3)
    for kept, found in ((sums().arrays, again.arrays), (sums().rows, again.rows)):
        assert kept.keys() == found.keys()
        for key in kept:
            np.testing.assert_array_equal(found[key], kept[key])
            assert found[key].dtype == kept[key].dtype


def test_the_same_sums_are_the_same_file(tmp_path):
    for name in ("a.npz", "b.npz"):
        sums().write(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_what_is_not_of_the_same_examples():
    arrays = {"count": np.ones(3), "right": np.ones(4)}
    with pytest.raises(ValueError, match=r"count \(3,\), right \(4,\)"):
        Sums(TASKS["multiclass"], 1, arrays)
    with pytest.raises(ValueError, match="of the same examples"):
        Sums(TASKS["multiclass"], 1, {"count": np.ones(0)})


@pytest.mark.parametrize("change", ["text", "task", "no count", "cut", "objects"])
def test_what_is_no_file_of_answers(tmp_path, change):
    path = tmp_path / "answers.npz"
    sums().write(path)
    if change == "text":
        path.write_text("not a file of numbers")
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        arrays = {"task": "multilabel", "places": 1, "count": np.ones(2)}
        others = {"task": {"task": "ranking"}, "no count": {"count": "none"}}
        arrays |= others.get(change, {})
        if change == "objects":
            arrays["count"] = np.array([{}, {}], object)
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"{path} does not hold a model's answers"):
        Sums.read(path)
