"""What happens to one batch: the terms, the total, the gradients."""

import keras
from keras import ops


def loss_terms(distiller, y, y_pred, sample_weight, teacher_outputs):
    """The parts of one batch's loss, each a scalar.

        total = student_loss_weight * student_loss
              + (1 - student_loss_weight) * sum(w_i * distillation_loss_i)
              + the student's own regularisation losses (added once, unscaled)

    Args:
        distiller: A compiled `Distiller`.
        y: Labels, as the compiled loss takes them; None where there are none.
        y_pred: The student's outputs.
        sample_weight: (batch,) or None.
        teacher_outputs: The teacher's outputs, or None where no distillation loss is
            wanted (validation): the total is then the student's loss alone, unscaled.

    Returns:
        dict of "student_loss", "distillation_loss" (only with teacher outputs) and
        "total_loss".
    """
    student_loss = distiller.compute_student_loss(y, y_pred, sample_weight)
    terms = {"student_loss": student_loss}
    total = student_loss
    if teacher_outputs is not None:
        distillation_loss = ops.zeros(())
        for loss, weight in zip(
            distiller.distillation_losses,
            distiller.distillation_loss_weights,
            strict=True,
        ):
            value = loss.compute_loss(
                teacher_outputs, y_pred, y_true=y, sample_weight=sample_weight
            )
            distillation_loss += weight * ops.cast(value, "float32")
        terms["distillation_loss"] = distillation_loss
        weight = distiller.student_loss_weight
        total = weight * student_loss + (1 - weight) * distillation_loss
    for loss in distiller.student.losses:
        total += ops.sum(ops.cast(loss, "float32"))
    return terms | {"total_loss": total}


def tensorflow_train_step(distiller, data):
    """One step on one batch: teacher outside the tape, student forward once.

    Args:
        distiller: A compiled `Distiller`.
        data: x, (x, y) or (x, y, sample_weight), as Keras's `fit` passes it.

    Returns:
        dict of metric results, as Keras's `train_step` returns it.
    """
    # TensorFlow's own step; the other backends have theirs in Keras.
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    teacher_outputs = distiller.compute_teacher_outputs(x)
    with tf.GradientTape() as tape:
        y_pred = distiller.student(x, training=True)
        loss = distiller.compute_loss(
            x, y, y_pred, sample_weight, teacher_outputs=teacher_outputs
        )
        scaled_loss = distiller.optimizer.scale_loss(loss)
    trainable_weights = distiller.trainable_weights
    gradients = tape.gradient(scaled_loss, trainable_weights)
    distiller.optimizer.apply_gradients(zip(gradients, trainable_weights, strict=True))
    return distiller.compute_metrics(x, y, y_pred, sample_weight)
