"""The Distiller through Keras's own methods."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, cache_teacher, losses
from keras_kd.teachers import Ensemble, Several

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(teacher, student, run_eagerly=False, **arguments):
    distiller = Distiller(
        teacher, student, losses.SoftTargets(temperature=2.0), **arguments
    )
    distiller.compile("adam", LOSS, metrics=["accuracy"], run_eagerly=run_eagerly)
    return distiller


def bytes_of(variables):
    return [keras.ops.convert_to_numpy(v).tobytes() for v in variables]


def batch_normalised(name=None):
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ],
        name=name,
    )


@pytest.mark.parametrize("trainable", [True, False])
def test_teacher_is_the_same_bytes_after_fit(vectors, trainable):
    teacher, student = batch_normalised(), batch_normalised()
    teacher.trainable = trainable
    teacher.layers[0].trainable = False
    flags = [layer.trainable for layer in teacher.layers]
    before, student_before = bytes_of(teacher.variables), bytes_of(student.weights)

    compiled(teacher, student).fit(*vectors, epochs=2, verbose=0)

    assert bytes_of(teacher.variables) == before
    assert teacher.trainable is trainable
    assert [layer.trainable for layer in teacher.layers] == flags
    changed = [a != b for a, b in zip(student_before, bytes_of(student.weights))]
    assert all(changed), "weights and moving statistics of the student train"


def test_student_learns(make_model, vectors):
    teacher = make_model(units=32)
    teacher.compile(keras.optimizers.Adam(0.05), LOSS, metrics=["accuracy"])
    teacher.fit(*vectors, epochs=30, verbose=0)
    distiller = compiled(teacher, make_model())
    distiller.optimizer.learning_rate = 0.05
    history = distiller.fit(*vectors, epochs=30, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["distillation_loss"][-1] < 0.2 * history["distillation_loss"][0]


def test_same_seed_same_bytes(vectors):
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        teacher, student = batch_normalised(), batch_normalised()
        compiled(teacher, student).fit(*vectors, epochs=2, verbose=0)
        weights.append(bytes_of(student.weights))
    assert weights[0] == weights[1]


def test_metric_names_in_training_and_validation(make_model, vectors):
    distiller = compiled(make_model(), make_model())
    history = distiller.fit(*vectors, validation_data=vectors, verbose=0).history
    terms = {"loss", "accuracy", "student_loss", "distillation_loss", "total_loss"}
    validation = {"val_loss", "val_accuracy", "val_student_loss", "val_total_loss"}
    assert set(history) == terms | validation


def test_validation_predict_and_evaluate_see_the_student(make_model, vectors):
    x, y = vectors
    teacher, student = make_model(units=16), make_model()
    distiller = compiled(teacher, student)
    logits = student.predict(x, verbose=0)
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), logits)
    results = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert results["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == y))
    assert results["loss"] == pytest.approx(float(LOSS(y, logits)), rel=1e-5)


def test_validation_does_not_run_the_teacher(make_model, vectors, monkeypatch):
    distiller = compiled(make_model(), make_model())
    monkeypatch.setattr(
        distiller, "run_teacher", lambda x: pytest.fail("the teacher ran")
    )
    distiller.evaluate(*vectors, verbose=0)


def test_student_loss_weight_one_is_plain_training(make_model, vectors):
    keras.utils.set_random_seed(1)
    plain, student = make_model(), make_model()
    student.set_weights(plain.get_weights())
    plain.compile("sgd", LOSS)
    plain.fit(*vectors, shuffle=False, verbose=0)
    distiller = Distiller(make_model(), student, "kd", student_loss_weight=1.0)
    distiller.compile("sgd", LOSS)
    distiller.fit(*vectors, shuffle=False, verbose=0)
    for ours, keras_own in zip(student.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-6, atol=1e-7)


def test_without_a_weight_on_labels_no_loss_is_needed(make_model, vectors):
    distiller = Distiller(make_model(), make_model(), "kd", student_loss_weight=0)
    distiller.compile("sgd")
    history = distiller.fit(*vectors, verbose=0).history
    assert history["loss"] == history["distillation_loss"]


def test_saves_and_goes_on(make_model, vectors, tmp_path):
    distiller = compiled(make_model(units=16), make_model())
    distiller.fit(*vectors, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert again.distillation_losses[0].get_config() == {
        "temperature": 2.0,
        "form": "kl",
    }
    for model in (distiller, again):
        model.fit(*vectors, shuffle=False, verbose=0)
    assert bytes_of(again.student.weights) == bytes_of(distiller.student.weights)


def test_the_student_alone_is_a_plain_model(make_model, vectors, tmp_path):
    distiller = compiled(make_model(), make_model())
    distiller.fit(*vectors, verbose=0)
    distiller.student.save(tmp_path / "student.keras")
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert type(student) is keras.Sequential and not student.compiled
    np.testing.assert_array_equal(
        student.predict(vectors[0], verbose=0), distiller.predict(vectors[0], verbose=0)
    )


def test_mixed_precision_scales_the_loss(vectors):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = batch_normalised()
    finally:
        keras.config.set_dtype_policy("float32")
    distiller = compiled(batch_normalised(), student)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = distiller.fit(*vectors, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_frozen_layer_of_the_teacher_may_be_shared(make_model):
    teacher = make_model()
    student = keras.Sequential(
        [keras.layers.Input((4,)), teacher.layers[0], keras.layers.Dense(3)]
    )
    teacher.layers[0].trainable = False
    Distiller(teacher, student, "kd")


def test_losses_of_keras_on_layers_and_outputs_together(make_model, vectors):
    """As Keras's own tests use them; the value is worked out by hand."""
    teacher, student = make_model(), make_model()
    hidden = teacher.layers[0].name, student.layers[0].name
    feature = keras.distillation.FeatureDistillation("mse", *hidden)
    logits = keras.distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence())
    distiller = Distiller(teacher, student, [feature, logits], [3.0, 2.0])
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    history = distiller.fit(*vectors, verbose=0).history
    x = vectors[0]
    difference = teacher.layers[0](x) - student.layers[0](x)
    divergence = losses.SoftTargets(2.0).compute_loss(teacher(x), student(x))
    expected = 3.0 * np.mean(np.square(difference)) + 2.0 * float(divergence)
    assert history["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def with_a_tap():
    """A distiller of logits and of the layers "a" and "b", and what it compares."""
    dense = keras.layers.Dense
    models = [
        keras.Sequential(
            [keras.Input((4,)), dense(6), dense(5, name=tap), dense(3)], name=name
        )
        for name, tap in (("teacher", "a"), ("student", "b"))
    ]
    features = keras.distillation.FeatureDistillation("mse", "a", "b")
    both = [losses.SoftTargets(temperature=2.0), features]
    distiller = Distiller(*models, both, validation_distillation=True)
    distiller.compile("adam", LOSS, metrics=["accuracy"])
    return distiller


def trained_weights(distiller, data):
    """The student's weights after two epochs; it then has those of before again."""
    before = distiller.student.get_weights()
    distiller.fit(data, epochs=2, verbose=0, shuffle=False)
    after = distiller.student.get_weights()
    distiller.student.set_weights(before)
    distiller.optimizer = keras.optimizers.Adam()
    return after


@pytest.mark.parametrize("on_disk", [False, True])
def test_cached_outputs_teach_as_the_teacher_does(
    vectors, tmp_path, monkeypatch, on_disk
):
    distiller = with_a_tap()
    live = tf.data.Dataset.from_tensor_slices(vectors).batch(16)
    cached = cache_teacher(
        distiller.teacher,
        vectors,
        tmp_path / "cache" if on_disk else None,
        outputs=[None, "a"],
        dtype="float32",
        verbose=0,
    ).batch(16)
    evaluated = distiller.evaluate(live, verbose=0, return_dict=True)
    expected = trained_weights(distiller, live)

    def call(*args, **kwargs):
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(distiller.teacher, "call", call)
    distiller.train_function = distiller.test_function = None
    found = trained_weights(distiller, cached)
    for weight, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)
    again = distiller.evaluate(cached, verbose=0, return_dict=True)
    assert again == pytest.approx(evaluated, abs=1e-6)
    assert distiller.predict(cached, verbose=0).shape == (64, 3)


