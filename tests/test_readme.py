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
from tests.conftest import MINIMAL
from tests.report.test_write import undrawn  # noqa: F401
from tests.runs.sample_run import make_run

ROOT = Path(__file__).parents[1]
TOP = ROOT / "README.md"
STREETS = sorted(ROOT.glob("keras_kd/*/README.md"))
SHIPPED = sorted(ROOT.glob("models/*/*/README.md"))
RESULTS = [ROOT / "models/README.md", ROOT / "scripts/benchmarks/README.md"]
READMES = [TOP, *STREETS, *SHIPPED, *RESULTS]
TO_A_DEVICE = "### From your teacher to a device"


def street(name):
    return ROOT / "keras_kd" / name / "README.md"


def blocks(path, language):
    """(heading, code) of each block of a language, in the page's order."""
    found, heading = [], ""
    text = path.read_text(encoding="utf-8")
    # Within another block a line that begins with # is a comment.
    text = re.sub(rf"^```(?!{language}\n)\w+\n.*?^```$", "", text, flags=re.M | re.S)
    pattern = rf"^(#+ [^\n]*)$|^```{language}\n(.*?)^```$"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


def _commands(path):
    """The commands of a page: in its blocks, and in its lines."""
    for _, code in blocks(path, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            # What follows after spaces, as no # is part of a command here.
            yield line.partition("#")[0].strip().removesuffix("&").strip()
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    yield from re.findall(r"`((?:keras-kd|(?:python )?scripts/)[^`<>]* [^`<>]*)`", text)


PAGES = [path for path in READMES if blocks(path, "python")]
COMMANDS = sorted(
    {" ".join(x.split()) for path in READMES for x in _commands(path)} - {""}
)


def run(path, names, headings=None):
    """Runs a page's examples one after another, as its reader would; their names."""
    names = {"__name__": "readme"} | names
    for heading, code in blocks(path, "python"):
        if headings is None or heading in headings:
            exec(compile(code, f"{path.relative_to(ROOT)}, {heading}", "exec"), names)
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
    """All that the pages speak of without making it, small; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    train, test = ([x[:100] for x in arrays] for arrays in mnist_sample)
    models = ("teacher", "student", "ta", "same_student")
    guessed = np.random.default_rng(0).dirichlet(np.ones(10), len(train[0]))
    np.save("teacher.npy", np.log(guessed + 1e-9))
    for number, (image, label) in enumerate(zip(*train, strict=True)):
        path = tmp_path / "photos" / "ab"[label % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image * 255, scale=False)
    pixels = [np.round(255 * x[0]).astype("uint8") for x in (train, test)]
    several = [keras.layers.Input((4,)), keras.layers.Dense(5, activation="sigmoid")]
    return {name: zoo.build("mnist_fc_32") for name in models} | {
        "teacher_of_labels": keras.Sequential(several),
        "student_of_labels": keras.models.clone_model(keras.Sequential(several)),
        "segmenter": _segmenter(2),
        "three_classes": keras.Sequential([zoo.build("mnist_fc_4"), keras.layers.Dense(3)]),
        "big_segmenter": _segmenter(4),
        "pixels_ds": _pixels(),
        "predict_proba": lambda x: np.full((len(x), 10), 0.1),
        "keras": keras,
        "kd": kd,
        "make_teacher": lambda: zoo.build("mnist_fc_8_4"),
        "make_student": lambda: zoo.build("mnist_fc_4"),
        "train_ds": tf.data.Dataset.from_tensor_slices(tuple(train)).batch(50),
        "val_ds": tf.data.Dataset.from_tensor_slices(tuple(test)).batch(50),
        "examples": tf.data.Dataset.from_tensor_slices(tuple(train)),
        "images": train[0],
        "labels": train[1],
        "photos": train[0].repeat(2, axis=1).repeat(2, axis=2),
        "teacher_of_photos": _of_photos(),
        "train_images": np.concatenate([pixels[0]] * 10),
        "test_images": np.concatenate([pixels[1]] * 10),
        "test_labels": np.concatenate([test[1]] * 10),
    }


def _of_photos():
    layers = [keras.layers.Input((56, 56, 1)), keras.layers.AveragePooling2D(8)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def _segmenter(width):
    layers = [keras.layers.Conv2D(width, 3, padding="same", activation="relu")]
    layers += [keras.layers.Conv2D(3, 1)]
    return keras.Sequential([keras.layers.Input((8, 8, 1)), *layers])


def _pixels():
    images = np.random.default_rng(0).uniform(size=(30, 8, 8, 1)).astype("float32")
    labels = (images[..., 0] * 3).astype("int32")
    labels[:, 0] = 255
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)


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
    """What takes them out of the pages still finds them; each street has its page."""
    assert len(PAGES) >= 14 and len(COMMANDS) > 50
    assert sum(len(blocks(path, "python")) for path in PAGES) > 30
    packages = sorted(x.parent for x in ROOT.glob("keras_kd/*/__init__.py"))
    assert [x.parent for x in STREETS] == packages


def test_the_first_page_is_short():
    assert len(TOP.read_text(encoding="utf-8").splitlines()) <= 300


# Those whose examples are run by tests of their own, which look at what comes of it.
OF_THEIR_OWN = {TOP, street("exporters"), street("distillation"), *SHIPPED}


@ignore_shuffle
@pytest.mark.parametrize(
    "path",
    [x for x in PAGES if x not in OF_THEIR_OWN],
    ids=lambda path: path.parent.name,
)
def test_a_page_runs_to_its_end(path, named):
    run(path, named)


@ignore_shuffle
def test_the_page_of_exports(named):
    distiller = kd.Distiller(
        named["teacher"], named["student"], "kd", student_loss_weight=0.95
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), loss)
    # It is trained when it is exported, and answers as its 8-bit integers do.
    distiller.fit(named["train_ds"].repeat(100), verbose=0)
    names = run(street("exporters"), named | {"distiller": distiller})
    answers = distiller.predict(named["test_images"][:10] / 255, verbose=0)
    np.testing.assert_array_equal(
        names["probabilities"].argmax(axis=-1), answers.argmax(axis=-1)
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_the_page_of_a_shipped_model(path, mnist_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in path.parent.iterdir():
        shutil.copy(file, ".")
    images, labels = mnist_sample[1]
    for heading, code in blocks(path, "python"):
        of_file = "open_file(" in code
        inputs = np.round(255 * images).astype("uint8") if of_file else images
        names = {"inputs": inputs}
        exec(compile(code, f"{path.parent.name}, {heading}", "exec"), names)
        assert np.mean(names["outputs"].argmax(axis=-1) == labels) > 0.9


@ignore_shuffle
def test_from_a_teacher_to_a_device(mine):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    ((_, code),) = [x for x in blocks(TOP, "python") if x[0] == TO_A_DEVICE]
    assert len([line for line in code.splitlines() if line]) <= 25
    student = run(TOP, mine, [TO_A_DEVICE])["student"]
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
    names = run(TOP, mine, ["## First example"])
    student = keras.saving.load_model("student.keras")
    assert right(student, mine["val_ds"]) > 0.8
    ta = zoo.build("mnist_fc_16_16")
    names |= {"ta": ta, "same_student": keras.models.clone_model(student)}
    names["student"] = keras.models.clone_model(student)
    result = run(street("chain"), names, ["## A chain"])["result"]
    assert list(result.students) == ["ta", "student", "alone"]
    metrics = json.loads(Path("runs/mine/student/metrics.json").read_text())
    assert metrics["taught_by"] == "ta"
    assert metrics["evaluation"]["examples"] == 1000
    assert right(result.students["student"], mine["val_ds"]) == pytest.approx(
        metrics["evaluation"]["accuracy"]
    )


def test_links_lead_somewhere():
    """To a file that there is, and to a heading in it."""
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
            file, _, heading = target.partition("#")
            other = path.parent / file if file else path
            assert other.exists(), (path, target)
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.M) if heading else []
            slugs = {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}
            assert not heading or heading in slugs, (path, target)


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
    text = dict(blocks(street("recipes"), "toml"))["## A recipe of your own"]
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


def test_lines_of_a_recipe(write_recipe):
    """Lines for a stage, which stand alone."""
    found = [code for heading, code in blocks(street("recipes"), "toml")]
    wholes = [code for code in found if code.startswith("dataset =")]
    lines = [code for code in found if code not in wholes]
    for whole in wholes:
        assert recipe.load(write_recipe(text=whole)).stage
    lines += re.findall(r"`(losses = \[.*?\])`", street("recipes").read_text("utf-8"))
    (models,) = [code for code in lines if code.startswith("model = ")]
    lines.remove(models)
    assert lines
    for line in models.splitlines():
        text = MINIMAL.format(extra="", stage="").replace('model = "mnist_student"', line)
        (stage,) = recipe.load(write_recipe(text=text)).stage
        assert not isinstance(stage.model, str)
    for line in lines:
        (stage,) = recipe.load(write_recipe(stage=line)).stage
        assert stage.losses[0].make()


def test_searching():
    """What stands there is what the shipped recipe says."""
    ((_, text),) = blocks(street("tuning"), "toml")
    shipped = (recipe.RECIPES / "mnist_tune.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["tune"] == tomllib.loads(shipped)["tune"]
    assert recipe.load("mnist_tune", TunedRecipe).judged == "student"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_taken(command):
    """Each is what the command line takes, with names that there are."""
    words = shlex.split(command)
    while words and (words[0] == "export" or "=" in words[0]):
        words.pop(0)
    if not words:
        return
    program, *arguments = words
    if program == "pip":
        (extra,) = re.findall(r"keras_kd\[(\w+)\]", arguments[-1])
        assert f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text()
    elif program == "keras-kd":
        _check_arguments(arguments)
    else:
        is_python = Path(program).name == "python"
        assert (ROOT / (arguments[0] if is_python else program)).is_file()


def _check_arguments(arguments):
    group = main
    if "--help" in arguments:
        return
    while isinstance(group, click.Group):
        name, *arguments = arguments
        group = group.commands[name]
    if not arguments and group.params and group.params[0].required:
        return  # The bare name of a command, as in "`keras-kd report` made it".
    context = group.make_context(name, arguments)
    named = context.params.get("recipe")
    if named and not named.endswith(".toml"):
        assert named in recipe.names()


CHEAP = ("methods", "profile", "plan", "evaluate", "report", "compare", "card")


def test_cheap_commands_run(tmp_path, monkeypatch, undrawn, mnist_sample):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "new", "mnist", "seed1"):
        make_run(tmp_path / "runs" / name, examples=40)
    images = np.round(255 * mnist_sample[1][0]).astype("uint8")
    sample = (images, mnist_sample[1][1])
    monkeypatch.setattr(data, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data, "load_arrays", lambda *_: sample)
    run_here = [x for x in COMMANDS if re.match(rf"keras-kd ({'|'.join(CHEAP)})\b", x)]
    done = set()
    for command in run_here:
        _, *arguments = shlex.split(command)
        if len(arguments) == 1 and arguments[0] != "methods":
            continue
        if "--step" in arguments:
            # Of more images than these: tests/recipes/test_step_cost.py.
            continue
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (command, result.output)
        done.add(arguments[0])
    assert done == set(CHEAP)
