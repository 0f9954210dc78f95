"""A recipe over several seeds, one after the other and in processes side by side."""

import json
import os
import signal
import statistics
import threading
import time

import keras
import numpy as np
import pytest

from keras_kd import datasets
from keras_kd.distribution import jobs as job_processes
from keras_kd.recipes import recipe
from keras_kd.recipes import run as recipe_run
from keras_kd.recipes import seeds, zoo
from keras_kd.recipes.seeds import run_seeds
from keras_kd.runs.manifest import RunError
from tests.recipes.test_run import chain_text, of_small_networks


@pytest.fixture
def write_recipe(write_recipe):
    return of_small_networks(write_recipe)


def test_several_seeds(write_recipe, sample_data, tmp_path):
    loaded, folder = recipe.load(write_recipe(), seed=3), tmp_path / "run"
    table = run_seeds(loaded, 2, folder, verbose=0)
    assert table + "\n" == (folder / "results.md").read_text()
    runs = [json.loads((folder / f"seed-{x}" / "results.json").read_text()) for x in (3, 4)]
    values = [100 * x["models"][0]["evaluation"]["accuracy"] for x in runs]
    cell = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert table.splitlines()[2].split("|")[3:5] == ["       2 ", f" {cell:>14} "]
    assert runs[0]["models"][0]["evaluation"] != runs[1]["models"][0]["evaluation"]

    before = (folder / "seed-3" / "first" / "model.keras").stat().st_mtime_ns
    more = run_seeds(loaded, 3, folder, verbose=0)
    assert more.splitlines()[2].split("|")[3] == "       3 "
    assert (folder / "seed-3" / "first" / "model.keras").stat().st_mtime_ns == before
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["seeds"]) == ("seeds", [3, 4, 5])
    with pytest.raises(RunError, match="stage 1 > epochs: 1 in the run, 2 now"):
        other = recipe.load(write_recipe(), seed=3, epochs=2)
        run_seeds(other, 2, folder, verbose=0)
    with pytest.raises(RunError, match="holds a run over several seeds, not one run"):
        recipe_run.run(loaded, folder, verbose=0)
    with pytest.raises(RunError, match="seed-3 holds one run, not a run over several"):
        run_seeds(loaded, 2, folder / "seed-3", verbose=0)
    with pytest.raises(ValueError, match="the last of 3 seeds from 4294967295 on would be"):
        last = loaded.model_copy(update={"seed": 2**32 - 1})
        run_seeds(last, 3, tmp_path / "none", verbose=0)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="`seeds` must be at least 1"):
        run_seeds(loaded, 0, tmp_path / "none", verbose=0)


def test_the_data_are_read_once(write_recipe, sample_data, tmp_path, monkeypatch):
    read, load = [], recipe_run.recipe_data.load

    def counted(*arguments, **more):
        read.append(load(*arguments, **more))
        return read[-1]

    monkeypatch.setattr(recipe_run.recipe_data, "load", counted)
    run_seeds(recipe.load(write_recipe()), 3, tmp_path / "run", verbose=0)
    assert len(read) == 1


def test_fewer_seeds_keep_the_table_of_all(write_recipe, sample_data, tmp_path):
    loaded, folder = recipe.load(write_recipe(), seed=3), tmp_path / "run"
    of_three = run_seeds(loaded, 3, folder, verbose=0)
    files = {x: (folder / x).read_text() for x in ("results.md", "results.json")}
    assert run_seeds(loaded, 1, folder, verbose=0) == of_three
    assert files == {x: (folder / x).read_text() for x in files}
    # What another seed has not finished is in no table.
    (folder / "seed-5" / "results.json").unlink()
    of_two = run_seeds(loaded, 1, folder, verbose=0)
    assert of_two.splitlines()[2].split("|")[3] == "       2 "
    assert sorted(json.loads((folder / "results.json").read_text())) == ["3", "4"]


def test_a_given_model_is_one_for_all_seeds(write_recipe, sample_data, tmp_path):
    zoo.build("mnist_fc_8").save(tmp_path / "teacher.keras")
    text = chain_text(tmp_path / "teacher.keras").replace("epochs = 2", "epochs = 1")
    loaded = recipe.load(write_recipe(text=text))
    table = run_seeds(loaded, 2, tmp_path / "run", verbose=0).splitlines()
    seeds = {x.split("|")[1].strip(): x.split("|")[3].strip() for x in table[2:]}
    assert seeds == {"teacher": "1", "student": "2", "alone": "2"}
    assert "±" not in table[2] and "±" in table[3]


def test_values_over_seeds(write_recipe, tmp_path):
    x = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=x[:, 0] * 3)
    text = f"""
dataset = {{ path = "{tmp_path}/data.npz" }}
batch_size = 16
[[stage]]
name = "alone"
model = {{ family = "mlp", width = 2 }}
epochs = 1
"""
    loaded = recipe.load(write_recipe(text=text))
    table = run_seeds(loaded, 2, tmp_path / "runs", verbose=0)
    errors = []
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"seed-{seed}" / "alone"
        test_x, labels = datasets.load(loaded.dataset.make()).test
        model = keras.saving.load_model(folder / "model.keras")
        answers = model.predict(test_x, verbose=0)[:, 0]
        errors.append(np.mean(np.abs(answers - labels)))
    mean, deviation = statistics.mean(errors), statistics.stdev(errors)
    assert "| mean absolute error |" in " ".join(table.splitlines()[0].split())
    assert f"{mean:.4f} ± {deviation:.4f}" in table


