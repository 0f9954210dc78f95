"""One call, from a teacher and a folder to a file, and what stops it."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_kd as kd
from keras_kd import distillation
from keras_kd.datasets.load import Own
from keras_kd.distillation.distill import _own, distill
from keras_kd.recipes import recipe as recipes
from keras_kd.recipes import run as recipe_run
from keras_kd.runs.manifest import RunError

SIZE = 12


def looks(count, seed):
    """Images with a bright left or right half, or neither: what a folder is named for."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, SIZE, SIZE, 1)).astype("uint8")
    for image, label in zip(images, labels, strict=True):
        half = np.s_[:, : SIZE // 2] if label == 0 else np.s_[:, SIZE // 2 :]
        image[half] += np.uint8(0 if label == 2 else 120)
    return images, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    images, labels = looks(180, seed=0)
    for name in ("left", "right", "none"):
        (path / name).mkdir()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = ("left", "right", "none")[label]
        Image.fromarray(image[..., 0]).save(path / name / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """A teacher of images in [-1, 1], in the order of the folders' names."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    teacher = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    images, labels = looks(300, seed=1)
    in_order = np.array([0, 2, 1])[labels]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.01), loss)
    teacher.fit(images / np.float32(127.5) - 1, in_order, epochs=5, verbose=0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    teacher.save(path)
    return path


@pytest.mark.slow
def test_a_folder_and_a_teacher_become_a_file(
    folder, teacher_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(teacher_file, "teacher.keras")
    Path("photos").symlink_to(folder)
    # As the street's page has it, but smaller.
    page = Path(distillation.__file__).with_name("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names = {}
    exec(code.replace("100kB", "12kB").replace("minutes=10", "epochs=2"), names)
    found, told = names["found"], capsys.readouterr().out
    run_dir = Path("runs/distill-photos")
    assert run_dir == found.run_dir and f"{found}\n" in told
    for beginning in ("Teacher: ", "Data: 180", "Scale: symmetric", "Student: separable"):
        assert f"\n{beginning}" in f"\n{told}"
    size = found.path.stat().st_size
    assert 0.9 * 12_000 < size <= 12_000
    assert f"-> student {size / 1000:.0f} kB, " in str(found) and "(alone " in str(found)
    names = {x.name for x in run_dir.iterdir()}
    assert {"recipe.toml", "manifest.json", "report", "student", "student_alone"} <= names
    assert (run_dir / "student" / "README.md").is_file()
    # Its class names are with the file.
    proof = found.path.with_name(found.path.name + ".export.json").read_text()
    assert '"left",\n    "none",\n    "right"' in proof
    # The recipe that was written does it again, to the same bits.
    again = tmp_path / "again"
    result, _ = recipe_run.run(recipes.load(run_dir / "recipe.toml"), again)
    ours, theirs = found.student.get_weights(), result.students["student"].get_weights()
    assert all(map(np.array_equal, ours, theirs))
    # Given again it trains nothing, and says the same; a killed run's file is made anew.
    written = (run_dir / "student" / "model.keras").stat().st_mtime_ns
    found.path.unlink()
    given = {"max_bytes": "12kB", "epochs": 2, "announce": lambda line: None}
    second = kd.distill("teacher.keras", "photos", **given)
    assert str(second).split(", ")[1:3] == str(found).split(", ")[1:3]
    assert (run_dir / "student" / "model.keras").stat().st_mtime_ns == written
    with pytest.raises(RunError, match="holds a run of other arguments"):
        kd.distill("teacher.keras", "photos", **given | {"epochs": 3})


def test_what_has_no_effect_or_cannot_be_is_told(folder, teacher_file, tmp_path):
    given = {"run_dir": tmp_path / "run", "announce": lambda line: None}
    with pytest.raises(ValueError, match="`minutes` and `epochs` say the same twice"):
        distill(teacher_file, folder, minutes=1, epochs=1, **given)
    with pytest.raises(ValueError, match="`data` must be a path"):
        distill(teacher_file, [1, 2], epochs=1, **given)
    with pytest.raises(ValueError, match="`student` must be a .keras file, or a family"):
        distill(teacher_file, folder, student="mlp", epochs=1, **given)
    with pytest.raises(ValueError, match="`max_parameters` is less than the smallest"):
        distill(teacher_file, folder, max_parameters=9, epochs=1, **given)
    with pytest.raises(FileNotFoundError, match="There is no model 'none.keras'"):
        distill("none.keras", folder, epochs=1, **given)
    with pytest.raises(ImportError, match="no_such_module"):
        distill(teacher_file, folder, imports="no_such_module", epochs=1, **given)
    with pytest.raises(ValueError, match="`format` must be one of"):
        distill(teacher_file, folder, format="tflite", epochs=1, **given)
    with pytest.raises(ValueError, match="`quantization` goes with format='litert'"):
        distill(
            teacher_file, folder, format="onnx", quantization="int8", epochs=1, **given
        )
    with pytest.raises(ValueError, match="`minutes` must be a number greater than 0"):
        distill(teacher_file, folder, minutes=float("nan"), **given)
    (tmp_path / "rows.csv").write_text(
        "a,b,label\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
    )
    with pytest.raises(ValueError, match=r"takes inputs of shape \(12, 12, 1\).*\(2,\)"):
        distill(teacher_file, tmp_path / "rows.csv", epochs=1, **given)
    assert not (tmp_path / "run").exists()


def test_whole_numbers_are_values_where_the_task_says_so(tmp_path):
    """A table of a few whole numbers looks like one of classes."""
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    teacher.set_weights([np.ones((2, 1)), np.zeros(1)])
    teacher.save(tmp_path / "teacher.keras")
    rows = "".join(f"{i % 7},{i % 5},{i % 7 + i % 5}\n" for i in range(400))
    (tmp_path / "rows.csv").write_text("a,b,label\n" + rows)
    given = {"max_parameters": 1, "epochs": 1, "run_dir": tmp_path / "run"}
    lines = []
    with pytest.raises(ValueError, match="`max_parameters` is less than the smallest"):
        distill(
            tmp_path / "teacher.keras",
            tmp_path / "rows.csv",
            task="regression",
            announce=lines.append,
            **given,
        )
    assert "label 'label': values from 0 to 10" in "\n".join(lines)


def test_more_classes_than_the_teacher_has(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).save(tmp_path / "t.keras")
    rows = "".join(f"{i % 7},{i % 11},{'abcde'[i % 5]}\n" for i in range(400))
    (tmp_path / "rows.csv").write_text("a,b,label\n" + rows)
    given = {"epochs": 1, "run_dir": tmp_path / "run", "announce": lambda line: None}
    with pytest.raises(ValueError, match="has 3 outputs, .* the data go up to 4"):
        distill(tmp_path / "t.keras", tmp_path / "rows.csv", task="multiclass", **given)


def test_a_task_says_nothing_of_labels_that_are_not_read():
    own = Own("rows.csv", labels=False)
    assert _own(own, None, True, "binary") == own
    assert _own("rows.csv", None, False, "binary") == own
    assert _own("rows.csv", None, True, "binary").task == "multiclass"


def test_classes_in_another_order_are_no_silent_result(folder, teacher_file, tmp_path):
    other = tmp_path / "photos"
    shutil.copytree(folder, other)
    (other / "right").rename(other / "a_right")
    with pytest.raises(ValueError, match="another order.* its class 2 is 'a_right'"):
        distill(
            teacher_file, other, epochs=1, run_dir=tmp_path / "run", announce=print
        )
