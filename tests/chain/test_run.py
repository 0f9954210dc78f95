"""Run folders of chains: gone on with, refused, stopped, killed."""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import DistillationChain, Stage, losses
from keras_kd.chain.checkpoint import CheckpointError
from keras_kd.chain.stage_run import StageRun
from keras_kd.runs.manifest import RunError

SCRIPT = Path(__file__).with_name("killed_chain.py")


@pytest.fixture(scope="module")
def data(vectors):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(16)


@pytest.fixture(scope="module")
def make_chain(make_model):
    """Builds the same chain each time, but for what is given."""

    def make(seed=0, epochs=(2, 2), **second):
        keras.utils.set_random_seed(seed)
        teacher, first, student = make_model(16), make_model(8), make_model(4)
        stages = [
            Stage("first", first, epochs[0], "kd"),
            Stage("student", student, epochs[1], "kd", **second),
        ]
        return DistillationChain(teacher, stages)

    return make


SETTINGS = {"recipe_name": "mine", "batch_size": 16}


@pytest.fixture(scope="module")
def finished(make_chain, data, tmp_path_factory):
    """What `fit` returned, and the folder of its run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    how = {"run_dir": folder, "verbose": 0, "settings": SETTINGS}
    return make_chain().fit(data, data, **how), folder


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(finished[1], tmp_path / "run")


def files_of(folder):
    """dict of each file's path to its bytes and time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {x: (x.read_bytes(), x.stat().st_mtime_ns) for x in files}


def weights_of(path):
    return [x.tobytes() for x in keras.saving.load_model(path).get_weights()]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_never_was(tmp_path):
    """SIGKILL between and within writes, and whenever; the same bytes in the end."""
    process = subprocess.run(
        [sys.executable, SCRIPT, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    kills = json.loads(process.stdout)
    print(f"killed and gone on: {kills}")
    assert kills.pop("once") == 0
    assert sum(kills.values()) >= 15 and min(kills.values()) >= 3
    whole = tmp_path / "once"
    manifest = json.loads((whole / "manifest.json").read_text())
    stages = [x["name"] for x in manifest["stages"]]
    assert stages == ["ta", "branch", "student", "alone"]
    for how in kills:
        for name in ("teacher", *stages):
            a, b = whole / name, tmp_path / how / name
            assert weights_of(a / "model.keras") == weights_of(b / "model.keras")
            for file in ("answers.csv", "history.csv")[: 1 + (name != "teacher")]:
                assert (a / file).read_bytes() == (b / file).read_bytes()
            metrics = [json.loads((x / "metrics.json").read_text()) for x in (a, b)]
            assert metrics[0] | {"seconds": 0} == metrics[1] | {"seconds": 0}
        left = {x.relative_to(tmp_path / how) for x in (tmp_path / how).rglob("*")}
        there = {x.relative_to(whole) for x in whole.rglob("*")}
        events = {x for x in left | there if "tfevents" in x.name}
        assert left - events == there - events


def test_a_finished_run_is_taken_up_whole(make_chain, data, finished, run_dir):
    first = finished[0]
    before = files_of(run_dir)
    again = make_chain()
    fresh = again.stages[0].student.get_weights()
    second = again.fit(None, data, run_dir=run_dir, verbose=0, settings=SETTINGS)
    assert second.histories == first.histories
    assert second.table() == first.table()
    for name, student in first.students.items():
        for a, b in zip(student.get_weights(), second.students[name].get_weights()):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(fresh[0], second.students["first"].get_weights()[0])
    after = files_of(run_dir)
    assert after.keys() == before.keys()
    rewritten = {x.name for x in after if after[x] != before[x]}
    assert rewritten <= {"results.md", "results.json"}


def test_what_a_run_folder_holds(finished):
    folder = finished[1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe_name"] == "mine" and manifest["batch_size"] == 16
    states = [x["state"] for x in (manifest["teacher"], *manifest["stages"])]
    assert states == ["done"] * 3
    metrics = json.loads((folder / "student" / "metrics.json").read_text())
    assert metrics["taught_by"] == "first" and metrics["epochs"] == 2
    fidelity = metrics["evaluation"]["fidelity"]
    assert fidelity["teacher"] == "first" and 0 <= fidelity["agreement"] <= 1
    assert sorted(x.name for x in (folder / "student").iterdir()) == [
        "answers.csv", "events", "history.csv", "metrics.json", "model.keras",
        "saved_model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": (2, 3)}, "stages 2 > epochs: 2 in the run, 3 now"),
        ({"taught_by": "teacher"}, "stages 2 > taught_by 1: 'first' in the run, 'teacher'"),
        ({"student_loss_weight": 0.1}, "student_loss_weight: None in the run, 0.1 now"),
        (
            {"loss": keras.losses.MeanSquaredError(), "task": "multiclass"},
            "loss > class: 'SparseCat",
        ),
        ({"seed": 1}, "initial_weights.*set_random_seed with the same seed"),
    ],
)
def test_another_run_is_refused(make_chain, data, run_dir, change, message):
    before = files_of(run_dir)
    how = {"run_dir": run_dir, "verbose": 0, "settings": SETTINGS}
    with pytest.raises(RunError, match=f"(?s)holds another run.*{message}"):
        make_chain(**change).fit(data, data, **how)
    assert files_of(run_dir) == before


