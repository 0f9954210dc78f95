"""`reviewkd` against the paper's modules and formula, in NumPy and float64."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd.losses import AttentionFusion, ReviewKD, hcl
from keras_kd.losses._reviewkd import _nearest
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [(4, 8, 8, 3), (3, 4, 4, 5), (2, 2, 2, 100), (3, 5, 3, 2), (4, 1, 1, 6), (3, 7)]
# Of three pairs, teacher and student: sizes and widths differ, the last are vectors.
TEACHER = [(4, 8, 8, 5), (4, 4, 4, 3), (4, 6)]
STUDENT = [(4, 4, 4, 2), (4, 6, 6, 3), (4, 4)]


def expected_hcl(teacher, student):
    """Chen et al. 2021, section 3.3, as the authors' code has it, over the whole batch."""
    total, weights, weight = np.mean((teacher - student) ** 2), 1.0, 1.0
    height = teacher.shape[1] if teacher.ndim == 4 else 1
    for level in (4, 2, 1):
        if level >= height:
            continue
        weight *= 0.5
        weights += weight
        gaps = np.subtract(*(averages(x, level) for x in (teacher, student)))
        total += weight * np.mean(gaps**2)
    return total / weights


def averages(x, level):
    """Over windows from floor(i * size / level) to ceil((i + 1) * size / level)."""
    edges = [
        [(i * n // level, -(-(i + 1) * n // level)) for i in range(level)]
        for n in x.shape[1:3]
    ]
    return np.array(
        [[x[:, a:b, c:d].mean(axis=(1, 2)) for c, d in edges[1]] for a, b in edges[0]]
    )


def resized(x, size):
    places = [np.floor(np.arange(n) * old / n) for n, old in zip(size, x.shape[1:3])]
    return x[:, places[0].astype(int)][:, :, places[1].astype(int)]


def normalised(x, gamma, beta):
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def convolved(x, kernel):
    """By a 3 x 3 kernel, with zeros around the map."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3)
    )


def fused_features(students, sizes, layers):
    """Outputs of the authors' ABF modules, from the deepest to the first."""
    outputs, residual = [], None
    for x, size, layer in zip(students[::-1], sizes[::-1], layers[::-1], strict=True):
        weights = {w.path.split("/", 1)[1]: np.float64(w) for w in layer.weights}
        kernels = {k: v for k, v in weights.items() if "moving" not in k}
        own, gamma, beta, output, gamma_out, beta_out, *attention = kernels.values()
        x = normalised(x @ own[0, 0], gamma, beta)
        if residual is not None:
            residual = resized(residual, x.shape[1:3])
            both = np.concatenate([x, residual], axis=-1)
            z = 1 / (1 + np.exp(-(both @ attention[0][0, 0] + attention[1])))
            x = x * z[..., :1] + residual * z[..., 1:]
        residual = resized(x, size)
        outputs.insert(0, normalised(convolved(residual, output), gamma_out, beta_out))
    return outputs


def random_weights(loss):
    rng = np.random.default_rng(1)
    for layer in loss.layers:
        shapes = [w.shape for w in layer.get_weights()]
        layer.set_weights([rng.uniform(-0.5, 1.0, size=shape) for shape in shapes])


def random_pairs(teacher_shapes, student_shapes):
    pairs = [
        random_features(*shapes, seed=seed)
        for seed, shapes in enumerate(zip(teacher_shapes, student_shapes, strict=True))
    ]
    return tuple(map(list, zip(*pairs, strict=True)))


def as_map(x):
    return x if x.ndim == 4 else x[:, None, None]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_context_loss(shape):
    teacher, student = random_features(shape, shape)
    values = hcl([teacher], [student])
    assert values.shape == (len(teacher),)
    reference = expected_hcl(teacher, student)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    twice = hcl([teacher, 2 * teacher], [student, 2 * student])
    np.testing.assert_allclose(twice, 5 * values, rtol=1e-12)
    found = hcl([np.float32(teacher)], [np.float32(student)])
    np.testing.assert_allclose(np.mean(found), reference, rtol=1e-5)


@pytest.mark.parametrize(
    "shapes",
    [
        (TEACHER, STUDENT),
        ([(3, 4, 4, 6), (3, 2, 2, 100)], [(3, 4, 4, 6), (3, 2, 2, 100)]),
        ([(5, 3, 5, 4)], [(5, 4, 2, 2)]),
    ],
    ids=["three pairs", "equal widths", "one pair"],
)
def test_value(shapes):
    teachers, students = random_pairs(*shapes)
    loss = ReviewKD()
    loss.build(*shapes)
    random_weights(loss)
    teacher_maps, student_maps = (list(map(as_map, x)) for x in (teachers, students))
    sizes = [x.shape[1:3] for x in teacher_maps]
    outputs = fused_features(student_maps, sizes, loss.layers)
    reference = sum(map(expected_hcl, teacher_maps, outputs))
    found = loss.compute_loss(
        list(map(np.float32, teachers)), list(map(np.float32, students))
    )
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_widths_inside_the_modules():
    loss = ReviewKD()
    loss.build([(None, 2, 2, 5), (None, 7)], [(None, 2, 2, 3), (None, 600)])
    assert [x.mid_width for x in loss.layers] == [512, 512]
    assert [x.width for x in loss.layers] == [5, 7]
    assert [x.has_deeper for x in loss.layers] == [True, False]
    loss = ReviewKD()
    loss.build([(None, 2, 2, 5), (None, 7)], [(None, 2, 2, 30), (None, 6)])
    assert [x.mid_width for x in loss.layers] == [6, 6]


def test_gradient_reaches_the_deepest_from_every_pair():
    # With one teacher's features far off, the deepest student's matter for it, too.
    shapes = [(4, 4, 4, 3), (4, 2, 2, 3)]
    (t1, _), (s1, s2) = random_pairs(shapes, shapes)
    loss = ReviewKD()
    loss.build(shapes, shapes)

    class First:
        def compute_loss(self, teacher, student, *_):
            output, fused = loss.layers[1](student, training=True)
            output, _ = loss.layers[0](np.float32(s1), fused, training=True)
            return keras.ops.mean(hcl([np.float32(teacher)], [output]))

    assert np.any(student_gradient(First(), t1, np.float32(s2)))


@pytest.mark.parametrize("count", [1, 2])
def test_batch_of_one_and_of_two(count):
    shapes = [[(count, *x[1:]) for x in side] for side in (TEACHER, STUDENT)]
    teachers, students = random_pairs(*shapes)
    loss = ReviewKD()
    loss.build(*shapes)
    random_weights(loss)
    teacher_maps, student_maps = (list(map(as_map, x)) for x in (teachers, students))
    sizes = [x.shape[1:3] for x in teacher_maps]
    outputs = fused_features(student_maps, sizes, loss.layers)
    reference = sum(map(expected_hcl, teacher_maps, outputs))
    found = loss.compute_loss(teachers, students)
    # A vector alone in its batch is, normalised, zero but for rounding.
    np.testing.assert_allclose(found, reference, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_constant_and_large_features(value, dtype):
    # Normalised, the student has a mean of zero and a variance of one at most.
    teacher = keras.ops.cast(np.full((2, 4, 4, 3), value), dtype)
    student = keras.ops.cast(np.full((2, 4, 4, 2), 1e4), dtype)
    loss = ReviewKD()
    found = loss.compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    reference = float(keras.ops.cast(teacher, "float32")[0, 0, 0, 0]) ** 2
    assert reference * (1 - 1e-5) <= float(found) <= (reference + 1) * (1 + 1e-5)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


def test_module_comes_back_from_its_config():
    layer = AttentionFusion(4, 5, (6, 6), True, dtype="float32")
    layer.build((None, 3, 3, 2))
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    again.set_weights(layer.get_weights())
    rng = np.random.default_rng(0)
    x, deeper = rng.normal(size=(2, 3, 3, 2)), rng.normal(size=(2, 2, 2, 4))
    found, reference = (y(np.float32(x), np.float32(deeper)) for y in (again, layer))
    assert found[0].shape == (2, 6, 6, 5) and found[1].shape == (2, 6, 6, 4)
    for pair in zip(found, reference, strict=True):
        np.testing.assert_array_equal(*pair)


def test_sizes_that_are_not_known():
    with pytest.raises(ValueError, match="height and width must be known before"):
        ReviewKD().build((None, None, None, 3), (None, 4, 4, 3))


@pytest.mark.parametrize("sizes", [((3, 5), (7, 5)), ((4, 2), (3, 6)), ((2, 2), (4, 1))])
def test_nearest_rows_and_their_gradient(sizes):
    (old, new), rng = sizes, np.random.default_rng(0)
    features, weights = rng.normal(size=(2, *old, 3)), rng.normal(size=(2, *new, 3))
    rows, columns = (np.arange(n) * o // n for o, n in zip(old, new, strict=True))
    expected, gradient = features[:, rows][:, :, columns], np.zeros_like(features)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            gradient[:, row, column] += weights[:, i, j]
    features, weights = features.astype("float32"), weights.astype("float32")
    np.testing.assert_allclose(_nearest(features, new), expected, rtol=1e-6)
    loss = SimpleNamespace(compute_loss=lambda t, s, *_: ops.sum(t * _nearest(s, new)))
    found = student_gradient(loss, weights, features)
    np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)
