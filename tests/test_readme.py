"""Every example of every README, taken out of it and run to its end on a little data."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import click
import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import keras_kd as kd
from keras_kd import data
from keras_kd.cli import main
from keras_kd.recipes import recipe
from keras_kd.recipes import run as recipe_run
from keras_kd.recipes import zoo
from keras_kd.report.write import write_report
from keras_kd.tuning.recipe import TunedRecipe
from tests.report.test_write import undrawn  # noqa: F401
from tests.runs.sample_run import make_run

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("models/**/README.md"))]
README = READMES[0].read_text(encoding="utf-8")
TO_A_DEVICE = "### From your teacher to a device"
# Run by tests of their own, which look at what comes of it.
OF_THEIR_OWN = (TO_A_DEVICE, "## First example", "### A chain")


def _blocks(path, language):
    """(path, heading, number in its section, code) of each block of a language."""
    found, heading, number = [], "", 0
    text = path.read_text(encoding="utf-8")
    pattern = rf"^(#+ [^\n]*)$|^```{language}\n(.*?)^```$"
    # Within another block a line that begins with # is a comment.
    text = re.sub(rf"^```(?!{language}\n)\w+\n.*?^```$", "", text, flags=re.M | re.S)
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading, number = match[1], 0
        else:
            found.append((path, heading, number, match[2]))
            number += 1
    return found


def _named(blocks):
    return [pytest.param(*x, id=f"{x[0].parent.name}-{x[1]}-{x[2]}") for x in blocks]


PYTHON = [x for path in READMES for x in _blocks(path, "python")]
TOML = [x for path in READMES for x in _blocks(path, "toml")]
COMMANDS = sorted(
    {
        (command.strip(), path.parent.name)
        for path in READMES
        for command in re.findall(
            r"^    ((?:[A-Z_]+=\S+ )?(?:keras-kd|(?:python )?scripts/|pip )[^\n#&]*)"
            r"|`((?:keras-kd|(?:python )?scripts/)[^`<>]* [^`<>]*)`",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        for command in [" ".join("".join(command).split())]
    }
)


def example(heading, number=0):
    """The code of a section's example."""
    return next(x[3] for x in PYTHON if x[:3] == (READMES[0], heading, number))


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