def test_damage_to_a_finished_stage_is_refused(make_chain, data, run_dir):
    folder, how = run_dir, {"verbose": 0, "settings": SETTINGS}
    model = folder / "first" / "model.keras"
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)
    before = files_of(folder)
    with pytest.raises(RunError, match="first/model.keras is not what the run wrote"):
        make_chain().fit(data, data, run_dir=folder, **how)
    model.unlink()
    with pytest.raises(RunError, match="first/model.keras is missing"):
        make_chain().fit(data, data, run_dir=folder, **how)
    assert files_of(folder).keys() == before.keys() - {model}


def test_a_folder_of_something_else_is_refused_before_training(make_chain, data, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    chain = make_chain()
    before = chain.stages[0].student.get_weights()[0]
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        chain.fit(data, data, run_dir=tmp_path, verbose=0)
    np.testing.assert_array_equal(chain.stages[0].student.get_weights()[0], before)
    assert [x.name for x in tmp_path.iterdir()] == ["mine.txt"]


def pressing(data, stage, times):
    """Training data; when those of a stage are asked for, Ctrl-C is pressed."""
    asked = []

    def train_data(teacher):
        asked.append(teacher)
        if len(asked) == stage:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return data

    return train_data


def test_ctrl_c_once_stops_when_the_epoch_is_saved(make_chain, data, finished, tmp_path):
    whole, folder = finished[1], tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after epoch 1, which is saved"):
        make_chain().fit(pressing(data, 2, times=1), data, run_dir=folder, verbose=0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (folder / "student" / "checkpoint.npz").is_file()
    assert len((folder / "student" / "history.csv").read_text().splitlines()) == 2
    result = make_chain().fit(lambda _: data, data, run_dir=folder, verbose=0)
    assert len(result.histories["student"]["loss"]) == 2
    for name in ("first", "student"):
        model = f"{name}/model.keras"
        assert weights_of(folder / model) == weights_of(whole / model)
    assert not (folder / "student" / "checkpoint.npz").exists()


def test_ctrl_c_twice_stops_now(make_chain, data, tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        make_chain().fit(pressing(data, 2, times=2), data, run_dir=tmp_path, verbose=0)
    assert str(stopped.value) == ""
    assert not (tmp_path / "student" / "checkpoint.npz").exists()


def test_a_failed_stage_is_written_down_with_the_last_good_student(
    make_model, data, tmp_path
):
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.01, 1e30])
    stage = Stage("s", make_model(), 3, optimizer=keras.optimizers.SGD(rates))
    with pytest.raises(FloatingPointError, match="^Stage 's': loss is .* in epoch 2") as e:
        DistillationChain(None, [stage]).fit(data, data, run_dir=tmp_path, verbose=0)
    (written,) = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    assert written["state"] == "failed" and written["error"] == str(e.value)


def test_one_process_at_a_time(make_chain, data, tmp_path):
    def train_data(teacher):
        make_chain().fit(data, data, run_dir=tmp_path, verbose=0)

    with pytest.raises(BlockingIOError, match="Another process is running in"):
        make_chain().fit(train_data, data, run_dir=tmp_path, verbose=0)


def test_test_data_in_another_order_each_time(make_chain, data, tmp_path, caplog):
    shuffled = data.unbatch().shuffle(64, seed=1).batch(16)
    result = make_chain().fit(data, data, verbose=0, test_data=shuffled)
    assert result.models[1].evaluation.fidelity is None
    assert "shuffled anew each time" in caplog.text


def test_a_teacher_of_other_classes_is_not_compared(make_model, data, tmp_path, caplog):
    """Layers can teach a student whatever the classes of the two are."""
    teacher = make_model(num_classes=5, name="t")
    names = teacher.layers[0].name, "hidden"
    student = make_model()
    student.layers[0].name = "hidden"
    stage = Stage("s", student, 1, losses.FitNet(taps=names))
    result = DistillationChain(teacher, [stage]).fit(data, data, tmp_path, verbose=0)
    assert result.models[1].evaluation.fidelity is None
    assert "s and teacher are not compared: `teacher` 'teacher' has 5" in caplog.text


def test_models_of_several_inputs(vectors, tmp_path):
    def make():
        inputs = [keras.Input((4,)), keras.Input((2,))]
        outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(inputs))
        return keras.Model(inputs, outputs)

    x, y = vectors
    data = tf.data.Dataset.from_tensor_slices(((x, x[:, :2]), y)).batch(16)
    stage = Stage("s", make(), 1, "kd")
    DistillationChain(make(), [stage]).fit(data, data, tmp_path, verbose=0)
    assert not (tmp_path / "s" / "disagreements.npz").exists()


