"""Images of files: the pixels that are there, in any order, whole or scaled."""

import numpy as np
import tensorflow as tf

from keras_kd.datasets.images import ImageFiles, fitted
from tests.datasets.conftest import pixels_of, write_image


def files(folder, count=5):
    paths = [folder / f"{k}.png" for k in range(count)]
    for k, path in enumerate(paths):
        write_image(path, pixels_of(k))
    return ImageFiles(paths, (6, 8), 3, [f"{k:02x}" for k in range(count)])


def test_they_are_those_of_the_files(tmp_path):
    images = files(tmp_path)
    assert images.shape == (5, 6, 8, 3) and images.dtype == np.uint8 and len(images) == 5
    expected = np.stack([pixels_of(k) for k in range(5)])
    np.testing.assert_array_equal(images[:], expected)
    np.testing.assert_array_equal(images[3], expected[3])
    np.testing.assert_array_equal(images[np.array([4, 0, 4])], expected[[4, 0, 4]])
    read = tf.function(images.gather)(tf.constant([2, 1], tf.int64))
    np.testing.assert_array_equal(read, expected[[2, 1]])


def test_a_part_is_of_its_rows(tmp_path):
    images = files(tmp_path)
    part = images.part(np.array([3, 1, 1]))
    np.testing.assert_array_equal(part[:], images[:][[3, 1, 1]])
    assert part.digest() != images.digest()
    assert part.digest() == images.part([3, 1, 1]).digest()


def test_in_another_size_the_middle_is_scaled():
    image = np.zeros((4, 8, 1), "uint8")
    # The middle 4 x 4, of which each quarter has one value.
    image[:, 2:6, 0] = np.kron([[10, 20], [30, 40]], np.ones((2, 2)))
    image[:, :2], image[:, 6:] = 255, 255
    made = fitted(tf.constant(image), (2, 2)).numpy()[..., 0]
    np.testing.assert_allclose(made, [[10, 20], [30, 40]], atol=4)
    np.testing.assert_array_equal(fitted(tf.constant(image), (4, 8)), image)
    larger = fitted(tf.constant(image[:, 2:6]), (8, 8)).numpy()
    assert larger.shape == (8, 8, 1) and larger[0, 0, 0] == 10 and larger[-1, -1, 0] == 40


def test_grey_and_colours_are_made_into_each_other(tmp_path):
    write_image(tmp_path / "grey.png", pixels_of(0, channels=1))
    path = tmp_path / "grey.png"
    colours = ImageFiles([path], (6, 8), 3, ["0"])[:]
    np.testing.assert_array_equal(colours, np.repeat(pixels_of(0, channels=1)[None], 3, -1))
