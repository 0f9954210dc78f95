"""`rkd` against the paper's formula, in NumPy and float64."""

import itertools

import keras
import numpy as np
import pytest

from keras_kd.losses import RelationalKnowledge, _rkd, relational_knowledge
from tests.losses.features import SHAPES, length, random_features, rows
from tests.losses.logits import student_gradient


def expected(teacher, student, distance_weight=25.0, angle_weight=50.0):
    """Park et al. 2019, equations 5 to 10, over all pairs and triples of the batch."""
    distances, angles = (
        [relation(rows(x)) for x in (teacher, student)] for relation in (distance, angle)
    )
    return distance_weight * huber(*distances) + angle_weight * huber(*angles)


def distance(x):
    matrix = np.array([[length(a - b) for b in x] for a in x])
    return matrix / (matrix.sum() / (len(x) * (len(x) - 1)))


def angle(x):
    values = []
    for i, j, k in itertools.product(range(len(x)), repeat=3):
        a, b = x[j] - x[i], x[k] - x[i]
        values.append(0.0 if i in (j, k) else a @ b / (length(a) * length(b)))
    return np.array(values)


def huber(teacher, student):
    size = np.abs(teacher - student).ravel()
    return np.mean([s**2 / 2 if s < 1 else s - 0.5 for s in size])


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value(shapes, weights):
    teacher, student = random_features(*shapes)
    reference = expected(teacher, student, *weights)
    names = ("distance_weight", "angle_weight")
    values = relational_knowledge(
        teacher, student, **dict(zip(names, weights, strict=True))
    )
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    teacher, student = np.float32(teacher), np.float32(student)
    found = RelationalKnowledge(*weights).compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_defaults_are_25_and_50():
    teacher, student = random_features((5, 7), (5, 3))
    found = RelationalKnowledge().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_both_branches_of_huber_are_reached():
    # On a line, and at right angles: differences of distances and of cosines from 0 to 2.
    teacher = np.array([[0.0, 0], [1, 0], [-1, 0], [0, 9]])
    student = np.array([[0.0, 0], [1, 0], [1, 0.1], [0, 0.1]])
    gaps = [np.abs(f(teacher) - f(student)).max() for f in (distance, angle)]
    assert min(gaps) > 1
    found = relational_knowledge(teacher, student)
    np.testing.assert_allclose(np.mean(found), expected(teacher, student), rtol=1e-12)


def test_only_proportions_matter():
    teacher, student = random_features((5, 7), (5, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    found = RelationalKnowledge().compute_loss(3 * teacher + 5, 0.1 * student @ turn - 2)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


def test_batch_of_two():
    # One distance, which is its own mean, and no angle.
    teacher, student = random_features((2, 7), (2, 3))
    found = RelationalKnowledge().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), atol=1e-6)


