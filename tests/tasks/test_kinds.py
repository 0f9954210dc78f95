"""Logits or probabilities, by what models answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_kd as kd
from keras_kd import Distiller, MutualDistiller, teachers
from keras_kd.losses import SoftTargets
from keras_kd.losses.ops import log_probabilities
from keras_kd.tasks.kinds import OutputKinds, check_said

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)
ONE_HOT = np.eye(3, dtype="float32")[Y]


def sequential(*last, has_input=True, dtype=None):
    first = [keras.Input((4,))] if has_input else []
    return keras.Sequential([*first, layers.Dense(6, "relu", dtype=dtype), *last])


class Subclassed(keras.Model):
    def __init__(self, activation="softmax", units=3, kernel="glorot_uniform"):
        super().__init__()
        self.hidden = layers.Dense(6, "relu")
        self.last = layers.Dense(units, activation, kernel_initializer=kernel)

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.last.build((None, 6))

    def call(self, x):
        return self.last(self.hidden(x))


class OfOps(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = layers.Dense(3)

    def build(self, input_shape):
        self.last.build(input_shape)

    def call(self, x):
        return ops.softmax(self.last(x))


def called(model):
    model(X[:1])
    return model


def functional(softmax):
    inputs = keras.Input((4,))
    return keras.Model(inputs, softmax(layers.Dense(3)(inputs)))


def in_16_bits(dtype):
    dense = layers.Dense(3, "softmax", dtype=dtype)
    return sequential(dense, layers.Activation("linear", dtype="float32"), dtype=dtype)


def distiller_of(student):
    return Distiller(sequential(layers.Dense(3)), student, kd.losses.FitNet(taps=()))


def saved_model(path):
    sequential(layers.Dense(3, "softmax")).export(path, verbose=False)
    return teachers.from_saved_model(path)


SOFT = {
    "Dense": lambda: sequential(layers.Dense(3, "softmax")),
    "Reshape after": lambda: sequential(layers.Dense(3, "softmax"), layers.Reshape((3,))),
    "Identity after": lambda: sequential(layers.Dense(3, "softmax"), layers.Identity()),
    "mixed_bfloat16": lambda: in_16_bits("mixed_bfloat16"),
    "mixed_float16": lambda: in_16_bits("mixed_float16"),
    "keras.ops": lambda: functional(ops.softmax),
    "tf.nn": lambda: functional(layers.Lambda(lambda x: tf.nn.softmax(x))),
    "without Input": lambda: called(
        sequential(layers.Dense(3, "softmax"), has_input=False)
    ),
    "subclassed": lambda: called(Subclassed()),
    "subclassed, of ops": lambda: called(OfOps()),
    "a Distiller": lambda: distiller_of(sequential(layers.Dense(3, "softmax"))),
}
# Not built when the Distiller is made: looked at in the first step.
LATER = {
    "without Input": lambda: sequential(layers.Dense(3, "softmax"), has_input=False),
    "subclassed": Subclassed,
    "subclassed, of ops": OfOps,
}


def divergence64(log_p, log_q):
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (log_p, log_q))
    return (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def answers64(model):
    return np.asarray(model.predict(X, verbose=0), "float64")


def compiled(teacher, student, run_eagerly=False, **arguments):
    distiller = Distiller(
        teacher, student, SoftTargets(1.0), student_loss_weight=0, **arguments
    )
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=run_eagerly)
    return distiller


def fitted(distiller, data=X):
    history = distiller.fit(data, batch_size=32, shuffle=False, verbose=0).history
    return history["distillation_loss"][0]


@pytest.mark.parametrize("case", SOFT)
def test_a_teachers_softmax_is_seen(case, make_model):
    teacher, student = SOFT[case](), make_model()
    with pytest.warns(UserWarning, match="`teacher` .* ends in a softmax.*log"):
        # It is seen before the step, of which one is compiled for all.
        distiller = compiled(teacher, student, run_eagerly=case != "Dense")
    expected = divergence64(np.log(answers64(teacher)), answers64(student))
    assert fitted(distiller) == pytest.approx(expected, rel=1e-4)


def test_a_saved_models_softmax_is_seen(tmp_path, make_model):
    teacher, student = saved_model(tmp_path / "saved"), make_model()
    with pytest.warns(UserWarning, match="`teacher` .* ends in a softmax"):
        distiller = compiled(teacher, student)
    expected = divergence64(np.log(answers64(teacher)), answers64(student))
    assert fitted(distiller) == pytest.approx(expected, rel=1e-4)


DATA = {
    "arrays": lambda: X,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(X).batch(32),
    "cached": lambda teacher: kd.cache_teacher(teacher, X, verbose=0).batch(32),
}


@pytest.mark.parametrize("case", LATER)
@pytest.mark.parametrize("data", DATA)
def test_an_unbuilt_students_softmax_is_seen_in_the_first_step(case, data, make_model):
    teacher, student = make_model(), LATER[case]()
    distiller = compiled(teacher, student)
    batches = DATA[data](teacher) if data == "cached" else DATA[data]()
    with pytest.warns(UserWarning, match="`student` .* ends in a softmax"):
        found = fitted(distiller, batches)
    expected = divergence64(answers64(teacher), np.log(answers64(student)))
    assert found == pytest.approx(expected, rel=1e-4)
    assert distiller.get_config()["student_outputs"] == "probabilities"


def test_no_example_is_taken_to_look(make_model):
    taken = []

    def batches():
        for i in range(4):
            taken.append(i)
            yield (X[:8],)

    distiller = compiled(make_model(), sequential(layers.Dense(3), has_input=False))
    distiller.fit(batches(), steps_per_epoch=4, shuffle=False, verbose=0)
    assert taken == [0, 1, 2, 3]
    assert distiller.optimizer.iterations == 4


NOT_SOFT = {
    "linear": lambda: sequential(layers.Dense(3)),
    "relu": lambda: sequential(layers.Dense(3, "relu")),
    "log_softmax": lambda: sequential(layers.Dense(3, "log_softmax")),
    "one sigmoid": lambda: sequential(layers.Dense(1, "sigmoid")),
    "a softmax of one": lambda: sequential(layers.Dense(1, "softmax")),
    "three sigmoids": lambda: sequential(layers.Dense(3, "sigmoid")),
    "two sigmoids of 1/2": lambda: called(Subclassed("sigmoid", 2, "zeros")),
}


@pytest.mark.filterwarnings("ignore:.*softmax over axis -1")
@pytest.mark.parametrize("case", NOT_SOFT)
def test_what_is_no_softmax(case):
    kinds = OutputKinds("teacher", NOT_SOFT[case]())
    kinds.need([None])
    kinds.look()
    assert kinds.found == {None: "logits"}


def test_a_softmax_of_two_halves_is_one():
    kinds = OutputKinds("teacher", called(Subclassed("softmax", 2, "zeros")))
    kinds.need([None], compared=False)
    kinds.look()
    assert kinds.found == {None: "probabilities"}


def test_looking_changes_nothing():
    model = sequential(
        layers.BatchNormalization(),
        layers.Dense(2, "sigmoid", activity_regularizer="l2", kernel_initializer="zeros"),
    )
    model(X)
    before = [x.numpy().tobytes() for x in model.variables]
    losses = list(map(float, model.losses))
    kinds = OutputKinds("teacher", model)
    kinds.need([None])
    kinds.look()
    assert [x.numpy().tobytes() for x in model.variables] == before
    assert list(map(float, model.losses)) == losses


def test_a_students_own_losses_stay_in_the_step_that_looks(make_model):
    def make():
        keras.utils.set_random_seed(3)
        return sequential(layers.Dense(3, activity_regularizer="l2"), has_input=False)

    plain, student = make(), make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.1), loss)
    expected = plain.fit(X, Y, verbose=0, shuffle=False).history["loss"]
    distiller = Distiller(make_model(), student, "kd", student_loss_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    found = distiller.fit(X, Y, verbose=0, shuffle=False).history["loss"]
    assert found == pytest.approx(expected, rel=1e-6)
    for a, b in zip(student.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("said", [None, "probabilities", "logits"])
def test_what_is_said_of_the_outputs_is_not_said_of_a_tap(said, make_model):
    teacher = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="logits"), layers.Softmax()]
    )
    student = make_model()
    loss = SoftTargets(2.0, taps=("logits", student.layers[-1].name))
    distiller = Distiller(
        teacher, student, loss, student_loss_weight=0, teacher_outputs=said
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    logits = np.asarray(teacher.layers[0](X), "float64")
    expected = 4 * divergence64(logits / 2, answers64(student) / 2)
    assert fitted(distiller) == pytest.approx(expected, rel=1e-4)


def test_a_tapped_softmax_is_seen_and_said(make_model):
    teacher = sequential(layers.Dense(3, "softmax", name="soft"), layers.Dense(5))
    student = make_model()
    loss = SoftTargets(1.0, taps=("soft", None))
    with pytest.warns(UserWarning, match=r"softmax at 'soft'.*teacher_outputs={'soft': "):
        distiller = Distiller(teacher, student, loss, student_loss_weight=0)
    said = {"soft": "probabilities"}
    again = Distiller(teacher, student, loss, student_loss_weight=0, teacher_outputs=said)
    soft = np.asarray(teacher.layers[1](teacher.layers[0](X)), "float64")
    for each in (distiller, again):
        each.compile(keras.optimizers.SGD(0.0))
        expected = divergence64(np.log(soft), answers64(student))
        assert fitted(each) == pytest.approx(expected, rel=1e-4)


def test_several_models_each_of_its_kind(make_model):
    soft = sequential(layers.Dense(3, "softmax"), layers.Identity())
    models, student = {"a": make_model(), "soft": soft}, make_model()
    several = teachers.Several(models)
    losses = [SoftTargets(1.0, taps=(path, None)) for path in several.taps.values()]
    with pytest.warns(UserWarning, match="at 'soft/"):
        distiller = Distiller(several, student, losses, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    expected = divergence64(answers64(models["a"]), answers64(student))
    expected += divergence64(np.log(answers64(soft)), answers64(student))
    assert fitted(distiller) == pytest.approx(expected, rel=1e-4)


def test_an_ensemble_of_models_that_end_in_ops(make_model):
    models = [functional(ops.softmax), make_model()]
    with pytest.warns(UserWarning, match="end in a softmax"):
        ensemble = teachers.Ensemble(models, temperature=1.0)
    logits = answers64(models[1])
    soft = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = (answers64(models[0]) + soft) / 2
    np.testing.assert_allclose(ops.softmax(ensemble(X)), expected, rtol=1e-5)


@pytest.mark.parametrize("case", ["keras.ops", "later"])
def test_a_loaded_distiller_has_the_same_loss(case, make_model, tmp_path):
    """What was found is in the file, so loading neither warns nor looks again."""
    keras.utils.set_random_seed(0)
    if case == "later":
        teacher, student = make_model(), LATER["without Input"]()
        distiller = compiled(teacher, student)
        with pytest.warns(UserWarning, match="ends in a softmax"):
            found = fitted(distiller)
    else:
        teacher, student = SOFT[case](), make_model()
        with pytest.warns(UserWarning, match="ends in a softmax"):
            distiller = compiled(teacher, student)
        found = fitted(distiller)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert fitted(again) == pytest.approx(found, rel=1e-6)


def test_a_tap_that_was_found_is_saved(make_model, tmp_path):
    teacher = sequential(layers.Dense(3, "softmax", name="soft"), layers.Dense(5))
    loss = SoftTargets(1.0, taps=("soft", None))
    with pytest.warns(UserWarning, match="softmax at"):
        distiller = Distiller(teacher, make_model(), loss, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert again.teacher_kinds.found["soft"] == "probabilities"
    assert fitted(again) == pytest.approx(fitted(distiller), rel=1e-6)


def test_peers_that_end_in_ops(make_model, tmp_path):
    pair = {"soft": functional(ops.softmax), "raw": make_model()}
    with pytest.warns(UserWarning, match="`student` .* ends in a softmax"):
        mutual = MutualDistiller(pair, task="multiclass")
    p, q = np.log(answers64(pair["soft"])), answers64(pair["raw"])
    expected = divergence64(p, q) + divergence64(q, p)
    mutual.compile(keras.optimizers.SGD(0.0), "mse")
    mutual.save(tmp_path / "m.keras")
    for each in (mutual, keras.saving.load_model(tmp_path / "m.keras")):
        history = each.fit(X, ONE_HOT, batch_size=32, verbose=0).history
        assert history["distillation_loss"] == pytest.approx([expected], rel=1e-4)


def test_peers_of_which_each_is_said(make_model):
    pair = {"soft": functional(ops.softmax), "raw": make_model()}
    said = {"soft": "probabilities", "raw": "logits"}
    MutualDistiller(pair, student_outputs=said)
    for wrong in ("softmax", {"other": "logits"}, {"raw": 3}):
        with pytest.raises(ValueError, match="`student_outputs` must be .* Received: "):
            MutualDistiller(pair, student_outputs=wrong)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_is_said_and_is_not_so(role, make_model):
    arguments = {f"{role}_outputs": "probabilities"}
    with pytest.raises(ValueError, match=f"`{role}` .* no probabilities.*Received: {role}"):
        Distiller(make_model(), make_model(), "kd", **arguments)
    with pytest.raises(ValueError, match="no probabilities"):
        MutualDistiller([make_model(name=x) for x in "ab"], student_outputs="probabilities")


@pytest.mark.parametrize("wrong", ["softmax", 3, {"a": "b"}, [1], {None: 3}])
def test_what_cannot_be_said(wrong):
    with pytest.raises(ValueError, match="`teacher_outputs` must be .*Received: "):
        check_said("teacher_outputs", wrong)


def test_what_cannot_be_seen_is_told(make_model):
    class Picky(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(3)

        def call(self, x):
            if x.shape[0] == 8:
                raise TypeError("no such inputs")
            return self.last(x)

    teacher, student = called(Picky()), make_model()
    distiller = compiled(teacher, student)
    with pytest.warns(UserWarning, match="could not be seen.*teacher_outputs='logits'"):
        fitted(distiller)
    said = compiled(teacher, student, teacher_outputs="logits")
    assert fitted(said) == pytest.approx(
        divergence64(answers64(teacher), answers64(student)), rel=1e-4
    )


def test_a_probability_of_zero_has_a_logarithm():
    assert np.isfinite(log_probabilities(np.zeros((1, 3), "float32"))).all()
