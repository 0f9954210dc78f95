"""A teacher with inputs of its own: live and cached the loss is that of its own inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import cache_teacher, with_teacher_inputs, with_teacher_outputs
from keras_kd.training import batch

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 5)).astype("float32"), RNG.integers(0, 3, 24)
SOUND = RNG.normal(size=(24, 7, 2)).astype("float32")
WEIGHTS = RNG.uniform(0.5, 2.0, 24).astype("float32")
DATASET = tf.data.Dataset.from_tensor_slices((X, Y))
SOUNDS = tf.data.Dataset.from_tensor_slices(SOUND)


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(1)
    layers = [L.Input((7, 2)), L.Flatten(), L.Dense(4, name="hidden"), L.Dense(3)]
    return keras.Sequential(layers)


def student(inputs=(5,)):
    keras.utils.set_random_seed(0)
    layers = [L.Input(inputs), L.Flatten(), L.Dense(6, name="hidden"), L.Dense(3)]
    return keras.Sequential(layers)


def distiller_of(teacher, losses="kd", **arguments):
    distiller = kd.Distiller(teacher, student(), losses, **arguments)
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), labels)
    return distiller


def loss_of(teacher, data, **arguments):
    distiller = distiller_of(teacher, **arguments)
    history = distiller.fit(data.batch(24), verbose=0, shuffle=False).history
    return history["distillation_loss"][0]


def softmax64(z):
    e = np.exp(np.asarray(z, "float64") - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def expected(teacher_logits, weights=1.0):
    """Soft targets at T = 4, by hand."""
    p, q = softmax64(teacher_logits / 4), softmax64(np.array(student()(X)) / 4)
    return 16 * np.mean(weights * np.sum(p * np.log(p / q), axis=1))


def of_all_forms():
    unknown = SOUNDS.filter(lambda x: True)
    yield "arrays", with_teacher_inputs((X, Y), SOUND)
    yield "dataset beside arrays", with_teacher_inputs((X, Y), SOUNDS)
    yield "arrays beside a dataset", with_teacher_inputs(DATASET, SOUND)
    yield "datasets", with_teacher_inputs(DATASET, SOUNDS)
    yield "of unknown length", with_teacher_inputs(DATASET, unknown)


# Keras's word for a data set whose length it does not know.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in of_all_forms()])
def test_the_teacher_sees_its_own_live_and_cached(data, teacher, tmp_path):
    wanted = expected(np.array(teacher(SOUND)))
    settings = {"dtype": "float32", "verbose": 0}
    folder = {"path": tmp_path / "cache", **settings}
    for each in (
        data,
        cache_teacher(teacher, data, **settings),
        cache_teacher(teacher, data, **folder),
        # And once more from the files.
        cache_teacher(teacher, data, **folder),
    ):
        assert loss_of(teacher, each) == pytest.approx(wanted, rel=1e-5)


def test_weights_and_missing_labels_stay_with_the_examples(teacher):
    weighted = with_teacher_inputs((X, Y, WEIGHTS), SOUND)
    wanted = expected(np.array(teacher(SOUND)), WEIGHTS)
    for each in (weighted, cache_teacher(teacher, weighted, dtype="float32", verbose=0)):
        assert loss_of(teacher, each) == pytest.approx(wanted, rel=1e-5)
    unlabelled = with_teacher_inputs(X, SOUND)
    found = loss_of(teacher, unlabelled, student_loss_weight=0)
    assert found == pytest.approx(expected(np.array(teacher(SOUND))), rel=1e-5)


def test_several_inputs_go_by_name():
    keras.utils.set_random_seed(2)
    parts = {"left": L.Input((7, 2), name="left"), "right": L.Input((4,), name="right")}
    flat = L.Concatenate()([L.Flatten()(parts["left"]), parts["right"]])
    teacher = keras.Model(parts, L.Dense(3)(flat))
    right = RNG.normal(size=(24, 4)).astype("float32")
    inputs = {"right": right, "left": SOUND}
    wanted = expected(np.array(teacher(inputs)))
    for examples in ((X, Y), DATASET):
        data = with_teacher_inputs(examples, inputs)
        cached = cache_teacher(teacher, data, dtype="float32", verbose=0)
        assert loss_of(teacher, data) == pytest.approx(wanted, rel=1e-5)
        assert loss_of(teacher, cached) == pytest.approx(wanted, rel=1e-5)


def test_a_function_and_tapped_layers_see_them_too(teacher):
    weights = RNG.normal(size=(14, 3))

    def answer(x):
        assert x.shape[1:] == (7, 2)
        return x.reshape(len(x), -1) @ weights

    function = kd.teachers.from_function(answer, name="linear", version="1")
    data = with_teacher_inputs((X, Y), SOUND)
    wanted = expected(answer(SOUND))
    cached = cache_teacher(function, data, dtype="float32", verbose=0)
    assert loss_of(function, data) == pytest.approx(wanted, rel=1e-5)
    assert loss_of(function, cached) == pytest.approx(wanted, rel=1e-5)
    hint = kd.losses.FitNet(("hidden", "hidden"))
    kept = {"outputs": ["hidden"], "dtype": "float32", "verbose": 0}
    live = loss_of(teacher, data, losses=hint)
    keras.utils.set_random_seed(0)
    assert loss_of(
        teacher, cache_teacher(teacher, data, **kept), losses=hint
    ) == pytest.approx(live, rel=1e-5)


def test_validation_and_evaluation_run_the_teacher_on_its_own(teacher):
    data = with_teacher_inputs((X, Y), SOUND).batch(8)
    distiller = distiller_of(teacher, validation_distillation=True)
    logs = distiller.fit(data, validation_data=data, verbose=0, shuffle=False).history
    wanted = expected(np.array(teacher(SOUND)))
    assert logs["val_distillation_loss"][0] == pytest.approx(wanted, rel=1e-5)
    assert distiller.evaluate(data, verbose=0, return_dict=True)[
        "distillation_loss"
    ] == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(distiller.predict(data, verbose=0), distiller.student(X))
    with pytest.raises(ValueError, match="must take the inputs that `teacher` takes"):
        distiller.evaluate(X, Y, verbose=0)


def test_the_students_file_knows_nothing_of_it(teacher, tmp_path):
    data = with_teacher_inputs((X, Y), SOUND).batch(8)
    distiller = distiller_of(teacher)
    distiller.fit(data, verbose=0, shuffle=False)
    distiller.student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(loaded(X), distiller.student(X))
    distiller.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), distiller.student(X), rtol=1e-5, atol=1e-6)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert again.fit(data, verbose=0, shuffle=False).history["distillation_loss"]


def test_without_them_the_two_must_take_the_same(teacher):
    for data in (DATASET.batch(8), (batch for batch in [(X, Y)])):
        distiller = distiller_of(teacher)
        with pytest.raises(ValueError, match="with_teacher_inputs"):
            distiller.fit(data, verbose=0, shuffle=False)
        assert all(np.isfinite(w).all() for w in distiller.student.get_weights())


def test_a_changed_teacher_input_is_another_cache(teacher, tmp_path):
    folder = {"path": tmp_path / "cache", "verbose": 0}
    cache_teacher(teacher, with_teacher_inputs((X, Y), SOUND), **folder)
    with pytest.raises(kd.CacheError, match="other examples"):
        cache_teacher(teacher, with_teacher_inputs((X, Y), SOUND + 1), **folder)
    with pytest.raises(kd.CacheError, match="another order"):
        order = np.r_[0, 2, 1, 3:24]
        cache_teacher(teacher, with_teacher_inputs((X, Y), SOUND[order]), **folder)
    # What the student sees of an example is no part of what the teacher said.
    cache_teacher(teacher, with_teacher_inputs((X + 1, Y), SOUND), **folder)


def shuffled():
    return with_teacher_inputs(DATASET, SOUNDS.shuffle(24))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_teacher_inputs((X, Y), SOUND[:9]), "9 rows for 24 examples"),
        (lambda: with_teacher_inputs(DATASET, SOUND[:9]), "9 rows for 24 examples"),
        (lambda: with_teacher_inputs((X, Y), {"a": SOUND, "b": X[:3]}), "3 and 24 rows"),
        (lambda: with_teacher_inputs((X, Y), "sounds"), "Received: str"),
        (lambda: with_teacher_inputs((X, Y), SOUNDS.take(0)), "are empty"),
        (shuffled, "shuffled anew"),
        (lambda: with_teacher_inputs((X, Y), SOUNDS.shuffle(24)), "shuffled anew"),
        (
            lambda: with_teacher_inputs(with_teacher_inputs(DATASET, SOUND), SOUND),
            "carries the examples' numbers, or teacher outputs or inputs",
        ),
        (
            lambda: with_teacher_outputs(with_teacher_inputs(DATASET, SOUND), Y),
            "carries the examples' numbers, or teacher outputs or inputs",
        ),
    ],
)
def test_what_cannot_be_put_together_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_views_and_inputs_of_other_shapes_are_refused(teacher):
    data = with_teacher_inputs((X, Y), SOUND)
    with pytest.raises(ValueError, match="`augment` makes the teacher's views"):
        cache_teacher(teacher, data, augment=lambda x, indices, view, seed: x)
    wrong = with_teacher_inputs((X, Y), SOUND[:, :3]).batch(8)
    with pytest.raises(ValueError, match=r"teacher inputs of shape \(None, 3, 2\)"):
        distiller_of(teacher).fit(wrong, verbose=0, shuffle=False)
    # Beside cached outputs they are no longer needed.
    cached = cache_teacher(teacher, data, verbose=0)
    assert not batch.has_teacher_inputs(cached.element_spec[0])


def tokeniser_pair():
    """A teacher whose inputs are of the student's shape, and mean something else."""
    keras.utils.set_random_seed(3)
    return keras.Sequential([L.Input((5,)), L.Dense(3)]), X[:, ::-1].copy()