def test_examples_of_weight_zero_are_as_if_not_there():
    teacher, student = random_features((6, 7), (6, 3))
    weight = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    rest = weight > 0
    # Four examples, whose means are over 4, in a sum that is divided by 6.
    reference = expected(teacher[rest], student[rest]) * 4 / 6
    for shaped in (weight, weight[:, None]):
        loss = RelationalKnowledge()
        found = loss.compute_loss(teacher, student, sample_weight=shaped)
        np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_weights_weigh_every_mean():
    teacher, student = random_features((4, 7), (4, 3))
    weight = np.array([0.5, 1.0, 2.0, 0.5])
    (t, a), (s, b) = (
        (np.array([[length(x - y) for y in f] for x in f]), angle(f).reshape(4, 4, 4))
        for f in (teacher, student)
    )
    pair = np.outer(weight, weight)
    others = pair * (1 - np.eye(4))
    total = 0
    for i, j in np.ndindex(4, 4):
        gap = t[i, j] / np.average(t, weights=others) - s[i, j] / np.average(
            s, weights=others
        )
        total += 25 * pair[i, j] / 4 * huber(gap, 0) / 4
        for k in range(4):
            total += 50 * pair[i, j] * weight[k] / 4 / 4 * huber(a[i, j, k], b[i, j, k]) / 4
    found = RelationalKnowledge().compute_loss(teacher, student, sample_weight=weight)
    np.testing.assert_allclose(found, total, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    # An equilateral triangle against a line with its middle.
    teacher = np.eye(3) * 1e4
    student = np.array([[-1e4], [0.0], [1e4]])
    tensors = [keras.ops.cast(x, dtype) for x in (teacher, student)]
    value = RelationalKnowledge().compute_loss(*tensors)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(float(value), expected(teacher, student), rtol=1e-5)
    assert np.isfinite(student_gradient(RelationalKnowledge(), *tensors)).all()


@pytest.mark.parametrize("at_once, most", [(50, 99), (1, 3), (10**6, 1)], ids=str)
def test_angles_some_examples_at_a_time(at_once, most, monkeypatch):
    monkeypatch.setattr(_rkd, "ANGLES_AT_ONCE", at_once)
    monkeypatch.setattr(_rkd, "MOST_BLOCKS", most)
    teacher, student = random_features((5, 7), (5, 3))
    teacher[0], student[0] = teacher[1] + 0.1, student[1] - 0.1
    found = RelationalKnowledge(0.0, 50.0)
    reference = expected(teacher, student, 0.0, 50.0)
    np.testing.assert_allclose(found.compute_loss(teacher, student), reference, rtol=1e-6)
    move = 1e-5 * np.random.default_rng(1).normal(size=student.shape)
    sides = (expected(teacher, student + x, 0.0, 50.0) for x in (move, -move))
    gradient = student_gradient(found, teacher, student)
    slope = np.subtract(*sides)
    np.testing.assert_allclose(2 * np.sum(gradient * move), slope, rtol=1e-4)


def test_gradient_of_both_models():
    # Deep mutual learning and the like: neither side is a constant.
    tf = pytest.importorskip("tensorflow")
    sides = [tf.constant(x) for x in random_features((5, 7), (5, 3))]
    with tf.GradientTape() as tape:
        tape.watch(sides)
        value = tf.reduce_mean(relational_knowledge(*sides))
    moves = [1e-6 * np.random.default_rng(1).normal(size=x.shape) for x in sides]
    found = sum(
        np.sum(g * m) for g, m in zip(tape.gradient(value, sides), moves, strict=True)
    )
    ends = (
        expected(*(x.numpy() + sign * m for x, m in zip(sides, moves, strict=True)))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(2 * found, np.subtract(*ends), rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes of tf.data")
def test_gradient_where_shapes_are_known_at_run_time_alone():
    import tensorflow as tf

    teacher, student = random_features((5, 7), (5, 3))
    loss = RelationalKnowledge()

    def gradient(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss.compute_loss(teacher, student)
        return tape.gradient(value, student)

    unknown = tf.TensorSpec((None, None), tf.float32)
    inputs = tf.constant(teacher, tf.float32), tf.constant(student, tf.float32)
    found = tf.function(gradient, input_signature=[unknown, unknown])(*inputs)
    np.testing.assert_allclose(found, gradient(*inputs), rtol=1e-5, atol=1e-6)


def test_equal_examples():
    # As the authors' code has it: a distance of 1e-6, which counts in the mean.
    teacher, student = random_features((5, 7), (5, 3))
    student[1] = student[3]
    near = np.where(np.arange(5)[:, None] == 1, student + [1e-6, 0, 0], student)
    distances = RelationalKnowledge(angle_weight=0.0)
    np.testing.assert_allclose(
        distances.compute_loss(teacher, student),
        expected(teacher, near, angle_weight=0.0),
        rtol=1e-5,
    )
    gradient = student_gradient(RelationalKnowledge(), teacher, student)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 100


@pytest.mark.parametrize("name", ["distance_weight", "angle_weight"])
@pytest.mark.parametrize("value", [-1, "1", None, float("nan"), True])
def test_bad_weight(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number, 0 or greater"):
        RelationalKnowledge(**{name: value})
