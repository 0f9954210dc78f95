import collections

import keras
import numpy as np
import pytest

from keras_kd import students
from keras_kd.students.families import FAMILIES

Column = collections.namedtuple("Column", "name categories")
COLUMNS = (
    Column("size", None),
    Column("colour", ("red", "green", "blue")),
    Column("price", None),
    Column("shop", tuple("abcdefg")),
)
# Of each family what it is built of, and inputs.
SAMPLES = {
    "separable_cnn": ((28, 28, 1), (10,)),
    "mobilenet_v3": ((32, 40, 2), (3,)),
    "unet": ((30, 45, 3), (30, 45, 2)),
    "mlp": ((4,), (3,)),
    "byte_cnn": ((40,), (5,)),
    "sequence_cnn": ((None, 3), (2,)),
}


def built(family, width, name=None):
    columns = COLUMNS if family == "mlp" else None
    return students.build(family, *SAMPLES[family], width, columns, name)


def inputs(model, examples=2):
    shape = (examples, *(x or 50 for x in model.input_shape[1:]))
    return np.random.default_rng(0).integers(0, 3, shape).astype(model.inputs[0].dtype)


def separable(width, filters):
    """Weights of a depthwise 3x3 and a pointwise convolution, both normalised."""
    return 9 * width + 4 * width + width * filters + 4 * filters


def of_separable_cnn(w):
    blocks = separable(w, 2 * w) + separable(2 * w, 2 * w)
    blocks += separable(2 * w, 4 * w) + separable(4 * w, 4 * w)
    return 9 * w + 4 * w + blocks + (4 * w + 1) * 10


def of_unet(w):
    down = separable(w, 2 * w) + separable(2 * w, 2 * w)
    down += separable(2 * w, 4 * w) + separable(4 * w, 4 * w)
    up = 4 * w * 2 * w + 8 * w + separable(2 * w, 2 * w)
    up += 2 * w * w + 4 * w + separable(w, w)
    return 27 * w + 4 * w + down + up + (w + 1) * 2


def of_mlp(w):
    # Means, variances and their count; 3 + 1 and 7 + 1 categories; two numbers, each with
    # whether it is missing.
    known = 2 * 2 + 2 * 3
    return 4 + 4 + 1 + (4 + 8) * 3 + (known + 1) * w + (w + 1) * w + (w + 1) * 3


def of_byte_cnn(w):
    blocks = [5 * n + n * 2 * w + 2 * w for n in (w, 2 * w, 2 * w)]
    return 257 * w + sum(blocks) + (2 * w + 1) * 5


def of_sequence_cnn(w):
    blocks = [5 * n + n * 2 * w + 4 * 2 * w for n in (w, 2 * w, 2 * w, 2 * w)]
    return 3 + 3 + 1 + 5 * 3 * w + 4 * w + sum(blocks) + (2 * w + 1) * 2


PARAMETERS = {
    "separable_cnn": of_separable_cnn,
    "unet": of_unet,
    "mlp": of_mlp,
    "byte_cnn": of_byte_cnn,
    "sequence_cnn": of_sequence_cnn,
}


@pytest.mark.parametrize("family", PARAMETERS)
def test_parameters(family):
    assert built(family, 6).count_params() == PARAMETERS[family](6)


def test_mobilenet_is_that_of_keras():
    theirs = keras.applications.MobileNetV3Small(
        (32, 40, 2), alpha=0.5, weights=None, classes=3, include_preprocessing=False
    )
    assert built("mobilenet_v3", 50).count_params() == theirs.count_params()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_a_plain_model_with_linear_outputs(family, tmp_path):
    model = built(family, 4, name="mine")
    assert model.name == "mine" and built(family, 4).name == f"{family}_4"
    shape = SAMPLES[family][1]
    assert model.output_shape == (None, *shape)
    assert model.layers[-1].activation is keras.activations.linear
    text = model.to_json()
    assert "keras_kd" not in text and "lambda" not in text.lower()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = inputs(model)
    answers = model(x)
    np.testing.assert_array_equal(loaded(x), answers)
    assert np.all(np.isfinite(answers)) and answers.shape == (2, *shape)


@pytest.mark.parametrize(
    "size, last", [(7, 7), (8, 4), (28, 7), (32, 4), (96, 6), (224, 7)]
)
def test_the_last_maps_of_a_separable_cnn(size, last):
    model = students.build("separable_cnn", (size, size, 3), (2,), 1)
    assert model.get_layer("pool").input.shape[1:3] == (last, last)