OWN = """
dataset = {{ path = "{path}" }}
batch_size = 16
teacher = "{teacher}"
teacher_scale = "bytes"
[[stage]]
name = "first"
model = "{model}"
epochs = {epochs}
losses = [{{ name = "kd" }}]
"""


@pytest.fixture
def own_data(write_recipe, tmp_path):
    """A function that gives a recipe of files, which other processes see, too."""

    def make(epochs, model):
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (160, 28, 28, 1)).astype("uint8")
        np.savez(tmp_path / "data.npz", x=images, y=np.arange(160) % 10)
        keras.utils.set_random_seed(0)
        zoo.build("mnist_fc_8").save(tmp_path / "t.keras")
        given = {"path": tmp_path / "data.npz", "teacher": tmp_path / "t.keras"}
        text = OWN.format(**given, epochs=epochs, model=model)
        return recipe.load(write_recipe(text=text))

    return make


def in_files(folder):
    """The weights of all models, and the results without what a clock said.

    A file's own bytes also hold a date, and names that Keras numbers in a process.
    """
    weights = {}
    for path in folder.rglob("model.keras"):
        values = keras.saving.load_model(path).get_weights()
        weights[str(path.relative_to(folder))] = [x.tobytes() for x in values]
    results = json.loads((folder / "results.json").read_text())
    for models in results.values():
        for model in models:
            del model["seconds"], model["file_bytes"]
    return weights, results


def test_what_seeds_share_is_made_before_they_begin(
    own_data, tmp_path, monkeypatch, capsys
):
    """Their processes' part is done in this one."""
    shares, said = [], []

    class Told:
        share = staticmethod(shares.append)

    def run(module, setup, parts, tasks, say, bar, prepare):
        prepare()
        assert module == "keras_kd.recipes.seeds" and len(parts) == 2 and bar is None
        said.append(capsys.readouterr().out)
        work = seeds._begin(json.loads(json.dumps(setup)), Told)
        while taken := tasks.take():
            work(taken[1])
            kept = (tmp_path / "jobs" / seeds.TEACHER_OUTPUTS).iterdir()
            assert len(list(kept)) == 1
        return {}

    monkeypatch.setattr(job_processes, "run", run)
    monkeypatch.setattr(job_processes, "cores", lambda: [0, 1])
    monkeypatch.setattr(seeds.progress.Progress, "shown_elsewhere", None)
    table = run_seeds(own_data(1, "mnist_fc_4"), 2, tmp_path / "jobs", jobs=2)
    assert said[0].count("Data: ") == 1 and "Jobs: 2; cores of each: 1 of 2" in said[0]
    assert "Data: " not in capsys.readouterr().out
    assert shares and max(shares) <= 1.0
    assert table + "\n" == (tmp_path / "jobs" / "results.md").read_text()
    assert not (tmp_path / "jobs" / seeds.TEACHER_OUTPUTS).exists()


def test_jobs_that_are_none(write_recipe, tmp_path):
    loaded = recipe.load(write_recipe())
    for jobs in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="`jobs` must be an integer, 1 or greater"):
            run_seeds(loaded, 2, tmp_path / "none", jobs=jobs)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", recipe.names())
def test_what_a_process_is_told_is_the_recipe(name):
    kind = recipe.Recipe
    if name == "mnist_tune":
        from keras_kd.tuning.recipe import TunedRecipe as kind
    loaded = recipe.load(name, kind)
    told = json.loads(json.dumps(loaded.model_dump(**recipe.AS_JSON)))
    assert kind.model_validate(told) == loaded


@pytest.mark.slow
def test_one_of_two_is_killed(own_data, tmp_path, monkeypatch):
    """The other one goes on; the same call again ends as if none had been killed."""
    loaded, folder, started = own_data(3, "mnist_cnn_2_2"), tmp_path / "jobs", []
    start = job_processes._Run._start

    def remember(run, own):
        started.append(start(run, own))
        return started[-1]

    monkeypatch.setattr(job_processes._Run, "_start", remember)

    def kill():
        # While it trains.
        while not (folder / "seed-1" / "first" / "checkpoint.npz").is_file():
            time.sleep(0.02)
        (job,) = (x for x in started if x.label == "seed 1")
        os.kill(job.process.pid, signal.SIGKILL)

    if len(job_processes.cores()) < 2:
        monkeypatch.setattr(job_processes, "cores", lambda: [*os.sched_getaffinity(0)] * 2)
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(job_processes.JobError, match="seed 1: .*SIGKILL") as error:
        run_seeds(loaded, 2, folder, jobs=2)
    assert f"--run-dir {folder} --resume" in str(error.value)
    assert (folder / "seed-0" / "results.json").is_file()
    assert not (folder / "results.json").exists()
    run_seeds(loaded, 2, folder, verbose=0)
    run_seeds(loaded, 2, tmp_path / "one", verbose=0)
    assert in_files(folder) == in_files(tmp_path / "one")


@pytest.mark.parametrize("jobs", [1, 2])
def test_seeds_that_are_refused_leave_no_folder(write_recipe, sample_data, tmp_path, jobs):
    """Another recipe may begin there."""
    text = chain_text(tmp_path / "none.keras")
    with pytest.raises((FileNotFoundError, job_processes.JobError), match="none.keras"):
        loaded = recipe.load(write_recipe(text=text))
        run_seeds(loaded, 2, tmp_path / "run", verbose=0, jobs=jobs)
    assert not (tmp_path / "run").exists()
