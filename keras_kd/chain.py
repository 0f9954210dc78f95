"""Stages of distillation, each one's student the next one's teacher."""

import dataclasses
import functools
import time
from typing import Any

import keras

from keras_kd import run_dir as run_dirs
from keras_kd.callbacks import StopOnBadLoss
from keras_kd.checks import check_models
from keras_kd.dense import dense_stage
from keras_kd.distiller import Distiller
from keras_kd.evaluate import evaluate
from keras_kd.precision import in_float32
from keras_kd.profile import profile
from keras_kd.several_steps import SeveralSteps
from keras_kd.tables import markdown_table


def _default_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass
class Stage:
    """One model to train within a `DistillationChain`.

    With `distillation_losses` the student is taught by the model before it and becomes
    the next teacher. Without, it is trained on the labels alone, as a teacher or a
    baseline for comparison, and teaches no one.

    Args:
        name: Unique in the chain; also the stage's folder in a run folder.
        student: The `keras.Model` to train.
        epochs: Passes over the training data, at least 1.
        distillation_losses: As `Distiller` takes them, or None.
        distillation_loss_weights: As `Distiller` takes them, schedules too; each stage
            counts its steps from 0.
        student_loss_weight: As `Distiller` takes it; defaults to 0.5.
        optimizer, loss, metrics: As `compile` takes them. Default to "adam",
            cross-entropy of integer labels and logits, and accuracy.

    Raises:
        ValueError: `name`, `student` or `epochs` is not what is described here, or a
            weight is given that would have no effect.
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
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(
                f"Stage {self.name!r}: `epochs` must be an integer >= 1. "
                f"Received: epochs={self.epochs!r}."
            )
        weights = (self.distillation_loss_weights, self.student_loss_weight)
        if self.distillation_losses is None and weights != (None, None):
            raise ValueError(
                f"Stage {self.name!r} has no distillation losses, so it is trained on "
                "labels alone and loss weights have no effect. Leave them out, or give "
                "`distillation_losses`."
            )

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


class _LabelsAlone(SeveralSteps):
    """Holds the student's optimizer, so that the student stays a plain model."""

    def __init__(self, student):
        super().__init__(name="labels_alone", dtype=student.dtype_policy)
        self.student = student
        self.built = student.built

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One row of a chain's table.

    Attributes:
        model: The stage's name, or "teacher".
        taught_by: Name of the teaching model, "labels", or "given" for the teacher.
        accuracy: Fraction right on the validation data, in [0, 1]; errors: the count of
            wrong ones; examples: of how many.
        parameters, macs: See `keras_kd.profile.Profile`.
        file_bytes: Size of the saved `.keras` file, None without a run folder.
        seconds: Of training, the teacher's answers and validation included; None for the
            given teacher.
    """

    model: str
    taught_by: str
    accuracy: float
    errors: int
    examples: int
    parameters: int
    macs: int
    file_bytes: int | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """What a fitted chain leaves.

    Attributes:
        students: dict of stage name to trained `keras.Model`; in float32 where it was
            trained in mixed precision, as what is measured and saved.
        histories: dict of stage name to Keras's history, metric name to one value an
            epoch.
        models: A `ModelResult` per model, the teacher first.
    """

    students: dict
    histories: dict
    models: list

    def table(self):
        """The models side by side, as a Markdown table."""
        examples = self.models[0].examples
        rows = [
            {
                "model": x.model,
                "taught by": x.taught_by,
                "accuracy (%)": f"{100 * x.accuracy:.2f}",
                f"errors in {examples:,}": x.errors,
                "parameters": f"{x.parameters:,}",
                "MACs": f"{x.macs:,}",
                "file (kB)": "-" if x.file_bytes is None else f"{x.file_bytes // 1000:,}",
                "seconds": "-" if x.seconds is None else f"{x.seconds:.0f}",
            }
            for x in self.models
        ]
        return markdown_table(rows, numbers_from=2)

    def write(self, folder):
        """Writes the models' table to a run folder, as Markdown and as JSON."""
        run_dirs.write_text(folder / "results.md", self.table() + "\n")
        rows = [dataclasses.asdict(x) for x in self.models]
        run_dirs.write_json(folder / "results.json", {"models": rows})


