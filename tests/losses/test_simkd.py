"""`simkd` against the paper's formula and projector, in NumPy and float64."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses import SimKD, simkd
from tests.losses.features import random_features
from tests.losses.logits import student_gradient
from tests.losses.test_reviewkd import convolved, normalised

SHAPES = [(6, 5), (4, 3, 3, 7), (2, 2, 2, 100)]


def expected(teacher, projected):
    pairs = zip(teacher.ravel(), projected.ravel(), strict=True)
    return sum((t - p) ** 2 for t, p in pairs) / teacher.size


def random_weights(loss):
    rng = np.random.default_rng(1)
    for layer in loss.layers:
        # Not negative, as variances are among them.
        low = 0.1 if isinstance(layer, keras.layers.BatchNormalization) else -0.5
        shapes = [w.shape for w in layer.get_weights()]
        layer.set_weights([rng.uniform(low, 1.0, size=shape) for shape in shapes])


def projected(student, layers):
    """The authors' transfer module, with the statistics of the batch."""
    weights = [np.float64(w) for layer in layers for w in layer.get_weights()]
    for kernel, gamma, beta, *_ in (weights[i : i + 5] for i in (0, 5, 10)):
        is_large = kernel.shape[0] == 3
        student = convolved(student, kernel) if is_large else student @ kernel[0, 0]
        student = np.maximum(normalised(student, gamma, beta), 0)
    return student


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_function(shape):
    teacher, student = random_features(shape, shape)
    values = simkd(teacher, student)
    assert values.shape == (len(teacher),)
    np.testing.assert_allclose(np.mean(values), expected(teacher, student), rtol=1e-12)


@pytest.mark.parametrize(
    "shapes, factor, between",
    [
        (((4, 3, 3, 7), (4, 3, 3, 7)), 2, 3),
        (((4, 3, 3, 8), (4, 3, 3, 2)), 4, 2),
        (((2, 2, 2, 100), (2, 2, 2, 9)), 2, 50),
        (((4, 3, 3, 1), (4, 3, 3, 2)), 2, 1),
    ],
    ids=str,
)
def test_value_of_maps(shapes, factor, between):
    teacher, student = random_features(*shapes)
    loss = SimKD() if factor == 2 else SimKD(factor)
    loss.build(*shapes)
    random_weights(loss)
    kernels = [x.kernel.shape for x in loss.layers if isinstance(x, keras.layers.Conv2D)]
    width, own = shapes[0][-1], shapes[1][-1]
    assert kernels == [
        (1, 1, own, between),
        (3, 3, between, between),
        (1, 1, between, width),
    ]
    reference = expected(teacher, projected(student, loss.layers))
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert loss.uses_batch_statistics


@pytest.mark.parametrize("shapes", [((4, 7), (4, 3)), ((3, 5), (3, 5))], ids=str)
def test_value_of_vectors(shapes):
    teacher, student = random_features(*shapes)
    loss = SimKD()
    loss.build(*shapes)
    random_weights(loss)
    kernel, bias = map(np.float64, loss.layers[0].get_weights())
    reference = expected(teacher, student @ kernel + bias)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)
    assert not loss.uses_batch_statistics


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_a_larger_map_is_averaged_before_the_projector(larger):
    shapes = [(3, 4, 4, 2), (3, 2, 2, 2)]
    teacher, student = random_features(*(shapes if larger == "teacher" else shapes[::-1]))
    loss = SimKD()
    loss.build(teacher.shape, student.shape)
    random_weights(loss)
    teacher_small, student_small = (
        x.reshape(3, 2, x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean(axis=(2, 4))
        for x in (teacher, student)
    )
    reference = expected(teacher_small, projected(student_small, loss.layers))
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_batch_of_one_and_of_two():
    loss = SimKD()
    loss.build((None, 3, 3, 5), (None, 3, 3, 2))
    random_weights(loss)
    for count in (1, 2):
        teacher, student = random_features((count, 3, 3, 5), (count, 3, 3, 2))
        reference = expected(teacher, projected(student, loss.layers))
        found = loss.compute_loss(teacher, student)
        np.testing.assert_allclose(found, reference, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_constant_and_large_features(value, dtype):
    # The student, normalised, has a mean of zero and a variance of one at most.
    teacher = keras.ops.cast(np.full((2, 4, 4, 3), -value), dtype)
    student = keras.ops.cast(np.full((2, 4, 4, 2), value), dtype)
    loss = SimKD()
    found = loss.compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    size = abs(float(keras.ops.cast(teacher, "float32")[0, 0, 0, 0]))
    assert size**2 * (1 - 1e-5) <= float(found) <= (size + 1) ** 2 * (1 + 1e-5)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


@pytest.mark.parametrize("factor", [0, -1, 1.5, "2", None, True])
def test_bad_factor(factor):
    with pytest.raises(ValueError, match="`factor` must be an integer, 1 or greater"):
        SimKD(factor)


def test_more_than_one_pair():
    with pytest.raises(ValueError, match="SimKD compares 1 pair of features"):
        SimKD(taps=[("a", "b"), ("c", "d")])


def make_model(width, strides=1, ending="pool"):
    """A teacher, of maps of 6 x 6 or 3 x 3."""
    end = keras.layers.GlobalAveragePooling2D()
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, strides=strides, name="conv")(inputs)
    x = keras.layers.ReLU(name="maps")(keras.layers.BatchNormalization()(x))
    x = end(x) if ending == "pool" else keras.layers.Flatten()(x)
    x = keras.layers.Dense(6, activation="relu", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def make_student(width, strides=1, last="maps"):
    model = make_model(width, strides)
    return keras.Model(model.input, model.get_layer(last).output)


def distilled(teacher, student, taps=("maps", None), epochs=0):
    """The loss in a Distiller, with new weights, and images."""
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    loss = SimKD(taps=taps)
    distiller = kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    random_weights(loss)
    distiller.compile(keras.optimizers.Adam(0.01))
    if epochs:
        distiller.fit(images, epochs=epochs, batch_size=8, verbose=0)
    return loss, images


def weights_of(*models):
    return [w for model in models for w in model.get_weights()]


def answers(loss, teacher, student, images, size=None):
    """Student, projector, and teacher after "maps", run by hand in inference mode."""
    x = student(images)
    x = x if size is None else keras.ops.adaptive_average_pool(x, size)
    for layer in loss.layers:
        x = layer(x, training=False)
    for layer in teacher.layers[4:]:
        x = layer(x)
    return np.array(x)


@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 1), (4, 2)], ids=str)
def test_the_student_answers_through_the_teachers_classifier(strides, tmp_path):
    teacher, student = make_model(6, strides[0]), make_student(4, strides[1])
    loss, images = distilled(teacher, student, epochs=int(strides == (1, 1)))
    before = weights_of(teacher, student)
    model = loss.reuse_classifier(teacher, student)
    # 6 x 6 to 3 x 3, and 3 x 3 to 2 x 2, where windows overlap.
    size = {(2, 1): 3, (4, 2): 2}.get(strides)
    reference = answers(loss, teacher, student, images, size)
    found = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)
    assert model.name == "student"
    assert type(model) is type(keras.Model(*[keras.Input((2,))] * 2))
    model.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), found)
    assert "keras_kd" not in again.to_json()
    # Copies: what is done to the model stays its own.
    model.set_weights([0 * w for w in model.get_weights()])
    for pair in zip(before, weights_of(teacher, student), strict=True):
        np.testing.assert_array_equal(*pair)
    np.testing.assert_allclose(
        answers(loss, teacher, student, images, size), reference, rtol=1e-6
    )


