"""The README's examples, taken out of it and run as they stand, on a little real data."""

import json
import re
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import recipe, zoo
from keras_kd.tune_recipe import TunedRecipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example(heading, number=0):
    """The code of a section's example."""
    section = README.split(f"\n{heading}\n")[1].split("\n#")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[number]


def run(code, **names):
    names = {"__name__": "readme"} | names
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.fixture
def mine(tmp_path, monkeypatch, mnist_sample):
    """A folder with a trained teacher.keras, and two data sets: what a user has."""
    monkeypatch.chdir(tmp_path)
    train, test = mnist_sample
    teacher = zoo.build("mnist_cnn_8_8")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    teacher.fit(*train, batch_size=50, epochs=5, verbose=0)
    teacher.save("teacher.keras")
    # As many as a proof needs; the sample holds 500.
    both = [np.concatenate([a, b, a, b]) for a, b in zip(train, test, strict=True)]
    return {
        "train_ds": tf.data.Dataset.from_tensor_slices(train).shuffle(400).batch(50),
        "val_ds": tf.data.Dataset.from_tensor_slices(tuple(both)).batch(100),
    }


def right(model, dataset):
    """Fraction of a data set that a model answers rightly."""
    return np.mean(
        [
            np.mean(model.predict_on_batch(x).argmax(axis=-1) == y.numpy())
            for x, y in dataset
        ]
    )


# Keras's `fit` tells everybody so who gives it a tf.data.Dataset.
ignore_shuffle = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")


@ignore_shuffle
def test_from_a_teacher_to_a_device(mine):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    code = example("### From your teacher to a device")
    assert len([line for line in code.splitlines() if line]) <= 25
    student = run(code, **mine)["student"]
    written = json.loads(Path("student.tflite.export.json").read_text())
    assert written["quantization"] == "int8" and written["calibration_examples"] == 400
    assert written["proof"]["examples"] == 1000
    accuracy = right(student, mine["val_ds"])
    assert written["proof"]["keras_accuracy"] == pytest.approx(accuracy)
    assert written["proof"]["file_accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert accuracy > 0.7
    interpreter = litert.Interpreter("student.tflite")
    dtypes = {x["dtype"] for x in interpreter.get_tensor_details()}
    assert dtypes <= {np.int8, np.int32}


@ignore_shuffle
def test_the_first_example_and_the_chain(mine):
    names = run(example("## First example"), **mine)
    student = keras.saving.load_model("student.keras")
    assert right(student, mine["val_ds"]) > 0.8
    ta = zoo.build("mnist_fc_16_16")
    names |= {"ta": ta, "same_student": keras.models.clone_model(student)}
    names["student"] = keras.models.clone_model(student)
    result = run(example("### A chain"), **names)["result"]
    assert list(result.students) == ["ta", "student", "alone"]
    metrics = json.loads(Path("runs/mine/student/metrics.json").read_text())
    assert metrics["taught_by"] == "ta"
    assert metrics["evaluation"]["examples"] == 1000
    assert right(result.students["student"], mine["val_ds"]) == pytest.approx(
        metrics["evaluation"]["accuracy"]
    )


def test_a_recipe_of_your_own(write_recipe):
    section = README.split("\n### A recipe of your own\n")[1]
    text = re.search(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]
    chain = recipe.make_chain(recipe.load(write_recipe(text=text)), None)
    assert list(chain.teachers_of(chain.stages[-1])) == ["both"]


def test_searching():
    """What stands there is what the shipped recipe says."""
    section = README.split("\n### Searching\n")[1]
    text = re.search(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]
    shipped = (recipe.RECIPES / "mnist_tune.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["tune"] == tomllib.loads(shipped)["tune"]
    assert recipe.load("mnist_tune", TunedRecipe).judged == "student"