def test_a_small_image_keeps_its_pixels_in_the_first_convolution():
    sizes = {x: students.build("separable_cnn", (x, x, 1), (2,), 1) for x in (28, 96)}
    stems = {x: model.get_layer("stem_conv").output.shape[1] for x, model in sizes.items()}
    assert stems == {28: 28, 96: 48}


@pytest.mark.parametrize("size", [(1, 1), (9, 31), (17, 64)])
def test_a_unet_gives_back_the_size(size):
    model = students.build("unet", (*size, 1), (*size, 2), 2)
    assert model(np.zeros((1, *size, 1))).shape == (1, *size, 2)


def test_a_unet_of_any_size():
    model = students.build("unet", (None, None, 1), (None, None, 2), 2)
    assert model(np.zeros((1, 16, 40, 1))).shape == (1, 16, 40, 2)


def test_padding_changes_no_answer():
    """A model of longer texts with the same weights says the same."""
    short = students.build("byte_cnn", (16,), (3,), 4)
    long = students.build("byte_cnn", (64,), (3,), 4)
    long.set_weights([x + 0.1 for x in short.get_weights()])
    short.set_weights(long.get_weights())
    text = np.random.default_rng(0).integers(1, 257, (5, 16)).astype("int32")
    text[0, 9:] = 0
    padded = np.pad(text, ((0, 0), (0, 48)))
    np.testing.assert_allclose(long(padded), short(text), rtol=1e-5)


def answers(model, *rows):
    return np.asarray(model(np.array(rows, "float32")))


def test_what_a_table_does_not_know():
    model = built("mlp", 8)
    model.set_weights([x + 0.1 for x in model.get_weights()])
    known, *unknown = answers(
        model, [1, 2, 3, 4], *([1, x, 3, 4] for x in (np.nan, -1, 3, 1e9, np.inf))
    )
    assert np.ptp(unknown, axis=0).max() == 0 and not np.allclose(known, unknown[0])
    zero, *missing = answers(
        model, [0, 2, 3, 4], *([x, 2, 3, 4] for x in (np.nan, np.inf, -np.inf))
    )
    assert np.ptp(missing, axis=0).max() == 0 and not np.allclose(zero, missing[0])
    # Each column's categories have rows of their own.
    table = model.get_layer("categories").output
    assert table.shape == (None, 2, 3)
    first, second = answers(model, [1, 0, 3, 4], [1, 2, 3, 0])
    assert not np.allclose(first, second)


def test_kinds():
    assert students.for_kind("images") == ["separable_cnn", "mobilenet_v3"]
    assert students.for_kind("images", pixels=True) == ["unet"]
    kinds = [students.for_kind(x) for x in ("table", "text", "sequences")]
    assert kinds == [["mlp"], ["byte_cnn"], ["sequence_cnn"]]
    assert students.names() == list(SAMPLES)
    with pytest.raises(ValueError, match="`kind` must be one of 'images', 'table'"):
        students.for_kind("sound")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("separable_cn", (8, 8, 1), (2,), 4), "`family`.*Did you mean 'separable_cnn'"),
        (("separable_cnn", (8, 8), (2,), 4), r"`input_shape`.*\(height, width, channels\)"),
        (("separable_cnn", (None, 8, 1), (2,), 4), "`input_shape`.*whole numbers"),
        (("separable_cnn", 8, (2,), 4), "`input_shape`"),
        (("separable_cnn", (8, 8, 1), (2, 3), 4), r"`output_shape`.*\(answers,\)"),
        (("unet", (8, 8, 1), (4, 4, 1), 4), r"`output_shape`.*the size.*\(8, 8\)"),
        (("mlp", (3,), (2,), 0), "`width` must be an integer, 1 or greater"),
        (("mlp", (3,), (2,), 4096), "`width` must be at most 2048"),
        (("mlp", (3,), (2,), 4, COLUMNS), "`columns` must be as many.*3.*Received: 4"),
        (("byte_cnn", (4,), (2,), 4, COLUMNS), "`columns` go with tables"),
        (("mobilenet_v3", (28, 28, 1), (2,), 4), "32 x 32 pixels.*'separable_cnn'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        students.build(*arguments)
