"""One stage's training: stopped and gone on with, ended early, gone wrong."""

import csv
import functools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Stage
from keras_kd.chain import checkpoint
from keras_kd.chain.passes import skip_epochs
from keras_kd.chain.progress import CtrlC
from keras_kd.chain.stage_run import StageRun, read_history


@pytest.fixture
def new_data(vectors):
    """Training batches in another order each epoch, by a seed; and validation batches."""

    def make():
        examples = tf.data.Dataset.from_tensor_slices(vectors)
        return examples.shuffle(64, seed=1).batch(16), examples.batch(64)

    return make


@pytest.fixture
def data(new_data):
    return new_data()


@pytest.fixture
def new_run(make_model):
    """Builds a run of a student with dropout, the same each time, as a process would."""

    def make(folder=None, ctrl_c=None, teacher=None, **arguments):
        keras.utils.set_random_seed(0)
        model = make_model()
        layers = [model.layers[0], keras.layers.Dropout(0.3), model.layers[1]]
        student = keras.Sequential([keras.layers.Input((4,)), *layers])
        optimizer = arguments.pop("optimizer", lambda: keras.optimizers.Adam(0.05))
        arguments = {"epochs": 3, "optimizer": optimizer()} | arguments
        stage = Stage("s", student, **arguments)
        if folder:
            folder.mkdir(exist_ok=True)
        return StageRun(stage, stage.model_to_fit(teacher), folder, ctrl_c)

    return make


def weights(run):
    return [x.tobytes() for x in run.stage.student.get_weights()]


def fake_epochs(run, epochs):
    """Ends epochs with such metrics, and with weights that tell which it was."""
    for logs in epochs:
        number = run.epochs_done + 1
        run.stage.student.set_weights(
            [np.full(x.shape, number) for x in run.stage.student.get_weights()]
        )
        run.end_epoch(logs)
        if run.model.stop_training:
            break


def epoch_of(run):
    """Of which epoch the weights of `fake_epochs` are."""
    numbers = {float(y) for x in run.stage.student.get_weights() for y in np.ravel(x)}
    (number,) = numbers
    return number


def validated(*losses):
    return [{"loss": 1.0, "val_loss": x, "val_accuracy": 1 - x} for x in losses]


def test_in_memory(new_run, data):
    run = new_run()
    assert (run.epochs_done, run.history, run.best_epoch) == (0, {}, None)
    before = weights(run)
    run.fit(*data)
    assert run.epochs_done == 3
    assert set(run.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(x) == 3 for x in run.history.values())
    assert all(type(y) is float for x in run.history.values() for y in x)
    assert run.history["loss"][2] < run.history["loss"][0]
    assert weights(run) != before
    assert run.best_epoch is None and run.seconds > 0