def test_a_student_is_built_by_cached_batches(make_model, vectors):
    student = keras.Sequential([keras.layers.Dense(3)])
    teacher = make_model()
    cached = cache_teacher(teacher, vectors, verbose=0).batch(16)
    distiller = compiled(teacher, student)
    distiller.fit(cached, verbose=0, shuffle=False)
    assert student.weights[0].shape == (4, 3)


def test_cached_outputs_that_the_losses_need(vectors):
    distiller = with_a_tap()
    cached = cache_teacher(distiller.teacher, vectors, verbose=0).batch(16)
    message = r"losses need more: 'a'. Received: the teacher's own outputs \(None\)"
    with pytest.raises(ValueError, match=message):
        distiller.fit(cached, verbose=0, shuffle=False)


POLICIES = ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]
# Steps are compiled of these; casts are the same Python in all.
COMPILED = ["float32", "mixed_float16"]
# Beyond what float16 holds, so that a cast before the Normalization is seen.
LARGE = np.random.default_rng(1).normal(3e5, 1e5, size=(32, 4)).astype("float32")
LARGE_LABELS = np.argmax(LARGE[:, :3], axis=1)


def normalising(policy):
    """A classifier that normalises its inputs in float32 at least, and then computes."""
    normalization = keras.layers.Normalization(
        dtype="float64" if policy == "float64" else "float32"
    )
    normalization.adapt(LARGE)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        dense = keras.layers.Dense(6, "relu"), keras.layers.Dense(3)
        return keras.Sequential([keras.Input((4,)), normalization, *dense])
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_teachers", [False, True])
def test_inputs_reach_each_model_as_they_are(policy, is_teachers):
    teacher, student = normalising("float32"), normalising(policy)
    teacher, student = (student, teacher) if is_teachers else (teacher, student)
    distiller = compiled(
        teacher, student, policy not in COMPILED, validation_distillation=True
    )
    found = distiller.evaluate(LARGE, LARGE_LABELS, verbose=0, return_dict=True)
    log_p, log_q = (
        np.asarray(x.predict(LARGE, verbose=0), "float64") / 2.0 for x in (teacher, student)
    )
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (log_p, log_q))
    expected = 4.0 * (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    assert found["distillation_loss"] == pytest.approx(expected, rel=2e-2, abs=1e-3)
    assert np.isfinite(distiller.fit(LARGE, LARGE_LABELS, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("policy", ["float32", *POLICIES])
def test_a_student_trains_as_it_does_alone(policy):
    alone, student = normalising(policy), normalising(policy)
    student.set_weights(alone.get_weights())
    distiller = Distiller(normalising("float32"), student, "kd", student_loss_weight=1.0)
    for model in (alone, distiller):
        sgd = keras.optimizers.SGD(0.1)
        model.compile(sgd, LOSS, run_eagerly=policy not in COMPILED)
        model.fit(LARGE, LARGE_LABELS, batch_size=8, shuffle=False, verbose=0)
    assert type(distiller.optimizer) is type(alone.optimizer)
    for ours, keras_own in zip(student.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, keras_own)


@pytest.mark.parametrize("floatx", ["float64", "float16"])
def test_another_floatx(floatx, make_model, vectors):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        hint = losses.FitNet(taps=("h", "h"))
        models = [
            keras.Sequential(
                [
                    keras.Input((4,)),
                    keras.layers.Dense(units, name="h"),
                    keras.layers.Dense(3),
                ]
            )
            for units in (8, 6)
        ]
        distiller = Distiller(*models, ["kd", hint])
        distiller.compile("adam", LOSS)
        history = distiller.fit(*vectors, validation_data=vectors, verbose=0).history
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(x).all() for x in history.values())


def test_losses_with_layers_take_outputs_of_float64(vectors):
    models = [
        keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(units, name="h", dtype=dtype),
                keras.layers.Dense(3, dtype=dtype),
            ]
        )
        for units, dtype in ((8, "float64"), (6, "float64"))
    ]
    distiller = Distiller(*models, losses.FitNet(taps=("h", "h")))
    distiller.compile("adam", LOSS)
    assert np.isfinite(distiller.fit(*vectors, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("name", Distiller.fixed)
def test_an_argument_that_is_set_later_is_refused(name, make_model):
    distiller = compiled(make_model(), make_model())
    before = getattr(distiller, name)
    with pytest.raises(ValueError, match=f"`{name}` of a Distiller cannot be changed.*Rec"):
        setattr(distiller, name, [10.0])
    assert getattr(distiller, name) is before


@pytest.mark.parametrize("name", ["distillation_losses", "distillation_loss_weights"])
def test_nothing_can_be_put_into_an_argument(name, make_model):
    distiller = compiled(make_model(), make_model())
    with pytest.raises(TypeError):
        getattr(distiller, name)[0] = 10.0


def test_a_losss_setting_is_read_by_the_next_fit(make_model, vectors):
    teacher, student = make_model(), make_model()
    distiller = Distiller(teacher, student, losses.SoftTargets(1.0), student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    for temperature in (1.0, 3.0):
        distiller.distillation_losses[0].temperature = temperature
        loss = losses.SoftTargets(temperature)
        expected = loss.compute_loss(teacher(vectors[0]), student(vectors[0]))
        found = distiller.fit(vectors[0], batch_size=64, verbose=0).history["loss"]
        assert found == pytest.approx([float(expected)], rel=1e-5)


@pytest.mark.parametrize("by", ["validation_data", "validation_split"])
def test_validation_without_a_loss_is_refused_before_the_first_step(
    by, make_model, vectors
):
    distiller = Distiller(make_model(), make_model(), "kd", student_loss_weight=0)
    distiller.compile("sgd", metrics=["accuracy"])
    with pytest.raises(ValueError, match="`validation_data` are judged.*loss=None"):
        given = {"validation_data": vectors, "validation_split": 0.5}[by]
        distiller.fit(*vectors, verbose=0, **{by: given})
    assert distiller.optimizer.iterations == 0


@pytest.mark.parametrize(
    "join",
    [lambda model: Ensemble([model]), lambda model: Several({"one": model})],
)
def test_what_a_teachers_models_were_compiled_with_is_not_logged(vectors, join):
    """Keras's `metrics` of a layer hold those of a model within it, which never change."""
    model = batch_normalised()
    model.compile("sgd", LOSS, metrics=["accuracy"])
    model.fit(*vectors[:2], verbose=0)
    teacher = join(model)
    pairs = getattr(teacher, "taps", {"one": None}).values()
    loss = [losses.SoftTargets(2.0, taps=None if x is None else (x, None)) for x in pairs]
    distiller = Distiller(teacher, batch_normalised(), loss)
    distiller.compile("adam", LOSS, metrics=["accuracy"])
    logs = distiller.fit(*vectors[:2], verbose=0, validation_data=vectors[:2]).history
    for prefix in ("", "val_"):
        assert logs[f"{prefix}loss"] == logs[f"{prefix}total_loss"] != [0.0]
    own = {id(x) for x in model._get_own_metrics()}
    assert own.isdisjoint(map(id, distiller.metrics))