class DistillationChain:
    """Trains stages in order, each distilled student the next one's teacher.

    Teacher assistants between a large teacher and a small student are those of
    [Mirzadeh et al., 2020](https://arxiv.org/abs/1902.03393). Where all stages have the
    same architecture it is the self-training of
    [Yuan et al., 2020](https://arxiv.org/abs/1909.11723), and of born-again networks: see
    `keras_kd.born_again`.

    With `dense=True` every earlier distilled model and the given teacher teach each
    student, as in [Son et al., 2021](https://arxiv.org/abs/2009.08825). Each has its own
    copy of the stage's losses, and the terms are summed as in the authors' repository,
    wonchulSon/DGKD (whose `lamb` is 1 - student_loss_weight, 1 by default). In equation 7
    of the paper the labels' loss counts once for each of the n teachers, too: that is, but
    for a factor n, what `distillation_loss_weights` of 1 / n give. A loss that taps a layer
    of the teacher taps the layer of that name in each of them; a teacher that has none, or
    a loss that has its layers already, is refused.

    Args:
        teacher: The trained `keras.Model` that teaches the first stage, or None if no
            stage has distillation losses.
        stages: A list of `Stage`.
        dense: Whether all earlier models teach, not the last one alone.
        drop_rate: The probability, in [0, 1), that a teacher is dropped from a training
            step: one less the paper's survival probability. Each is, or is not, whatever
            becomes of the others, but never all of them; what is left is not scaled up.
            (The repository drops a fixed number of teachers, 1 by default.) Needs `dense`.
        seed: Integer, of the dropping.

    Raises:
        ValueError: No stages, two of the same name or one called "teacher", one model
            in two places, a stage to be taught although there is no teacher, a student
            that does not fit its teacher, or a `drop_rate` out of range or without effect.

    Example:

    ```python
    chain = DistillationChain(teacher, [
        Stage("ta", ta, epochs=12, distillation_losses="kd"),
        Stage("student", student, epochs=12, distillation_losses="kd"),
    ])
    result = chain.fit(train_ds, validation_data=val_ds, run_dir="runs/mine")
    print(result.table())
    ```
    """

    def __init__(self, teacher, stages, dense=False, drop_rate=0.0, seed=0):
        if not 0 <= drop_rate < 1 or (drop_rate and not dense):
            raise ValueError(
                "`drop_rate` must be at least 0 and less than 1, and goes with dense=True. "
                f"Received: drop_rate={drop_rate!r}, dense={dense!r}."
            )
        self.dense, self.drop_rate, self.seed = dense, drop_rate, seed
        self.teacher = teacher
        self.stages = list(stages)
        if not self.stages:
            raise ValueError("`stages` must hold at least one Stage. Received: none.")
        names = ["teacher"] + [stage.name for stage in self.stages]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "Each stage needs a name of its own, other than 'teacher'. "
                f"Received more than once: {', '.join(map(repr, repeated))}."
            )
        models = [id(teacher)] + [id(stage.student) for stage in self.stages]
        if len(set(models)) < len(models):
            raise ValueError(
                "One model stands in two places of the chain. Build one for each stage."
            )
        taught = [s.name for s in self.stages if s.distillation_losses is not None]
        if teacher is None and taught:
            raise ValueError(
                f"Stage {taught[0]!r} has distillation losses but there is no teacher. "
                "Received: teacher=None."
            )
        teachers = [teacher]
        for stage in self.stages:
            if stage.distillation_losses is not None:
                for teacher in teachers:
                    check_models(teacher, stage.student)
                teachers = [*(teachers if dense else ()), stage.student]

    def fit(self, train_data, validation_data, run_dir=None, verbose="auto"):
        """Trains every stage and measures every model.

        Args:
            train_data: A `tf.data.Dataset` (or what else `fit` takes as x) of batches; or
                a function that takes a stage's teacher, None where there is none, and
                returns them, with what `cache_teacher` keeps of it. In a dense chain that
                teacher is a `keras_kd.teachers.Several`.
            validation_data: Batches of (inputs, labels), for the accuracies after each
                epoch and in the table. Nothing is chosen by it.
            run_dir: A new folder for models (`.keras`), histories (CSV), the table
                (Markdown, JSON), and the last distilled student as SavedModel.
            verbose: As Keras's `fit` takes it.

        Returns:
            A `ChainResult`.

        Raises:
            FileExistsError: `run_dir` exists and is not empty.
            FloatingPointError: A loss became NaN or infinite.
            ValueError: Labels or shapes do not fit the models.
        """
        folder = None if run_dir is None else run_dirs.create(run_dir)
        models, students, histories = [], {}, {}
        if self.teacher is not None:
            teacher_folder = folder and folder / "teacher"
            models.append(
                measure(
                    self.teacher, "teacher", "given", validation_data, teacher_folder
                )
            )
        teachers = {"teacher": self.teacher}
        for number, stage in enumerate(self.stages):
            taught = stage.distillation_losses is not None
            taught_by = ", ".join(teachers) if taught else "labels"
            if verbose:
                count = f"{stage.epochs} epoch{'s'[: stage.epochs > 1]}"
                print(f"\nStage {stage.name}: taught by {taught_by}, {count}")
            stage_folder = folder and folder / stage.name
            as_taught = functools.partial(self._as_taught, stage, teachers, number)
            seconds, history = _fit_stage(
                stage, as_taught, train_data, validation_data, stage_folder, verbose
            )
            student = in_float32(stage.student)
            models.append(
                measure(
                    student,
                    stage.name,
                    taught_by,
                    validation_data,
                    stage_folder,
                    seconds,
                )
            )
            students[stage.name], histories[stage.name] = student, history
            if taught:
                teachers = teachers if self.dense else {}
                teachers[stage.name] = stage.student
        result = ChainResult(students, histories, models)
        if folder:
            result.write(folder)
            *_, last = teachers
            if last in students:
                run_dirs.export_saved_model(students[last], folder / last / "saved_model")
        return result

    def _as_taught(self, stage, teachers, number):
        """The stage with its losses as `fit` needs them, and its teacher."""
        if self.dense and stage.distillation_losses is not None:
            return dense_stage(stage, teachers, self.drop_rate, [self.seed, number])
        *_, teacher = teachers.values()
        return stage, teacher


