"""What all losses on features share, and layers of a loss inside a Distiller."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses import features as module
from tests.losses.features import random_features

FEATURE_LOSSES = [
    cls for cls in kd.losses.LOSSES.values() if issubclass(cls, kd.losses.FeatureLoss)
]
MAPS = ((4, 3, 3, 6), (4, 3, 3, 6))


def pairs(cls, *shapes):
    """As many pairs of features as a loss needs, or one pair."""
    count = cls.least_pairs
    drawn = [random_features(*shapes, seed=seed) for seed in range(count)]
    sides = tuple(map(list, zip(*drawn, strict=True)))
    return sides if count > 1 else (sides[0][0], sides[1][0])


@pytest.fixture(params=FEATURE_LOSSES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.fixture
def models():
    """A teacher of 8 channels and a student of 5, on images of 9 x 9."""

    def make(channels, name, strides=1):
        return keras.Sequential(
            [
                keras.layers.Input((9, 9, 1)),
                keras.layers.Conv2D(channels, 3, name="conv", strides=strides),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ],
            name=name,
        )

    return make(8, "teacher"), make(5, "student", strides=2)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 9, 9, 1)).astype("float32"), rng.integers(3, size=32)


def compiled(models, loss, **arguments):
    distiller = kd.Distiller(*models, loss, **arguments)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), cross_entropy)
    return distiller


@pytest.mark.parametrize(
    "teacher, student, message",
    [
        ((4, 3, 3, 6), (3, 3, 3, 6), "one batch.*(4, 3, 3, 6).*(3, 3, 3, 6)"),
        ((4, 3, 3, 6), (4, 6), "takes features of shape .batch, height.*(4, 6)"),
        ((4,), (4,), r"takes features of shape .batch, height"),
    ],
)
def test_bad_shapes(cls, teacher, student, message):
    outputs = [[np.ones(x)] * cls.least_pairs for x in (teacher, student)]
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=message):
        cls().compute_loss(*outputs)
    with pytest.raises(ValueError, match=message):
        cls().build(*([x.shape for x in side] for side in outputs))


def test_more_features_of_one_model(cls):
    teacher, student = pairs(cls, *MAPS)
    several = [*teacher, *teacher] if isinstance(teacher, list) else [teacher, teacher]
    with pytest.raises(ValueError, match="as many features of the student as of"):
        cls().compute_loss(several, student)


def test_the_number_of_features_is_that_of_the_taps(cls):
    taps = [("a", "b"), ("c", "d"), ("e", "f")]
    if cls.most_pairs is not None:
        taps = taps[: cls.most_pairs]
    count = len(taps) + 1
    with pytest.raises(ValueError, match="features.*Received"):
        cls(taps=taps).compute_loss(
            *([x] * count for x in np.ones((2, *MAPS[0]), "float32"))
        )


def test_taps_are_in_the_config(cls):
    taps = [[f"t{i}", f"s{i}"] for i in range(cls.least_pairs)]
    config = cls(taps=taps).get_config()
    assert config["taps"] == taps
    assert cls.from_config(config).taps == tuple(map(tuple, taps))


def test_layers_that_were_made_for_other_shapes(cls):
    if not cls.makes_layers:
        pytest.skip("makes no layers")
    loss = cls()
    loss.compute_loss(*pairs(cls, (4, 3, 3, 6), (4, 3, 3, 5)))
    message = r"made its layers for features of shapes .*3, 3, 5.*Received: .*3, 3, 7"
    with pytest.raises(ValueError, match=message):
        loss.compute_loss(*pairs(cls, (4, 3, 3, 6), (4, 3, 3, 7)))


def test_declared_layers_are_made(cls):
    loss, widths = cls(), (6, 5) if cls.widths_may_differ else (6, 6)
    loss.build(*([(None, 3, 3, width)] * loss.least_pairs for width in widths))
    assert bool(loss.layers) == cls.makes_layers
    assert all(layer.built for layer in loss.layers)


def test_maps_are_averaged_to_the_smaller_size():
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 7, 5, 2))
    student = student[:, :3]
    # Windows from floor(i * 7 / 3) to ceil((i + 1) * 7 / 3).
    rows = [teacher[:, a:b].mean(axis=1) for a, b in ((0, 3), (2, 5), (4, 7))]
    found, same = module.same_size(teacher, student)
    np.testing.assert_allclose(found, np.stack(rows, axis=1), rtol=1e-12)
    assert same.shape == student.shape
    np.testing.assert_allclose(module.same_size(student, teacher)[1], found, rtol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (2, 5), (7, 5)], ids=str)
def test_averages_are_the_same_in_a_graph(size):
    tf = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 3))
    found = module.pooled(x, size)
    assert found.shape == (2, *size, 3)
    graph = tf.function(lambda x: module.pooled(x, size))
    np.testing.assert_allclose(graph(x), found, rtol=1e-12)
    whole = module.pooled(found, (1, 1))[:, 0, 0]
    if 5 % size[1] == 7 % size[0] == 0:
        np.testing.assert_allclose(whole, x.mean(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("size", [(3, 2), (7, 1), (2, 5)], ids=str)
def test_gradient_of_averages(size):
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(size=(2, 7, 5, 3)), rng.normal(size=(2, *size, 3))
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        total = tf.reduce_sum(module.pooled(tensor, size) * upstream)
    expected = np.zeros_like(x)
    for i, j in np.ndindex(size):
        # Each window's places have equal parts of what comes for its average.
        top, bottom = i * 7 // size[0], -(-(i + 1) * 7 // size[0])
        left, right = j * 5 // size[1], -(-(j + 1) * 5 // size[1])
        part = upstream[:, i, j] / ((bottom - top) * (right - left))
        expected[:, top:bottom, left:right] += part[:, None, None]
    np.testing.assert_allclose(tape.gradient(total, tensor), expected, rtol=1e-12)


def test_layers_train_with_the_student_and_stay_behind(models, images, tmp_path):
    loss = kd.losses.FitNet(taps=("conv", "conv"))
    distiller = compiled(models, loss)
    (projection,) = loss.layers
    assert projection.kernel.shape == (5, 8)
    before = [w.copy() for w in (*projection.get_weights(), *models[0].get_weights())]
    losses = distiller.fit(*images, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = [*projection.get_weights(), *models[0].get_weights()]
    assert [np.array_equal(*x) for x in zip(before, after, strict=True)] == (
        [False, False] + [True] * len(models[0].weights)
    )
    own = sum(w.size for w in models[1].get_weights())
    distiller.student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    assert sum(w.size for w in again.get_weights()) == own


def test_layers_are_saved_with_the_distiller(models, images, tmp_path):
    distiller = compiled(models, kd.losses.FitNet(taps=("conv", "conv")))
    distiller.fit(*images, shuffle=False, epochs=2, verbose=0)
    distiller.save(tmp_path / "whole.keras")
    distiller.save(tmp_path / "part.keras", include_teacher=False)
    loaded = [
        keras.saving.load_model(tmp_path / "whole.keras"),
        kd.load_distiller(tmp_path / "part.keras", teacher=models[0]),
    ]
    expected = distiller.distillation_losses[0].layers[0].get_weights()
    for again in loaded:
        found = again.distillation_losses[0].layers[0].get_weights()
        assert all(map(np.array_equal, found, expected))
    distiller.fit(*images, shuffle=False, verbose=0)
    for again in loaded:
        again.fit(*images, shuffle=False, verbose=0)
        for x, y in zip(again.weights, distiller.weights, strict=True):
            np.testing.assert_array_equal(x, y)


def test_shapes_that_a_model_does_not_tell(models, images):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.flat = (
                keras.layers.Conv2D(5, 3, name="conv"),
                keras.layers.Flatten(),
            )
            self.head = keras.layers.Dense(3)

        def call(self, inputs):
            return self.head(self.flat(self.conv(inputs)))

    student = Subclassed()
    student(images[0])
    loss = kd.losses.FitNet(taps=("conv", "conv"))
    with pytest.raises(ValueError, match=r"FitNet makes layers .* build\(teacher_shape"):
        kd.Distiller(models[0], student, loss)
    loss.build((None, 7, 7, 8), (None, 7, 7, 5))
    distiller = compiled((models[0], student), loss)
    assert np.isfinite(distiller.fit(*images, verbose=0).history["loss"]).all()
    assert any(v is loss.layers[0].kernel for v in distiller.trainable_variables)


FULLY_CONVOLUTIONAL = ["fitnet", "at", "nst", "ft", "ab", "vid", "ofd"]


@pytest.mark.parametrize("name", FULLY_CONVOLUTIONAL)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)], ids=str)
def test_maps_of_unknown_size_are_averaged(name, size):
    """The value in a graph that knows no size is that of one that knows all."""
    tf = pytest.importorskip("tensorflow")
    loss = kd.losses.get(name)
    loss.build((None, None, None, 3), (None, None, None, 3))
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(4, 5, 4, 3)).astype("float32")
    student = rng.normal(size=(4, *size, 3)).astype("float32")
    spec = tf.TensorSpec((None, None, None, 3))
    graph = tf.function(loss.compute_loss, [spec, spec])
    if loss.least_places > 1 and size == (1, 1):
        with pytest.raises(ValueError, match="of maps of one place"):
            loss.compute_loss(teacher, student)
        return
    for pair in ((teacher, student), (student, teacher)):
        np.testing.assert_allclose(graph(*pair), loss.compute_loss(*pair), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attention_transfer", (2, 3, 3, 2)),
        ("fitnet", (2, 3, 3, 2)),
        ("fitnet", (2, 5)),
        ("simkd", (2, 5)),
    ],
)
def test_functions_of_half_precision_give_float32(name, shape):
    """Squares of what float16 holds it holds no more."""
    drawn = 300 * np.abs(np.random.default_rng(0).normal(size=(2, *shape)))
    halves = drawn.astype("float16")
    found = getattr(kd.losses, name)(*map(keras.ops.convert_to_tensor, halves))
    wholes = map(keras.ops.convert_to_tensor, halves.astype("float32"))
    expected = getattr(kd.losses, name)(*wholes)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-6)
