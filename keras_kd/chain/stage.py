"""One stage of a chain: a student, and how it is trained."""

import contextlib
import dataclasses
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd.files import check_folder_name
from keras_kd.losses.arguments import check_choice, check_integer
from keras_kd.losses.weights import weights_of
from keras_kd.models.fingerprints import model_fingerprint
from keras_kd.runs.descriptions import described
from keras_kd.tasks.find import ACTIVATIONS, find_task, last_activation, own_units
from keras_kd.tasks.heads import alone, ignored_class
from keras_kd.tasks.kinds import OutputKinds
from keras_kd.training import checks
from keras_kd.training.batch import inputs_of
from keras_kd.training.distiller import Distiller
from keras_kd.training.several_steps import SeveralSteps


@dataclasses.dataclass
class Stage:
    """One model to train within a `DistillationChain`.

    With `distillation_losses` the student is taught by the model before it and becomes
    the next teacher. Without, it is trained on the labels alone, as a teacher or a
    baseline for comparison, and teaches no one but a stage that names it. With `epochs=0`
    the model is given: it is not trained, and is the next teacher.

    Args:
        name: Unique in the chain; also the stage's folder in a run folder, so none of what
            stands beside it there, "report" or "results.md" say.
        student: The `keras.Model` to train.
        epochs: Passes over the training data, at most, if it may stop early; or 0.
        distillation_losses: As `Distiller` takes them, or None. Of an object that stands
            in several stages each trains a copy.
        distillation_loss_weights: As `Distiller` takes them, schedules too; each stage
            counts its steps from 0.
        student_loss_weight: As `Distiller` takes it; defaults to 0.5.
        optimizer, loss, metrics: As `compile` takes them. Default to "adam", and to the
            loss and metric of the student's task: cross-entropy of integer labels and
            logits, binary cross-entropy, or mean squared error; and accuracy, or mean
            absolute error. An optimizer that another stage has, too, or that has trained
            before, is copied.
        taught_by: Name of the earlier stage that teaches, or "teacher"; or a list of
            them, each of which teaches with a copy of the losses (see
            `DistillationChain`, `dense`). Defaults to the model before it.
        patience: Stop after so many epochs without a better `monitor`. Defaults to None:
            never.
        restore_best: Whether the student is left as it was after its best epoch, not as
            after the last one. With an optimizer with `use_ema=True` that is the average
            of its weights, and where a stage chooses its epoch, the average is validated.
        monitor: The validation metric that says which epoch is better: "val_loss", as in
            `keras.callbacks.EarlyStopping`, or another. Less is better if the name ends
            in "loss", and for metrics of which Keras knows it; else more.
        train_data: What this stage is trained on, as `DistillationChain.fit` takes it.
            Defaults to None: what the others are trained on.
        task: As `Distiller` takes it: what the outputs mean, in training and in all that is
            measured. Defaults to None: what the student's last activation, its units and
            the loss show.

    Raises:
        ValueError: An argument is not what is described here, or would have no effect.

    Example:

    ```python
    first = Stage("ta", ta, epochs=12, distillation_losses=SoftTargets(temperature=4.0))
    last = Stage("student", student, 40, "kd", taught_by=["teacher", "ta"], patience=5)
    chain = DistillationChain(teacher, [first, last])
    ```
    """

    name: str
    student: keras.Model
    epochs: int
    distillation_losses: Any = None
    distillation_loss_weights: Any = None
    student_loss_weight: Any = None
    optimizer: Any = "adam"
    loss: Any = None
    metrics: Any = ("accuracy",)
    taught_by: str | list | None = None
    patience: int | None = None
    restore_best: bool = False
    monitor: str = "val_loss"
    train_data: Any = None
    task: str | None = None

    def __post_init__(self):
        try:
            check_folder_name(self.name)
        except ValueError as error:
            raise ValueError(f"`name` {error}. Received: name={self.name!r}.") from error
        if not isinstance(self.student, keras.Model):
            raise ValueError(
                f"Stage {self.name!r}: `student` must be a keras.Model. "
                f"Received: {self.student!r}."
            )
        with named(self):
            self.epochs = check_integer("epochs", self.epochs, 0)
            if self.patience is not None:
                self.patience = check_integer("patience", self.patience, 1)
            checks.check_one_of("task", self.task, tuple(ACTIVATIONS))
        self._check_effect()
        self.take_defaults()

    def _check_effect(self):
        """Refuses arguments that would have no effect, or are of the wrong kind."""
        self.restore_best = check_choice("restore_best", self.restore_best, (True, False))
        if not isinstance(self.monitor, str):
            raise ValueError(
                f"Stage {self.name!r}: `monitor` must be the name of a metric. "
                f"Received: monitor={self.monitor!r}."
            )
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

    def take_defaults(self, teacher=None):
        """Finds the loss and the metric, where none is given, of the student's task.

        What one linear unit means its teacher may show, when that is known.

        Args:
            teacher: The model that teaches it first, or None.
        """
        try:
            task, _ = find_task(self.student, self.loss, teacher, self.task)
        except ValueError:
            # On labels alone Keras takes what a task contradicts; a Distiller says it.
            return
        ends_in = last_activation(self.student)
        if self.loss is None:
            if task is None and own_units(self.student) == 1:
                return
            losses, activation = keras.losses, ACTIVATIONS[task or "multiclass"]
            is_logits = {"from_logits": ends_in != activation}
            self.loss = {
                "softmax": losses.SparseCategoricalCrossentropy(**is_logits),
                "sigmoid": losses.BinaryCrossentropy(**is_logits),
                None: losses.MeanSquaredError(),
            }[activation]
        if self.metrics == ("accuracy",):
            self.metrics = self._default_metrics(task, ends_in == "sigmoid")

    def check_loss(self):
        """Refuses a student of which nothing shows what it is to be trained on."""
        if self.loss is None and self.epochs:
            raise ValueError(
                "what the one output of `student` means cannot be told (1 linear unit). "
                "Say task='binary' or task='regression', or give the `loss`."
            )

    def _default_metrics(self, task, is_sigmoid):
        if task == "regression":
            return ("mean_absolute_error",)
        ignored = ignored_class(self._label_loss())
        if task in ("binary", "multilabel"):
            # Keras takes several labels for one class, and logits for probabilities.
            gives_logits = getattr(self._label_loss(), "from_logits", False)
            threshold = 0.0 if gives_logits and not is_sigmoid else 0.5
            return (keras.metrics.BinaryAccuracy("accuracy", None, threshold),)
        return ("accuracy",) if ignored is None else (LabelledAccuracy(ignored),)

    def _label_loss(self):
        return alone(self.loss) if tree.is_nested(self.loss) else self.loss

    def measured_as(self, teacher=None):
        """How its student is measured: arguments of `evaluation.predictions.predict`.

        Args:
            teacher: The model that teaches it first, or None.
        """
        try:
            task, _ = find_task(self.student, self.loss, teacher, self.task)
        except ValueError:
            # On labels alone Keras takes what a task contradicts.
            task, _ = find_task(self.student, None, None, self.task)
        return {"task": task, "ignore_class": ignored_class(self._label_loss())}

    @property
    def chooses_epoch(self):
        """Whether validation data decide with which epoch's weights the stage ends."""
        return self.patience is not None or self.restore_best

    def model_to_fit(self, teacher):
        """The compiled model whose `fit` trains the student."""
        self.take_defaults(teacher)
        self.check_loss()
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
                task=self.task,
            )
        # Keras takes no tuple.
        metrics = self.metrics
        if not isinstance(metrics, (list, tuple, dict, type(None))):
            metrics = [metrics]
        metrics = list(metrics) if isinstance(metrics, tuple) else metrics
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
            "losses": list(map(described, losses)),
            "loss_weights": described(weights),
            "student_loss_weight": described(self.student_loss_weight),
            "optimizer": described(keras.optimizers.get(self.optimizer)),
            "loss": described(self.loss),
            "metrics": described(self.metrics),
            "patience": described(self.patience),
            "restore_best": self.restore_best,
            "monitor": self.monitor,
            "task": self.task,
            "architecture": fingerprint["architecture"],
            "initial_weights": fingerprint["weights"],
        }


