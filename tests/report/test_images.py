import base64
import io

import numpy as np
import pytest
from PIL import Image

from keras_kd.report.images import contact_sheet, disagreements
from keras_kd.runs import reader
from tests.runs.sample_run import logits, make_run


def run_of(path, images):
    return reader.read(make_run(path, len(images), images=images)).runs[None]


def decoded(image):
    head, data = image.source.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_who_answers_what(tmp_path):
    images = np.random.default_rng(0).random((100, 8, 8, 1))
    shown = disagreements(run_of(tmp_path, images), "student")
    labels, outputs = logits(100)
    student, ta = (outputs[x].argmax(1) for x in ("student", "ta"))
    expected = np.flatnonzero(student != ta)
    assert [x.index for x in shown] == list(expected) and len(expected) > 1
    for image in shown:
        assert image.label == labels[image.index]
        assert image.student == student[image.index]
        assert image.teachers == {"ta": ta[image.index]}
        pixels = np.round(255 * images[image.index, :, :, 0].astype("float32"))
        np.testing.assert_array_equal(decoded(image), pixels)
    sheet = contact_sheet(shown, "student", 1)
    assert sheet.name == "disagreements_1" and sheet.png.startswith(b"\x89PNG")


@pytest.mark.parametrize("channels, shape", [(3, (160, 80, 3)), (2, (160, 80))])
def test_colours_and_size(tmp_path, channels, shape):
    images = np.random.default_rng(0).random((100, 200, 100, channels))
    image = disagreements(run_of(tmp_path, images), "student")[0]
    assert decoded(image).shape == shape


def test_values_out_of_range(tmp_path):
    images = np.full((100, 2, 2, 1), np.nan)
    images[:, 0, 0], images[:, 1, 1] = 7, -7
    image = disagreements(run_of(tmp_path, images), "student")[0]
    np.testing.assert_array_equal(decoded(image), [[255, 0], [0, 0]])


def test_no_images(tmp_path):
    run = run_of(tmp_path, np.zeros((20, 2, 2, 1)))
    run["student"].files.pop("disagreements.npz")
    assert disagreements(run, "student") is None
