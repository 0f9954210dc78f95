"""What is kept of a teacher's answers, and what cannot be kept."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd.cache.answers import DROPPED, TeacherAnswers
from keras_kd.training import batch

DEFAULTS = {
    "dtype": "float16",
    "top_k": None,
    "rest": "even",
    "augment": None,
    "seed": 0,
}


def constant_teacher(logits, input_shape=(1,)):
    """A teacher that answers every example with these numbers, and x added to them."""
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, inputs + ops.convert_to_tensor(np.float32(logits)))


def ask(teacher, x, names=frozenset({None}), **arguments):
    """Answers to x as a batch carries them: own, taps."""
    answers = TeacherAnswers(teacher, names, first_batch=x, **(DEFAULTS | arguments))
    arrays = answers(x, first=0, view=0)
    assert [list(a.shape[1:]) for a in arrays] == [o["shape"] for o in answers.outputs]
    assert [a.dtype.name for a in arrays] == [o["dtype"] for o in answers.outputs]
    return batch.unpack(batch.pack(x, answers.to_batch(arrays)))[1]


def log_softmax64(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


ZERO = np.zeros((2, 1), "float32")


@pytest.mark.parametrize("dtype, tolerance", [("float16", 1e-3), ("float32", 1e-6)])
def test_own_outputs_and_taps_are_kept(make_model, vectors, dtype, tolerance):
    x, _ = vectors
    teacher = make_model()
    hidden = teacher.layers[0].name
    own, taps = ask(teacher, x, {None, hidden}, dtype=dtype)
    np.testing.assert_allclose(own, teacher(x), rtol=tolerance, atol=tolerance)
    expected = teacher.layers[0](x)
    np.testing.assert_allclose(taps[hidden], expected, rtol=tolerance, atol=tolerance)
    own, taps = ask(teacher, x, {hidden})
    assert own is None and list(taps) == [hidden]


def test_the_teacher_runs_in_inference_mode(vectors):
    x, _ = vectors
    teacher = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.5)])
    np.testing.assert_allclose(ask(teacher, x)[0], x, rtol=1e-3)


def test_a_teacher_in_bfloat16_is_kept(make_model, vectors):
    x, _ = vectors
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        own, _ = ask(make_model(), x)
    finally:
        keras.config.set_dtype_policy("float32")
    assert own.dtype == "float32" and own.shape == (64, 3)


def test_several_outputs_keep_their_structure():
    inputs = keras.Input((1,))
    teacher = keras.Model(inputs, {"a": inputs, "b": [2 * inputs, 3 * inputs]})
    own, _ = ask(teacher, ZERO + 1)
    np.testing.assert_array_equal(own["b"][1], ZERO + 3)


def test_the_rest_is_spread_evenly():
    logits = [3.0, 0.0, 2.0, 1.0, -1.0]
    own, _ = ask(constant_teacher(logits), ZERO, top_k=2, dtype="float32")
    probs = np.exp(log_softmax64(logits))
    rest = (probs[1] + probs[3] + probs[4]) / 3
    expected = np.log([probs[0], rest, probs[2], rest, rest])
    np.testing.assert_allclose(own, [expected] * 2, rtol=1e-5)


def test_the_rest_is_dropped_and_the_divergence_stays_finite():
    logits = [3.0, 0.0, 2.0, 1.0, -1.0]
    own, _ = ask(constant_teacher(logits), ZERO, top_k=2, rest="drop")
    for temperature in (1.0, 4.0, 100.0):
        expected = np.zeros(5)
        expected[[0, 2]] = np.exp(log_softmax64(np.array([3.0, 2.0]) / temperature))
        softened = ops.softmax(own / temperature)
        np.testing.assert_allclose(softened, [expected] * 2, rtol=2e-3, atol=1e-30)
    assert np.isfinite(own).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_largest_and_the_rest_are_those_of_a_sort(dtype):
    """Of equal ones the first, whether all of them are kept or some; with no class left."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (6, 40)).astype("float16").astype("float32")
    logits[1] = rng.integers(-1, 2, 40)
    logits[2] = 0.0
    logits[3, 5:] = -1e5
    logits[4] = 1e4 * (np.arange(40) == 7)
    inputs = keras.Input((40,))
    own, _ = ask(keras.Model(inputs, inputs + 0.0), logits, top_k=5, dtype=dtype)
    with np.errstate(divide="ignore"):
        exact = logits.astype("float64") - logits.max(-1, keepdims=True)
        exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
        order = np.argsort(-exact, axis=-1, kind="stable")
        exact = np.take_along_axis(exact, order, axis=-1)
        rest = np.log(np.exp(exact[:, 5:]).sum(-1, keepdims=True) / 35)
    expected = np.repeat(rest, 40, axis=-1)
    np.put_along_axis(expected, order[:, :5], exact[:, :5], axis=-1)
    np.testing.assert_allclose(own, np.maximum(expected, DROPPED), rtol=1e-3, atol=1e-6)