def test_killed_behind_its_last_epoch_it_ends_with_the_averages_of_its_weights(
    make_model, data, tmp_path, monkeypatch
):
    def run(name):
        keras.utils.set_random_seed(0)
        optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
        chain = DistillationChain(None, [Stage("s", make_model(), 2, optimizer=optimizer)])
        return chain.fit(data, data, run_dir=tmp_path / name, verbose=0)

    def killed(*args, **kwargs):
        raise SystemExit

    whole = run("whole").students["s"].get_weights()
    with monkeypatch.context() as patch:
        patch.setattr("keras_kd.chain.result.Measuring.measure", killed)
        with pytest.raises(SystemExit):
            run("run")
    for a, b in zip(whole, run("run").students["s"].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_of_nan_is_not_the_best(make_model):
    stage = Stage("s", make_model(), 3, restore_best=True)
    run = StageRun(stage, None)
    run.history = {"loss": [1, 1, 1], "val_loss": [0.3, math.nan, 0.2]}
    assert run.best_epoch == 3


@keras.saving.register_keras_serializable()
class Counts(keras.metrics.Metric):
    """Of two classes."""

    def __init__(self, name="counts"):
        super().__init__(name=name)
        self.steps = self.add_variable((), "zeros")

    def update_state(self, *args, **kwargs):
        self.steps.assign_add(1)

    def result(self):
        return self.steps * np.array([1.0, 2.0], "float32")


def test_a_metric_with_a_value_for_each_class(make_model, data, tmp_path):
    stage = Stage("s", make_model(), 1, metrics=[Counts()])
    chain = DistillationChain(None, [stage])
    history = chain.fit(data, data, run_dir=tmp_path, verbose=0).histories["s"]
    assert (history["counts_0"], history["counts_1"]) == ([4.0], [8.0])


def test_numbers_of_numpy_are_written_down(make_model, data, tmp_path):
    weights = {"distillation_loss_weights": [np.float32(0.25)], "student_loss_weight": 0.5}
    stage = Stage("s", make_model(), np.int64(1), "kd", patience=np.int64(2), **weights)
    chain = DistillationChain(make_model(), [stage], seed=np.int64(3))
    chain.fit(data, data, run_dir=tmp_path, verbose=0, test_data=data.take(2))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (written,) = manifest["stages"]
    assert (written["loss_weights"], written["patience"]) == ([0.25], 2)
    assert (written["epochs"], manifest["seed"]) == (1, 3)


def test_settings_with_a_name_of_the_manifest(make_chain, data, tmp_path):
    settings = {"teacher": "resnet", "created": "today", "mine": 1}
    with pytest.raises(ValueError, match="does not use itself. Received: created, teacher"):
        make_chain().fit(data, data, run_dir=tmp_path, verbose=0, settings=settings)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_refused_and_nothing_changed(make_chain, data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_chain().fit(pressing(data, 1, times=1), data, run_dir=tmp_path, verbose=0)
    (tmp_path / "first" / "checkpoint.npz").write_bytes(b"no zip")
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="^Stage 'first': The checkpoint .* damaged"):
        make_chain().fit(data, data, run_dir=tmp_path, verbose=0)
    assert files_of(tmp_path) == before


def test_a_line_a_stage_where_the_root_logger_is_for_warnings(make_chain, data, capsys):
    root, handler = logging.getLogger(), logging.StreamHandler()
    root.addHandler(handler)
    try:
        make_chain().fit(data, data)
    finally:
        root.removeHandler(handler)
    lines = capsys.readouterr().out.splitlines()
    assert [x.partition(":")[0] for x in lines] == ["first", "student"]


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_after(monkeypatch, epochs, fit):
    """Runs `fit`, which dies after so many epochs of the whole chain."""
    left, end_epoch = [epochs], StageRun.end_epoch

    def dying(run, *args):
        end_epoch(run, *args)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "end_epoch", dying)
        with pytest.raises(Killed):
            fit()