def measure(model, name, taught_by, data, folder=None, seconds=None):
    """A `ModelResult`; saves the model where there is a folder for it."""
    file_bytes = None
    if folder:
        run_dirs.save_model(model, folder / "model.keras")
        file_bytes = (folder / "model.keras").stat().st_size
    evaluation, cost = evaluate(model, data), profile(model)
    return ModelResult(
        name,
        taught_by,
        evaluation.accuracy,
        evaluation.errors,
        evaluation.examples,
        cost.parameters,
        cost.macs,
        file_bytes,
        seconds,
    )


def _fit_stage(stage, as_taught, train_data, validation_data, folder, verbose):
    callbacks = [StopOnBadLoss()]
    if folder:
        folder.mkdir()
        callbacks.append(keras.callbacks.CSVLogger(folder / "history.csv"))
    try:
        stage, teacher = as_taught()
        model = stage.model_to_fit(teacher)
        start = time.perf_counter()
        if callable(train_data):
            train_data = train_data(teacher if stage.distillation_losses else None)
        history = model.fit(
            train_data,
            validation_data=validation_data,
            epochs=stage.epochs,
            callbacks=callbacks,
            verbose=verbose,
            # A tf.data.Dataset shuffles itself; Keras warns if told to.
            shuffle=False,
        )
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"Stage {stage.name!r}: {error}") from error
    return time.perf_counter() - start, history.history
