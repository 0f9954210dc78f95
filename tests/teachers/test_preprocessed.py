import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.models.fingerprints import teacher_id
from keras_kd.teachers import Preprocessed

L = keras.layers
RNG = np.random.default_rng(0)
GREY = RNG.uniform(size=(16, 6, 6, 1)).astype("float32")
LABELS = RNG.integers(0, 3, 16)


@pytest.fixture
def teacher():
    """Of 12x12 RGB, with a layer whose training mode differs."""
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(3, 3, name="conv"), L.BatchNormalization(), L.Flatten(), L.Dense(3)]
    return keras.Sequential([L.Input((12, 12, 3)), *layers], name="big")


def steps():
    """Another size, scale and colours."""
    return [
        L.Resizing(12, 12, interpolation="nearest"),
        L.Rescaling(2.0, offset=-1.0),
        lambda images: keras.ops.repeat(images, 3, axis=-1),
    ]


def seen64(grey):
    """What the teacher sees, worked out by hand."""
    twice = np.repeat(np.repeat(grey.astype("float64"), 2, axis=1), 2, axis=2)
    return np.repeat(2 * twice - 1, 3, axis=-1)


def small(units=3):
    return keras.Sequential([L.Input((6, 6, 1)), L.Flatten(), L.Dense(units)])


def test_the_teacher_sees_what_is_made_for_it(teacher):
    wrapped = Preprocessed(teacher, steps(), input_shape=(6, 6, 1))
    expected = teacher(seen64(GREY).astype("float32"), training=False)
    np.testing.assert_allclose(wrapped(GREY), expected, rtol=1e-5, atol=1e-6)
    # Inference mode, whatever is asked for.
    np.testing.assert_array_equal(wrapped(GREY, training=True), wrapped(GREY))
    assert wrapped.teacher is teacher


@pytest.mark.parametrize("form", ["model", "layer", "function", "adapted"])
def test_forms(teacher, form):
    colours = RNG.uniform(size=(16, 12, 12, 3)).astype("float32")
    inputs = keras.Input((12, 12, 3))
    normalization = L.Normalization()
    normalization.adapt(colours)
    made, expected = {
        "model": (keras.Model(inputs, L.Rescaling(255.0)(inputs)), 255 * colours),
        "layer": (L.Rescaling(255.0), 255 * colours),
        "function": (lambda x: keras.ops.flip(x, axis=-1), colours[..., ::-1]),
        "adapted": (
            normalization,
            (colours - colours.mean((0, 1, 2))) / colours.std((0, 1, 2)),
        ),
    }[form]
    wrapped = Preprocessed(teacher, made)
    np.testing.assert_allclose(wrapped(colours), teacher(expected), rtol=1e-4, atol=1e-5)


def test_it_teaches_live_cached_and_by_its_layers(teacher):
    wrapped = Preprocessed(teacher, steps(), input_shape=(6, 6, 1))
    before = [np.array(x) for x in wrapped.weights]
    histories = []
    for data in ((GREY, LABELS), kd.cache_teacher(wrapped, (GREY, LABELS), verbose=0)):
        keras.utils.set_random_seed(1)
        distiller = kd.Distiller(wrapped, small(), "kd")
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        given = {"batch_size": 16} if isinstance(data, tuple) else {}
        data = data if isinstance(data, tuple) else (data.batch(16),)
        history = distiller.fit(*data, verbose=0, shuffle=False, **given).history
        histories.append(history["distillation_loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-2)
    layers = [L.Conv2D(3, 3, name="own"), L.Flatten(), L.Dense(3)]
    student = keras.Sequential([L.Input((6, 6, 1)), *layers])
    loss = kd.losses.get("at", taps=("big/conv", "own"))
    tapped = kd.Distiller(wrapped, student, loss)
    tapped.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    tapped.fit(GREY, LABELS, verbose=0)
    for old, new in zip(before, wrapped.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_comes_back_from_a_file(teacher, tmp_path):
    wrapped = Preprocessed(teacher, steps(), input_shape=(6, 6, 1))
    wrapped.save(tmp_path / "wrapped.keras")
    again = keras.saving.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(again(GREY), wrapped(GREY))
    distiller = kd.Distiller(wrapped, small(), "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.teacher(GREY), wrapped(GREY))


def test_a_cache_tells_it_from_the_same_teacher_seen_otherwise(teacher, tmp_path):
    colours = RNG.uniform(size=(16, 12, 12, 3)).astype("float32")
    kd.cache_teacher(Preprocessed(teacher, L.Rescaling(2.0)), colours, tmp_path, verbose=0)
    with pytest.raises(kd.CacheError, match="teacher's architecture differs"):
        other = Preprocessed(teacher, L.Rescaling(3.0))
        kd.cache_teacher(other, colours, tmp_path, verbose=0)


def test_members_of_an_ensemble_with_inputs_of_their_own(teacher):
    wrapped = Preprocessed(teacher, steps(), input_shape=(6, 6, 1))
    ensemble = kd.teachers.Ensemble([wrapped, small()])
    assert ensemble(GREY).shape == (16, 3)


def test_a_teacher_of_the_preprocessings_name():
    teacher = keras.Sequential([L.Input((4,)), L.Dense(2)], name="preprocessing")
    assert Preprocessed(teacher, L.Rescaling(2.0))(np.ones((1, 4))).shape == (1, 2)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda t: Preprocessed("big", []), "`teacher` must be a keras.Model that is b"),
        (lambda t: Preprocessed(t, []), "`preprocessing` must be a keras.Model, a Ker"),
        (lambda t: Preprocessed(t, L.Rescaling), "list of layers, or a function"),
        (
            lambda t: Preprocessed(t, L.Rescaling(2.0), (6, 6, 1)),
            r"give what `teacher` 'big' takes, \(None, 12, 12, 3\). .*\(None, 6, 6, 1\)",
        ),
        (
            lambda t: Preprocessed(t, L.Rescaling(2.0), "6x6"),
            "`input_shape` must be the shape of one example.*'6x6'",
        ),
        (
            lambda t: Preprocessed(t, small(), (6, 6, 1)),
            "`input_shape` is for layers and functions",
        ),
        (
            lambda t: Preprocessed(t, lambda x: np.flip(np.asarray(x), -1)),
            "functions of `keras.ops`, so that it can be saved",
        ),
    ],
)
def test_refused(teacher, make, message):
    with pytest.raises(ValueError, match=message):
        make(teacher)


def test_it_is_the_same_however_often_it_was_saved(teacher, tmp_path):
    wrapped = Preprocessed(teacher, steps(), input_shape=(6, 6, 1))
    known, model = teacher_id(wrapped), wrapped
    for number in range(2):
        model.save(tmp_path / f"{number}.keras")
        model = keras.saving.load_model(tmp_path / f"{number}.keras")
        assert teacher_id(model) == known


def test_beside_the_teacher_that_it_holds(tmp_path):
    teacher = small()
    both = kd.teachers.Ensemble([teacher, Preprocessed(teacher, L.Rescaling(2.0))])
    both.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    np.testing.assert_allclose(again(GREY), both(GREY), rtol=1e-6)
