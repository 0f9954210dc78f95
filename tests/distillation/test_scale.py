"""Which scale a teacher wants: found by its answers, or said to be unknown."""

import keras
import numpy as np
import pytest

from keras_kd.distillation.scale import (
    _judged,
    check_answers,
    find_scale,
    temperature_for,
)
from keras_kd.evaluation.unlabelled import linked_answers
from keras_kd.teachers.scales import names_for, scaled

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3)).astype("uint8")
# Bright red, bright green or bright blue: the mean of each channel, made plain.
LABELS = np.random.default_rng(1).integers(0, 3, 200)
IMAGES[np.arange(200), :, :, LABELS] |= 128
IMAGES[np.arange(200), :, :, (LABELS + 1) % 3] &= 127

NOISE = np.random.default_rng(2).integers(0, 3, 200)
MEAN, DEVIATION = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
BGR_MEAN = np.float32([103.939, 116.779, 123.68])


def teacher_of(scale, steepness=12.0):
    """Answers with the brightest channel, if it sees its own scale: else it is blind.

    Values are brought back to [0, 1] as its scale says, and cut off there.
    """
    inputs = keras.Input((4, 4, 3))
    back = {
        "unit": lambda x: x,
        "bytes": lambda x: x / 255.0,
        "symmetric": lambda x: (x + 1) / 2,
        "imagenet": lambda x: x * DEVIATION + MEAN,
        "bgr": lambda x: keras.ops.flip(x + BGR_MEAN, -1) / 255.0,
    }[scale](inputs)
    # Of what is no pixel nothing is left.
    inside = keras.ops.cast(keras.ops.all((back > -0.02) & (back < 1.02), -1), "float32")
    mean = keras.ops.mean(back * inside[..., None], (1, 2))
    logits = steepness * (mean - keras.ops.mean(mean, -1, keepdims=True))
    return keras.Model(inputs, logits)


# Without labels symmetric and imagenet's numbers are not told from those of [0, 1].
@pytest.mark.parametrize(
    "scale, labels",
    [(x, LABELS) for x in names_for(3)] + [(x, None) for x in ("unit", "bytes", "bgr")],
)
def test_the_teachers_own_scale_is_found(scale, labels):
    lines = []
    found = find_scale(teacher_of(scale), IMAGES, labels, "multiclass", lines.append)
    assert found == scale
    assert len(lines) == 1 and lines[0].startswith(f"Scale: {scale}, ")


def linear(steepness):
    """The brightest channel of any numbers, the surer the larger they are."""
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, steepness * keras.ops.mean(inputs, (1, 2)))


def test_larger_numbers_that_make_it_surer_alone_are_not_taken():
    # In bytes it would be as right, and 255 times as sure.
    found = find_scale(linear(30.0), IMAGES, LABELS, "multiclass", print)
    assert found == "unit"


@pytest.mark.parametrize("labels", [True, False])
def test_a_unit_of_yes_or_no(labels):
    """Brighter than half, seen in [0, 1]: the likelihood is by hand."""
    images = IMAGES[..., :1]
    inputs = keras.Input((4, 4, 1))
    mean = keras.ops.mean(inputs, (1, 2))
    inside = keras.ops.cast(keras.ops.all((inputs >= 0) & (inputs <= 1)), "float32")
    teacher = keras.Model(inputs, keras.ops.sigmoid(20 * inside * (mean - 0.5)))
    # Without a word of the others' spread nothing else is better than chance.
    bright = images.mean(axis=(1, 2, 3)) > 127.5
    lines = []
    given = bright.astype("int64") if labels else None
    found = find_scale(teacher, images, given, "binary", lines.append)
    assert found == "unit"
    if labels:
        answers = teacher.predict(images / np.float32(255), verbose=0)[:, 0]
        likely = np.log(np.where(bright, answers, 1 - answers)).mean()
        judged = _judged(
            "unit",
            list(linked_answers(teacher, images / np.float32(255), "binary")),
            given,
            "binary",
        )
        assert judged.score == pytest.approx(likely, abs=1e-5)
        assert judged.right == 1.0


def test_bytes_are_not_taken_for_blue_green_red():
    """Their numbers are as large, so that these are no reason."""
    inputs = keras.Input((4, 4, 3))
    logits = 12.0 / 255 * keras.ops.mean(inputs, (1, 2))
    grey = np.repeat(IMAGES[..., :1], 3, axis=-1)
    weights = keras.layers.Dense(2)
    teacher = keras.Model(inputs, weights(logits))
    weights.set_weights([np.float32([[1, 0], [0, 0], [0, 0]]), np.float32([-6, 0])])
    bright = (grey.mean(axis=(1, 2, 3)) <= 127.5).astype("int64")
    assert find_scale(teacher, grey, bright, "multiclass", print) == "bytes"


def test_one_that_is_unsure_in_small_numbers_is_given_large_ones():
    found = find_scale(linear(30.0 / 255), IMAGES, LABELS, "multiclass", print)
    assert found in ("bytes", "bgr")


@pytest.mark.parametrize("steepness", [1.0, 5.0])
def test_without_labels_the_same_answers_are_no_reason(steepness):
    with pytest.raises(ValueError, match="must be said.*nothing tells whether"):
        find_scale(linear(steepness), IMAGES, None, "multiclass", print)


def test_no_better_than_chance_is_refused():
    with pytest.raises(ValueError, match="no better than chance in any scale: unit "):
        find_scale(teacher_of("unit"), IMAGES, NOISE, "multiclass", print)


def test_classes_in_another_order_are_told_by_name():
    names = ("red", "green", "blue")
    with pytest.raises(ValueError, match="another order.* its class 0 is 'green'"):
        find_scale(
            teacher_of("unit"), IMAGES, (LABELS + 1) % 3, "multiclass", print, names
        )
    with pytest.raises(ValueError, match="another order"):
        check_answers(
            teacher_of("unit"), IMAGES / np.float32(255), (LABELS + 1) % 3, "multiclass"
        )


def test_values_without_labels_need_a_scale():
    with pytest.raises(ValueError, match="`scale` must be said: the teacher's answers are"):
        find_scale(linear(1.0), IMAGES, None, "regression", print)


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_scales_are_those_of_keras_applications(mode):
    scale = {"tf": "symmetric", "torch": "imagenet", "caffe": "bgr"}[mode]
    inputs = keras.Input((4, 4, 3))
    seen = scaled(keras.Model(inputs, keras.layers.Identity()(inputs)), scale)
    expected = keras.applications.imagenet_utils.preprocess_input(
        IMAGES.astype("float32"), mode=mode
    )
    found = seen.predict(IMAGES / np.float32(255), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "steepness, task, expected",
    [(1000.0, "multiclass", 4.0), (2.0, "multiclass", 1.0), (1000.0, "binary", 1.0)],
)
def test_only_what_is_certain_is_softened(steepness, task, expected):
    lines = []
    teacher = teacher_of("unit", steepness)
    if task == "binary":
        teacher = keras.Model(teacher.inputs, teacher.outputs[0][:, :1])
    assert temperature_for(teacher, IMAGES, task, lines.append) == expected
    assert len(lines) == (expected == 1.0 and task == "multiclass")
