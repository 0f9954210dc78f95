"""What all commands share; a model is measured on data as it has learned them."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from keras_kd.cli import main
from keras_kd.cli.base import data_of, numbered_as_learned
from keras_kd.data import DataError
from keras_kd.datasets.load import Own
from keras_kd.datasets.parts import Parts
from tests.runs.sample_run import make_run


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_ctrl_c_while_libraries_are_loaded(seconds):
    """It ends the command without a word: no traceback, and nothing that goes on."""
    command = [Path(sys.executable).with_name("keras-kd"), "methods"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    # On a fast machine it may have been done before.
    assert process.returncode == -signal.SIGINT or output.startswith("kd  ")
    assert "Traceback" not in error


def called(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_a_runs_model_is_measured_on_its_own_test_part(tmp_path):
    """Whatever shares the run held out, and none of what it was trained on."""
    own = {"path": str(tmp_path / "photos"), "validation": 0.0, "test": 0.05}
    run = make_run(tmp_path / "run", examples=20)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["recipe"]["dataset"] = own
    (run / "manifest.json").write_text(json.dumps(manifest))
    for given in (None, own["path"]):
        found = data_of(given, None, run)
        assert (found.path, found.validation, found.test) == tuple(own.values())
    assert data_of("fashion_mnist", None, run) == "fashion_mnist"
    assert data_of(None, None, tmp_path) == "mnist"
    assert data_of("a", None, tmp_path) == "a"
    # A column of labels, of the run's data or of others.
    found = data_of(None, "y", run)
    assert (found.path, found.label, found.test) == (own["path"], "y", 0.05)
    assert data_of("b.csv", "y", run) == Own("b.csv", label="y")


def of_a_table(tmp_path):
    """A run whose student says high of blue, and low of green and red."""
    run = make_run(tmp_path / "run", examples=20)
    manifest = json.loads((run / "manifest.json").read_text())
    colour = {"name": "colour", "categories": ["blue", "green", "red"]}
    told = {"columns": [colour, {"name": "size", "categories": None}]}
    told |= {"class_names": ["high", "low"]}
    own = {"path": str(tmp_path / "own.csv"), "label": "price"}
    manifest["recipe"]["dataset"] = own
    (run / "manifest.json").write_text(json.dumps(manifest | told))
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    kernel, bias = np.array([[0, 4.0], [0, 0]]), np.array([0, -2.0])
    student.set_weights([kernel, bias])
    student.save(run / "student" / "model.keras")
    return run


def rows_of(colours, tmp_path, size=range(100)):
    """A table of other data than the run's, of which the classes are right."""
    path = tmp_path / "new.csv"
    lines = ["extra,size,price,colour,part"]
    for number, one in enumerate(size):
        colour = colours[number % len(colours)]
        label = "high" if colour == "blue" else "low"
        part = ("train", "test")[number // 10 % 2]
        lines.append(f"{number / 4},{one / 2},{label},{colour},{part}")
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    "colours", [("red", "blue", "green"), ("red", "blue", "blue", "red", "blue")]
)
def test_other_data_are_numbered_as_the_run_was(tmp_path, colours):
    """Without some of its categories, with other columns, in another order."""
    student = str(of_a_table(tmp_path) / "student" / "model.keras")
    given = ["evaluate", student, "--dataset", rows_of(colours, tmp_path)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert "100.00 %" in result.stdout.splitlines()[0]
    assert "as the model knows none such: 'extra'" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",red,", ",pink,", "'colour': 'pink' .one of 1 such. is unknown to the model"),
        (",low,", ",top,", "classes: 'top' .one of 1 such. is unknown to the model"),
        ("size", "weight", "has no column 'size', which the model learned from"),
        (".5,", ".5 kg,", "column 'size' holds text, and where the model learned from"),
    ],
)
def test_data_that_a_run_does_not_know(tmp_path, old, new, message):
    student = str(of_a_table(tmp_path) / "student" / "model.keras")
    path = Path(rows_of(("red", "blue"), tmp_path))
    path.write_text(path.read_text().replace(old, new))
    result = CliRunner().invoke(main, ["evaluate", student, "--dataset", str(path)])
    assert result.exit_code == 1 and re.search(message, result.stderr), result.output


