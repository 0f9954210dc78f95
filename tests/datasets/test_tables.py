"""Tables: numbers and categories, labels, parts, texts; and each fault by its name."""

import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.parts import Column
from keras_kd.datasets.tables import read_table

pa = pytest.importorskip("pyarrow")

COLOURS = ("red", "green", "", "blue")


def a_table(count=80):
    """dict of column to list, of numbers, categories, truth values and a price."""
    rng = np.random.default_rng(0)
    return {
        "size": (rng.permutation(count) + 0.25).tolist(),
        "colour": [COLOURS[k % 4] for k in range(count)],
        "new": [k % 3 == 0 for k in range(count)],
        "label": [10.5 + k % 7 for k in range(count)],
    }


def written(folder, columns, suffix=".csv", delimiter=","):
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), path)
        return path
    rows = zip(*columns.values(), strict=True)
    lines = [delimiter.join(map(str, x)) for x in [columns, *rows]]
    path.write_text("\n".join(lines).replace("None", ""))
    return path


def quiet(path, **arguments):
    return read_table(path, announce=lambda line: None, **arguments)


def together(found):
    parts = [x for x in (found.train, found.validation, found.test) if x]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [(".csv", ","), (".csv", ";"), (".parquet", ",")]
)
def test_numbers_categories_and_values(tmp_path, suffix, delimiter):
    columns = a_table()
    lines = []
    path = written(tmp_path, columns, suffix, delimiter)
    found = read_table(path, announce=lines.append)
    assert found.columns == (
        Column("size"),
        Column("colour", ("", "blue", "green", "red")),
        Column("new", ("false", "true")),
    )
    assert (found.kind, found.task, found.class_names) == ("table", "regression", None)
    x, y = together(found)
    assert x.dtype == np.float32 and y.dtype == np.float32 and x.shape == (80, 3)
    numbers = {"": 0, "blue": 1, "green": 2, "red": 3}
    expected = {
        (np.float32(a), numbers[b], float(c), np.float32(d))
        for a, b, c, d in zip(*columns.values(), strict=True)
    }
    assert {(*row, label) for row, label in zip(x, y, strict=True)} == expected
    assert "3 columns: size, colour (4 categories)" in lines[-1]
    assert "'label': values from 10.5 to 16.5" in lines[-1]


def test_blanks_around_names_and_texts_do_not_count(tmp_path):
    columns = {name: x for name, x in a_table().items() if name != "new"}
    plain = quiet(written(tmp_path, columns)).digest()
    assert quiet(written(tmp_path, columns, delimiter=", ")).digest() == plain


def test_files_of_both_kinds_are_one_data_set(tmp_path):
    columns = a_table()
    paths = [written(tmp_path, columns, suffix) for suffix in (".csv", ".parquet")]
    assert quiet(paths[0]).digest() == quiet(paths[1]).digest()
    names = a_table() | {"colour": [x or "black" for x in columns["colour"]]}
    assert quiet(written(tmp_path, names)).digest() != quiet(paths[1]).digest()


def test_no_row_moves_when_others_come_or_categories(tmp_path):
    columns = a_table()
    before = quiet(written(tmp_path, columns), test=0.3).test[0][:, 0].tolist()
    more = {name: [*values, values[0]] for name, values in columns.items()}
    more["colour"][-1], more["size"][-1] = "azure", 7.0
    more["colour"] = [x or "" for x in more["colour"]]
    after = quiet(written(tmp_path, more), test=0.3).test[0][:, 0].tolist()
    assert before and set(before) <= set(after) and len(after) <= len(before) + 1


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["no", "yes"], None, ("no", "yes")),
        ([True, False], None, ("false", "true")),
        ([10, 9], None, ("9", "10")),
        ([1.5, 2.5], None, None),
        ([1.0, 2.0], "multiclass", ("1.0", "2.0")),
        ([10, 9], "regression", None),
        (list(range(0, 120, 2)), None, None),
        (list(range(0, 60, 2)), None, None),
    ],
)
def test_what_labels_are(tmp_path, values, task, expected):
    columns = a_table(120) | {"label": [values[k % len(values)] for k in range(120)]}
    found = quiet(written(tmp_path, columns, ".parquet"), task=task)
    assert found.class_names == expected
    assert found.task == ("multiclass" if expected else "regression")
    x, y = together(found)
    of_row = dict(zip(np.float32(columns["size"]), columns["label"], strict=True))
    for size, label in zip(x[:, 0], y, strict=True):
        one = of_row[size]
        assert str(one).lower() == expected[label] if expected else one == label


