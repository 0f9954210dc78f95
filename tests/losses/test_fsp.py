"""`fsp` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import FlowOfSolution, flow_of_solution
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

# Of the layers in order, teacher's and student's.
LAYERS = [
    [((5, 3, 3, 4), (5, 3, 3, 4)), ((5, 3, 3, 2), (5, 3, 3, 2))],
    [((4, 2, 3, 6), (4, 3, 2, 6)), ((4, 2, 3, 1), (4, 3, 2, 1))],
    [((2, 2, 2, 100), (2, 2, 2, 100)), ((2, 2, 2, 3), (2, 2, 2, 3))],
]


def layers(shapes):
    """Features of a list of layers, of teacher and of student."""
    pairs = [random_features(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    return tuple(map(list, zip(*pairs, strict=True)))


def expected(teacher, student, reduce=np.mean):
    """Yim et al. 2017, equations 1 and 2, with `reduce` over the matrix's elements."""
    total = 0
    for i in range(len(teacher[0])):
        difference = matrix(*(x[i] for x in teacher)) - matrix(*(x[i] for x in student))
        total += reduce(difference**2)
    return total / len(teacher[0])


def matrix(first, second):
    height, width = first.shape[:2]
    total = np.zeros((first.shape[-1], second.shape[-1]))
    for p, q in np.ndindex(height, width):
        total += np.outer(first[p, q], second[p, q]) / (height * width)
    return total


@pytest.mark.parametrize("form, reduce", [("mean", np.mean), ("sum", np.sum)])
@pytest.mark.parametrize("shapes", LAYERS, ids=str)
def test_value(shapes, form, reduce):
    teacher, student = layers(shapes)
    values = flow_of_solution(teacher, student, form=form)
    assert values.shape == (len(teacher[0]),)
    reference = expected(teacher, student, reduce)
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-12)
    single = ([np.float32(x) for x in side] for side in (teacher, student))
    found = FlowOfSolution(form).compute_loss(*single)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_defaults_are_means():
    teacher, student = layers([((3, 4, 4, 2),) * 2, ((3, 2, 2, 3),) * 2])
    found = FlowOfSolution().compute_loss(teacher, student)
    averaged = [[blocks(x[0]).mean(axis=(2, 4)), x[1]] for x in (teacher, student)]
    np.testing.assert_allclose(found, expected(*averaged), rtol=1e-6)


def blocks(maps):
    batch, height, width, channels = maps.shape
    return maps.reshape(batch, height // 2, 2, width // 2, 2, channels)


def test_maxima_of_the_larger_map_whichever_of_the_two_it_is():
    loss = FlowOfSolution(pooling="max")
    sizes = [(3, 4, 4, 2), (3, 2, 2, 3)]
    teacher, student = layers([(size, size) for size in sizes])
    small = [[blocks(x[0]).max(axis=(2, 4)), x[1]] for x in (teacher, student)]
    for order in (slice(None), slice(None, None, -1)):
        found = loss.compute_loss(teacher[order], student[order])
        reference = expected(*(x[order] for x in small))
        np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_flows_are_from_each_layer_to_the_next():
    teacher, student = layers([((3, 2, 2, width),) * 2 for width in (4, 2, 5)])
    found = FlowOfSolution().compute_loss(teacher, student)
    reference = sum(expected(teacher[i : i + 2], student[i : i + 2]) for i in (0, 1))
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_one_layer_has_no_flow():
    message = "FlowOfSolution compares at least 2 pairs of features. Received"
    with pytest.raises(ValueError, match=message):
        FlowOfSolution(taps=("a", "b"))
    with pytest.raises(ValueError, match=message):
        FlowOfSolution().compute_loss(*np.ones((2, 3, 2, 2, 4)))


@pytest.mark.parametrize("width", [1, 5])
def test_channels_are_those_of_the_teacher(width):
    # One channel would broadcast.
    teacher, student = layers([((3, 2, 2, 6),) * 2, ((3, 2, 2, 4), (3, 2, 2, width))])
    message = rf"channel by channel.*\(3, 2, 2, 4\).*\(3, 2, 2, {width}\)"
    with pytest.raises(ValueError, match=message):
        FlowOfSolution().compute_loss(teacher, student)


@pytest.mark.parametrize("count", [1, 2])
def test_small_batch(count):
    teacher, student = layers([((count, 2, 3, width),) * 2 for width in (4, 3)])
    found = FlowOfSolution().compute_loss(teacher, student)
    np.testing.assert_allclose(found, expected(teacher, student), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e2])
def test_constant_features(value):
    teacher, _ = layers(LAYERS[0])
    student = [np.full_like(x, value) for x in teacher]
    loss = FlowOfSolution()
    reference = expected(teacher, student)
    np.testing.assert_allclose(loss.compute_loss(teacher, student), reference, rtol=1e-6)
    np.testing.assert_allclose(loss.compute_loss(student, teacher), reference, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    # Flows of 1e8 and -1e8, but for what 16 bits make of 1e4.
    large = keras.ops.cast(np.full((2, 2, 2, 3), 1e4), dtype)
    value = FlowOfSolution().compute_loss([large, large], [large, -large])
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    exact = float(keras.ops.cast(large, "float32")[0, 0, 0, 0])
    np.testing.assert_allclose(float(value), (2 * exact**2) ** 2, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_gradient_is_finite(value):
    constant = np.full((2, 2, 2, 3), value, "float32")

    class LaterLayer:
        """The loss as a function of the later layer's features alone."""

        def compute_loss(self, teacher, student, *_):
            return FlowOfSolution().compute_loss([constant, teacher], [constant, student])

    for student in (constant, -constant):
        assert np.isfinite(student_gradient(LaterLayer(), constant, student)).all()


@pytest.mark.parametrize("name", ["form", "pooling"])
@pytest.mark.parametrize("value", ["median", None, 1])
def test_bad_choice(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be one of '.*{name}={value!r}"):
        FlowOfSolution(**{name: value})