@pytest.mark.parametrize("kind", ["one shuffle", "PyDataset"])
def test_what_two_stages_share_is_as_if_the_run_never_stopped(
    make_model, vectors, data, tmp_path, monkeypatch, kind
):
    """One data set, a frozen layer with a random state, one loss, one optimizer."""

    class Own(keras.utils.PyDataset):
        order = np.arange(64)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            rows = self.order[16 * index : 16 * index + 16]
            return tuple(x[rows] for x in vectors)

        def on_epoch_end(self):
            self.order = np.random.permutation(64)

    def fit(folder):
        keras.utils.set_random_seed(0)
        dropout = keras.layers.Dropout(0.5)
        models = [
            keras.Sequential([keras.Input((4,)), dense, dropout, keras.layers.Dense(3)])
            for dense in (keras.layers.Dense(x, name="hidden") for x in (8, 6, 4))
        ]
        shuffled = tf.data.Dataset.from_tensor_slices(vectors).shuffle(64, seed=1)
        parts = [Own()] * 2
        if kind == "one shuffle":
            parts = [shuffled.batch(16), shuffled.batch(32)]
        loss, optimizer = losses.FitNet(taps=("hidden", "hidden")), keras.optimizers.Adam()
        stages = [
            Stage(name, model, 2, loss, optimizer=optimizer, train_data=part)
            for name, model, part in zip(("a", "b"), models[1:], parts, strict=True)
        ]
        chain = DistillationChain(models[0], stages)
        return chain.fit(None, data, run_dir=folder, verbose=0)

    whole = fit(tmp_path / "whole")
    for epochs in (1, 2):
        killed_after(monkeypatch, epochs, lambda: fit(tmp_path / "run"))
    again = fit(tmp_path / "run")
    assert again.histories == whole.histories
    for name in whole.students:
        for a, b in zip(whole.students[name].weights, again.students[name].weights):
            np.testing.assert_array_equal(a, b)
    left = {x.name for x in (tmp_path / "run").rglob("*.npz")}
    assert not left