def test_without_labels(tmp_path):
    path = written(tmp_path, a_table())
    found = quiet(path, labels=False)
    assert found.train[1] is None and found.task is None and found.class_names is None
    assert [x.name for x in found.columns] == ["size", "colour", "new"]
    named = quiet(path, label="size")
    assert [x.name for x in named.columns] == ["colour", "new", "label"]
    columns = a_table()
    del columns["label"]
    lines = []
    found = read_table(written(tmp_path, columns), announce=lines.append)
    assert found.train[1] is None and "no column 'label'" in lines[0]


def test_parts_that_a_column_says(tmp_path):
    parts = [("train", "validation", "test")[k % 3] for k in range(80)]
    found = quiet(written(tmp_path, a_table() | {"split": parts}), test=0, validation=0)
    assert [x.name for x in found.columns] == ["size", "colour", "new"]
    assert found.test[0][:, 0].tolist() == np.float32(a_table()["size"][2::3]).tolist()
    parts[4] = "val"
    with pytest.raises(DataError, match="'split' says the part .* in row 5: 'val'"):
        quiet(written(tmp_path, a_table() | {"split": parts}))


def test_one_row_in_two_parts_is_told(tmp_path, caplog):
    columns = a_table() | {"part": ["train"] * 79 + ["test"]}
    for values in list(columns.values())[:3]:
        values[79] = values[3]
    quiet(written(tmp_path, columns))
    assert "row 80 (test) is row 4 (train)" in caplog.text


def test_columns_that_say_nothing_are_left_out_and_told(tmp_path):
    extra = {"": list(range(80)), "same": [3] * 80, "none": [None] * 80}
    extra["shuffled"] = np.random.default_rng(1).permutation(80).tolist()
    lines = []
    found = read_table(written(tmp_path, extra | a_table()), announce=lines.append)
    assert [x.name for x in found.columns] == ["size", "colour", "new"]
    assert "always the same: 'same', 'none'" in lines[0]
    assert "the row's number: '', 'shuffled'" in lines[1]


def test_rows_that_lack_a_value(tmp_path):
    columns = a_table()
    columns["size"][6] = columns["label"][8] = None
    path = written(tmp_path, columns)
    with pytest.raises(DataError, match="2 of 80 rows lack .* row 7 in column 'size'"):
        quiet(path)
    lines = []
    found = read_table(path, skip_unreadable=True, announce=lines.append)
    assert len(together(found)[0]) == 78
    assert "2 of 80 rows" in lines[0] and "('size', 'label')" in lines[0]


def changed(**columns):
    return lambda: a_table() | columns


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (changed(label=list(range(80))), {}, "label column 'label' is another one in"),
        (changed(label=list(range(80))), {"task": "regression"}, "row's number or name"),
        (changed(label=[k**2 for k in range(80)]), {}, 'say task = "regression"'),
        (changed(label=[f"n{k}" for k in range(80)]), {}, "another one in every row"),
        (changed(label=[1.5] * 80), {}, "holds one value alone"),
        (a_table, {"label": "sise"}, "no column 'sise'; did you mean 'size'"),
        (a_table, {"label": "colour", "task": "regression"}, "lack a value"),
        (changed(note=[f"n{k}" for k in range(80)]), {}, "'note' is text of 80 values"),
        (changed(x=["?"] + [f"{k / 7}" for k in range(79)]), {}, "in row 1 .of 1. '\\?'"),
        (changed(day=["2026-01-01"] * 80), {}, "'day' is of date32"),
        (a_table, {"length": 9}, "`length` is for texts"),
        (a_table, {"task": "binary"}, "`task` must be one of"),
        (lambda: {"label": [0, 1] * 40}, {}, "has no column to learn from"),
        (lambda: {"label": []}, {}, "cannot be read as a table"),
    ],
)
def test_each_fault_is_told_by_its_column(tmp_path, make, arguments, message):
    with pytest.raises(DataError, match=message):
        quiet(written(tmp_path, make()), **arguments)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        quiet(tmp_path / "none.csv")
    (tmp_path / "none.parquet").write_text("no table")
    with pytest.raises(DataError, match="none.parquet cannot be read as a table: "):
        quiet(tmp_path / "none.parquet")
    for content, message in (
        (b"a,b\n\xe9,1\n", "column 'a' is no UTF-8"),
        (b"0.5,a\n1,2\n", "must name its columns .*'0.5'"),
        (b"a;b\n0,5;1\n", "'a' holds numbers with a comma, '0,5'"),
    ):
        (tmp_path / "odd.csv").write_bytes(content)
        with pytest.raises(DataError, match=message):
            quiet(tmp_path / "odd.csv")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match="2 columns named 'a'"):
        quiet(tmp_path / "twice.csv")


