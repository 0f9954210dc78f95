"""Callbacks of a distillation, beside Keras's own, all of which it takes.

Example:

```python
best = kd.callbacks.StudentCheckpoint("best.keras", "val_accuracy", save_best_only=True)
callbacks = [best, kd.callbacks.StopOnBadLoss(), keras.callbacks.EarlyStopping(patience=3)]
distiller.fit(train_ds, validation_data=val_ds, epochs=12, callbacks=callbacks)
```
"""

import math

import keras

from keras_kd.training.whose_answers import student_of

_TERMS = ("student_loss", "distillation_loss", "total_loss", "loss")


class StopOnBadLoss(keras.callbacks.Callback):
    """Stops training with an error when a loss is NaN or infinite.

    `keras.callbacks.TerminateOnNaN` ends `fit` as if all were well; here the error names
    the first term that went wrong, and the epoch and batch where it did.

    Raises:
        FloatingPointError: At the end of the batch whose loss is not finite. With
            `steps_per_execution`, and under a `tf.distribute` strategy, at the end of a
            group of batches, which are named.
    """

    # At what `fit` tells of them alone; see several_steps.py.
    looks_at_batches = False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        # The total goes wrong whenever a term does, so one look suffices each batch.
        if math.isfinite(logs.get("loss", 0.0)):
            return
        term = next(x for x in _TERMS if not math.isfinite(logs.get(x, 0.0)))
        where = f"batch {batch + 1}"
        since_last_look = _batches_in_logs(self.model)
        if since_last_look > 1:
            where = f"batches {max(batch + 2 - since_last_look, 1)} to {batch + 1}"
        raise FloatingPointError(
            f"{term} is {float(logs[term])} in epoch {self._epoch + 1}, {where}. "
            "Usual causes: a learning rate that is too high, inputs that "
            "are not scaled or hold NaN, labels outside 0..num_classes-1."
        )


def _batches_in_logs(model):
    if model is None:
        return 1
    return getattr(model, "batches_in_logs", None) or model.steps_per_execution


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves the Distiller's student alone.

    It takes the arguments of `ModelCheckpoint`, which would save teacher, student and
    optimizer. What it writes is a plain model, ready to ship, or its weights. `monitor` is
    any metric of the Distiller's logs; of a loss less is better.

    Raises:
        ValueError: When `fit` starts on a model that has no student.

    Example:

    ```python
    best = StudentCheckpoint("best.keras", monitor="val_accuracy", save_best_only=True)
    distiller.fit(train_ds, validation_data=val_ds, epochs=12, callbacks=[best])
    ```
    """

    @property
    def looks_at_batches(self):
        return self.save_freq != "epoch"

    def set_model(self, model):
        if student_of(model) is model:
            raise ValueError(
                "StudentCheckpoint goes with a Distiller. Received a model without a "
                f"student: {model.name!r}. Use keras.callbacks.ModelCheckpoint there."
            )
        super().set_model(_StudentInTraining(model))

    def on_train_batch_end(self, batch, logs=None):
        if self.save_freq != "epoch" and self.monitor_op is None:
            # Keras chooses it at the end of an epoch, which is too late.
            self._set_monitor_op()
        super().on_train_batch_end(batch, logs)

    def _set_monitor_op(self):
        # Keras knows the direction of `loss` and of what `compile` was given as metrics.
        if self.mode == "auto" and self.monitor.endswith("loss"):
            self.mode = "min"
        super()._set_monitor_op()


class _StudentInTraining:
    """A student as `ModelCheckpoint` sees it: its files, and its Distiller's metrics."""

    def __init__(self, distiller):
        self._distiller = distiller

    @property
    def metrics(self):
        return self._distiller.metrics

    def jax_state_sync(self):
        """On JAX the weights are not in the student while it is trained."""
        if keras.backend.backend() == "jax":
            self._distiller.jax_state_sync()

    def __getattr__(self, name):
        return getattr(self._distiller.student, name)