@keras.saving.register_keras_serializable(package="keras_kd")
class LabelledAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Accuracy of what has a label: the class that a loss ignores counts in nothing.

    Args:
        ignore_class: The class, as the loss has it.
        name: Defaults to "accuracy".
    """

    def __init__(self, ignore_class, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = keras.ops.convert_to_tensor(y_true)
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == 1:
            y_true = keras.ops.squeeze(y_true, axis=-1)
        counts = keras.ops.cast(y_true != self.ignore_class, "float32")
        if sample_weight is not None:
            sample_weight = keras.ops.cast(sample_weight, "float32")
            counts = counts * weights_of(counts, sample_weight)
        return super().update_state(y_true, y_pred, counts)

    def get_config(self):
        return {"ignore_class": self.ignore_class, "name": self.name, "dtype": self.dtype}


class _LabelsAlone(SeveralSteps):
    """Holds the student's optimizer, so that the student stays a plain model."""

    def __init__(self, student):
        # Inputs reach the student as they are, and it casts them itself.
        policy = student.dtype_policy
        super().__init__(name="labels_alone", dtype=policy, autocast=False)
        self.student = student
        self.built = student.built
        self.kinds = OutputKinds("student", student)
        self.kinds.need([None], compared=False)
        self.kinds.look()

    def compile(self, optimizer="adam", loss=None, *args, **kwargs):
        super().compile(optimizer, loss, *args, **kwargs)
        checks.check_label_loss(loss, self.student, self.kinds)

    def call(self, inputs, training=None):
        return self.student(inputs_of(inputs), training=training)

    def save(self, *args, **kwargs):
        """Saves the student: what a `keras.callbacks.ModelCheckpoint` is given for."""
        self.student.save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As `save`, the weights alone."""
        self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        """What `save_weights` wrote."""
        self.student.load_weights(*args, **kwargs)


def measured_as(chain):
    """dict of each model's name to how it is measured, see `Stage.measured_as`."""
    teachers = {x.name: chain.teachers_of(x) for x in chain.stages}
    found = {
        x.name: x.measured_as(next(iter(teachers[x.name].values()), None))
        for x in chain.stages
    }
    given = [x.name for x in chain.stages if x.epochs == 0 and x.task is None]
    # A given model's outputs are what it teaches.
    for name in [*reversed(given), "teacher"]:
        taught = [x.name for x in chain.stages if name in teachers[x.name]]
        first = taught[0] if taught else name
        found[name] = found.get(first, found[chain.stages[0].name])
    return found


@contextlib.contextmanager
def named(stage):
    """Begins the message of an error with the stage's name."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"Stage {stage.name!r}: {error}") from error