def test_top_k_of_places_in_an_image():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 6)).astype("float32")
    teacher = constant_teacher(logits, input_shape=(1, 1, 1))
    own, _ = ask(teacher, np.zeros((4, 1, 1, 1), "float32"), top_k=5)
    np.testing.assert_allclose(own, [log_softmax64(logits)] * 4, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("num_classes, dtype", [(256, "uint8"), (257, "uint16")])
def test_numbers_of_classes_are_small(num_classes, dtype):
    teacher = constant_teacher(np.arange(num_classes))
    answers = TeacherAnswers(teacher, {None}, first_batch=ZERO, **(DEFAULTS | {"top_k": 1}))
    _, classes = answers(ZERO, first=0, view=0)
    assert classes.dtype == dtype and (classes == num_classes - 1).all()


def test_extreme_logits_have_finite_log_probabilities():
    own, _ = ask(constant_teacher([1e6, 0.0, -1e6]), ZERO, top_k=2)
    assert np.isfinite(own).all()
    np.testing.assert_array_equal(np.argmax(own, axis=-1), [0, 0])


def test_probabilities_are_kept_in_float32():
    teacher = keras.Sequential(
        [constant_teacher([0.0, -20.0, -40.0]), keras.layers.Softmax()]
    )
    own, _ = ask(teacher, ZERO)
    np.testing.assert_allclose(own, teacher(ZERO), rtol=1e-6)
    with pytest.raises(ValueError, match="`top_k` takes a teacher that ends in logits"):
        ask(teacher, ZERO, top_k=1)


@pytest.mark.parametrize("top_k", [3, 7])
def test_as_many_as_all_classes_is_refused(top_k):
    with pytest.raises(ValueError, match=f"less than .* classes, 3 .* top_k={top_k}"):
        ask(constant_teacher([0.0, 1.0, 2.0]), ZERO, top_k=top_k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_no_number_names_its_example(bad):
    answers = TeacherAnswers(
        constant_teacher([0.0, 1.0]), {None}, first_batch=ZERO, **DEFAULTS
    )
    x = np.float32([[0], [0], [bad], [0]])
    with pytest.raises(ValueError, match=r"example 102 .*\(view 1\).* NaN or infinite"):
        answers(x, first=100, view=1)


def test_a_number_too_large_for_float16_names_the_remedy():
    teacher = constant_teacher([0.0, 7e4])
    with pytest.raises(ValueError, match="example 0 .* say dtype='float32'"):
        ask(teacher, ZERO)
    np.testing.assert_array_equal(ask(teacher, ZERO, dtype="float32")[0], [[0, 7e4]] * 2)


def test_integers_are_refused():
    inputs = keras.Input((1,))
    teacher = keras.Model(inputs, ops.cast(inputs, "int32"))
    with pytest.raises(ValueError, match="floating-point .* 'own' of dtype int32"):
        ask(teacher, ZERO)


def test_an_unknown_layer_is_refused(make_model, vectors):
    with pytest.raises(ValueError, match="no layer 'hiden'"):
        ask(make_model(), vectors[0], {"hiden"})


def test_augment_sees_each_example_number_and_view():
    def augment(inputs, indices, view, seed):
        return inputs + ops.cast(indices + 100 * view + seed, "float32")[:, None]

    answers = TeacherAnswers(
        constant_teacher([0.0]), {None}, first_batch=ZERO,
        **(DEFAULTS | {"augment": augment, "seed": 1000}),
    )
    (array,) = answers(ZERO, first=7, view=3)
    np.testing.assert_array_equal(array, [[1307], [1308]])


class Always(keras.layers.Layer):
    """Calls a layer in training mode, whatever the mode is."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x, training=True)


@pytest.mark.parametrize(
    "layer, reason",
    [
        (keras.layers.Dropout(0.5), "differently when asked again"),
        (keras.layers.GaussianNoise(0.5), "differently when asked again"),
        (keras.layers.BatchNormalization(), "beside other examples"),
        (keras.layers.Softmax(axis=0), "beside other examples"),
    ],
)
def test_answers_that_hang_on_chance_or_company_are_refused(vectors, layer, reason):
    inputs = keras.Input((4,))
    is_free = isinstance(layer, keras.layers.Softmax)
    outputs = layer(inputs) if is_free else Always(layer)(inputs)
    with pytest.raises(ValueError, match=f"`teacher` 'mine' answers .*{reason}"):
        ask(keras.Model(inputs, outputs, name="mine"), vectors[0])


def test_a_teacher_that_changes_as_it_answers_is_refused(make_model, vectors):
    teacher = make_model(name="mine")
    answers = TeacherAnswers(teacher, {None}, first_batch=vectors[0], **DEFAULTS)
    answers.check_teacher()
    teacher.layers[-1].bias.assign([0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="`teacher` 'mine' changed its weights"):
        answers.check_teacher()


def test_a_teacher_of_a_fixed_batch_size_is_taken(vectors):
    inputs = keras.Input(batch_shape=(64, 4))
    own, _ = ask(keras.Model(inputs, 2 * inputs), vectors[0])
    np.testing.assert_allclose(own, 2 * vectors[0], rtol=1e-3)
