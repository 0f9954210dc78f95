"""What happens to one batch: the terms, the total, the gradients."""

import keras
from keras import ops

from keras_kd.distribution.replicas import unscaled, zero_if_empty
from keras_kd.losses.schedules import value_at


class TrainsStudent:
    """Which of a Distiller's variables a step trains."""

    @property
    def trainable_variables(self):
        """The student's, and those of losses' layers: the teacher's are never updated."""
        trained = [self.student, *self.loss_layers]
        return [v for layer in trained for v in layer.trainable_variables]

    @property
    def non_trainable_variables(self):
        trained = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in trained]

    @property
    def trainable_weights(self):
        return self.trainable_variables

    @property
    def non_trainable_weights(self):
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]


class OneStep:
    """What one step hands from the student's forward pass to the loss to the metrics.

    Attributes:
        student: `Outputs` of the last forward pass, until the loss takes them.
        distils: Whether the step's loss has the distillation losses in it.
    """

    student = None
    distils = True

    def take_student(self, y_pred):
        """The last pass's `Outputs` if `y_pred` are its own, else None; keeps neither."""
        student, self.student = self.student, None
        return student if student is not None and student.own is y_pred else None


def loss_terms(
    distiller, y, y_pred, sample_weight, teacher, student, step, index=None, training=True
):
    """The parts of one batch's loss, each a float32 scalar.

        total = student_loss_weight * student_loss
              + (1 - student_loss_weight) * sum(w_i * distillation_loss_i)
              + the student's own regularisation losses (added once, unscaled)

    A term whose weight is zero is not computed and counts as zero; one whose weight is
    scheduled always is.

    Args:
        distiller: A compiled `Distiller`.
        y: Labels, as the compiled loss takes them; None where there are none.
        y_pred: The student's outputs.
        sample_weight: (batch,) or None.
        teacher, student: `Outputs` of the two models. `teacher` is None where no
            distillation loss is wanted (validation): the total is then the student's
            loss, unscaled, plus regularisation.
        step: Where schedules are read, a scalar integer.
        index: The examples' numbers in the data set (batch,), or None.
        training: Whether losses' layers run as in training.

    Returns:
        dict of "student_loss", "distillation_loss" and "total_loss".
    """
    weight = distiller.student_loss_weight
    student_loss = distillation_loss = ops.zeros((), "float32")
    if teacher is None or weight != 0:
        student_loss = distiller.compute_student_loss(y, y_pred, sample_weight)
    total = student_loss
    if teacher is not None:
        if weight != 1:
            distillation_loss = distiller.compute_distillation_loss(
                y, sample_weight, teacher, student, step, index, training
            )
        weight = value_at(weight, step)
        total = weight * student_loss + (1 - weight) * distillation_loss
    for loss in distiller.losses:
        total += ops.sum(ops.cast(loss, "float32"))
    return {
        "student_loss": student_loss,
        "distillation_loss": distillation_loss,
        "total_loss": total,
    }


def check_trains(distiller):
    """What a step trains, of a Distiller whose student has its weights.

    Raises:
        ValueError: There is nothing: the student is frozen as a whole, and no loss has
            layers to train.
    """
    trainable_weights = distiller.trainable_weights
    if not trainable_weights:
        raise ValueError(
            "There is nothing to train: all layers of `student` "
            f"{distiller.student.name!r} are frozen. Set `trainable` to True for those "
            "that are to learn."
        )
    return trainable_weights


def tensorflow_train_step(distiller, data):
    """One step on one batch: teacher outside the tape, student forward once.

    Args:
        distiller: A compiled `Distiller`.
        data: x, (x, y) or (x, y, sample_weight), as Keras's `fit` passes it.

    Returns:
        dict of metric results, as Keras's `train_step` returns it.

    Raises:
        ValueError: The student is frozen as a whole, and no loss has layers to train.
    """
    # TensorFlow's own step; the other backends have theirs in Keras.
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    teacher = distiller.run_teacher(x)
    with tf.GradientTape() as tape:
        y_pred = distiller(x, training=True)
        loss = distiller.compute_loss(x, y, y_pred, sample_weight, teacher=teacher)
        scaled_loss = distiller.optimizer.scale_loss(loss)
    batch_size = ops.shape(keras.tree.flatten(y_pred)[0])[0]
    distiller._loss_tracker.update_state(unscaled(loss), sample_weight=batch_size)
    trainable_weights = check_trains(distiller)
    gradients = tape.gradient(scaled_loss, trainable_weights)
    # Those of no example may be NaN, whatever is made of the loss.
    gradients = [g if g is None else zero_if_empty(g, batch_size) for g in gradients]
    distiller.optimizer.apply_gradients(zip(gradients, trainable_weights, strict=True))
    return distiller.compute_metrics(x, y, y_pred, sample_weight)
