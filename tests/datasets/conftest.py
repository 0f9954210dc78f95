"""A folder of small images, a folder for each class."""

import keras
import numpy as np
import pytest

CLASSES = ("cat", "dog", "eel")


def write_image(path, pixels):
    """Pixels (height, width, channels), bytes, as the file's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.save_img(path, pixels, scale=False)


def pixels_of(seed, size=(6, 8), channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), "uint8")


@pytest.fixture
def photos(tmp_path):
    """60 images of three classes, 6 x 8 pixels in colours."""
    folder = tmp_path / "photos"
    for number in range(60):
        name = CLASSES[number % 3]
        write_image(folder / name / f"{number:02d}.png", pixels_of(number))
    return folder