@pytest.mark.parametrize("kept", [False, True], ids=["live", "cached"])
def test_inputs_of_one_shape_are_not_mixed_up(kept):
    teacher, other = tokeniser_pair()
    data = with_teacher_inputs((X, Y), other)
    wanted = expected(np.array(teacher(other)))
    assert abs(wanted - expected(np.array(teacher(X)))) > 0.01
    data = cache_teacher(teacher, data, dtype="float32", verbose=0) if kept else data
    data = data.batch(24)
    for validation in ((X, Y), cache_teacher(teacher, (X, Y), verbose=0).batch(24)):
        distiller = distiller_of(teacher, validation_distillation=True)
        with pytest.raises(ValueError, match="was asked on inputs of its own in training"):
            distiller.fit(data, validation_data=validation, verbose=0, shuffle=False)
    logs = distiller.evaluate(data, verbose=0, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=1e-5)


def test_kept_answers_say_what_they_are_to():
    teacher, other = tokeniser_pair()
    apart, same = (
        cache_teacher(teacher, data, verbose=0).element_spec[0]
        for data in (with_teacher_inputs((X, Y), other), (X, Y))
    )
    assert batch.is_taught_apart(apart) and not batch.is_taught_apart(same)
    assert batch.teacher_of(apart) == batch.teacher_of(same)


def test_examples_of_another_shape_than_the_teachers(teacher):
    with pytest.raises(ValueError, match=r"takes \(None, 7, 2\).*shape \(3, 2\)"):
        cache_teacher(teacher, with_teacher_inputs((X, Y), SOUND[:, :3]), verbose=0)


def ragged():
    shapes = tf.data.Dataset.from_generator(
        lambda: (SOUND[k, : 1 + k % 3] for k in range(24)),
        output_signature=tf.TensorSpec((None, 2), tf.float32),
    )
    return with_teacher_inputs((X, Y), shapes)


def text():
    return with_teacher_inputs((X, Y), np.array(["a"] * 24))


def text_of_tensors():
    return with_teacher_inputs(DATASET, tf.data.Dataset.from_tensor_slices(["a"] * 24))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ragged, "`teacher_inputs` differ in shape"),
        (text, "`teacher_inputs` must be numbers"),
        (text_of_tensors, "`teacher_inputs` must be numbers"),
    ],
)
def test_inputs_that_are_no_arrays_of_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
