"""What tests of losses on logits share: random logits, and softmaxes in NumPy."""

import numpy as np
import pytest

SHAPES = [(8, 3), (5, 10), (4, 100)]


def log_softmax64(logits):
    logits = np.float64(logits)
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax64(logits):
    return np.exp(log_softmax64(logits))


def random_logits(shape, seed=0):
    """Logits of teacher and student, and labels: float64, float64, int64."""
    rng = np.random.default_rng(seed)
    teacher, student = rng.normal(scale=3, size=(2, *shape))
    return teacher, student, rng.integers(shape[-1], size=shape[:-1])


def extreme_logits():
    """Logits of +-1e4, teacher and student of opposite opinions, and labels."""
    teacher = np.float32([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, 1e4]])
    return teacher, -teacher, np.array([0, 2, 1])


def student_gradient(loss, teacher, student, y_true=None, sample_weight=None):
    tf = pytest.importorskip("tensorflow")
    teacher, student = tf.constant(teacher), tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss.compute_loss(teacher, student, y_true, sample_weight)
    return tape.gradient(value, student).numpy()
