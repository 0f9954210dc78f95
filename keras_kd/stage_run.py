"""Fits one stage so that it can be stopped, or killed, after any epoch and go on."""

import csv
import io
import time

import keras
import numpy as np

from keras_kd import checkpoint
from keras_kd import run_dir as run_dirs
from keras_kd.callbacks import StopOnBadLoss
from keras_kd.distribute import Workers, scope_of
from keras_kd.precision import in_float32
from keras_kd.scalars import Scalars

CHECKPOINT, BEST, LAST_GOOD = "checkpoint.npz", "best.npz", "last_good.keras"


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
        self._best_weights = None
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
        if monitor not in self.history:
            known = sorted(x for x in self.history if x.startswith("val_"))
            raise ValueError(
                "`monitor` must be a metric of the validation data: "
                f"{', '.join(known) or 'there are none'}. Received: monitor={monitor!r}."
            )
        values = np.asarray(self.history[monitor])
        scores = -values if monitor.endswith("loss") else values
        return np.where(np.isnan(scores), -np.inf, scores)

    def restore(self):
        """Goes back to where the checkpoint was written, if there is one."""
        if self.folder and (self.folder / CHECKPOINT).is_file():
            with scope_of(self.model):
                variables = checkpoint.variables_of(self.model)
                state = checkpoint.load(self.folder / CHECKPOINT, variables)
            self.history, self.seconds = state["history"], state["seconds"]
            # It may have been killed before it kept them.
            self._keep_if_best()

    def fit(self, train_data, validation_data, callbacks=(), verbose=0):
        """Trains what is left of the stage's epochs.

        Raises:
            FloatingPointError: A loss or a weight is NaN or infinite. In a run folder the
                student as it was after the last good epoch is kept in `last_good.keras`.
            KeyboardInterrupt: Ctrl-C was pressed; the epoch is saved.
        """
        if not self._is_over():
            events = self._writes and self.folder / "events"
            with Scalars(events, self.history) as scalars:
                keep = _KeepEpoch(self, scalars)
                try:
                    self.model.fit(
                        train_data,
                        validation_data=validation_data,
                        epochs=self.stage.epochs,
                        initial_epoch=self.epochs_done,
                        callbacks=[StopOnBadLoss(), *callbacks, keep],
                        verbose=verbose,
                        # A tf.data.Dataset shuffles itself; Keras warns if told to.
                        shuffle=False,
                    )
                except FloatingPointError as error:
                    raise FloatingPointError(f"{error} {self._keep_last_good()}") from error
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
        return done >= self.stage.epochs or bool(waited)

    def end_epoch(self, logs):
        """Takes an epoch's metrics, and keeps all that the next epoch needs."""
        checkpoint.check_finite(self.model)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        if self._writes:
            state = {"history": self.history, "seconds": self.seconds}
            path = self.folder / CHECKPOINT
            checkpoint.save(path, checkpoint.variables_of(self.model), state)
            self.write_history()
        self._keep_if_best()
        self.model.stop_training = self._is_over()

    def write_history(self):
        """Writes `history.csv`: a row an epoch, as `keras.callbacks.CSVLogger` does."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = sorted(self.history)
        table.writerow(["epoch", *names])
        for epoch in range(self.epochs_done):
            table.writerow([epoch, *(self.history[name][epoch] for name in names)])
        run_dirs.write_text(self.folder / "history.csv", text.getvalue())

    def remove_checkpoints(self):
        for name in (CHECKPOINT, BEST) if self._writes else ():
            (self.folder / name).unlink(missing_ok=True)

    def _keep_if_best(self):
        if not self.stage.restore_best or self.best_epoch != self.epochs_done:
            return
        if self._writes:
            state = {"epoch": self.epochs_done}
            checkpoint.save(self.folder / BEST, self.stage.student.weights, state)
        elif self.folder is None:
            self._best_weights = self.stage.student.get_weights()

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
            run_dirs.save_model(in_float32(self.stage.student), path)
        return f"The student as it was after epoch {self.epochs_done} is in {path}."


class _KeepEpoch(keras.callbacks.Callback):
    def __init__(self, run, scalars):
        super().__init__()
        self._run, self._scalars = run, scalars

    def on_epoch_end(self, epoch, logs=None):
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


def skip_epochs(dataset, epochs):
    """Makes a `tf.data.Dataset` go on as if `fit` had gone through it so many epochs.

    Its shuffles and views advance when an iteration begins; only that is repeated. Other
    data have no such state, or none that could be known.
    """
    import tensorflow as tf

    if not isinstance(dataset, tf.data.Dataset):
        return
    # Keras's `fit` begins an iteration at the end of an epoch, too, and then throws it
    # away, where it knows the number of batches. (test_chain_run sees if that changes.)
    thrown_away = int(dataset.cardinality()) >= 0
    for _ in range(epochs):
        next(iter(dataset), None)
        if thrown_away:
            iter(dataset)


def read_history(folder):
    """The history that `StageRun.write_history` wrote."""
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
