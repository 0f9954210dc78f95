"""`kd` against the paper's formula, in NumPy and float64."""

import keras
import numpy as np
import pytest

from keras_kd.losses import SoftTargets, soft_targets

SHAPES = [(8, 3), (5, 10), (4, 100)]


def softmax64(logits):
    exp = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def expected(teacher, student, temperature, form):
    """Hinton et al. 2015, section 2.1, with probabilities rather than logarithms."""
    p, q = softmax64(teacher / temperature), softmax64(student / temperature)
    per_class = p * np.log(p / q) if form == "kl" else -p * np.log(q)
    return temperature**2 * per_class.sum(axis=-1)


def random_logits(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=3, size=shape), rng.normal(scale=3, size=shape)


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value(shape, temperature, form):
    teacher, student = random_logits(shape)
    loss = SoftTargets(temperature, form)
    np.testing.assert_allclose(
        loss.compute_loss(teacher, student),
        expected(teacher, student, temperature, form).mean(),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        loss.compute_loss(np.float32(teacher), np.float32(student)),
        expected(teacher, student, temperature, form).mean(),
        rtol=1e-5,
    )


def student_gradient(loss, teacher, student):
    tf = pytest.importorskip("tensorflow")
    teacher, student = tf.constant(teacher), tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss.compute_loss(teacher, student)
    return tape.gradient(value, student).numpy()


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_gradient_equals_finite_differences(form):
    teacher, student = random_logits((4, 5))
    loss = SoftTargets(3.0, form)
    step = 1e-6
    differences = np.zeros_like(student)
    for i in np.ndindex(student.shape):
        up, down = student.copy(), student.copy()
        up[i] += step
        down[i] -= step
        rise = loss.compute_loss(teacher, up) - loss.compute_loss(teacher, down)
        differences[i] = float(rise) / (2 * step)
    np.testing.assert_allclose(
        student_gradient(loss, teacher, student), differences, rtol=1e-5, atol=1e-8
    )


def test_both_forms_have_the_same_gradient():
    teacher, student = random_logits((6, 10))
    np.testing.assert_allclose(
        student_gradient(SoftTargets(4.0, "kl"), teacher, student),
        student_gradient(SoftTargets(4.0, "cross_entropy"), teacher, student),
        rtol=1e-9,
    )


