"""Parts: an example stays in its own, and what cannot be learned or told is refused."""

import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.parts import (
    Column,
    Parts,
    assigned,
    check_classes,
    in_parts,
    part_of,
    shares,
    warn_of_duplicates,
    with_classes,
)


def test_shares_are_those_that_are_said():
    parts = [part_of(f"example {k}", 0.1, 0.2) for k in range(20_000)]
    shares = {name: parts.count(name) / len(parts) for name in set(parts)}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.01)


def test_no_example_moves_when_shares_grow():
    names = [f"cat/{k}.png" for k in range(500)]
    small = {x for x in names if part_of(x, 0.1, 0.1) == "test"}
    large = {x for x in names if part_of(x, 0.1, 0.2) == "test"}
    assert small and small < large
    # The same on any machine: SHA-256 of the name.
    assert [part_of(x, 0.3, 0.3) for x in ("a", "b", b"c", "d")] == [
        "train",
        "test",
        "test",
        "test",
    ]


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [(0.1, 0, "greater than 0"), (0.5, 0.5, "less than 1"), (-0.1, 0.1, "`validation`")],
)
def test_shares_that_leave_nothing(validation, test, message):
    with pytest.raises(DataError, match=message):
        shares(validation, test)


def test_of_a_part_that_is_given_no_more_is_held_out():
    assert shares(0.3, 0.8, {"test"}) == (0.3, 0)
    assert shares(0.8, 0.3, {"validation", None}) == (0, 0.3)
    # Of "b", "c" and "d" none would stay to train on.
    given = ["train", "train", None, "test"]
    parts = assigned(["b", "c", "d", "d"], given, 0, 0.9)
    assert parts == ["train", "train", "train", "test"]


def test_what_kind_it_is_is_part_of_what_it_is():
    x = np.zeros((4, 1), "float32")
    parts = ["train", "test"] * 2
    digests = {
        in_parts(x, labels, parts, None, kind, task, columns).digest()
        for labels, kind, task, columns in (
            (None, "table", None, (Column("a"),)),
            (None, "table", None, (Column("b"),)),
            (None, "table", None, (Column("a", ("x", "y")),)),
            (None, "sequences", None, None),
            (x[:, 0], "table", "regression", (Column("a"),)),
        )
    }
    assert len(digests) == 5


def test_names_that_say_more_than_numbers():
    def names(class_names):
        return Parts((), None, (), class_names).names

    assert names(("0", "1")) is None and names(None) is None
    assert names(("1", "0")) == ["1", "0"]


def test_classes_keep_the_numbers_of_others():
    y = np.array([0, 1, 1, 2])
    parts = Parts((y, y), None, ([0], y[:1]), ("a", "c", "d"))
    found = with_classes(parts, ("d", "c", "b", "a"), "These")
    assert found.train[1].tolist() == [3, 1, 1, 0] and found.test[1].tolist() == [3]
    assert found.train[0] is y and found.validation is None
    assert found.class_names == ("d", "c", "b", "a")
    with pytest.raises(DataError, match="These: 'd' .one of 1 such. is unknown"):
        with_classes(parts, ("a", "c"), "These")


def test_a_class_of_which_nothing_could_be_told():
    labels = np.array([0, 0, 1, 1, 2])
    parts = ["train", "test", "train", "test", "train"]
    with pytest.raises(DataError, match="class 'eel' has 1 example:"):
        check_classes(labels, parts, ("cat", "dog", "eel"))
    with pytest.raises(DataError, match="class 'fox' has no examples"):
        check_classes(labels[:4], parts[:4], ("cat", "dog", "fox"))
    with pytest.raises(DataError, match="'dog' has no example to train on: 2 in test"):
        check_classes(labels[:4], ["train", "test", "test", "test"], ("cat", "dog"))


def test_one_example_in_two_parts_is_told(caplog):
    warn_of_duplicates("aabc", ["a", "b", "c", "d"], ["train", "test", "test", "train"])
    assert "1 examples are in two parts" in caplog.text
    assert "b (test) is a (train)" in caplog.text
    caplog.clear()
    warn_of_duplicates("aab", ["a", "b", "c"], ["train", "train", "test"])
    assert not caplog.text


def test_each_part_has_its_examples_in_their_order():
    x, labels = np.arange(6) * 10, np.arange(6)
    parts = ["test", "train", "train", "test", "validation", "train"]
    found = in_parts(x, labels, parts, ("a",))
    assert found.train[0].tolist() == [10, 20, 50]
    assert found.test[1].tolist() == [0, 3] and found.validation[0].tolist() == [40]
    other = in_parts(x, labels, ["train"] * 5 + ["test"], ("a",))
    assert other.validation is None and other.digest() != found.digest()
    with pytest.raises(DataError, match="No example of 6 is in the part 'test'"):
        in_parts(x, labels, ["train"] * 6, ("a",))
