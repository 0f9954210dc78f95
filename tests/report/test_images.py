import base64
import io
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from keras_kd.report.images import contact_sheet, disagreements, picture_sheet
from keras_kd.runs import reader
from tests.runs.sample_run import logits, make_run, make_task_run


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
    assert shown[0].class_name(3) == "3"
    sheet = contact_sheet(shown, "student", 1)
    assert sheet.name == "disagreements_1" and sheet.png.startswith(b"\x89PNG")


def test_classes_by_their_names(tmp_path, monkeypatch):
    path = make_run(tmp_path / "run", 100)
    figures = []

    def only_draw(name, alt, caption, draw, *arguments, size):
        figures.append(Figure(size))
        draw(figures[0], *arguments)

    monkeypatch.setattr("keras_kd.report.images.drawn", only_draw)
    manifest = json.loads((path / "manifest.json").read_text())
    names = ["a", "bb", "a name of many letters", *"cdefghi"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"class_names": names}))
    shown = disagreements(reader.read(path).runs[None], "student")
    contact_sheet(shown, "student", 1)
    short = [x if len(x) < 15 else "a name of man…" for x in names]
    for image, text in zip(shown, figures[0].axes[0].texts, strict=True):
        label, teacher, student = re.split("\n|, ", text.get_text())
        assert label == f"label {short[image.label]}"
        assert teacher == f"T {short[image.teachers['ta']]}"
        assert student == f"S {short[image.student]}"


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


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_answers_that_are_pictures(tmp_path, task):
    run = reader.read(make_task_run(tmp_path / "run", task, 2)).runs[None]
    picture = picture_sheet(run, "student", 3)
    assert picture.name == "answers_3" and picture.png.startswith(b"\x89PNG")
    assert "4 test images on which student and its teacher differ most" in picture.caption
    assert disagreements(run, "student") is None
    assert picture_sheet(run, "teacher", 1) is None


def test_what_is_drawn_of_pictures(tmp_path, monkeypatch):
    run = reader.read(make_task_run(tmp_path / "run", "multiclass", 2)).runs[None]
    pictures = run["student"].pictures
    pictures["label"][0, :2] = np.nan
    monkeypatch.setattr("keras_kd.report.images.drawn", only_draw)
    figure = picture_sheet(run, "student", 1)
    rows = np.reshape(figure.axes, (4, 5))
    assert [x.get_title() for x in rows[0]] == [
        "image", "label", "teacher", "student", "differ"
    ]  # fmt: skip
    index, _ = run["student"].disagreements
    assert [row[0].texts[0].get_text() for row in rows] == [str(x) for x in index]
    for number, (_, label, teacher, student, differ) in enumerate(rows):
        for place, name in ((label, "label"), (teacher, "teacher"), (student, "student")):
            shown = np.ma.filled(place.images[0].get_array().astype(float), np.nan)
            np.testing.assert_array_equal(shown, pictures[name][number])
        apart = pictures["teacher"][number] != pictures["student"][number]
        np.testing.assert_array_equal(differ.images[0].get_array(), apart)


def only_draw(name, alt, caption, draw, *arguments, size):
    figure = Figure()
    draw(figure, *arguments)
    return figure