def test_one_column_of_text(tmp_path):
    texts = [f'"number, {k} ö"' for k in range(40)]
    columns = {"review": texts, "label": ["bad", "good"] * 20}
    found = quiet(written(tmp_path, columns))
    assert (found.kind, found.class_names, found.columns) == ("text", ("bad", "good"), None)
    x, y = together(found)
    read = {bytes((row[row > 0] - 1).tolist()).decode() for row in x}
    assert read == {x.strip('"') for x in texts} and x.shape[1] == 16
    assert quiet(written(tmp_path, columns), like=(6,)).train[0].shape[1] == 6
    # Of few values it is a category, unless it is called text.
    columns = {"text": list("abcdefghij") * 4, "label": ["bad", "good"] * 20}
    assert quiet(written(tmp_path, columns)).kind == "text"
    columns = {"mood": list("abcdefghij") * 4, "label": ["bad", "good"] * 20}
    assert quiet(written(tmp_path, columns)).kind == "table"


def a_and(name, values):
    """Columns "a" and "label" of as many numbers, of which one are these values."""
    others = np.random.default_rng(1).normal(size=len(values)).tolist()
    return {"a": others, "label": others} | {name: values.tolist()}


@pytest.mark.parametrize("name", ["a", "label"])
def test_numbers_that_float32_does_not_tell_apart_are_refused(tmp_path, name):
    large = 2**30 + np.random.default_rng(0).integers(0, 1000, 200)
    path = written(tmp_path, a_and(name, large))
    with pytest.raises(DataError, match=f"column '{name}' has .* Subtract a constant"):
        read_table(path, task="regression")
    # Up to 16 million it does.
    path = written(tmp_path, a_and(name, large - 2**30 + 2**23))
    assert read_table(path, task="regression").train[0].shape[1] == 1


@pytest.mark.parametrize("name", ["a", "label"])
def test_numbers_too_large_for_float32_are_told_as_such(tmp_path, name):
    huge = 1e300 * np.random.default_rng(0).normal(size=60)
    path = written(tmp_path, a_and(name, huge))
    with pytest.raises(DataError, match=f"column '{name}' holds .* too large for float32"):
        read_table(path)


def test_parts_in_other_words_are_no_input(tmp_path):
    def parts_of(words):
        numbers = range(60)
        columns = {"a": [i % 7 for i in numbers], "label": [i % 2 for i in numbers]}
        return columns | {"part": [words[i % len(words)] for i in numbers]}

    path = written(tmp_path, parts_of(["Train", "val", "test"]))
    with pytest.raises(DataError, match="'part' seems to say the part of a row, with 'Tra"):
        read_table(path)
    # Of other words it is an input.
    path = written(tmp_path, parts_of(["wing", "tail"]))
    assert [x.name for x in read_table(path).columns] == ["a", "part"]


def test_whole_numbers_that_begin_with_0_are_categories(tmp_path):
    """Postcodes are; numbers of another one in nearly each row are not."""
    rows = [f"0{k % 4}100,0{k * 7 % 61},{k / 7},{k % 2}" for k in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["post,many,size,label", *rows]))
    columns = {x.name: x.categories for x in quiet(tmp_path / "t.csv").columns}
    posts = ("00100", "01100", "02100", "03100")
    assert columns == {"post": posts, "many": None, "size": None}


def coded(tmp_path, rows):
    (tmp_path / "t.csv").write_text("\n".join(["code,size,label", *rows]))
    return tmp_path / "t.csv"


