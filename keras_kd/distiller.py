"""The Distiller: a Keras model whose `fit` teaches a student under a frozen teacher."""

import math
import numbers

import keras
from keras import ops, tree

from keras_kd import losses as losses_module
from keras_kd.train_step import loss_terms, tensorflow_train_step


@keras.saving.register_keras_serializable(package="keras_kd")
class Distiller(keras.Model):
    """Trains a student under a frozen teacher with Keras's own `compile` and `fit`.

        total = student_loss_weight * student_loss
              + (1 - student_loss_weight) * sum(w_i * distillation_loss_i)
              + the student's own regularisation losses (added once, unscaled)

    The constructor takes the arguments of `keras.distillation.Distiller`, in the same
    order. The teacher runs in inference mode and is never updated; its `trainable` is
    left as it is. `call`, `predict`, `evaluate` and `export` see the student alone, and
    validation does not run the teacher: `val_loss` is the student's loss on the labels
    plus its regularisation losses.

    Args:
        teacher: A built `keras.Model`. Its outputs are logits.
        student: A `keras.Model` whose outputs have the teacher's shape.
        distillation_losses: A distillation loss, an identifier ("kd"), or a list of
            them. See `keras_kd.losses`.
        distillation_loss_weights: One number >= 0 per distillation loss. Defaults to
            1.0 for each.
        student_loss_weight: Weight of the loss on the labels, between 0 and 1. Defaults
            to 0.5, which is also the published MNIST experiment's.
        name: Defaults to "distiller".
        **kwargs: Passed to `keras.Model`.

    Raises:
        ValueError: An argument is of the wrong kind or out of range, the models'
            inputs or outputs do not fit each other, or student and teacher share
            variables that would be trained.

    Example:

    ```python
    distiller = Distiller(teacher, student, SoftTargets(temperature=4.0))
    distiller.compile("adam", SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(train_ds, validation_data=val_ds, epochs=12)
    distiller.student.save("student.keras")
    ```
    """

    def __init__(
        self,
        teacher,
        student,
        distillation_losses,
        distillation_loss_weights=None,
        student_loss_weight=0.5,
        name="distiller",
        **kwargs,
    ):
        check_models(teacher, student)
        # The student's policy decides whether `compile` adds loss scaling.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(name=name, **kwargs)
        self.teacher = teacher
        self.student = student
        if not isinstance(distillation_losses, (list, tuple)):
            distillation_losses = [distillation_losses]
        self.distillation_losses = [losses_module.get(x) for x in distillation_losses]
        self.distillation_loss_weights = _check_weights(
            distillation_loss_weights, count=len(self.distillation_losses)
        )
        self.student_loss_weight = _check_fraction(
            "student_loss_weight", student_loss_weight
        )
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.built = student.built

    def build(self, input_shape):
        if not self.student.built:
            self.student.build(input_shape)
        self.built = True

    @property
    def trainable_variables(self):
        """The student's alone: the teacher's are never updated."""
        return self.student.trainable_variables

    @property
    def non_trainable_variables(self):
        trained = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in trained]

    @property
    def trainable_weights(self):
        return self.student.trainable_weights

    @property
    def non_trainable_weights(self):
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """As `keras.Model.compile`; `loss` is the student's loss on the labels.

        Args:
            optimizer: Of the student's weights. Defaults to "adam".
            loss: What `keras.Model.compile` takes. May be None only if
                `student_loss_weight` is 0.
            metrics: What `keras.Model.compile` takes; they see labels and the
                student's outputs.
            **kwargs: Passed to `keras.Model.compile`.

        Raises:
            ValueError: `loss` is None although it has a weight.
        """
        if loss is None and self.student_loss_weight > 0:
            raise ValueError(
                "`loss`, the student's loss on the labels, is needed because "
                f"student_loss_weight={self.student_loss_weight}. Received: loss=None."
            )
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`; ours takes the same.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None, **kwargs):
        return self.student(inputs, training=training, **kwargs)

    def compute_teacher_outputs(self, x):
        """What the teacher says of a batch, in inference mode, as a constant."""
        outputs = self.teacher(x, training=False)
        return tree.map_structure(ops.stop_gradient, outputs)

    def compute_student_loss(self, y, y_pred, sample_weight):
        """The compiled loss on the labels; zero where there are no labels."""
        if self._compile_loss is None or y is None:
            return ops.zeros(())
        return ops.cast(self._compile_loss(y, y_pred, sample_weight), "float32")

    def compute_loss(
        self,
        x=None,
        y=None,
        y_pred=None,
        sample_weight=None,
        training=True,
        teacher_outputs=None,
    ):
        """The total loss of a batch, a scalar; also updates the loss metrics.

        Args:
            x: Inputs, for the teacher where `teacher_outputs` is None.
            y: Labels.
            y_pred: The student's outputs.
            sample_weight: (batch,) or None.
            training: False leaves the distillation losses and the teacher out.
            teacher_outputs: The teacher's outputs of `x`, if already computed.
        """
        if training and teacher_outputs is None:
            teacher_outputs = self.compute_teacher_outputs(x)
        terms = loss_terms(self, y, y_pred, sample_weight, teacher_outputs)
        batch_size = ops.shape(tree.flatten(y_pred)[0])[0]
        self._loss_tracker.update_state(terms["total_loss"], sample_weight=batch_size)
        for name, value in terms.items():
            tracker = getattr(self, f"{name}_tracker")
            tracker.update_state(value, sample_weight=batch_size)
        return terms["total_loss"]

    def train_step(self, *args, **kwargs):
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*args, **kwargs)
        return tensorflow_train_step(self, *args, **kwargs)

    def test_step(self, data):
        """The student on the labels; the teacher does not run."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.student(x, training=False)
        self.compute_loss(x, y, y_pred, sample_weight, training=False)
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        # Without the teacher, the total is `loss` and there is no distillation loss.
        return {k: v for k, v in logs.items() if k not in _TRAINING_ONLY}

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "teacher": serialize(self.teacher),
            "student": serialize(self.student),
            "distillation_losses": [serialize(x) for x in self.distillation_losses],
            "distillation_loss_weights": self.distillation_loss_weights,
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        objects = {
            key: deserialize(config[key], custom_objects=custom_objects)
            for key in ("teacher", "student")
        }
        objects["distillation_losses"] = [
            deserialize(x, custom_objects=custom_objects)
            for x in config["distillation_losses"]
        ]
        return cls(**(config | objects))


_TRAINING_ONLY = ("distillation_loss", "total_loss")


def check_models(teacher, student):
    """Refuses a teacher and a student that cannot go together, as `Distiller` does."""
    for name, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"`{name}` must be a keras.Model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
    if teacher is student:
        raise ValueError(
            "`teacher` and `student` are the same model. Give the student its own: "
            "keras.models.clone_model(teacher) makes one with fresh weights."
        )
    if not teacher.built:
        raise ValueError(
            "`teacher` has no weights yet: call it on a batch or load its weights "
            f"first. Received: the unbuilt model {teacher.name!r}."
        )
    taught = {id(v) for v in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in taught]
    if shared:
        raise ValueError(
            "`student` would train variables that belong to `teacher`. Set the shared "
            f"layers' trainable to False. Shared: {', '.join(shared)}."
        )
    for side in ("input", "output"):
        _check_shapes(side, teacher, student)


def _check_shapes(side, teacher, student):
    """Compares symbolic shapes; models without them are checked at the first batch."""
    teacher_tensors = getattr(teacher, f"{side}s", None)
    student_tensors = getattr(student, f"{side}s", None)
    if not teacher_tensors or not student_tensors:
        return
    teacher_shapes = [x.shape for x in teacher_tensors]
    student_shapes = [x.shape for x in student_tensors]
    if len(teacher_shapes) == len(student_shapes) and all(
        _shapes_fit(*pair)
        for pair in zip(teacher_shapes, student_shapes, strict=True)
    ):
        return
    raise ValueError(
        f"The {side}s of `student` must have the shapes of the teacher's. "
        f"Received: teacher {teacher.name!r} with {side} shapes {teacher_shapes}, "
        f"student {student.name!r} with {student_shapes}."
    )


def _shapes_fit(shape, other):
    return len(shape) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )


def _is_number(value):
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _check_fraction(name, value):
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(
            f"`{name}` must be a number between 0 and 1. Received: {name}={value!r}."
        )
    return float(value)


def _check_weights(weights, count):
    if count == 0:
        raise ValueError(
            "`distillation_losses` must name at least one loss. Received: an empty list."
        )
    if weights is None:
        return [1.0] * count
    weights = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    if len(weights) != count or not all(_is_number(w) and w >= 0 for w in weights):
        raise ValueError(
            "`distillation_loss_weights` must hold one finite number >= 0 for each of "
            f"the {count} distillation losses. Received: {weights!r}."
        )
    return [float(w) for w in weights]
