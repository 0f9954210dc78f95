"""Linear CKA, against the Hilbert-Schmidt independence criterion written out."""

import keras
import numpy as np
import pytest

from keras_kd import with_index, with_teacher_inputs
from keras_kd.evaluation.similarity import layer_similarity, linear_cka
from keras_kd.teachers import Ensemble

RNG = np.random.default_rng(0)


def hsic(x, y):
    """tr(K H L H) / (n - 1)^2 with linear kernels K, L and the centring matrix H."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ m @ h) / (n - 1) ** 2


def two_layers():
    layers = [keras.layers.Input((4,)), keras.layers.Dense(6, "tanh")]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


def by_hsic(x, y):
    x, y = (np.reshape(a, (len(a), -1)).astype("float64") for a in (x, y))
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("shapes", [((5,), (3,)), ((4, 4, 3), (2,)), ((40,), (2, 30))])
def test_is_the_normalised_hsic(shapes):
    # 20 examples: of fewer features, of more, of both.
    x = RNG.normal(3.0, 2.0, (20, *shapes[0])).astype("float32")
    y = RNG.normal(-1.0, 0.1, (20, *shapes[1])).astype("float32")
    y[:, 0] += 0.1 * np.reshape(x, (20, -1))[:, :1].reshape(20, *[1] * (y.ndim - 2))
    assert linear_cka(x, y) == pytest.approx(by_hsic(x, y), rel=1e-10)
    assert 0.05 < linear_cka(x, y) < 0.95
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)


@pytest.mark.parametrize("features", [6, 60])
def test_rotation_scale_and_shift_change_nothing(features):
    x = RNG.normal(size=(30, features)) * np.linspace(0.1, 3, features)
    y = RNG.normal(size=(30, 4)) + x[:, :4]
    rotation, _ = np.linalg.qr(RNG.normal(size=(features, features)))
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(1e-170 * x @ rotation + 7e-170, x) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(1e200 * x, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    moved = linear_cka(x @ rotation * -30 + 7, y)
    assert moved == pytest.approx(linear_cka(x, y), rel=1e-9)
    # Not so with a transform that is linear and no rotation.
    assert linear_cka(x * np.geomspace(0.01, 100, features), y) != pytest.approx(moved)


def test_independent_noise_is_unlike():
    x, y = RNG.normal(size=(2, 2000, 10))
    # Its expectation is about 1 / n times the square root of the two widths' product.
    assert linear_cka(x, y) < 0.02


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.ones((3, 2)), np.eye(3), "`teacher_features` are the same for each of the 3"),
        (np.eye(3), np.eye(4), "of the same examples. Received: 3 and 4 examples"),
        (np.eye(3), [[1.0, np.nan]] * 3, "`student_features` holds NaN"),
        (np.eye(3), np.arange(3), r"`student_features` must be .* Received: shape \(3,\)"),
        (np.ones((1, 3)), np.ones((1, 3)), r"2 examples or more. Received: shape \(1, 3\)"),
    ],
)
def test_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        linear_cka(x, y)


def net(widths, name, rate=0.0):
    layers = [
        keras.layers.Dense(width, activation="relu", name=f"hidden{i + 1}")
        for i, width in enumerate(widths)
    ]
    head = [keras.layers.Dropout(rate), keras.layers.Dense(3, name="logits")]
    return keras.Sequential([keras.layers.Input((4,)), *layers, *head], name=name)


def relu_layers(model, x):
    outputs = []
    for layer in model.layers:
        if layer.name.startswith("hidden"):
            kernel, bias = layer.get_weights()
            x = np.maximum(x @ kernel + bias, 0)
            outputs.append(x)
    return outputs


def test_of_models(vectors):
    teacher, student = net((16, 12), "teacher", rate=0.5), net((8,), "student")
    x, labels = vectors
    batches = [(x[:40], labels[:40]), (x[40:], labels[40:])]
    ours, others = relu_layers(teacher, x), relu_layers(student, x)
    found = layer_similarity(teacher, student, batches)
    assert found == pytest.approx(by_hsic(ours[-1], others[-1]), rel=1e-4)
    found = layer_similarity(teacher, student, [x], taps=("hidden1", "hidden1"))
    assert found == pytest.approx(by_hsic(ours[0], others[0]), rel=1e-4)
    assert found != pytest.approx(by_hsic(ours[1], others[0]), rel=1e-2)


def test_each_model_sees_its_own_inputs(vectors):
    x, labels = vectors
    teacher, student = two_layers(), two_layers()
    own = x[:, ::-1].copy()
    found = [
        layer_similarity(teacher, student, data.batch(16))
        for data in (
            with_teacher_inputs((x, labels), own),
            with_index((x, labels)),
        )
    ]
    hidden = [[m.layers[0](a).numpy() for a in (own, x)] for m in (teacher, student)]
    expected = [by_hsic(hidden[0][k], hidden[1][1]) for k in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_refused_models(vectors):
    teacher, student = net((8,), "teacher"), net((6,), "student")
    x, _ = vectors
    with pytest.raises(ValueError, match="no layer 'hiden1' in 'student'. Near names: 'hi"):
        layer_similarity(teacher, student, [x], taps=("hidden1", "hiden1"))
    with pytest.raises(ValueError, match="`taps` must be a pair of layer names"):
        layer_similarity(teacher, student, [x], taps="hidden1")
    with pytest.raises(ValueError, match="`dataset` is empty"):
        layer_similarity(teacher, student, [])
    ensemble = Ensemble([teacher, net((8,), "other")])
    with pytest.raises(ValueError, match="'ensemble' must be a Functional or Sequential"):
        layer_similarity(ensemble, student, [x])