def test_no_row_moves_when_a_number_that_begins_with_0_comes(tmp_path):
    """The first makes a category of what was a number; the hash is of the number."""
    rows = [f"{10 + k % 30},{k / 7},{'ab'[k % 2]}" for k in range(300)]
    before = quiet(coded(tmp_path, rows))
    after = quiet(coded(tmp_path, [*rows, "05,0.111,a"]))
    assert before.columns[0].categories is None and after.columns[0].categories is not None
    sizes = [set(x.train[0][:, 1].tolist()) for x in (before, after)]
    assert len(sizes[0]) > 200 and sizes[1] - sizes[0] <= {np.float32(0.111)}


def test_a_missing_code_is_missing_however_it_is_written(tmp_path):
    rows = [f"{['NA', '', '007', '008'][k % 4]},{k / 7},{k % 2}" for k in range(80)]
    (column, _) = quiet(coded(tmp_path, rows)).columns
    assert column.categories == ("", "007", "008")
    with pytest.raises(DataError, match="20 of 80 rows lack a value"):
        rows = [f"1,{k / 7},{['NA', '007', '008', '9'][k % 4]}" for k in range(80)]
        quiet(coded(tmp_path, rows))


def test_codes_that_are_called_values_are_values(tmp_path):
    rows = [f"{k % 3},{k / 7},0{k % 9 + 1}" for k in range(90)]
    found = quiet(coded(tmp_path, rows), task="regression")
    assert sorted(set(together(found)[1].tolist())) == list(range(1, 10))
    assert quiet(coded(tmp_path, rows)).class_names[0] == "01"


def test_a_models_columns_and_their_numbers(tmp_path):
    """Those that it has learned from, though here they are all the same, or fewer."""
    columns = a_table() | {"colour": ["red"] * 80, "more": list(range(80))}
    known = [Column("new", ("false", "true")), Column("colour", ("blue", "red"))]
    known.append(Column("size"))
    said = []
    path = written(tmp_path, columns)
    found = read_table(path, announce=said.append, known=known)
    x, y = together(found)
    assert found.columns == tuple(known) and set(x[:, 1]) == {1}
    pairs = zip(columns["new"], columns["label"], strict=True)
    expected = {(float(new), label) for new, label in pairs}
    assert set(zip(x[:, 0].tolist(), y.tolist(), strict=True)) == expected
    assert f"Data: left out of {path}, as the model knows none such: 'more'" in said


def test_a_models_numbers_may_begin_with_0_in_other_data(tmp_path):
    columns = a_table() | {"code": [f"{k % 20:02}" for k in range(80)]}
    path = written(tmp_path, columns)
    assert quiet(path).columns[-1].categories is not None
    x, _ = together(quiet(path, known=[Column("size"), Column("code")]))
    assert {(a - 0.25) in range(80) and b for a, b in x} == set(range(20))


def test_the_parts_are_those_of_before(tmp_path):
    path = written(tmp_path, a_table())
    before = quiet(path)
    assert quiet(path, known=before.columns).digest() == before.digest()


def test_codes_are_the_same_in_files_of_both_kinds(tmp_path):
    """Text of whole numbers in one, whole numbers that begin with 0 in the other."""
    columns = a_table() | {"code": [f"{k % 20:03}" for k in range(80)]}
    found = [quiet(written(tmp_path, columns, x)) for x in (".csv", ".parquet")]
    assert found[0].columns[-1] == Column("code", tuple(f"{k:03}" for k in range(20)))
    assert found[0].digest() == found[1].digest()


def test_rows_of_a_test_part_alone(tmp_path):
    path = written(tmp_path, a_table() | {"part": ["test"] * 80})
    with pytest.raises(DataError, match="No example of 80 is in the part 'train'"):
        quiet(path)
    found = quiet(path, trains=False)
    assert found.train is None and len(found.test[0]) == 80
    assert [x.name for x in found.columns] == ["size", "colour", "new"]


def test_known_categories_that_look_like_numbers(tmp_path):
    columns = a_table() | {"colour": ["10", "2"] * 40, "more": list(range(80))}
    known = [Column("size"), Column("colour", ("10", "2", "red"))]
    x, _ = together(quiet(written(tmp_path, columns), known=known))
    assert set(x[:, 1]) == {0, 1}
    with pytest.raises(DataError, match="'colour' holds text, and where the model"):
        quiet(written(tmp_path, a_table()), known=[Column("size"), Column("colour")])
    with pytest.raises(DataError, match="'size' holds numbers, and where the model"):
        quiet(written(tmp_path, a_table(), ".parquet"), known=[Column("size", ("a", "b"))])
