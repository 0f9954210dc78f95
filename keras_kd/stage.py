"""One stage of a chain: a student, and how it is trained."""

import dataclasses
import numbers
import types
from typing import Any

import keras
import numpy as np

from keras_kd.batch import inputs_of
from keras_kd.distiller import Distiller
from keras_kd.fingerprints import model_fingerprint
from keras_kd.several_steps import SeveralSteps


def _default_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass
class Stage:
    """One model to train within a `DistillationChain`.

    With `distillation_losses` the student is taught by the model before it and becomes
    the next teacher. Without, it is trained on the labels alone, as a teacher or a
    baseline for comparison, and teaches no one but a stage that names it. With `epochs=0`
    the model is given: it is not trained, and is the next teacher.

    Args:
        name: Unique in the chain; also the stage's folder in a run folder.
        student: The `keras.Model` to train.
        epochs: Passes over the training data, at most, if it may stop early; or 0.
        distillation_losses: As `Distiller` takes them, or None.
        distillation_loss_weights: As `Distiller` takes them, schedules too; each stage
            counts its steps from 0.
        student_loss_weight: As `Distiller` takes it; defaults to 0.5.
        optimizer, loss, metrics: As `compile` takes them. Default to "adam",
            cross-entropy of integer labels and logits, and accuracy.
        taught_by: Name of the earlier stage that teaches, or "teacher"; or a list of
            them, each of which teaches with a copy of the losses (see
            `DistillationChain`, `dense`). Defaults to the model before it.
        patience: Stop after so many epochs without a better `monitor`. Defaults to None:
            never.
        restore_best: Whether the student is left as it was after its best epoch, not as
            after the last one.
        monitor: The validation metric that says which epoch is better: "val_loss", as in
            `keras.callbacks.EarlyStopping`, or another. Less is better if the name ends
            in "loss", else more.
        train_data: What this stage is trained on, as `DistillationChain.fit` takes it.
            Defaults to None: what the others are trained on.

    Raises:
        ValueError: An argument is not what is described here, or would have no effect.
    """

    name: str
    student: keras.Model
    epochs: int
    distillation_losses: Any = None
    distillation_loss_weights: Any = None
    student_loss_weight: Any = None
    optimizer: Any = "adam"
    loss: Any = dataclasses.field(default_factory=_default_loss)
    metrics: Any = ("accuracy",)
    taught_by: str | list | None = None
    patience: int | None = None
    restore_best: bool = False
    monitor: str = "val_loss"
    train_data: Any = None

    def __post_init__(self):
        is_name = isinstance(self.name, str) and self.name not in ("", ".", "..")
        if not is_name or any(x in self.name for x in "/\\"):
            raise ValueError(
                "`name` must be a non-empty string that can name a folder. "
                f"Received: name={self.name!r}."
            )
        if not isinstance(self.student, keras.Model):
            raise ValueError(
                f"Stage {self.name!r}: `student` must be a keras.Model. "
                f"Received: {self.student!r}."
            )
        self._check_integer("epochs", 0)
        if self.patience is not None:
            self._check_integer("patience", 1)
        self._check_effect()

    def _check_integer(self, argument, least):
        value = getattr(self, argument)
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_integer or value < least:
            raise ValueError(
                f"Stage {self.name!r}: `{argument}` must be an integer >= {least}. "
                f"Received: {argument}={value!r}."
            )

    def _check_effect(self):
        """Refuses arguments that would have no effect."""
        without = {
            "has no distillation losses, so it is trained on labels alone": (
                self.distillation_losses is None,
                ("distillation_loss_weights", "student_loss_weight", "taught_by"),
            ),
            "has epochs=0, so its model is not trained": (
                self.epochs == 0,
                ("distillation_losses", "patience", "restore_best", "train_data"),
            ),
            "neither stops early nor restores its best epoch": (
                not self.chooses_epoch,
                ("monitor",),
            ),
        }
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for reason, (applies, arguments) in without.items():
            if not applies:
                continue
            # NumPy compares an array with None element by element.
            given = [x for x in arguments if np.any(getattr(self, x) != defaults[x])]
            if given:
                names = ", ".join(f"`{x}`" for x in given)
                raise ValueError(
                    f"Stage {self.name!r} {reason}, and {names} would have no effect. "
                    "Leave that out, or change the other."
                )

    @property
    def chooses_epoch(self):
        """Whether validation data decide with which epoch's weights the stage ends."""
        return self.patience is not None or self.restore_best

    def model_to_fit(self, teacher):
        """The compiled model whose `fit` trains the student."""
        if self.distillation_losses is None:
            model = _LabelsAlone(self.student)
        else:
            weight = self.student_loss_weight
            model = Distiller(
                teacher,
                self.student,
                self.distillation_losses,
                self.distillation_loss_weights,
                student_loss_weight=0.5 if weight is None else weight,
            )
        metrics = list(self.metrics)
        model.compile(optimizer=self.optimizer, loss=self.loss, metrics=metrics)
        return model

    def describe(self, taught_by):
        """What makes the stage what it is, a dict of JSON values, for a run's manifest.

        Args:
            taught_by: Names of the models that teach it.

        Raises:
            ValueError: The student has no weights yet, to be told by and restored into.
        """
        if not self.student.built:
            raise ValueError(
                f"Stage {self.name!r}: with a run folder `student` must have its weights: "
                "call it on a batch first. Received: the unbuilt model "
                f"{self.student.name!r}."
            )
        fingerprint = model_fingerprint(self.student)
        losses = self.distillation_losses or []
        losses = losses if isinstance(losses, (list, tuple)) else [losses]
        weights = self.distillation_loss_weights
        return {
            "name": self.name,
            "taught_by": taught_by,
            "epochs": int(self.epochs),
            "losses": list(map(_described, losses)),
            "loss_weights": _described(weights),
            "student_loss_weight": _described(self.student_loss_weight),
            "optimizer": _described(keras.optimizers.get(self.optimizer)),
            "loss": _described(self.loss),
            "metrics": _described(self.metrics),
            "patience": _described(self.patience),
            "restore_best": self.restore_best,
            "monitor": self.monitor,
            "architecture": fingerprint["architecture"],
            "initial_weights": fingerprint["weights"],
        }


def _described(value):
    """A value as JSON: numbers and strings as they are, objects as Keras writes them."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return list(map(_described, value))
    if isinstance(value, dict):
        # Keras numbers the names that it gives.
        return {str(key): _described(x) for key, x in value.items() if key != "name"}
    if isinstance(value, types.FunctionType):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    try:
        config = keras.saving.serialize_keras_object(value)
        return {"class": config["class_name"], **_described(config["config"])}
    except (TypeError, KeyError, ValueError, NotImplementedError):
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}"}


class _LabelsAlone(SeveralSteps):
    """Holds the student's optimizer, so that the student stays a plain model."""

    def __init__(self, student):
        super().__init__(name="labels_alone", dtype=student.dtype_policy)
        self.student = student
        self.built = student.built

    def call(self, inputs, training=None):
        return self.student(inputs_of(inputs), training=training)