def test_it_exports(tmp_path):
    teacher, student = make_model(6), make_student(4)
    loss, images = distilled(teacher, student)
    model = loss.reuse_classifier(teacher, student, name="small")
    assert model.name == "small"
    model.export(tmp_path / "model", verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "model", call_endpoint="serve")(images)
    np.testing.assert_allclose(served, model(images), rtol=1e-5, atol=1e-6)


def test_vectors():
    teacher, student = make_model(6), make_student(4, last="hidden")
    loss, images = distilled(teacher, student, ("hidden", None))
    model = loss.reuse_classifier(teacher, student)
    reference = teacher.layers[-1](loss.layers[0](student(images)))
    np.testing.assert_allclose(model(images), reference, rtol=1e-5, atol=1e-5)


def test_a_classifier_of_the_students_own_is_left_out():
    teacher, whole = make_model(6), make_model(4)
    loss, images = distilled(teacher, whole, ("maps", "maps"))
    student = keras.Model(whole.input, whole.get_layer("maps").output)
    model = loss.reuse_classifier(teacher, whole)
    reference = answers(loss, teacher, student, images)
    np.testing.assert_allclose(model(images), reference, rtol=1e-4, atol=1e-5)
    own = sum(x.count_params() for x in (student, *loss.layers, *teacher.layers[4:]))
    assert model.count_params() == own


def test_a_classifier_for_another_size():
    teacher, student = make_model(6, ending="flatten"), make_student(4, strides=2)
    loss, _ = distilled(teacher, student)
    with pytest.raises(ValueError, match=r"take features of shape .*6, 6, 6.* 3, 3, 6"):
        loss.reuse_classifier(teacher, student)


def test_nothing_to_reuse():
    teacher, student = make_model(6), make_student(4)
    with pytest.raises(ValueError, match=r"needs taps, and to be trained .* 0 layers"):
        SimKD(taps=("maps", "maps")).reuse_classifier(teacher, student)
    loss = SimKD()
    loss.build((None, 3), (None, 2))
    with pytest.raises(ValueError, match=r"needs taps, and to be trained"):
        loss.reuse_classifier(teacher, student)


def test_a_model_whose_layers_are_not_known():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    teacher, student = make_model(6), make_student(4)
    loss, _ = distilled(teacher, student)
    with pytest.raises(ValueError, match="`student` must be a Functional or Sequential"):
        loss.reuse_classifier(teacher, Subclassed())


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_reused_classifier_keeps_what_was_adapted(policy):
    """A Normalization in the student, and one behind the teacher's tap."""
    rng = np.random.default_rng(0)
    x = rng.normal(5000, 100, size=(8, 6)).astype("float32")
    first, second = (keras.layers.Normalization(dtype="float32") for _ in range(2))
    first.adapt(x)
    second.adapt(rng.normal(70, 3, size=(100, 5)))
    teacher = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, name="tap"), second]
        + [keras.layers.Dense(3)]
    )
    keras.config.set_dtype_policy(policy)
    student = keras.Sequential([keras.Input((6,)), first, keras.layers.Dense(4, name="s")])
    keras.config.set_dtype_policy("float32")
    loss = SimKD(taps=("tap", "s"))
    kd.Distiller(teacher, student, loss, student_loss_weight=0.0).compile("adam")
    loss.build([(None, 5)], [(None, 4)])
    model = loss.reuse_classifier(teacher, student)
    features = student(x)
    for layer in loss.layers:
        features = layer(features)
    np.testing.assert_allclose(
        model(x), teacher.layers[2](second(features)), rtol=1e-3, atol=1e-3
    )