def same_weights(a, b):
    for name in a.students:
        for x, y in zip(a.students[name].weights, b.students[name].weights, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", ["endless", "arrays", "a part"])
def test_with_steps_an_epoch_it_is_as_if_the_run_never_stopped(
    make_chain, vectors, data, tmp_path, monkeypatch, kind
):
    def fit(folder, steps=3):
        examples = tf.data.Dataset.from_tensor_slices(vectors)
        make = {
            "endless": lambda _: examples.shuffle(64, seed=1).repeat().batch(16),
            "arrays": vectors,
            "a part": lambda _: examples.shuffle(64, seed=1).batch(8),
        }
        how = {"run_dir": folder, "verbose": 0, "steps_per_epoch": steps}
        return make_chain().fit(make[kind], data, **how)

    whole = fit(tmp_path / "whole")
    for epochs in (1, 2):
        killed_after(monkeypatch, epochs, lambda: fit(tmp_path / "run"))
    with pytest.raises(RunError, match="steps_per_epoch: 3 in the run, 4 now"):
        fit(tmp_path / "run", steps=4)
    again = fit(tmp_path / "run")
    assert again.histories == whole.histories
    same_weights(again, whole)


def test_endless_data_of_two_stages_are_a_doubt(
    make_chain, vectors, data, tmp_path, caplog
):
    train_data = tf.data.Dataset.from_tensor_slices(vectors).shuffle(64, seed=1)
    train_data = train_data.repeat().batch(16)
    make_chain().fit(train_data, data, tmp_path / "r", verbose=0, steps_per_epoch=3)
    assert "Stage 'student': " in caplog.text and "read ahead" in caplog.text
    assert "Stage 'first'" not in caplog.text


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3"])
def test_bad_steps(make_chain, data, steps):
    with pytest.raises(ValueError, match="`steps_per_epoch` must be an integer, 1 or"):
        make_chain().fit(data, data, verbose=0, steps_per_epoch=steps)


class Halves(keras.callbacks.Callback):
    """Halves the rate after an epoch, says so after every second one, and stops at last."""

    def __init__(self, last):
        super().__init__()
        self.last, self.trained = last, []

    def on_train_begin(self, logs=None):
        self.trained.append(self.model.student.name)

    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        rate.assign(rate / 2)
        if epoch % 2:
            logs["rate"] = float(rate)
        self.model.stop_training = epoch == self.last


def test_callbacks_of_the_user(make_chain, data, tmp_path, monkeypatch):
    """A stage that one has stopped is over, in another process, too."""

    def fit(folder, callback):
        how = {"run_dir": folder, "verbose": 0, "callbacks": callback}
        return make_chain(epochs=(4, 4)).fit(data, data, **how)

    halves = Halves(last=2)
    whole = fit(tmp_path / "whole", halves)
    assert len(halves.trained) == 2 and len(set(halves.trained)) == 2
    history = whole.histories["first"]
    assert len(history["loss"]) == 3
    np.testing.assert_allclose(history["rate"], [np.nan, 0.00025, np.nan], rtol=1e-6)
    for epochs in (2, 1):
        killed_after(monkeypatch, epochs, lambda: fit(tmp_path / "run", Halves(last=2)))
    again = fit(tmp_path / "run", Halves(last=2))
    same_weights(again, whole)
    assert [len(x["loss"]) for x in again.histories.values()] == [3, 3]


def test_callbacks_of_a_stage_that_is_gone_on_with(
    make_chain, data, tmp_path, monkeypatch, caplog
):
    def fit():
        how = {"run_dir": tmp_path / "run", "verbose": 0, "callbacks": of}
        return make_chain().fit(data, data, **how)

    def of(stage):
        return [Halves(9)] if stage.name == "first" else None

    killed_after(monkeypatch, 1, fit)
    fit()
    assert caplog.text.count("what its callbacks keep is in no checkpoint") == 1


@pytest.mark.parametrize("wrong", [["EarlyStopping"], lambda stage: stage.name, [1]])
def test_what_are_no_callbacks(make_chain, data, wrong):
    with pytest.raises(ValueError, match="`callbacks` must be a list of keras.callbacks"):
        make_chain().fit(data, data, verbose=0, callbacks=wrong)


def test_a_model_checkpoint_of_a_stage_on_labels_is_the_student(make_model, data, tmp_path):
    make = keras.callbacks.ModelCheckpoint
    weights = tmp_path / "kept.weights.h5"
    keep = [make(tmp_path / "kept.keras"), make(weights, save_weights_only=True)]
    stage = Stage("alone", make_model(), 1)
    result = DistillationChain(None, [stage]).fit(data, data, verbose=0, callbacks=keep)
    other = make_model()
    other.load_weights(weights)
    for kept in keras.saving.load_model(tmp_path / "kept.keras"), other:
        for a, b in zip(kept.weights, result.students["alone"].weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_writer_for_several_stages_is_warned_of(make_chain, data, tmp_path, caplog):
    def writer(stage=None):
        return [keras.callbacks.CSVLogger(tmp_path / "log.csv")]

    make_chain(epochs=(1, 1)).fit(data, data, verbose=0, callbacks=writer)
    alone = make_chain().stages[0]
    DistillationChain(alone.student, [Stage("a", make_chain().stages[1].student, 1)]).fit(
        data, data, verbose=0, callbacks=writer()
    )
    assert "one CSVLogger" not in caplog.text
    make_chain(epochs=(1, 1)).fit(data, data, verbose=0, callbacks=writer())
    assert "one CSVLogger serves all stages" in caplog.text


def test_callbacks_are_made_before_training(make_chain, data):
    chain = make_chain()
    before = chain.stages[0].student.get_weights()[0]
    with pytest.raises(ValueError, match="`callbacks` must be .*Received: 'a'"):
        wrong = {"first": None, "student": ["a"]}
        chain.fit(data, data, verbose=0, callbacks=lambda stage: wrong[stage.name])
    np.testing.assert_array_equal(chain.stages[0].student.get_weights()[0], before)


def test_without_a_saved_model_a_run_is_whole(
    make_chain, data, tmp_path, monkeypatch, caplog
):
    def refused(model, path):
        raise RuntimeError("a layer cannot be exported")

    monkeypatch.setattr("keras_kd.files.export_saved_model", refused)
    make_chain().fit(data, data, tmp_path / "run", verbose=0)
    assert "cannot be written as SavedModel: a layer cannot be exported" in caplog.text
    assert (tmp_path / "run" / "results.md").is_file()
    monkeypatch.undo()
    make_chain().fit(data, data, tmp_path / "run", verbose=0)
    assert (tmp_path / "run" / "student" / "saved_model").is_dir()


@pytest.mark.parametrize("one_hot", [False, True])
def test_arrays_one_hot_labels_and_weights(make_model, vectors, tmp_path, one_hot):
    """The table is that of a data set of class numbers; the losses are weighted."""
    x, y = vectors
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    labels = y
    if one_hot:
        loss, labels = keras.losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[y]
    weights = np.arange(64) / 32
    data = (x, labels, weights)
    stage = Stage("s", make_model(), 1, "kd", loss=loss)
    result = DistillationChain(make_model(), [stage]).fit(data, data, tmp_path, verbose=0)
    student = result.students["s"]
    logits = np.asarray(student(x), "float64")
    assert result.models[1].errors == np.sum(np.argmax(logits, axis=-1) != y)
    terms = np.log(np.sum(np.exp(logits), axis=-1)) - logits[np.arange(64), y]
    wanted = np.mean([np.mean((weights * terms)[i : i + 32]) for i in (0, 32)])
    (found,) = result.histories["s"]["val_student_loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_data_that_a_run_folder_could_not_go_on_with(make_chain, data, tmp_path):
    shuffled = data.unbatch().shuffle(64, seed=1)
    with pytest.raises(ValueError, match="share a shuffle"):
        make_chain().fit(shuffled.batch(16), shuffled.batch(8), tmp_path, verbose=0)
    generator = (x for x in data)
    with pytest.raises(ValueError, match="`train_data` can be gone through once"):
        make_chain().fit(generator, data, tmp_path, verbose=0)
    with pytest.raises(ValueError, match="`test_data` can be gone through once"):
        make_chain().fit(data, None, tmp_path, verbose=0, test_data=generator)
    with pytest.raises(ValueError, match="Stage 'student': `train_data` .* once"):
        make_chain(train_data=generator).fit(data, data, tmp_path, verbose=0)
    assert not list(tmp_path.iterdir())


def test_a_function_that_gives_the_same_data_again(make_chain, data, tmp_path):
    shuffled = data.shuffle(4, seed=1)
    with pytest.raises(ValueError, match="Stage 'student': the function `train_data` gave"):
        make_chain().fit(lambda _: shuffled, data, tmp_path, verbose=0)


def test_what_may_be_otherwise_is_said_in_each_run(make_chain, data, tmp_path, caplog):
    def seen(x, y):
        x.set_shape((None, 4))
        return x, y

    random = data.map(lambda x, y: (tf.numpy_function(lambda x: x, [x], tf.float32), y))
    for _ in range(2):
        caplog.clear()
        if not (tmp_path / "run").exists():
            with pytest.raises(KeyboardInterrupt):
                given = pressing(random.map(seen), 1, times=1)
                make_chain().fit(given, data, run_dir=tmp_path / "run", verbose=0)
        else:
            make_chain().fit(random.map(seen), data, run_dir=tmp_path / "run", verbose=0)
        assert "Stage 'first': gone on with after a stop" in caplog.text
        assert "Python functions make its data" in caplog.text
