"""Searches on the sample: their outcome, going on, several processes."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_kd.tuning
from keras_kd import data
from keras_kd.chain.stage_run import StageRun
from keras_kd.cli import main
from keras_kd.distribution import jobs as job_processes
from keras_kd.recipes import recipe
from keras_kd.recipes import run as recipe_run
from keras_kd.recipes import zoo
from keras_kd.runs.manifest import RunError
from keras_kd.tuning import trials as tune_trials
from keras_kd.tuning import tune as tunes
from keras_kd.tuning.recipe import TunedRecipe
from keras_kd.tuning.tune import tune
from tests import forked

TUNED = """
dataset = "mnist"
batch_size = 50
validation_examples = 100
[[stage]]
name = "ta"
model = "mnist_fc_16"
epochs = 2
[[stage]]
name = "idle"
model = "mnist_fc_4"
epochs = 1
[[stage]]
name = "student"
model = "mnist_fc_8"
epochs = {epochs}
taught_by = "ta"
losses = [{{ name = "kd", temperature = 4.0 }}]
[tune]
{tune}
[tune.space]
{space}
"""
RATES = "learning_rate = { min = 0.0001, max = 0.03, sampling = 'log' }"


@pytest.fixture
def load(write_recipe):
    def load(tune="trials = 3", space=RATES, epochs=1, **words):
        text = TUNED.format(tune=tune, space=space, epochs=epochs)
        for old, new in words.items():
            text = text.replace(old, new)
        return recipe.load(write_recipe(text=text), TunedRecipe)

    return load


@pytest.fixture
def no_test_images(sample_data, monkeypatch):
    """The sample, of which no one may read the test images."""
    load_arrays = data.load_arrays

    def refuse(name, split, data_dir):
        assert split == "train"
        return load_arrays(name, split, data_dir)

    monkeypatch.setattr(data, "load_arrays", refuse)


@pytest.fixture
def trained(monkeypatch):
    """Names of the stages, in the order in which an epoch of them ended."""
    names, end = [], StageRun.end_epoch

    def count(run, logs):
        end(run, logs)
        names.append(run.stage.name)

    monkeypatch.setattr(StageRun, "end_epoch", count)
    return names


def rows(folder):
    """The table: a list of dicts, in the order of the file."""
    lines = (folder / "trials.md").read_text().splitlines()
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_outcome(load, no_test_images, trained, tmp_path, capsys, monkeypatch):
    space = RATES + '\nloss = ["kd", "logit_mse"]\ntemperature = [1.0, 4.0]'
    tuned, folder, caches = load(space=space), tmp_path / "search", []
    run = tune_trials.Trials.run

    def spy(trials, values, *arguments, **options):
        metrics = run(trials, values, *arguments, **options)
        kept = (folder / recipe_run.TEACHER_OUTPUTS).iterdir()
        caches.append(sum(x.is_dir() for x in kept))
        return metrics

    monkeypatch.setattr(tune_trials.Trials, "run", spy)
    table = tune(tuned, folder, verbose=0)
    assert capsys.readouterr().out == ""
    # The assistant once, and what it says; what nobody needs never.
    assert trained == ["ta", "ta", "student", "student", "student"]
    assert caches == [1, 1, 1]
    assert not (folder / recipe_run.TEACHER_OUTPUTS).exists()
    assert not list(folder.rglob("checkpoint.npz"))

    assert (folder / "trials.md").read_text() == table + "\n"
    found = rows(folder)
    scores = [float(x["val_accuracy"]) for x in found]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
    assert sorted(x["trial"] for x in found) == ["1", "2", "3"]
    for row in found:
        assert 0.0001 <= float(row["learning_rate"]) <= 0.03
        assert (row["temperature"] == "-") == (row["loss"] == "`logit_mse`")
    assert (folder / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_best_recipe_runs_and_gives_what_the_search_saw(
    load, sample_data, tmp_path, monkeypatch
):
    folder = tmp_path / "search"
    tune(load(space=RATES + "\ntemperature = { min = 1, max = 9 }"), folder, verbose=0)
    best = rows(folder)[0]
    loaded = recipe.load(folder / "best.toml")
    student = loaded.stage[2]
    rate = student.optimizer.make().get_config()["learning_rate"]
    assert rate == pytest.approx(float(best["learning_rate"]))
    assert student.losses[0].make().temperature == float(best["temperature"])
    result, _ = recipe_run.run(loaded, tmp_path / "run", verbose=0)
    again = result.histories["student"]["val_accuracy"][-1]
    assert again == pytest.approx(float(best["val_accuracy"]), abs=5e-5)


def test_the_epoch_that_a_trial_is_judged_by(load, no_test_images, tmp_path, monkeypatch):
    """The one that a stage restores, else the last; of any stage."""

    def fit(run, *data):
        run.history = {"loss": [3.0, 2.0, 1.0], "val_accuracy": [0.1, 0.3, 0.2]}

    monkeypatch.setattr(StageRun, "fit", fit)
    best = '"mnist_fc_16"\nrestore_best = true\nmonitor = "val_accuracy"'
    for model, judged in (('"mnist_fc_16"', 0.2), (best, 0.3)):
        tuned = load("trials = 2\nstage = 'ta'", **{'"mnist_fc_16"': model})
        trials = tune_trials.Trials(tuned, None, tmp_path)
        trials.prepare(0)
        metrics = trials.run({"learning_rate": 0.05}, tmp_path / "trial")
        assert metrics == {"val_accuracy": judged}
    assert [x.name for x in (tmp_path / "trial").iterdir()] == ["ta"]


OWN = """
dataset = { path = "PATH" }
batch_size = 16
[[stage]]
name = "big"
model = { family = "mlp", width = 4 }
epochs = 1
[[stage]]
name = "small"
taught_by = "big"
model = { family = "mlp", max_parameters = 60 }
epochs = 1
losses = [{ name = "kd" }]
[tune]
trials = 2
[tune.space]
big.model = [{ family = "mlp", width = 8 }, { family = "mlp", max_parameters = 200 }]
"""


def test_models_in_the_shape_of_own_data(write_recipe, tmp_path):
    """Of which each trial knows as much as a run does."""
    numbers = np.random.default_rng(0).normal(size=(160, 3))
    lines = ["a,b,c,label"]
    for number, (a, b, c) in enumerate(numbers):
        lines.append(f"{a},{b},{'xyz'[number % 3]},{'no' if a > c else 'yes'}")
    (tmp_path / "d.csv").write_text("\n".join(lines))
    path = write_recipe(text=OWN.replace("PATH", str(tmp_path / "d.csv")))
    tuned = recipe.load(path, TunedRecipe)
    assert tuned.is_sized_by_data
    tune(tuned, tmp_path / "search", verbose=0)
    found = rows(tmp_path / "search")
    labels = {"`mlp, width = 8`", "`mlp, max_parameters = 200`"}
    assert {x["big.model"] for x in found} == labels
    best = recipe.load(tmp_path / "search" / "best.toml")
    label = found[0]["big.model"].strip("`").removeprefix("mlp, ")
    assert label.replace(" = ", "=") in repr(best.stage[0].model)
    result, _ = recipe_run.run(best, tmp_path / "run", verbose=0)
    # The trial, and a run of it, end with the same student.
    held_out = result.histories["small"]["val_accuracy"][-1]
    assert held_out == pytest.approx(float(found[0]["val_accuracy"]), abs=1e-4)


def test_an_assistant_is_searched_for_its_student(load, no_test_images, trained, tmp_path):
    tuned = load("trials = 2", 'ta.model = ["mnist_fc_12", "mnist_fc_16"]')
    tune(tuned, tmp_path / "search", verbose=0)
    assert trained == ["ta", "ta", "student"] * 2
    with pytest.raises(ValueError, match="stage 'idle' does not teach 'student', by which"):
        tune(load(space="idle.learning_rate = [0.1, 0.2]"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def interrupted(monkeypatch, at):
    """Ctrl-C after the `at`-th epoch of a student."""
    ends, end = [], StageRun.end_epoch

    def stop(run, logs):
        end(run, logs)
        ends.extend([1] * (run.stage.name == "student"))
        if len(ends) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageRun, "end_epoch", stop)


def test_goes_on_as_if_it_had_not_stopped(load, no_test_images, tmp_path, monkeypatch):
    """With the strategy whose values hang on what was found before: from the fourth."""
    tuned = load('strategy = "bayesian"\ntrials = 4', epochs=2)
    whole = tune(tuned, tmp_path / "whole", verbose=0)
    folder = tmp_path / "search"
    for at in (1, 6):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted(patch, at)
            tune(tuned, folder, verbose=0)
        assert not (folder / "best.toml").exists()
    epochs = []
    run = tune_trials.Trials.run

    def spy(trials, values, *arguments, **options):
        metrics = run(trials, values, *arguments, **options)
        epochs.append(values)
        return metrics

    monkeypatch.setattr(tune_trials.Trials, "run", spy)
    # Stopped in the fourth trial's first epoch, or the like, so one is left or two.
    assert tune(tuned, folder, verbose=0) == whole
    assert len(epochs) in (1, 2)
    epochs.clear()
    assert tune(tuned, folder, verbose=0) == whole and not epochs
    # More are added to those that are there.
    more = load('strategy = "bayesian"\ntrials = 5', epochs=2)
    assert len(tune(more, folder, verbose=0).splitlines()) == 2 + 5 and len(epochs) == 1


def test_ctrl_c_that_a_library_swallows_stops_before_the_next_trial(
    load, no_test_images, tmp_path, monkeypatch
):
    """As in a callback of the garbage collector, whose exceptions Python throws away."""
    handler = signal.getsignal(signal.SIGINT)
    tuned, folder, ran = load("trials = 3"), tmp_path / "search", []
    run = tune_trials.Trials.run

    def press(trials, values, *arguments, **options):
        ran.append(values)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        return run(trials, values, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tune_trials.Trials, "run", press)
        with pytest.raises(KeyboardInterrupt):
            tune(tuned, folder, verbose=0)
    assert len(ran) == 1 and signal.getsignal(signal.SIGINT) is handler
    assert not (folder / "best.toml").exists()
    assert len(tune(tuned, folder, verbose=0).splitlines()) == 2 + 3


def test_another_search_is_refused(load, sample_data, tmp_path):
    folder = tmp_path / "search"
    tune(load("trials = 1"), folder, verbose=0)
    before = {x: x.stat().st_mtime_ns for x in folder.rglob("*") if x.is_file()}
    other = RATES.replace("0.03", "0.02")
    with pytest.raises(RunError, match="learning_rate > max: 0.03 in the run, 0.02 now"):
        tune(load("trials = 1", other), folder)
    with pytest.raises(RunError, match="holds a search, not one run"):
        recipe_run.run(load().with_values({}), folder, verbose=0)
    assert {x: x.stat().st_mtime_ns for x in folder.rglob("*") if x.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(FileExistsError, match="is not empty. Nothing was changed"):
        tune(load(), tmp_path / "mine")


def test_a_chief_that_was_killed_has_lost_no_trial(load, no_test_images, tmp_path, trained):
    """Between its writes: a trial is done, and not yet taken from those that are not."""
    tuned, folder = load("trials = 2"), tmp_path / "search"
    table = tune(tuned, folder, verbose=0)
    path = folder / "search" / "oracle.json"
    state = json.loads(path.read_text())
    first, second = state["start_order"]
    state |= {"ongoing_trials": {"tuner0": second}, "end_order": [first]}
    path.write_text(json.dumps(state))
    trained.clear()
    assert tune(tuned, folder, verbose=0) == table and trained == []
    # A trial that no state knows of is not one.
    stray = folder / "search" / "trial_7"
    stray.mkdir()
    text = (folder / "search" / f"trial_{second}" / "trial.json").read_text()
    (stray / "trial.json").write_text(
        text.replace(f'"trial_id": "{second}"', '"trial_id": "7"')
    )
    assert tune(tuned, folder, verbose=0) == table and trained == []


def test_hyperband_goes_on_with_the_best(load, no_test_images, tmp_path, trained):
    tuned, folder = load('strategy = "hyperband"', epochs=3), tmp_path / "search"
    tune(tuned, folder, verbose=0)
    found = {x["trial"]: x for x in rows(folder)}
    # Three of an epoch, of which the best has two more; then two of all three.
    assert [found[str(i)]["epochs"] for i in range(1, 7)] == ["1", "1", "1", "3", "3", "3"]
    first = max((found[x] for x in "123"), key=lambda x: float(x["val_accuracy"]))
    assert found["4"]["learning_rate"] == first["learning_rate"]
    assert trained.count("student") == 3 * 1 + 2 + 2 * 3
    # As trained in one go.
    history = list((folder / "search").glob("trial_*3/student/history.csv"))
    with open(history[0]) as file:
        went_on = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
    assert len(went_on) == 3
    values = {"learning_rate": float(found["4"]["learning_rate"])}
    trials = tune_trials.Trials(tuned, None, folder)
    trials.prepare(0)
    once = trials.run(values, tmp_path / "once", epochs=3)
    assert once["val_accuracy"] == went_on[-1]


def test_what_does_not_converge_has_failed(load, no_test_images, tmp_path, caplog, capfd):
    tuned = load("trials = 2", "learning_rate = [0.01, 1e38]")
    with caplog.at_level("INFO", "keras_kd"):
        tune(tuned, tmp_path / "search")
    assert "Traceback" not in capfd.readouterr().err
    (line,) = [x for x in caplog.messages if ": failed: " in x]
    assert re.match(r"trial \d: failed: student_loss is .* in epoch 1", line)
    good, bad = rows(tmp_path / "search")
    assert (bad["val_accuracy"], bad["learning_rate"]) == ("failed", "1e+38")
    assert "0.01" in (tmp_path / "search" / "best.toml").read_text()
    tuned = load("trials = 2", "learning_rate = [1e37, 1e38]")
    with pytest.raises(FloatingPointError, match="None of the 2 trials converged"):
        tune(tuned, tmp_path / "other", verbose=0)
    assert not (tmp_path / "other" / "best.toml").exists()


def test_an_error_ends_the_search(load, no_test_images, tmp_path):
    tuned = load("trials = 2\nobjective = 'val_acuracy'")
    with pytest.raises(ValueError, match="Received: 'val_acuracy'. Known: val_accuracy, "):
        tune(tuned, tmp_path / "search", verbose=0)


def test_a_teacher_sees_its_own_scale(load, tmp_path, monkeypatch):
    zoo.build("mnist_fc_8").save(tmp_path / "teacher.keras")
    head = f'teacher = "{tmp_path}/teacher.keras"\nteacher_scale = "bytes"\nbatch_size'
    loaded, seen = load(batch_size=head), []

    def look(recipe, teacher, folder, data_dir):
        seen.append(teacher)
        raise InterruptedError

    monkeypatch.setattr(tune_trials, "Trials", look)
    with pytest.raises(InterruptedError):
        tune(loaded, tmp_path / "search", verbose=0)
    (teacher,) = seen
    images = np.random.default_rng(0).random((4, 28, 28, 1), "float32")
    own = keras.saving.load_model(tmp_path / "teacher.keras")
    np.testing.assert_allclose(teacher(images), own(images * 255), rtol=1e-4, atol=1e-4)


def test_without_keras_tuner(load, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "keras_kd.tuning.search", raising=False)
    monkeypatch.delattr(keras_kd.tuning, "search", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras_kd\[tune\]'"):
        tune(load(), tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_command(write_recipe, no_test_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(text=TUNED.format(tune="trials = 2", space=RATES, epochs=1))
    result = CliRunner().invoke(main, ["tune", "mine.toml"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "Folder: runs/mine" and lines[1].startswith("ta: taught by labels, ")
    line = r"trial \d: val_accuracy 0\.\d{4} with learning_rate [\d.e-]+, \d+ s"
    assert all(re.fullmatch(line, x) for x in lines[2:4])
    table = Path("runs/mine/trials.md").read_text()
    assert result.output.endswith(
        f"\n\n{table}\nTo run the best: keras-kd run runs/mine/best.toml\n"
    )
    refused = CliRunner().invoke(main, ["run", "mine.toml"])
    assert refused.exit_code == 1 and "tune: goes with keras-kd tune" in refused.output


def test_roles(load, tmp_path, monkeypatch, no_test_images):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(ValueError, match="must have KERASTUNER_TUNER_ID, too"):
        tune(load(), tmp_path / "search")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setattr(tunes, "PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match="no chief at 127.0.0.1:1, .* for 0.1 s"):
        tune(load(), tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_worker_that_comes_late(load, tmp_path, monkeypatch, no_test_images, caplog):
    tuned, folder = load("trials = 1"), tmp_path / "search"
    tune(tuned, folder, verbose=0)
    for name, value in role("worker0", 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tunes, "PATIENCE", 5)
    with caplog.at_level("INFO", "keras_kd"):
        assert tune(tuned, folder) is None
    assert "The search is over" in caplog.text
    with pytest.raises(RunError, match="objective: 'val_accuracy' in the run"):
        tune(load("trials = 1\nobjective = 'val_loss'"), folder)


@pytest.fixture
def in_this_process(monkeypatch):
    """Lets jobs do their tasks here, two begun at a time, but for those in a given dict."""
    lost = {}

    def run(module, setup, shares, tasks, say, bar=None):
        assert module == "keras_kd.tuning.trials" and len(shares) == 2 and bar is None
        work = tune_trials._begin(json.loads(json.dumps(setup)), None)
        failed, begun = {}, [tasks.take(), tasks.take()]
        while any(begun):
            # The later one ends first.
            label, task = next(x for x in reversed(begun) if x)
            begun.remove((label, task))
            if label in lost:
                kind, message = lost[label]
                if not tasks.failed(label, kind, message):
                    failed[label] = message
            else:
                tasks.done(label, json.loads(json.dumps(work(task))))
            begun.append(tasks.take())
        return failed

    monkeypatch.setattr(job_processes, "run", run)
    monkeypatch.setattr(job_processes, "cores", lambda: [0, 1])
    return lost


def test_trials_side_by_side(load, no_test_images, in_this_process, tmp_path):
    """As one after the other; one that is lost is tried again, and one that is NaN not."""
    tuned, folder = load("trials = 3"), tmp_path / "jobs"
    in_this_process["trial 2"] = "OSError", "its process was killed"
    in_this_process["trial 3"] = "FloatingPointError", "a loss is NaN"
    with pytest.raises(job_processes.JobError, match="trial 2: its process was killed"):
        tune(tuned, folder, verbose=0, jobs=2)
    assert not (folder / "trials.md").exists()
    del in_this_process["trial 2"]
    tune(tuned, folder, verbose=0, jobs=2)
    tune(load("trials = 2"), tmp_path / "one", verbose=0)
    *found, failed = rows(folder)
    assert failed["trial"] == "3" and failed["val_accuracy"] == "failed"
    assert found == rows(tmp_path / "one")


def test_jobs_or_a_chief_but_not_both(load, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`jobs` must be an integer, 1 or greater"):
        tune(load(), tmp_path / "search", jobs=0)
    for name, value in role("worker0", 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="KERASTUNER_TUNER_ID.*one of several.*jobs=2"):
        tune(load(), tmp_path / "search", jobs=2)
    assert not (tmp_path / "search").exists()


COMMAND_LINE = Path(__file__).parents[1] / "sample_command_line.py"
# What a process says of a trial that is done.
LINE = re.compile(r"^trial \d+: ", re.MULTILINE)


class Started(forked.Popen):
    """`keras-kd` in a process of its own, on the sample; what it says is in files."""

    def __init__(self, *arguments, **variables):
        self._files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]
        command = [sys.executable, str(COMMAND_LINE), *map(str, arguments)]
        super().__init__(command, os.environ | variables, *self._files)

    @property
    def output(self):
        return Path(self._files[0].name).read_text()

    @property
    def error(self):
        return Path(self._files[1].name).read_text()

    def wait_for(self, there):
        """Until `there()`; fails when the process ends before."""
        while not there():
            assert self.poll() is None, self.error
            time.sleep(0.01)


@contextlib.contextmanager
def ended(processes):
    """Ends the processes of a list when the block is left, however that is."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_killed_processes(write_recipe, no_test_images, tmp_path):
    """With SIGKILL: while the second trial is trained, and somewhere after it."""
    text = TUNED.format(tune="trials = 3", space=RATES, epochs=20)
    path, folder = write_recipe(text=text), tmp_path / "search"
    command = ("tune", path, "--run-dir", folder)

    def second_is_trained():
        one_is_done = "trial 1: " in process.output
        return one_is_done and list(folder.rglob("checkpoint.npz"))

    with ended([Started(*command)]) as (process,):
        process.wait_for(second_is_trained)
    assert "trial 1: " in process.output and process.returncode == -9
    with ended([Started(*command)]) as (process,):
        process.wait_for(lambda: "trial 2: " in process.output)
        time.sleep(0.3)
    assert "trial 1: " not in process.output
    with ended([Started(*command)]) as (process,):
        assert process.wait(timeout=200) == 0, process.error
    assert "ta: done before" in process.output and "trial 1: " not in process.output
    whole = tune(recipe.load(path, TunedRecipe), tmp_path / "whole", verbose=0)
    assert (folder / "trials.md").read_text() == whole + "\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def role(name, port):
    """The variables of a process that searches with others."""
    return {
        "KERASTUNER_TUNER_ID": name,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
    }