def test_fewer_classes_than_outputs(tmp_path):
    """Of a run a four is a four, without a three; elsewhere nothing tells which it is."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    model.set_weights([np.eye(5), np.zeros(5)])
    model.save(tmp_path / "model.keras")
    there = np.array([0, 1, 2, 4])[np.arange(80) % 4]
    x = np.eye(5, dtype="float32")[there] + np.linspace(0, 0.1, 80)[:, None]
    for file, names in (("numbers.csv", "01234"), ("letters.csv", "abcde")):
        rows = [[*row, names[y]] for row, y in zip(x.tolist(), there, strict=True)]
        lines = [",".join(map(str, row)) for row in [[*"vwxyz", "label"], *rows]]
        (tmp_path / file).write_text("\n".join(lines))
    given = ["evaluate", str(tmp_path / "model.keras"), "--dataset"]
    result = CliRunner().invoke(main, [*given, str(tmp_path / "numbers.csv")])
    assert "have 4 classes (0, 1, 2, 4) and the model 5" in result.stderr, result.output
    run = make_run(tmp_path / "run", examples=20)
    model.save(run / "student" / "model.keras")
    student = run / "student" / "model.keras"
    result = called("evaluate", student, "--dataset", tmp_path / "numbers.csv")
    assert "100.00 %" in result.stdout, result.output
    result = CliRunner().invoke(main, [*given, str(tmp_path / "letters.csv")])
    assert "have 4 classes (a, b, c, e) and the model 5" in result.stderr, result.output


def test_pixels_and_values_have_no_classes_to_number(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)])
    parts = Parts(None, None, None, ("a", "b", "c"))
    assert numbered_as_learned(parts, tmp_path, model) is parts
    values = Parts(None, None, None, None, "table", "regression")
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    assert numbered_as_learned(values, tmp_path, flat) is values


def as_text(tmp_path, texts, name):
    """A table of texts, of which those with an x are yes."""
    lines = ["review,label,split", *(f"{x},{'ny'['x' in x]},test" for x in texts)]
    (tmp_path / name).write_text("\n".join(lines))
    return tmp_path / name


def test_texts_are_texts_though_each_is_there_twice(tmp_path):
    inputs = keras.Input((8,))
    # Bytes each plus 1.
    is_x = keras.ops.equal(inputs, ord("x") + 1)
    is_x = keras.ops.any(is_x, axis=1, keepdims=True)
    scores = 4 * keras.ops.cast(is_x, "float32") - 2
    keras.Model(inputs, keras.ops.concatenate([-scores, scores], 1)).save(
        tmp_path / "model.keras"
    )
    texts = ["abc", "axc", "bb", "x"] * 20
    path = as_text(tmp_path, texts, "twice.csv")
    result = called("evaluate", tmp_path / "model.keras", "--dataset", path)
    assert result.stdout.startswith("100.00 % right, 0 errors in 80"), result.output
    assert "text in 'review'" in result.stderr


@pytest.mark.parametrize("there, is_told", [("23", False), ("01", True)])
def test_numbers_of_which_another_order_is_thinkable(tmp_path, there, is_told):
    """Of folders "10" is before "2", of numbers after it."""
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(12)])
    model.set_weights([np.eye(12), np.zeros(12)])
    parts = Parts(None, None, ([0], np.array([0, 1])), tuple(there))
    if is_told:
        assert numbered_as_learned(parts, tmp_path, model) is parts
        return
    with pytest.raises(DataError, match="have 2 classes .2, 3. and the model 12, and"):
        numbered_as_learned(parts, tmp_path, model)


def test_what_is_only_measured(tmp_path):
    """No class must be there to be learned, nor a part to train on, nor two of a kind."""
    student = of_a_table(tmp_path) / "student" / "model.keras"
    path = Path(rows_of(("red", "red", "blue"), tmp_path, range(9)))
    path.write_text(path.read_text().replace(",train", ",test"))
    result = called("evaluate", student, "--dataset", path)
    assert result.stdout.startswith("100.00 % right, 0 errors in 9"), result.output
    # Labels by their names.
    assert [x.split()[1:4] for x in result.stdout.splitlines()[-2:]] == [
        ["high", "|", "3"],
        ["low", "|", "6"],
    ]
    path.write_text("\n".join(x for x in path.read_text().splitlines() if "high" not in x))
    result = called("evaluate", student, "--dataset", path)
    assert result.stdout.startswith("100.00 % right, 0 errors in 6"), result.output
    path.write_text(path.read_text().replace("price", "cost"))
    result = called("evaluate", student, "--dataset", path)
    assert "has no column 'price'" in result.stderr, result.output


def test_categories_that_look_like_numbers(tmp_path):
    """Where those alone are left that do."""
    folder = of_a_table(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["columns"][0]["categories"] = ["10", "2", "x"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    path = Path(rows_of(("red", "blue"), tmp_path))
    path.write_text(path.read_text().replace("blue", "10").replace("red", "2"))
    result = called("evaluate", folder / "student" / "model.keras", "--dataset", path)
    assert "100.00 %" in result.stdout, result.output


def test_whole_numbers_are_values_where_they_were(tmp_path):
    folder = of_a_table(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["class_names"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in folder.glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        metrics["evaluation"]["task"] = "regression"
        path.write_text(json.dumps(metrics))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[0.0], [2.0]]), np.array([1.0])])
    model.save(folder / "student" / "model.keras")
    path = Path(rows_of(("red", "blue"), tmp_path, [0, 2, 4, 6] * 10))
    # The size is half of these.
    for old, new in (("0.0", "0"), ("1.0", "2"), ("2.0", "4"), ("3.0", "6")):
        path.write_text(re.sub(f",{old},(low|high),", f",{old},{new},", path.read_text()))
    result = called("evaluate", folder / "student" / "model.keras", "--dataset", path)
    assert "\n1.0000 mean absolute error" in result.stdout, result.output


def test_values_by_the_task_that_is_said(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0]]), np.array([1.0])])
    model.save(tmp_path / "m.keras")
    lines = ["a,label,part", *(f"{k % 2 + 98},{k % 2 + 98},test" for k in range(40))]
    (tmp_path / "v.csv").write_text("\n".join(lines))
    given = "evaluate", tmp_path / "m.keras", "--dataset", tmp_path / "v.csv"
    result = called(*given, "--task", "regression")
    assert "\n1.0000 mean absolute error" in result.stdout, result.output


def test_data_of_another_shape_are_told(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(60, 5))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 2)
    result = called("evaluate", tmp_path / "m.keras", "--dataset", tmp_path / "x.npz")
    assert "has the shape (5,), and the model takes (4,)" in result.stderr, result.output


def test_models_of_two_runs_that_number_otherwise_are_not_compared(tmp_path):
    student = of_a_table(tmp_path) / "student" / "model.keras"
    (tmp_path / "other").mkdir()
    other = of_a_table(tmp_path / "other")
    path = rows_of(("red", "blue"), tmp_path)
    given = "evaluate", student, "--dataset", path, "--teacher"
    same = called(*given, other / "student" / "model.keras")
    assert "100.00 % agreement" in same.stdout, same.output
    text = (other / "manifest.json").read_text().replace('"high", "low"', '"low", "high"')
    assert '"low", "high"' in text
    (other / "manifest.json").write_text(text)
    result = called(*given, other / "student" / "model.keras")
    assert "have other columns or classes" in result.stderr, result.output
    # A copy of one is of no run; the other knows.
    copy = tmp_path / "copy.keras"
    copy.write_bytes(student.read_bytes())
    lines = Path(path).read_text().splitlines()
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.split(",", 1)[1] for line in lines))
    result = called("evaluate", copy, "--dataset", bare, "--label", "price")
    assert "Numbering: the model lies in no run" in result.stderr, result.output
    result = called("evaluate", copy, "--dataset", path, "--teacher", student)
    assert "100.00 % agreement" in result.stdout and "Numbering" not in result.stderr


def test_an_export_knows_a_yes_or_no(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]).save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(1200, 3)).astype("float32")
    np.savez(tmp_path / "x.npz", x=x, y=(x[:, 0] > 0).astype(int))
    given = "export", tmp_path / "m.keras", "--format=onnx", "--out", tmp_path / "m.onnx"
    result = called(*given, "--dataset", tmp_path / "x.npz")
    assert result.exit_code == 0, result.output
    proof = json.loads((tmp_path / "m.onnx.export.json").read_text())["proof"]
    assert proof["task"] == "binary" and proof["agreement"] == 1.0
