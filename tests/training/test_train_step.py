"""One batch: the terms, their sum, and who runs how often."""

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def soft_targets64(teacher, student, temperature):
    def log_softmax(x):
        x = np.float64(x) / temperature
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_softmax(teacher), log_softmax(student)
    return temperature**2 * (np.exp(p) * (p - q)).sum(axis=-1)


def cross_entropy64(y, logits):
    logits = np.float64(logits)
    return np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(y)), y]


def test_total_is_the_weighted_sum_of_its_terms(make_model, vectors):
    x, y = vectors
    teacher = make_model(units=16)
    student = make_model(kernel_regularizer=keras.regularizers.L2(0.1))
    weight = np.random.default_rng(1).uniform(size=len(x)).astype("float32")
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    kernel = np.float64(student.layers[0].kernel)
    distiller = Distiller(
        teacher,
        student,
        [losses.SoftTargets(2.0), losses.SoftTargets(5.0)],
        distillation_loss_weights=[1.0, 0.5],
        student_loss_weight=0.3,
    )
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    logs = distiller.fit(
        x, y, batch_size=len(x), sample_weight=weight, verbose=0
    ).history

    student_loss = (weight * cross_entropy64(y, s)).mean()
    distillation_loss = (
        weight * (soft_targets64(t, s, 2.0) + 0.5 * soft_targets64(t, s, 5.0))
    ).mean()
    total = 0.3 * student_loss + 0.7 * distillation_loss + 0.1 * (kernel**2).sum()
    assert logs["student_loss"][0] == pytest.approx(student_loss, rel=1e-5)
    assert logs["distillation_loss"][0] == pytest.approx(distillation_loss, rel=1e-5)
    assert logs["total_loss"][0] == pytest.approx(total, rel=1e-5)
    assert logs["loss"] == logs["total_loss"]


def test_the_teachers_regularisation_is_not_the_students(make_model, vectors):
    teacher = make_model(kernel_regularizer=keras.regularizers.L2(100.0))
    distiller = Distiller(teacher, make_model(), "kd", student_loss_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    logs = distiller.fit(*vectors, verbose=0).history
    assert logs["loss"] == logs["student_loss"]


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.Model):
    """Counts its forward passes and keeps the training flag of each."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.flags = []

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, training=None):
        self.flags.append(training)
        return self.dense(x)


def test_each_model_runs_once_in_its_mode(vectors):
    x, y = vectors
    teacher, student = Counting(), Counting()
    teacher(x), student(x)
    distiller = Distiller(teacher, student, "kd")
    # Each was asked what its outputs are.
    teacher.flags.clear(), student.flags.clear()
    distiller.compile("sgd", LOSS, run_eagerly=True)
    distiller.fit(x, y, batch_size=32, epochs=1, verbose=0)
    # `fit` looks at its answers to the first examples once.
    assert teacher.flags == [False] * 3
    assert student.flags == [True] * 2


def test_gradient_is_of_the_student_alone(make_model, vectors):
    """One SGD step of rate 1 moves the student by its gradient, worked out by hand."""
    x, y = vectors
    teacher = make_model(units=16)
    student = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    kernel = np.float64(student.layers[0].kernel)
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    distiller = Distiller(teacher, student, losses.SoftTargets(4.0))
    distiller.compile(keras.optimizers.SGD(1.0), LOSS)
    distiller.fit(x, y, batch_size=len(x), verbose=0)

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)

    # Hinton et al. 2015, equation 2: (q - p) / T, times T**2.
    soft = 4.0 * (softmax(s / 4.0) - softmax(t / 4.0))
    hard = softmax(s) - np.eye(3)[y]
    gradient = x.T @ (0.5 * soft + 0.5 * hard) / len(x)
    np.testing.assert_allclose(
        student.layers[0].kernel, kernel - gradient, rtol=1e-4, atol=1e-6
    )


def test_a_student_that_is_frozen_as_a_whole(make_model, vectors):
    student = make_model()
    student.trainable = False
    distiller = Distiller(make_model(), student, "kd", student_loss_weight=0.0)
    distiller.compile("adam")
    with pytest.raises(ValueError, match="nothing to train: all layers of `student`"):
        distiller.fit(*vectors, verbose=0)
