"""The manifest of a run folder: whose it is, and how far the run is."""

import copy
import json
import os
from pathlib import Path

import pytest

from keras_kd.runs import manifest
from keras_kd.runs.manifest import MANIFEST, Manifest, RunError


@pytest.fixture
def description():
    return {
        "teacher": {"name": "teacher", "weights": "0a"},
        "seed": 0,
        "stages": [
            {"name": "ta", "epochs": 3, "losses": ["kd"], "optimizer": {"class": "Adam"}},
            {"name": "student", "epochs": 2, "losses": [], "initial_weights": "1b"},
        ],
        "recipe": {"files": ["a"], "state": "any", "batch_size": 128},
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


def content(folder):
    return json.loads((folder / MANIFEST).read_text())


def everything(folder):
    """dict of path to bytes, of all files below a folder."""
    return {x: x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def test_a_new_run(folder, description):
    run = Manifest.open(str(folder), description)
    assert run.folder == folder
    found = content(folder)
    assert found == run.content
    assert (found["format"], found["kind"]) == (1, "run")
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert set(found["versions"]) == {"python", "keras", "tensorflow", "numpy"}
    for model in (description["teacher"], *description["stages"]):
        model["state"] = "waiting"
    assert {key: found[key] for key in description} == description


def test_a_run_without_a_teacher(folder, description):
    Manifest.open(folder, description | {"teacher": None})
    run = Manifest.open(folder, description | {"teacher": None})
    assert content(folder)["teacher"] is None
    assert run.state("ta") == "waiting"


def test_going_on_finds_what_was_written(folder, description):
    run = Manifest.open(folder, description)
    created = run.content["created"]
    run.set_state("ta", "training")
    run.set_state("student", "failed", error="loss is nan")
    again = Manifest.open(folder, description)
    assert (again.state("ta"), again.state("student")) == ("training", "failed")
    assert content(folder)["stages"][1]["error"] == "loss is nan"
    assert again.content == run.content and again.content["created"] == created


def test_a_new_state_leaves_nothing_of_the_one_before(folder, description):
    run = Manifest.open(folder, description)
    (folder / "ta").mkdir()
    (folder / "ta" / "model.keras").write_text("weights")
    run.set_state("ta", "failed", error="loss is nan")
    run.set_done("ta", ["model.keras"])
    ta = content(folder)["stages"][0]
    assert set(ta) == {*description["stages"][0], "state", "files"}
    run.set_state("ta", "training")
    assert set(content(folder)["stages"][0]) == {*description["stages"][0], "state"}


def test_tuples_and_json_are_the_same(folder, description):
    description["stages"][0]["losses"] = ("kd",)
    Manifest.open(folder, description)
    Manifest.open(folder, description)


DIFFERENCES = {
    "seed": (lambda x: x.update(seed=1), "seed: 0 in the run, 1 now"),
    "within a stage": (
        lambda x: x["stages"][1].update(epochs=9),
        "stages 2 > epochs: 2 in the run, 9 now",
    ),
    "deep": (
        lambda x: x["stages"][0]["optimizer"].update({"class": "SGD", "rate": 0.1}),
        "stages 1 > optimizer > class: 'Adam' in the run, 'SGD' now\n"
        "  stages 1 > optimizer > rate: None in the run, 0.1 now",
    ),
    "left out": (
        lambda x: x["stages"][0]["optimizer"].clear(),
        "stages 1 > optimizer > class: 'Adam' in the run, None now",
    ),
    "in a list": (
        lambda x: x["stages"][0].update(losses=["dkd"]),
        "stages 1 > losses 1: 'kd' in the run, 'dkd' now",
    ),
    "one more": (
        lambda x: x["stages"][0].update(losses=["kd", "at"]),
        "stages 1 > losses: ['kd'] in the run, ['kd', 'at'] now",
    ),
    "a stage less": (
        lambda x: x["stages"].pop(0),
        "stages: ['ta', 'student'] in the run, ['student'] now",
    ),
    "no teacher": (
        lambda x: x.update(teacher=None),
        "teacher: {'name': 'teacher', 'weights': '0a'} in the run, None now",
    ),
    "in what is called as a model's state": (
        lambda x: x["recipe"].update(files=["b"], state="other"),
        "recipe > files 1: 'a' in the run, 'b' now\n"
        "  recipe > state: 'any' in the run, 'other' now",
    ),
    "initial weights": (
        lambda x: x["stages"][1].update(initial_weights="2c"),
        "stages 2 > initial_weights: '1b' in the run, '2c' now\n"
        "The same initial weights come of building the models anew after "
        "keras.utils.set_random_seed with the same seed.",
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_another_run_is_refused_and_each_difference_named(folder, description, difference):
    change, lines = DIFFERENCES[difference]
    Manifest.open(folder, description).set_state("ta", "training")
    (folder / f".{'0' * 32}-a").write_text("half")
    before = everything(folder)
    change(description)
    with pytest.raises(RunError) as error:
        Manifest.open(folder, description)
    assert str(error.value) == (
        f"{folder} holds another run. Nothing was changed: choose another folder, or run "
        f"what was run there. Different are\n  {lines}"
    )
    assert everything(folder) == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "manifest.json is damaged: Expecting value"),
        ('{"format": 1, "kind": "ru', "manifest.json is damaged: Unterminated string"),
        ("[1]", "manifest.json is damaged"),
        ("{}", "manifest.json is damaged: 'format'"),
        ("\udcff", "manifest.json is damaged: .*can't decode byte"),
        ('{"format": 2, "kind": "run"}', "does not read. Received: format=2, kind='run'"),
        ('{"format": 1, "kind": "x"}', "does not read. Received: format=1, kind='x'"),
        ('{"format": 1, "kind": "seeds"}', "a run over several seeds, not one run."),
        ('{"format": 1, "kind": "run"}', "teacher: None in the run"),
    ],
)
def test_a_damaged_or_strange_manifest_is_refused(folder, description, text, message):
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    before = everything(folder)
    with pytest.raises(RunError, match=message):
        Manifest.open(folder, description)
    assert everything(folder) == before


def test_a_folder_of_something_else_is_refused(folder, description):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        Manifest.open(folder, description)
    with pytest.raises(FileExistsError, match="thesis.tex is a file"):
        Manifest.open(folder / "thesis.tex", description)
    with pytest.raises(RunError, match="is no run folder: it has no manifest.json"):
        manifest.read(folder)
    assert everything(folder) == {folder / "thesis.tex": b"mine"}


def test_what_a_killed_process_left_is_removed(folder, description):
    """It was killed as it wrote its first file, and as it wrote a later one."""
    for at in ("", "ta"):
        (folder / at).mkdir(parents=True, exist_ok=True)
        half_written = folder / at / f".{'0' * 32}-{MANIFEST}"
        half_written.write_text("{")
        Manifest.open(folder, description)
        assert not half_written.exists()
    assert list(everything(folder)) == [folder / MANIFEST]


def test_verify(folder, description):
    run = Manifest.open(folder, description)
    for name in ("model.keras", "history.csv", "more.txt"):
        (folder / "ta").mkdir(exist_ok=True)
        (folder / "ta" / name).write_text(name)
    run.set_done("ta", ["model.keras", "history.csv"])
    run = Manifest.open(folder, description)
    run.verify("ta")
    (folder / "ta" / "more.txt").unlink()
    run.verify("ta")
    (folder / "ta" / "history.csv").write_text("history.csw")
    with pytest.raises(RunError, match="ta/history.csv is not what the run wrote"):
        run.verify("ta")
    (folder / "ta" / "history.csv").write_text("history.csv")
    (folder / "ta" / "model.keras").unlink()
    with pytest.raises(RunError, match="ta/model.keras is missing from a finished"):
        run.verify("ta")


def test_a_full_disk_leaves_the_manifest_before(folder, description, full_disk):
    run = Manifest.open(folder, description)
    before = everything(folder)
    with full_disk(), pytest.raises(OSError):
        run.set_state("ta", "failed", error="long" * 1000)
    assert everything(folder) == before


SETTINGS = {"recipe_name": "mnist", "recipe": {"batch_size": 128, "seed": 0}}


def test_a_run_over_seeds(folder):
    assert manifest.open_seeds(str(folder), SETTINGS, [1, 0]) == folder
    first = content(folder)
    assert {key: first[key] for key in SETTINGS} == SETTINGS
    assert (first["kind"], first["seeds"]) == ("seeds", [0, 1])
    # What other processes made there stays, and so do seeds that are not asked for.
    (folder / "seed-0").mkdir()
    manifest.open_seeds(folder, SETTINGS, [0, 3])
    assert content(folder) == first | {"seeds": [0, 1, 3]}
    assert (folder / "seed-0").is_dir()


def test_another_run_over_seeds_is_refused(folder, description):
    manifest.open_seeds(folder, SETTINGS, [0])
    before = everything(folder)
    other = SETTINGS | {"recipe": {"batch_size": 64, "seed": 0}}
    with pytest.raises(RunError, match="recipe > batch_size: 128 in the run, 64 now"):
        manifest.open_seeds(folder, other, [0])
    with pytest.raises(RunError, match="holds a run over several seeds, not one run"):
        Manifest.open(folder, description)
    assert everything(folder) == before
    run = folder.with_name("run")
    Manifest.open(run, description | SETTINGS)
    with pytest.raises(RunError, match="holds one run, not a run over several seeds"):
        manifest.open_seeds(run, SETTINGS, [0])
    (folder.parent / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        manifest.open_seeds(folder.parent, SETTINGS, [0])


def test_the_processor_has_a_name_anywhere(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity")
    machine = manifest.environment()["machine"]
    assert isinstance(machine["processor"], str)
    assert machine["cores"] == os.cpu_count()


def test_a_folder_that_another_worker_does_not_see(folder, description):
    with pytest.raises(RunError, match="must see the same run folder"):
        Manifest.open(folder, description, writes=False)
    assert not folder.exists()


def test_a_manifest_of_before_has_no_code_to_compare(tmp_path, caplog):
    """What it says is compared, and that more would be is said."""
    stage = {"name": "s", "loss": {"function": "mine.loss", "code_sha256": "a"}}
    wanted = {"teacher": None, "stages": [stage]}
    Manifest.open(tmp_path, wanted)
    other = copy.deepcopy(wanted)
    other["stages"][0]["loss"]["code_sha256"] = "b"
    with pytest.raises(RunError, match="loss > code_sha256: 'a' in the run, 'b' now"):
        Manifest.open(tmp_path, other)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    assert content.pop("with_code") and content["stages"][0]["loss"].pop("code_sha256")
    path.write_text(json.dumps(content))
    Manifest.open(tmp_path, wanted)
    assert "is not compared" in caplog.text
    stage["loss"]["function"] = "mine.other"
    with pytest.raises(RunError, match="loss > function"):
        Manifest.open(tmp_path, wanted)


def test_what_a_run_began_with_is_remembered(tmp_path):
    manifest = Manifest.open(tmp_path, {"teacher": None, "stages": []})
    assert manifest.remember("random_state", "a") == "a"
    again = Manifest.open(tmp_path, {"teacher": None, "stages": []})
    assert again.remember("random_state", "b") == "a"


def test_other_versions_are_named_first(folder, description, caplog):
    Manifest.open(folder, description).set_done("teacher", [])
    path = folder / MANIFEST
    text = json.loads(path.read_text())
    text["versions"]["keras"], text["keras_kd"] = "3.0.1", "0.0.1"
    path.write_text(json.dumps(text))
    manifest = Manifest.open(folder, description)
    (said,) = caplog.records
    assert f"{folder} was begun with keras_kd 0.0.1 (" in said.getMessage()
    assert ", keras 3.0.1 (" in said.getMessage()
    other = description | {"seed": 1}
    with pytest.raises(RunError) as error:
        Manifest.open(folder, other)
    _, first, second = str(error.value).splitlines()
    assert first.startswith("  versions: the run was begun with keras_kd 0.0.1 (")
    assert second == "  seed: 0 in the run, 1 now"
    for stage in description["stages"]:
        manifest.set_done(stage["name"], [])
    caplog.clear()
    Manifest.open(folder, description)
    assert not caplog.records


def test_a_renamed_recipe_is_the_same_run(folder, description):
    """What it was called when the run began stays."""
    Manifest.open(folder, description | {"recipe_name": "mine"})
    renamed = description | {"recipe_name": "yours"}
    assert Manifest.open(folder, renamed).content["recipe_name"] == "mine"
    # As classes have, of a run that was begun before they had names.
    Manifest.open(folder, renamed | {"class_names": ["cat", "dog"]})
    with pytest.raises(RunError, match="(?s)recipe_name: 'mine' .*seed: 0 in the run"):
        Manifest.open(folder, {"recipe_name": "yours"} | description | {"seed": 1})