@pytest.mark.slow
def test_a_chief_and_two_workers(write_recipe, tmp_path):
    space = RATES + '\nloss = ["kd", "logit_mse"]\ntemperature = [1.0, 4.0]'
    path = write_recipe(text=TUNED.format(tune="trials = 5", space=space, epochs=15))
    folder, port, until = tmp_path / "search", free_port(), time.monotonic() + 400
    command = ("tune", path, "--run-dir", folder)
    names = ("worker0", "worker1", "chief")
    with ended([Started(*command, **role(x, port)) for x in names]) as processes:
        # One of them dies within a trial, and is started again under its name.
        second = processes[1]
        second.wait_for(lambda: re.search(LINE, second.output))
        second.kill()
        assert second.wait() == -9
        processes[1] = Started(*command, **role("worker1", port))
        outputs = {}
        for name, process in zip(names, processes, strict=True):
            left = max(1, until - time.monotonic())
            assert process.wait(timeout=left) == 0, process.error
            outputs[name] = process.output
    found = rows(folder)
    assert sorted(int(x["trial"]) for x in found) == list(range(1, 6))
    assert not any(x["val_accuracy"] == "failed" for x in found)
    assert re.search(LINE, outputs["worker0"])
    # The assistant was trained once, by one of them.
    assert (folder / "before" / "ta" / "model.keras").is_file()
    assert "ta: taught by labels" not in outputs["worker1"]
    assert (folder / "trials.md").read_text().strip() in outputs["chief"]
    best = recipe.load(folder / "best.toml").stage[2].optimizer.make().get_config()
    assert best["learning_rate"] == pytest.approx(float(found[0]["learning_rate"]))