def test_in_a_folder(new_run, data, tmp_path):
    run = new_run(tmp_path / "s")
    run.fit(*data)
    names = {x.name for x in (tmp_path / "s").iterdir()}
    assert names == {"checkpoint.npz", "history.csv", "events"}
    with (tmp_path / "s" / "history.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    for i, name in enumerate(header[1:], start=1):
        assert [float(row[i]) for row in rows] == run.history[name]
    assert read_history(tmp_path / "s") == run.history
    run.remove_checkpoints()
    run.remove_checkpoints()
    assert {x.name for x in (tmp_path / "s").iterdir()} == names - {"checkpoint.npz"}


@pytest.fixture(params=["alone", "taught", "averaged"])
def way(request, make_model):
    """Arguments of a stage, without a teacher and with one, and what ends `fit`."""
    if request.param == "alone":
        return {"restore_best": True, "monitor": "val_accuracy"}
    if request.param == "averaged":
        # The average takes the weights' place when the last epoch is over.
        return {"optimizer": lambda: keras.optimizers.SGD(0.1, use_ema=True)}
    weight = keras.optimizers.schedules.PolynomialDecay(1.0, 12, 0.0)
    teacher = make_model(16)
    return {"teacher": teacher, "distillation_losses": "kd", "student_loss_weight": weight}


class Killed(BaseException):
    """Stands for the end of the process."""


class KillAfter(keras.callbacks.Callback):
    """After the epoch's end, at which all that is kept was kept."""

    def __init__(self, epochs):
        super().__init__()
        self._epochs, self.begun = epochs, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epochs:
            raise Killed
        self.begun.append(epoch)

    def on_train_end(self, logs=None):
        raise Killed


def fit_killed(new_run, new_data, moments):
    """Fits in processes of which all but the last are killed after so many epochs."""
    for killed_after in (*moments, None):
        # The data's order goes on with the iterations, so each needs its own.
        train_data, validation_data = new_data()
        run = new_run()
        run.restore()
        skip_epochs(train_data, run.epochs_done)
        if killed_after is None:
            run.fit(train_data, validation_data)
        else:
            epochs = list(range(run.epochs_done, killed_after))
            kill = KillAfter(killed_after)
            with pytest.raises(Killed):
                run.fit(train_data, validation_data, [kill])
            assert kill.begun == epochs and run.epochs_done == killed_after
            seconds = run.seconds
    return run, seconds


def test_going_on_gives_the_same_bits(new_run, new_data, way, tmp_path):
    whole = new_run(**way)
    whole.fit(*new_data())
    run, seconds = fit_killed(lambda: new_run(tmp_path / "s", **way), new_data, (1, 3))
    assert weights(run) == weights(whole)
    assert run.history == whole.history == read_history(tmp_path / "s")
    assert run.best_epoch == whole.best_epoch
    assert run.seconds == seconds > 0, "nothing was left to train"


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_number_of_batches_need_not_be_known(new_run, new_data, tmp_path):
    """Keras then goes through the data in another way."""

    def filtered():
        train_data, validation_data = new_data()
        return train_data.filter(lambda x, y: True), validation_data

    arguments = {"epochs": 4}
    whole = new_run(**arguments)
    whole.fit(*filtered())
    new = functools.partial(new_run, tmp_path / "s", **arguments)
    run, _ = fit_killed(new, filtered, (1,))
    assert weights(run) == weights(whole)
    assert run.history == whole.history


def test_of_other_data_no_epochs_are_skipped(vectors):
    skip_epochs(vectors, 3)
    generator = iter([1, 2])
    skip_epochs(generator, 3)
    assert list(generator) == [1, 2]


def test_ctrl_c_stops_after_the_epoch_that_is_saved(new_run, data, tmp_path):
    ctrl_c = CtrlC()
    ctrl_c.asked = True
    run = new_run(tmp_path / "s", ctrl_c)
    with pytest.raises(KeyboardInterrupt, match="stopped after epoch 1, which is saved"):
        run.fit(*data)
    again = new_run(tmp_path / "s", CtrlC())
    again.restore()
    assert again.epochs_done == 1 and weights(again) == weights(run)


def test_without_a_checkpoint_it_begins(new_run, tmp_path):
    run, other = new_run(tmp_path / "s"), new_run()
    run.restore()
    assert run.epochs_done == 0 and weights(run) == weights(other)


def test_the_best_epoch_is_the_first_of_the_best(new_run):
    arguments = {"epochs": 9, "restore_best": True}
    run = new_run(**arguments)
    bests = []
    for logs in validated(0.5, 0.25, 0.75, 0.25, 0.125):
        fake_epochs(run, [logs])
        bests.append(run.best_epoch)
    assert bests == [1, 2, 2, 2, 5]
    # Losses get worse as the accuracy gets better, so that it must be one of them.
    epochs = [{"loss": 1.0, "val_loss": x, "val_accuracy": x} for x in (0.5, 0.75, 0.25)]
    for monitor, best in {"val_loss": 3, "val_accuracy": 2}.items():
        run = new_run(**arguments, monitor=monitor)
        fake_epochs(run, epochs)
        assert run.best_epoch == best


@pytest.mark.parametrize("metric", ["crossentropy", "accuracy", "own"])
def test_whether_less_is_better_is_known_as_in_keras(new_run, data, tmp_path, metric):
    """In another process, too, before the metrics have seen a batch."""
    metrics = {
        "crossentropy": [keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
        "accuracy": ["accuracy"],
        "own": [keras.metrics.Mean(name="own")],
    }[metric]
    name = "sparse_categorical_crossentropy" if metric == "crossentropy" else metric
    how = {"metrics": metrics, "monitor": f"val_{name}", "restore_best": True}
    run = new_run(tmp_path / "run", **how)
    values = [3.0, 1.0, 2.0]
    run.history = {"loss": values, f"val_{name}": values}
    less = metric == "crossentropy"
    assert run.best_epoch == (2 if less else 1)
    if metric != "own":
        x, y = next(iter(data[1]))
        run.model.test_step((x, y))
        assert run.best_epoch == (2 if less else 1)
        stop = keras.callbacks.EarlyStopping(f"val_{name}")
        stop.set_model(run.model)
        stop._set_monitor_op()
        assert (stop.monitor_op == keras.ops.less) == less


def test_an_epoch_that_is_not_finite_is_not_the_best(new_run):
    run = new_run(epochs=9, patience=2)
    fake_epochs(run, validated(math.nan, 0.5, math.nan, math.nan, 0.25))
    assert (run.best_epoch, run.epochs_done) == (2, 4)


@pytest.mark.parametrize(
    "patience, epochs, trained",
    [
        (1, 9, 2),
        (2, 9, 6),
        (3, 9, 9),
        (2, 5, 5),
        (None, 9, 9),
    ],
)
def test_patience(new_run, patience, epochs, trained):
    run = new_run(epochs=epochs, patience=patience)
    losses = (0.5, 0.5, 0.25, 0.125, 0.25, 0.125, 0.1, 0.1, 0.05)
    # Without patience nothing asks for the end but the number of epochs.
    fake_epochs(run, validated(*losses))
    assert run.epochs_done == trained
    assert epoch_of(run) == trained, "nothing was restored"


@pytest.mark.parametrize("in_folder", [False, True])
def test_restore_best(new_run, data, tmp_path, in_folder):
    run = new_run(tmp_path / "s" if in_folder else None, epochs=4, restore_best=True)
    fake_epochs(run, validated(0.5, 0.25, 0.75, 0.5))
    assert epoch_of(run) == 4
    # All epochs are over, so this restores alone.
    run.fit(*data)
    assert (epoch_of(run), run.best_epoch, run.epochs_done) == (2, 2, 4)


def test_restore_best_of_an_earlier_process(new_run, data, tmp_path):
    arguments = {"folder": tmp_path / "s", "epochs": 4, "restore_best": True, "patience": 2}
    fake_epochs(new_run(**arguments), validated(0.5, 0.25, 0.75))
    run = new_run(**arguments)
    run.restore()
    fake_epochs(run, validated(0.5))
    run.fit(*data)
    assert (epoch_of(run), run.best_epoch, run.epochs_done) == (2, 2, 4)


def test_killed_between_checkpoint_and_best(new_run, data, tmp_path, monkeypatch):
    arguments = {"folder": tmp_path / "s", "epochs": 3, "restore_best": True}
    run = new_run(**arguments)
    fake_epochs(run, validated(0.5))
    monkeypatch.setattr(run, "_keep_if_best", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fake_epochs(run, validated(0.25))
    run = new_run(**arguments)
    run.restore()
    fake_epochs(run, validated(0.75))
    run.fit(*data)
    assert (epoch_of(run), run.best_epoch) == (2, 2)


@pytest.mark.parametrize("arguments", [{"patience": 1}, {"restore_best": True}])
def test_an_unknown_monitor_is_named_with_the_known(new_run, data, arguments):
    run = new_run(**arguments, monitor="val_acuracy")
    known = "`monitor` must be a metric of the validation data: val_accuracy, val_loss. "
    with pytest.raises(ValueError, match=known + "Received: monitor='val_acuracy'"):
        run.fit(*data)
    run = new_run(**arguments)
    with pytest.raises(ValueError, match="there are none. Received: monitor='val_loss'"):
        fake_epochs(run, [{"loss": 1.0}])


@keras.saving.register_keras_serializable(package="test_stage_run")
class Explodes(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that ruins the training at one step."""

    def __init__(self, at):
        self.at = at

    def __call__(self, step):
        return tf.where(tf.cast(step, "int64") == self.at, float("nan"), 0.01)

    def get_config(self):
        return {"at": self.at}


@pytest.mark.parametrize(
    "at, said",
    [
        # An epoch has 4 steps. The loss shows it in the next one;
        (5, "loss is nan in epoch 2"),
        # or, if that was the epoch's last, the weights do.
        (7, "dense.* is NaN or infinite after an epoch whose losses were not"),
    ],
)
def test_after_nan_the_last_good_epoch_is_kept(new_run, data, new_data, tmp_path, at, said):
    arguments = {"optimizer": lambda: keras.optimizers.Adam(Explodes(at))}
    good = new_run(epochs=1, **arguments)
    good.fit(*new_data())
    path = tmp_path / "s" / "last_good.keras"
    run = new_run(tmp_path / "s", **arguments)
    last = f"The student as it was after epoch 1 is in {path}."
    with pytest.raises(FloatingPointError, match=f"{said}.* {last}"):
        run.fit(*data)
    kept = keras.saving.load_model(path)
    assert [x.tobytes() for x in kept.get_weights()] == weights(good) == weights(run)
    assert all(np.isfinite(x).all() for x in kept.get_weights())
    again = new_run(tmp_path / "s", **arguments)
    again.restore()
    assert weights(again) == weights(good) and again.epochs_done == 1


@pytest.mark.parametrize("in_folder", [False, True])
def test_nan_in_the_first_epoch_leaves_nothing_to_keep(new_run, data, tmp_path, in_folder):
    arguments = {"optimizer": lambda: keras.optimizers.Adam(Explodes(1))}
    run = new_run(tmp_path / "s" if in_folder else None, **arguments)
    message = "loss is nan in epoch 1.* first epoch, so there is nothing good to keep"
    with pytest.raises(FloatingPointError, match=message):
        run.fit(*data)
    assert run.epochs_done == 0
    assert not list(tmp_path.rglob("last_good.keras"))


def test_nan_without_a_folder(new_run, data):
    run = new_run(optimizer=lambda: keras.optimizers.Adam(Explodes(5)))
    with pytest.raises(FloatingPointError, match="In a run folder the student of the last"):
        run.fit(*data)


def test_a_damaged_checkpoint_is_refused(new_run, tmp_path):
    fake_epochs(new_run(tmp_path / "s"), validated(0.5))
    path = tmp_path / "s" / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        new_run(tmp_path / "s").restore()


def test_a_history_with_nan_comes_back(new_run, tmp_path):
    run = new_run(tmp_path / "s")
    fake_epochs(run, validated(math.nan, 0.1))
    again = new_run(tmp_path / "s")
    again.restore()
    for found in (again.history, read_history(tmp_path / "s")):
        assert json.dumps(found["val_loss"]) == "[NaN, 0.1]"
        assert found["loss"] == [1.0, 1.0]


RATE, MOMENTUM = 0.5, 0.75
AVERAGING = {
    "sgd": lambda: keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=MOMENTUM),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=MOMENTUM)
    ),
}


def averages_by_hand(student, x, y, epochs):
    """The average of the weights after each epoch, by NumPy alone.

    A linear model of class logits, trained on all examples at once.
    """
    kernel, bias = (a.astype("float64") for a in student.get_weights())
    one_hot, mean, found = np.eye(bias.size)[y], None, []

    def probs(kernel, bias):
        logits = x.astype("float64") @ kernel + bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    for _ in range(epochs):
        off = (probs(kernel, bias) - one_hot) / len(x)
        kernel, bias = kernel - RATE * x.T @ off, bias - RATE * off.sum(axis=0)
        now = [kernel, bias]
        # Keras's average begins with the weights of the first step.
        pairs = zip(now if mean is None else mean, now, strict=True)
        mean = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in pairs]
        found.append(mean)
    return found


@pytest.mark.parametrize("optimizer", AVERAGING)
@pytest.mark.parametrize("how", ["memory", "folder", "killed"])
def test_the_best_epoch_of_averages_is_an_average(vectors, tmp_path, optimizer, how):
    """The validation metrics are the averages', and so is what the stage ends with."""
    x, y = vectors
    # What is validated has other labels, so that the best epoch is none of the last.
    held_out = tf.data.Dataset.from_tensor_slices((x, np.roll(y, 5))).batch(64)
    train_data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)

    def new():
        keras.utils.set_random_seed(0)
        student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        given = {"optimizer": AVERAGING[optimizer](), "restore_best": True}
        stage = Stage("s", student, 6, **given)
        folder = None if how == "memory" else tmp_path
        return StageRun(stage, stage.model_to_fit(None), folder)

    run = new()
    wanted = averages_by_hand(run.stage.student, x, y, 6)
    held_out_losses = [held_out_loss(mean, x, np.roll(y, 5)) for mean in wanted]
    if how == "killed":
        with pytest.raises(Killed):
            run.fit(train_data, held_out, [KillAfter(2)])
        run = new()
        run.restore()
    run.fit(train_data, held_out)
    np.testing.assert_allclose(run.history["val_loss"], held_out_losses, rtol=1e-5)
    assert run.best_epoch == np.argmin(held_out_losses) + 1
    best = wanted[run.best_epoch - 1]
    for a, b in zip(run.stage.student.get_weights(), best, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def held_out_loss(weights, x, y):
    kernel, bias = weights
    logits = x.astype("float64") @ kernel + bias
    log_sum = np.log(np.exp(logits).sum(axis=1))
    return np.mean(log_sum - logits[np.arange(len(y)), y])


def test_a_checkpoint_of_before_without_averages_is_refused(new_run, tmp_path):
    arguments = {
        "folder": tmp_path / "s",
        "restore_best": True,
        "optimizer": lambda: keras.optimizers.SGD(0.1, use_ema=True),
    }
    run = new_run(**arguments)
    state = {"history": {"loss": [1.0], "val_loss": [1.0]}, "seconds": 1.0}
    path = tmp_path / "s" / "checkpoint.npz"
    checkpoint.save(path, checkpoint.variables_of(run.model), state)
    with pytest.raises(ValueError, match="of an earlier version.*use_ema=True"):
        new_run(**arguments).restore()


def test_a_checkpoint_of_before_goes_on_and_says_what_it_lacks(
    new_run, new_data, tmp_path, caplog
):
    """It has the variables alone, and history and seconds."""
    whole = new_run()
    whole.fit(*new_data())
    run, _ = new_run(tmp_path / "s"), None
    with pytest.raises(Killed):
        run.fit(*new_data(), [KillAfter(1)])
    path = tmp_path / "s" / "checkpoint.npz"
    state = {"history": run.history, "seconds": run.seconds}
    checkpoint.save(path, checkpoint.variables_of(run.model), state)
    again, (train_data, held_out) = new_run(tmp_path / "s"), new_data()
    again.restore()
    skip_epochs(train_data, 1)
    again.fit(train_data, held_out)
    assert weights(again) == weights(whole)
    assert "an earlier version wrote the checkpoint" in caplog.text


def test_what_is_drawn_without_a_generator_goes_on(new_data, tmp_path):
    """By Keras, Python and NumPy; and by a layer that is the teacher's, too."""

    class Noise(keras.layers.Layer):
        def call(self, x, training=None):
            shape = keras.ops.shape(x)
            return x + keras.random.normal(shape) if training else x

    def fit(folder, moments):
        for moment in (*moments, None):
            keras.utils.set_random_seed(0)
            dropout = keras.layers.Dropout(0.5)
            teacher, student = (
                keras.Sequential([keras.Input((4,)), dropout, Noise(), dense])
                for dense in (keras.layers.Dense(3), keras.layers.Dense(3))
            )
            stage = Stage("s", student, 3, "kd")
            run = StageRun(stage, stage.model_to_fit(teacher), folder)
            run.restore()
            train_data, held_out = new_data()
            skip_epochs(train_data, run.epochs_done)
            if moment is None:
                run.fit(train_data, held_out)
                return run
            with pytest.raises(Killed):
                run.fit(train_data, held_out, [KillAfter(moment)])

    assert weights(fit(tmp_path, (1, 2))) == weights(fit(None, ()))
