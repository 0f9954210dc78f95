"""Fits one stage so that it can be stopped, or killed, after any epoch and go on."""

import csv
import io
import logging
import time
from pathlib import Path

import keras
import numpy as np
from keras import tree

from keras_kd import files
from keras_kd.chain import checkpoint, passes, random_state
from keras_kd.chain.scalars import Scalars
from keras_kd.data import order
from keras_kd.distribution.workers import Workers, scope_of, strategy_of
from keras_kd.training.callbacks import StopOnBadLoss
from keras_kd.training.precision import in_float32

logger = logging.getLogger(__name__)

CHECKPOINT, BEST, LAST_GOOD = "checkpoint.npz", "best.npz", "last_good.keras"
START = "start.npz"


class StageRun:
    """The training of one stage, from its first epoch or from its checkpoint.

    Args:
        stage: A `keras_kd.Stage` with epochs.
        model: What `stage.model_to_fit` gave.
        folder: The stage's folder in a run folder, or None: nothing is kept.
        ctrl_c: A `ctrl_c.CtrlC`, asked after each epoch.

    Where several workers train the model, the chief alone writes into the folder.

    Attributes:
        history: dict of metric name to one value an epoch.
        seconds: Since this was made, until the end of the last epoch, and the same of
            earlier attempts.
        best_epoch: The one with the best monitored metric, counted from 1, the first of
            equals; None where the stage neither stops early nor restores.
    """

    def __init__(self, stage, model, folder=None, ctrl_c=None):
        self.stage, self.model, self.folder, self.ctrl_c = stage, model, folder, ctrl_c
        self.history, self.seconds = {}, 0.0
        self._best_weights = self._data = None
        # Whether a callback has ended it.
        self._stopped = False
        # What the checkpoint holds beside the variables, until an epoch begins.
        self._restored = None
        self.workers = Workers.of(stage.student)
        self._since = time.perf_counter()

    @property
    def epochs_done(self):
        return len(self.history["loss"]) if self.history else 0

    @property
    def best_epoch(self):
        if not self.stage.chooses_epoch:
            return None
        return int(np.argmax(self._scores())) + 1

    def _scores(self):
        """The monitored metric after each epoch, signed so that more is better."""
        monitor = self.stage.monitor
        self.check_monitor(self.history)
        values = np.asarray(self.history[monitor])
        scores = -values if self._less_is_better(monitor) else values
        return np.where(np.isnan(scores), -np.inf, scores)

    def check_monitor(self, names):
        """Refuses to choose epochs by what is not among the names; a ValueError."""
        monitor, known = self.stage.monitor, sorted(x for x in names if x[:4] == "val_")
        if monitor not in known:
            raise ValueError(
                "`monitor` must be a metric of the validation data: "
                f"{', '.join(known) or 'there are none'}. Received: monitor={monitor!r}."
            )

    def _less_is_better(self, monitor):
        if monitor.endswith("loss"):
            return True
        # Those of `compile` once a batch was seen, and as they were given.
        known = [y for x in self.model.metrics for y in getattr(x, "metrics", [x])]
        known += [x for x in tree.flatten(self.stage.metrics) if hasattr(x, "_direction")]
        for metric in known:
            # As Keras's EarlyStopping asks; it is None of a user's own.
            direction = getattr(metric, "_direction", None)
            if direction and monitor.endswith(f"_{metric.name}"):
                return direction == "down"
        return False

    def keep_start(self):
        """What the stage begins with is that of the run's first process, in each process.

        Random states and losses' layers are made anew in each, by a seed or by none.
        """
        if self._writes and not (self.folder / START).is_file():
            variables = checkpoint.start_of(self.model)
            checkpoint.save(self.folder / START, variables, {})
        self.workers.wait()
        if self.folder:
            with scope_of(self.model):
                variables = checkpoint.start_of(self.model)
                checkpoint.load(self.folder / START, variables)
        weights = {id(x) for x in self.model.weights}
        seeds = [x for x in checkpoint.start_of(self.model) if id(x) not in weights]
        self._seeds = [(x, keras.ops.convert_to_numpy(x)) for x in seeds]

    def begin(self):
        """Sets what another stage may have moved, and starts the clock."""
        for variable, value in self._seeds:
            variable.assign(value)
        for metric in tree.flatten(self.stage.metrics):
            # Keras resets those alone that this model has seen a batch with.
            if isinstance(metric, keras.metrics.Metric) and metric.variables:
                metric.reset_state()
        self._since = time.perf_counter()

    def restore(self):
        """Goes back to where the checkpoint was written, if there is one."""
        if self.folder and (self.folder / CHECKPOINT).is_file():
            path = self.folder / CHECKPOINT
            with scope_of(self.model):
                variables = checkpoint.variables_of(self.model)
                state, more = checkpoint.load_more(path, variables)
            self._check_averaged(path, state)
            self.history, self.seconds = state["history"], state["seconds"]
            self._stopped = state.get("stopped", False)
            self._restored = state, more
            # It may have been killed before it kept them.
            self._keep_if_best()

    def _check_averaged(self, path, state):
        if self._averages and "averaged" not in state:
            raise checkpoint.CheckpointError(
                f"The checkpoint {path} is of an earlier version, which chose and kept the "
                "best epoch by other weights than the averages that the optimizer "
                f"(use_ema=True) makes. {checkpoint.repair(path)}"
            )

    @property
    def _averages(self):
        """Whether the student is, in each epoch that may be chosen, an average."""
        keeps = checkpoint.keeps_averages(self.model.optimizer)
        return self.stage.chooses_epoch and keeps

    def fit(self, train_data, validation_data, callbacks=(), verbose=0, steps=None):
        """Trains what is left of the stage's epochs.

        Args:
            train_data, steps: What `in_order` gave with so many steps an epoch.
            validation_data, callbacks, verbose: As Keras's `fit` takes them.

        Raises:
            FloatingPointError: A loss or a weight is NaN or infinite. In a run folder the
                student as it was after the last good epoch is kept in `last_good.keras`.
            KeyboardInterrupt: Ctrl-C was pressed; the epoch is saved.
        """
        if not self._is_over():
            if steps:
                train_data = order.behind(train_data, self.epochs_done * steps)
            elif strategy_of(self.model) is None:
                train_data = passes.counted(train_data, self.epochs_done)
            self._data = train_data
            events = self._writes and self.folder / "events"
            with Scalars(events, self.history) as scalars:
                keep = _KeepEpoch(self, scalars)
                # Keras validates the weights that the last step left.
                averages = [_ValidateAverages()] if self._averages else []
                try:
                    self.model.fit(
                        train_data,
                        validation_data=validation_data,
                        epochs=self.stage.epochs,
                        initial_epoch=self.epochs_done,
                        callbacks=[StopOnBadLoss(), *averages, *callbacks, keep],
                        verbose=verbose,
                        steps_per_epoch=steps,
                        # What does not shuffle itself, `in_order` has shuffled.
                        shuffle=False,
                    )
                except FloatingPointError as error:
                    raise FloatingPointError(f"{error} {self._keep_last_good()}") from error
            # As before another epoch: what comes next may be another stage.
            passes.begin_epoch(train_data, self.epochs_done)
        else:
            # `fit` does this at its end, which it may not have reached.
            optimizer = self.model.optimizer
            optimizer.finalize_variable_values(self.model.trainable_variables)
        # The chief may still be at its last file.
        self.workers.wait()
        if self.stage.restore_best:
            self._restore_best()
            # The chief removes that file when the stage is done.
            self.workers.wait()

    @property
    def _writes(self):
        return self.folder is not None and self.workers.is_chief

    def _is_over(self):
        done, patience = self.epochs_done, self.stage.patience
        waited = patience and done and done - self.best_epoch >= patience
        return self._stopped or done >= self.stage.epochs or bool(waited)

    def begin_epoch(self, epoch):
        """Sets all that is random to where the last epoch left it."""
        passes.begin_epoch(self._data, epoch)
        if self._restored is None:
            return
        (state, more), self._restored = self._restored, None
        if not more:
            logger.warning(
                "Stage %r: an earlier version wrote the checkpoint, without the state of "
                "keras.random, random and numpy.random. What draws by these goes on "
                "otherwise than in a run that never stopped.",
                self.stage.name,
            )
            return
        with scope_of(self.model):
            for i, variable in enumerate(checkpoint.seeds_of(self.model)):
                variable.assign(more[f"{i:05}"])
        if state["data"] != passes.digest(self._data):
            raise ValueError(
                "the training data are not as they were after epoch "
                f"{epoch}: what they do hangs on more than their seed and the number of "
                "epochs, so the training cannot go on as if it had never stopped. "
                f"{checkpoint.repair(self.folder / CHECKPOINT)}"
            )
        random_state.set_states(more)

    def end_epoch(self, logs):
        """Takes an epoch's metrics, and keeps all that the next epoch needs."""
        checkpoint.check_finite(self.model)
        self._add_to_history(logs)
        self._stopped = bool(self.model.stop_training)
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        if self._writes:
            state = {
                "history": self.history,
                "seconds": self.seconds,
                "averaged": self._averages,
                "stopped": self._stopped,
                "data": passes.digest(self._data),
            }
            path = self.folder / CHECKPOINT
            variables = checkpoint.variables_of(self.model)
            checkpoint.save(path, variables, state, self._random_states())
            self.write_history()
        self._keep_if_best()
        self.model.stop_training = self._is_over()

    def _add_to_history(self, logs):
        # A callback may tell something in some epochs alone.
        done = self.epochs_done
        for name in {**self.history, **logs}:
            values = self.history.setdefault(name, [float("nan")] * done)
            values.append(float(logs.get(name, "nan")))

    def _random_states(self):
        seeds = enumerate(checkpoint.seeds_of(self.model))
        arrays = {f"{i:05}": keras.ops.convert_to_numpy(x) for i, x in seeds}
        return random_state.get_states() | arrays

    def write_history(self):
        """Writes `history.csv`: a row an epoch, as `keras.callbacks.CSVLogger` does."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = sorted(self.history)
        table.writerow(["epoch", *names])
        for epoch in range(self.epochs_done):
            table.writerow([epoch, *(self.history[name][epoch] for name in names)])
        files.write_text(self.folder / "history.csv", text.getvalue())

    def remove_checkpoints(self):
        paths = [self.folder / x for x in (START, CHECKPOINT, BEST) if self._writes]
        # A finished run may lie where nothing can be removed.
        for path in filter(Path.exists, paths):
            path.unlink()

    def _keep_if_best(self):
        if not self.stage.restore_best or self.best_epoch != self.epochs_done:
            return
        weights = self.stage.student.weights
        if self._averages:
            averages = checkpoint.averages_of(self.model.optimizer)
            weights = [averages.get(id(x), x) for x in weights]
        if self._writes:
            checkpoint.save(self.folder / BEST, weights, {"epoch": self.epochs_done})
        elif self.folder is None:
            self._best_weights = list(map(keras.ops.convert_to_numpy, weights))

    def _restore_best(self):
        if self.folder:
            with scope_of(self.model):
                checkpoint.load(self.folder / BEST, self.stage.student.weights)
        else:
            self.stage.student.set_weights(self._best_weights)

    def _keep_last_good(self):
        if self.epochs_done == 0:
            return "It was in the stage's first epoch, so there is nothing good to keep."
        if not self.folder:
            return "In a run folder the student of the last good epoch would be kept."
        path = self.folder / LAST_GOOD
        if self._writes:
            variables = checkpoint.variables_of(self.model)
            checkpoint.load(self.folder / CHECKPOINT, variables)
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            files.save_model(in_float32(self.stage.student), path)
        return f"The student as it was after epoch {self.epochs_done} is in {path}."


class _ValidateAverages(keras.callbacks.Callback):
    """Puts the optimizer's averages in the weights' place while they are validated.

    Keras's `SwapEMAWeights` adds and subtracts, which rounds the weights that go on.
    """

    def on_test_begin(self, logs=None):
        averages = checkpoint.averages_of(self.model.optimizer)
        self._weights = [
            (x, keras.ops.convert_to_numpy(x))
            for x in self.model.trainable_variables
            if id(x) in averages
        ]
        for variable, _ in self._weights:
            # A copy, as a step on JAX deletes what it is given.
            average = keras.ops.convert_to_tensor(averages[id(variable)])
            variable.assign(keras.ops.copy(average))

    def on_test_end(self, logs=None):
        for variable, value in self._weights:
            variable.assign(value)


class _KeepEpoch(keras.callbacks.Callback):
    def __init__(self, run, scalars):
        super().__init__()
        self._run, self._scalars = run, scalars

    def on_epoch_begin(self, epoch, logs=None):
        self._run.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if "loss" not in (logs or {}):
            raise ValueError("`train_data` holds no batches, so nothing was trained.")
        logs = _one_value_each(logs)
        self._run.end_epoch(logs)
        self._scalars.write(epoch, logs)
        ctrl_c = self._run.ctrl_c
        if self._run.workers.any(ctrl_c is not None and ctrl_c.asked):
            raise KeyboardInterrupt(f"stopped after epoch {epoch + 1}, which is saved")


def _one_value_each(logs):
    """Metrics as floats; one that has a value for each class as so many metrics."""
    values = {}
    for name, value in logs.items():
        value = np.asarray(value)
        names = [f"{name}_{i}" for i in range(value.size)] if value.ndim else [name]
        values |= zip(names, value.ravel().tolist(), strict=True)
    return values


def read_history(folder):
    """The history that `StageRun.write_history` wrote."""
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
