"""Corrupted images against NumPy's, and models whose answers to them are known."""

import keras
import numpy as np
import pytest

from keras_kd.evaluation.robustness import (
    Robustness,
    add_noise,
    robustness,
    rotate,
    shift,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 9, 11, 2), dtype="float32")


@pytest.mark.parametrize("right, down", [(2, 0), (-3, 0), (0, 1), (0, -4), (1, -2)])
def test_shift_moves_rows_and_columns(right, down):
    expected = np.zeros_like(IMAGES)
    for row in range(9):
        for column in range(11):
            if 0 <= row - down < 9 and 0 <= column - right < 11:
                expected[:, row, column] = IMAGES[:, row - down, column - right]
    np.testing.assert_allclose(shift(IMAGES, right, down), expected, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles(turns):
    square = IMAGES[:, :, :9]
    expected = np.rot90(square, turns, axes=(1, 2))
    found = rotate(square, 90 * turns)
    # At the very edge rounding may look for a pixel outside.
    inside = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("degrees", [20, -35])
def test_rotation_is_bilinear(degrees):
    expected = np.zeros_like(IMAGES)
    angle = np.deg2rad(degrees)
    for row in range(9):
        for column in range(11):
            # Turned back about the middle, with y upwards.
            z = complex(column - 5, 4 - row) * np.exp(-1j * angle)
            x, y = z.real + 5, 4 - z.imag
            for i in range(9):
                for j in range(11):
                    weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                    expected[:, row, column] += weight * IMAGES[:, i, j]
    np.testing.assert_allclose(rotate(IMAGES, degrees), expected, atol=1e-4)


def test_noise():
    grey = np.full((20, 30, 30, 1), 0.5)
    noisy = add_noise(grey, 0.1, seed=1)
    assert noisy.dtype == "float32"
    assert np.mean(noisy) == pytest.approx(0.5, abs=0.003)
    assert np.std(noisy) == pytest.approx(0.1, rel=0.02)
    np.testing.assert_array_equal(noisy, add_noise(grey, 0.1, seed=1))
    assert np.std(noisy - add_noise(grey, 0.1, seed=2)) > 0.1
    # The same noise twice as large; a step of 0.5 or more is cut off.
    twice = np.clip(0.5 + 2 * (noisy - 0.5), 0, 1)
    np.testing.assert_allclose(add_noise(grey, 0.2, seed=1), twice, atol=1e-6)
    assert np.min(add_noise(grey, 0.4, seed=1)) == 0
    np.testing.assert_array_equal(add_noise(grey, 0, seed=1), grey)


def first_pixel(weights):
    """A classifier of 2x2 images: class 1 where the weighted pixels are above 1 / 2."""
    model = keras.Sequential(
        [keras.layers.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    kernel = np.stack([np.zeros(4), weights], axis=1)
    model.set_weights([kernel, np.array([0.5, 0.0])])
    return model


def test_accuracies_of_known_models():
    images = np.zeros((4, 2, 2, 1), "float32")
    images[:2, 0, 0] = 1.0
    labels = np.array([1, 1, 0, 0])
    models = {"corner": first_pixel([1, 0, 0, 0]), "anywhere": first_pixel([1, 1, 1, 1])}
    severities = {"shift": (1, 2), "rotation": (90,), "noise": (1e-3,)}
    found = robustness(models, images, labels, severities)
    # The white pixel goes out of the image in two directions of four, and of both turns
    # it comes back to its corner in none.
    assert found.accuracies == {
        ("none", 0): {"corner": 1.0, "anywhere": 1.0},
        ("shift", 1): {"corner": 0.5, "anywhere": 0.75},
        ("shift", 2): {"corner": 0.5, "anywhere": 0.5},
        ("rotation", 90): {"corner": 0.5, "anywhere": 1.0},
        ("noise", 1e-3): {"corner": 1.0, "anywhere": 1.0},
    }


def test_table():
    accuracies = {
        ("none", 0): {"a": 0.98765, "b|c": 1.0},
        ("noise", 0.1): {"a": 0, "b|c": 0.5},
    }
    accuracies |= {
        ("shift", 2): {"a": 0.25, "b|c": 1},
        ("rotation", 10): {"a": 1, "b|c": 1},
    }
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in Robustness(accuracies).table().splitlines()
    ]
    assert rows[0] == ["accuracy (%)", "a", "b\\|c"]
    assert rows[2:] == [
        ["none", "98.77", "100.00"],
        ["noise sigma 0.1", "0.00", "50.00"],
        ["shift 2 px", "25.00", "100.00"],
        ["rotation 10°", "100.00", "100.00"],
    ]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"images": np.zeros((4, 2, 2, 1), "uint8")}, "dtype uint8"),
        ({"images": np.zeros((4, 2, 2))}, r"`images` must be floats .* shape \(4, 2, 2\)"),
        ({"images": np.full((4, 2, 2, 1), 1.5)}, "values from 1.5 to 1.5"),
        ({"images": np.full((4, 2, 2, 1), np.nan)}, "values from nan"),
        ({"models": {}}, "`models` must hold at least one"),
        ({"severities": {"blur": (1,)}}, r"'shift', .* Received: 'blur': \(1,\)"),
        ({"severities": {"shift": (0,)}}, r"numbers > 0. Received: 'shift': \(0,\)"),
        ({"seed": -1}, "`seed` must be an integer, 0 or greater"),
        ({"labels": np.array([0, 1, 2, 0])}, "labels in 0..1"),
    ],
)
def test_refused(changed, message):
    arguments = {
        "models": {"corner": first_pixel([1, 0, 0, 0])},
        "images": np.zeros((4, 2, 2, 1)),
        "labels": np.zeros(4, int),
    }
    with pytest.raises(ValueError, match=message):
        robustness(**arguments | changed)


def test_refused_amounts():
    with pytest.raises(ValueError, match="`degrees` must be a finite number"):
        rotate(IMAGES, np.inf)
    with pytest.raises(ValueError, match="`down` must be a finite number"):
        shift(IMAGES, 1, None)
    with pytest.raises(ValueError, match="`sigma` must be a finite number, 0 or greater"):
        add_noise(IMAGES, -1, seed=0)
