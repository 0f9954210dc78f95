import tomllib

import pytest

from keras_kd.recipes import recipe
from keras_kd.report.recipe import as_toml, recipe_file, repeat
from keras_kd.runs import reader
from tests.runs.sample_run import change, make_run, make_seeds


def test_a_recipe_comes_back(tmp_path):
    mnist = recipe.load("mnist", seed=3, epochs=2)
    dumped = mnist.model_dump(**recipe.AS_JSON)
    make_run(tmp_path / "run", examples=20)
    change(tmp_path / "run" / "manifest.json", recipe=dumped)
    manifest = reader.read(tmp_path / "run").manifest
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_file(manifest))
    assert recipe.load(path) == mnist
    text, command = repeat(manifest)
    assert text == path.read_text() and command == "keras-kd run recipe.toml"
    assert "published_accuracy = [97.72, 98.5, 98.75, " in text


def test_seeds_are_in_the_command(tmp_path):
    make_seeds(tmp_path, seeds=(0, 1), examples=20)
    manifest = reader.read(tmp_path).manifest
    assert repeat(manifest)[1] == "keras-kd run recipe.toml --seeds 2"


def test_a_run_without_a_recipe(tmp_path):
    make_run(tmp_path, examples=20)
    change(tmp_path / "manifest.json", recipe=None)
    manifest = reader.read(tmp_path).manifest
    text, command = repeat(manifest)
    assert command is None and recipe_file(manifest) is None
    stages = tomllib.loads(text)["stage"]
    assert [x["name"] for x in stages] == ["ta", "student", "alone"]
    assert stages[1]["taught_by"] == ["ta"] and stages[1]["student_loss_weight"] == 0.5


@pytest.mark.parametrize(
    "table",
    [
        {"x": [1, 2.5, -3e-5, 1e22], "y": []},
        {"x": "[\n    1,\n    2,\n]", "y": ["1,", "2"]},
        {"x": [{"y": [1, 2]}, {"y": [[1], [2, 3]]}]},
        {"x]\n[y": '"""\n`', "z": {"": [float("inf"), True]}},
    ],
)
def test_what_is_written_is_read(table):
    assert tomllib.loads(as_toml(table)) == table


def test_none_is_left_out():
    assert tomllib.loads(as_toml({"a": None, "b": [{"c": None}], "d": [None, 1]})) == {
        "b": [{}],
        "d": [1],
    }
