"""Callbacks of a distillation."""

import math

import keras

_TERMS = ("student_loss", "distillation_loss", "total_loss", "loss")


class StopOnBadLoss(keras.callbacks.Callback):
    """Stops training with an error when a loss is NaN or infinite.

    `keras.callbacks.TerminateOnNaN` ends `fit` as if all were well; here the error names
    the first term that went wrong, and the epoch and batch where it did.

    Raises:
        FloatingPointError: At the end of the batch (with `steps_per_execution`, of the
            group of batches) whose loss is not finite.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        # The total goes wrong whenever a term does, so one look suffices each batch.
        if math.isfinite(logs.get("loss", 0.0)):
            return
        term = next(x for x in _TERMS if not math.isfinite(logs.get(x, 0.0)))
        # `steps_per_execution` batches have been trained on since the last look.
        steps = 1 if self.model is None else self.model.steps_per_execution
        where = f"batch {batch + 1}" if steps == 1 else f"batches to {batch + 1}"
        raise FloatingPointError(
            f"{term} is {float(logs[term])} in epoch {self._epoch + 1}, {where}. "
            "Usual causes: a learning rate that is too high, inputs that "
            "are not scaled or hold NaN, labels outside 0..num_classes-1."
        )


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves the Distiller's student alone.

    It takes the arguments of `ModelCheckpoint`, which would save teacher, student and
    optimizer. What it writes is a plain model, ready to ship.

    Raises:
        ValueError: When `fit` starts on a model that has no student.

    Example:

    ```python
    best = StudentCheckpoint("best.keras", monitor="val_accuracy", save_best_only=True)
    distiller.fit(train_ds, validation_data=val_ds, epochs=12, callbacks=[best])
    ```
    """

    def set_model(self, model):
        student = getattr(model, "student", None)
        if student is None:
            raise ValueError(
                "StudentCheckpoint goes with a Distiller. Received a model without a "
                f"student: {model.name!r}. Use keras.callbacks.ModelCheckpoint there."
            )
        super().set_model(student)