def test_the_forms_differ_by_the_teachers_entropy():
    teacher, student = random_logits((6, 10))
    p = softmax64(teacher / 4)
    entropy = 16 * -(p * np.log(p)).sum(axis=-1)
    kl = soft_targets(teacher, student, temperature=4.0, form="kl")
    cross_entropy = soft_targets(
        teacher, student, temperature=4.0, form="cross_entropy"
    )
    np.testing.assert_allclose(cross_entropy - kl, entropy, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_at_agreement_and_never_negative(dtype):
    teacher, student = random_logits((512, 10))
    teacher = teacher.astype(dtype)
    assert float(SoftTargets(4.0).compute_loss(teacher, teacher)) == 0
    almost = (teacher + 1e-4 * student).astype(dtype)
    values = keras.ops.convert_to_numpy(soft_targets(teacher, almost))
    assert values.min() >= 0


def test_a_constant_added_to_the_logits_changes_nothing():
    teacher, student = np.float32(random_logits((8, 10)))
    loss = SoftTargets(4.0)
    np.testing.assert_allclose(
        loss.compute_loss(teacher + 50, student - 30),
        loss.compute_loss(teacher, student),
        rtol=1e-4,
    )


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_finite_for_extreme_logits(dtype, form):
    extreme = np.float32([[1e4, -1e4, 0], [-1e4, 1e4, 0]])
    teacher = keras.ops.cast(extreme, dtype)
    student = keras.ops.cast(extreme[::-1].copy(), dtype)
    loss = SoftTargets(1.0, form)
    value = loss.compute_loss(teacher, student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    # p is one-hot where q is e**-20000: the cross-entropy is 20,000.
    np.testing.assert_allclose(float(value), 2e4, rtol=1e-2)
    assert np.isfinite(student_gradient(loss, teacher, student)).all()


def test_sample_weight_is_keras_sum_over_batch_size():
    teacher, student = random_logits((4, 10))
    weight = np.array([0.0, 1.0, 2.0, 0.5])
    loss = SoftTargets(4.0)
    per_example = expected(teacher, student, 4.0, "kl")
    for shaped in (weight, weight[:, None]):
        np.testing.assert_allclose(
            loss.compute_loss(teacher, student, sample_weight=shaped),
            (weight * per_example).sum() / 4,
            rtol=1e-6,
        )


@pytest.mark.parametrize(
    "teacher_shape, student_shape, message",
    [
        ((8, 10), (8, 9), r"must have the same shape.*\(8, 10\).*\(8, 9\)"),
        ((8, 10), (8, 1), r"must have the same shape"),
        ((8, 10), (10,), r"takes outputs of shape \(batch, ..., size\)"),
        ((8, 10), (1, 10), r"must have the same shape"),
        ((8, 10), (8, 2, 10), r"must have the same shape"),
    ],
)
def test_what_would_broadcast_is_refused(teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        SoftTargets().compute_loss(np.zeros(teacher_shape), np.zeros(student_shape))


@pytest.mark.parametrize("temperature", [0, -1, "4", None, True, float("nan"), [4.0]])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number greater"):
        SoftTargets(temperature)


def test_bad_form():
    with pytest.raises(ValueError, match="`form` must be one of 'kl', 'cross_entropy'"):
        SoftTargets(form="mse")


def test_serialises():
    loss = SoftTargets(temperature=2.5, form="cross_entropy")
    config = keras.saving.serialize_keras_object(loss)
    assert config["registered_name"] == "keras_kd>SoftTargets"
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, SoftTargets)
    assert again.get_config() == {"temperature": 2.5, "form": "cross_entropy"}


def test_runs_in_keras_own_distiller(make_model, vectors):
    """Our losses are Keras's too: the way back is as short as the way here."""
    distiller = keras.distillation.Distiller(make_model(), make_model(), SoftTargets())
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    distiller.fit(*vectors, verbose=0)


def sigmoid64(logits):
    return np.exp(-np.logaddexp(0, -np.float64(logits)))


def expected_of_sigmoids(teacher, student, temperature, form):
    """The mean over outputs of two-class divergences, with probabilities."""
    p, q = (sigmoid64(x / temperature) for x in (teacher, student))
    terms = 0
    for a, b in ((p, q), (1 - p, 1 - q)):
        terms = terms + (a * np.log(a / b) if form == "kl" else -a * np.log(b))
    return temperature**2 * terms.mean(axis=-1)


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(8, 1), (8, 5), (4, 6, 6, 1)], ids=str)
def test_sigmoids(shape, temperature, form):
    teacher, student = random_logits(shape)
    loss = SoftTargets(temperature, form, activation="sigmoid")
    wanted = expected_of_sigmoids(teacher, student, temperature, form)
    np.testing.assert_allclose(loss.call(teacher, student, None), wanted, rtol=1e-9)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-9)
    found = loss.compute_loss(np.float32(teacher), np.float32(student))
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-5)


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_gradient_of_sigmoids(form):
    """(sigmoid(s / T) - sigmoid(t / T)) * T / (batch * outputs), as for soft targets."""
    teacher, student = random_logits((4, 5))
    found = student_gradient(SoftTargets(3.0, form, activation="sigmoid"), teacher, student)
    wanted = 3.0 * (sigmoid64(student / 3) - sigmoid64(teacher / 3)) / student.size
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_one_sigmoid_is_two_classes():
    """A logit z is the two classes (0, z)."""
    teacher, student = random_logits((16, 1))
    pairs = [np.concatenate([np.zeros_like(x), x], axis=1) for x in (teacher, student)]
    for form in "kl", "cross_entropy":
        one = SoftTargets(4.0, form, activation="sigmoid").compute_loss(teacher, student)
        np.testing.assert_allclose(one, SoftTargets(4.0, form).compute_loss(*pairs))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sigmoids_of_extreme_logits(dtype):
    """Of certain answers that differ it is their distance; of the same ones it is 0."""
    certain = np.array([[1e4, -1e4, 1e4, -1e4]])
    answers = np.array([[1e4, -1e4, -1e4, 1e4]])
    loss = SoftTargets(1.0, activation="sigmoid")
    values = [
        float(loss.compute_loss(*(keras.ops.cast(x, dtype) for x in (certain, other))))
        for other in (answers, certain)
    ]
    exact = float(keras.ops.cast(keras.ops.cast(1e4, dtype), "float64"))
    np.testing.assert_allclose(values, [exact / 2, 0], rtol=1e-6)


def test_sigmoids_agree_with_keras(make_model):
    """At temperature 1 the cross-entropy is that of Keras's BinaryCrossentropy."""
    teacher, student = np.float32(random_logits((32, 5)))
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True)
    loss = SoftTargets(1.0, "cross_entropy", activation="sigmoid")
    wanted = keras_loss(sigmoid64(teacher), student)
    np.testing.assert_allclose(loss.compute_loss(teacher, student), wanted, rtol=1e-5)


def test_its_configuration():
    loss = SoftTargets(2.0, activation="sigmoid")
    again = SoftTargets.from_config(loss.get_config())
    assert again.activation == "sigmoid" and again.get_config() == loss.get_config()
    assert repr(loss) == "SoftTargets(temperature=2.0, form='kl', activation='sigmoid')"
    # As it was before there was another.
    assert set(SoftTargets().get_config()) == {"temperature", "form"}
    with pytest.raises(ValueError, match="`activation` must be one of None, 'softmax'"):
        SoftTargets(activation="tanh")
    with pytest.raises(ValueError, match="class"):
        SoftTargets().compute_loss(np.ones((2, 1)), np.ones((2, 1)))