@pytest.fixture
def named(tmp_path, monkeypatch, mnist_sample):
    """All that the examples speak of without making it, small; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    train, test = ([x[:100] for x in arrays] for arrays in mnist_sample)
    keras.utils.set_random_seed(0)
    models = {
        name: zoo.build("mnist_fc_32")
        for name in (
            "teacher", "student", "ta", "same_student", "small", "large", "model",
            "first", "second",
        )
    }  # fmt: skip
    models["teacher"].save("teacher.keras")
    models["teacher"].export("teacher_saved_model", verbose=False)
    stages = [
        kd.Stage("ta", zoo.build("mnist_fc_8_4"), 1, kd.losses.SoftTargets(4.0)),
        kd.Stage("alone", zoo.build("mnist_fc_8_4"), 1),
    ]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = kd.Distiller(
        models["teacher"], models["student"], "kd", student_loss_weight=0.95
    )
    distiller.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    pixels = [np.round(255 * x[0]).astype("uint8") for x in (train, test)]
    return models | {
        "keras": keras,
        "kd": kd,
        "distiller": distiller,
        "chain": kd.DistillationChain(models["teacher"], stages),
        "loss": loss,
        "make_teacher": lambda: zoo.build("mnist_fc_8_4"),
        "make_student": lambda: zoo.build("mnist_fc_4"),
        "train_ds": tf.data.Dataset.from_tensor_slices(tuple(train)).batch(50),
        "val_ds": tf.data.Dataset.from_tensor_slices(tuple(test)).batch(50),
        "examples": tf.data.Dataset.from_tensor_slices(tuple(train)),
        "images": train[0],
        "labels": train[1],
        "inputs": test[0],
        "calibration": train[0],
        "train_images": pixels[0],
        "test_images": np.concatenate([pixels[1]] * 10),
        "test_labels": np.concatenate([test[1]] * 10),
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


def test_there_are_examples():
    """What takes them out of the pages still finds them."""
    assert len(PYTHON) > 20 and len(TOML) == 3 and len(COMMANDS) > 30


@ignore_shuffle
@pytest.mark.parametrize(
    "path, heading, number, code",
    _named(x for x in PYTHON if x[1] not in OF_THEIR_OWN),
)
def test_python_runs_to_its_end(path, heading, number, code, named):
    if path != READMES[0]:
        for file in path.parent.iterdir():
            shutil.copy(file, ".")
    if "open_file(" in code:
        named["inputs"] = named["test_images"]
    if re.search(r"\bdistiller(,|\.save)", code):
        # It is trained when it is saved, and answers as its 8-bit integers do.
        named["distiller"].fit(named["train_ds"].repeat(100), verbose=0)
    made = run(code, **named)
    if path != READMES[0] and "answers" in made:
        labels = named["test_labels"][: len(named["inputs"])]
        assert np.mean(made["answers"] == labels) > 0.9


@ignore_shuffle
def test_the_callbacks_of_an_example_train(named):
    """An example that makes a callback and gives it to no one has shown little."""
    code = "\n".join(x[3] for x in PYTHON)
    callbacks = [eval(x, named) for x in re.findall(r"^kd\.callbacks\..*$", code, re.M)]
    assert callbacks
    fit, train, val = named["distiller"].fit, named["train_ds"], named["val_ds"]
    fit(train, validation_data=val, epochs=2, callbacks=callbacks, verbose=0)
    assert Path("best.keras").is_file()


@ignore_shuffle
def test_from_a_teacher_to_a_device(mine):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    code = example(TO_A_DEVICE)
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


# Of the recipe that stands there, what makes it run in seconds, on the sample's images.
SMALLER = {
    r"epochs = \d+": "epochs = 1",
    r'"mnist_teacher"': '"mnist_cnn_4_4"',
    r'"mnist_student"': '"mnist_fc_8"',
    r"(views|repeat) = \d+": r"\1 = 2",
    r"validation_examples = \d+": "validation_examples = 100",
    r"batch_size = \d+": "batch_size = 20",
    r"examples = 1000 ": "examples = 40 ",
}


def test_a_recipe_of_your_own_runs_and_is_reported(
    write_recipe, sample_data, tmp_path, undrawn  # noqa: F811
):
    (text,) = (x[3] for x in TOML if x[1] == "### A recipe of your own")
    chain = recipe.make_chain(recipe.load(write_recipe(text=text)), None)
    assert list(chain.teachers_of(chain.stages[-1])) == ["both"]
    for old, new in SMALLER.items():
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    loaded = recipe.load(write_recipe(text=text))
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    assert [x.taught_by for x in result.models] == ["labels", "labels", "given", "both"]
    headline, path = write_report(tmp_path / "run")
    assert headline == "Whether distillation was worth it, this run cannot say."
    assert path.is_file()


def test_tables_of_a_recipe(write_recipe):
    """Lines for a stage, which stand alone."""
    whole = ("### A recipe of your own", "### Searching")
    lines = [x[3] for x in TOML if x[1] not in whole]
    lines += re.findall(r"`(losses = \[.*?\])`", README)
    assert len(lines) == 2
    for line in lines:
        (stage,) = recipe.load(write_recipe(stage=line)).stage
        assert stage.losses[0].make()


def test_searching():
    """What stands there is what the shipped recipe says."""
    (text,) = (x[3] for x in TOML if x[1] == "### Searching")
    shipped = (recipe.RECIPES / "mnist_tune.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["tune"] == tomllib.loads(shipped)["tune"]
    assert recipe.load("mnist_tune", TunedRecipe).judged == "student"


@pytest.mark.parametrize("command", sorted({command for command, _ in COMMANDS}))
def test_commands_are_taken(command):
    """Each is what the command line takes, with names that there are."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    program, *arguments = words
    if program == "pip":
        (extra,) = re.findall(r"keras_kd\[(\w+)\]", arguments[-1])
        assert f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text()
    elif program == "keras-kd":
        _check_arguments(arguments)
    else:
        assert (ROOT / (arguments[0] if program == "python" else program)).is_file()


def _check_arguments(arguments):
    group = main
    while isinstance(group, click.Group):
        name, *arguments = arguments
        group = group.commands[name]
    if not arguments and group.params and group.params[0].required:
        return  # The bare name of a command, as in "`keras-kd report` made it".
    if "--help" in arguments:
        return
    context = group.make_context(name, arguments)
    named = context.params.get("recipe")
    if named and not named.endswith(".toml"):
        assert named in recipe.names()


CHEAP = ("methods", "profile", "plan", "evaluate", "report", "compare", "card")


def test_cheap_commands_run(tmp_path, monkeypatch, undrawn, mnist_sample):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "new", "mnist"):
        make_run(tmp_path / "runs" / name, examples=40)
    images = np.round(255 * mnist_sample[1][0]).astype("uint8")
    sample = (images, mnist_sample[1][1])
    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data, "load_arrays", lambda *_: sample)
    run_here = [x for x, _ in COMMANDS if x.split()[0] == "keras-kd" and len(x.split()) > 1]
    run_here = [x for x in dict.fromkeys(run_here) if x.split()[1] in CHEAP]
    done = set()
    for command in run_here:
        _, *arguments = shlex.split(command)
        if len(arguments) == 1 and arguments[0] != "methods":
            continue
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (command, result.output)
        done.add(arguments[0])
    assert done == set(CHEAP)
