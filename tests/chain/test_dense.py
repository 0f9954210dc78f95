"""Every earlier model teaches: the sum of the terms, the dropping, what is refused."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import DistillationChain, Stage, cache_teacher, losses
from keras_kd.chain.dense import PERIOD, Survival

KD = losses.SoftTargets(2.0)


def batched(vectors, batch_size=16):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(batch_size)


def still(name, model, loss=KD, epochs=1, **arguments):
    """A stage that changes nothing, so that its losses can be told beforehand."""
    arguments = {"student_loss_weight": 0.0, "distillation_losses": loss} | arguments
    return Stage(name, model, epochs, optimizer=keras.optimizers.SGD(0.0), **arguments)


def value(teacher, student, vectors, loss=KD):
    outputs = (model.predict(vectors[0], verbose=0) for model in (teacher, student))
    return float(loss.compute_loss(*outputs))


@pytest.fixture
def models(make_model):
    """Teacher, two assistants and a student; of one name each, as Keras would not have."""
    return [make_model(units=units, name="same") for units in (16, 12, 10, 8)]


def test_each_student_is_taught_by_all_before_it(models, vectors):
    teacher, first, second, student = models
    stages = [
        still("first", first),
        still("the second one", second),
        Stage("alone", keras.models.clone_model(student), 1),
        still("student", student),
    ]
    chain = DistillationChain(teacher, stages, dense=True)
    result = chain.fit(batched(vectors), batched(vectors), verbose=0)
    assert [x.taught_by for x in result.models] == [
        "given",
        "teacher",
        "teacher, first",
        "labels",
        "teacher, first, the second one",
    ]
    for i, name in enumerate(("first", "the second one", "student")):
        expected = sum(value(x, models[i + 1], vectors) for x in models[: i + 1])
        found = result.histories[name]["distillation_loss"][0]
        assert found == pytest.approx(expected, rel=1e-5)


def test_weights_are_those_of_each_teachers_terms(models, vectors):
    teacher, first, student, _ = models
    both = [KD, losses.LogitMSE()]
    stage = still("s", student, both, distillation_loss_weights=[0.5, 0.25])
    chain = DistillationChain(teacher, [still("f", first), stage], dense=True)
    result = chain.fit(batched(vectors), batched(vectors), verbose=0)
    expected = sum(
        weight * value(x, student, vectors, loss)
        for x in (teacher, first)
        for weight, loss in zip([0.5, 0.25], both)
    )
    found = result.histories["s"]["distillation_loss"][0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_students_learn_and_teachers_stay(models, vectors):
    teacher, first, student, _ = models
    stages = [
        Stage("first", first, 2, distillation_losses="kd"),
        Stage("student", student, 2, distillation_losses="kd"),
    ]
    before = [model.get_weights()[0] for model in models]
    chain = DistillationChain(teacher, stages, dense=True, drop_rate=0.5)
    chain.fit(batched(vectors), batched(vectors), verbose=0)
    changed = [np.any(x != m.get_weights()[0]) for x, m in zip(before, models)]
    assert changed == [False, True, True, False]


def test_teachers_are_dropped_from_steps_but_never_all(models, vectors):
    teacher, first, student, _ = models
    stages = [still("first", first), still("s", student, epochs=12)]
    chain = DistillationChain(teacher, stages, dense=True, drop_rate=0.5, seed=3)
    data = batched(vectors, 64)
    found = chain.fit(data, data, verbose=0).histories["s"]["distillation_loss"]
    each = np.array([value(x, student, vectors) for x in (teacher, first)])
    # The draws of the second stage.
    stays = table(count=2, drop_rate=0.5, seed=[3, 1])[:12]
    np.testing.assert_allclose(found, stays @ each, rtol=1e-5)
    assert len(set(map(tuple, stays))) == 3
    assert np.any(stays != table(count=2, drop_rate=0.5, seed=[4, 1])[:12])


def table(count, drop_rate, seed=0):
    columns = [Survival(1.0, k, count, drop_rate, seed) for k in range(count)]
    return np.array([x(np.arange(PERIOD)) for x in columns]).T


def test_how_often_teachers_stay():
    stays = table(count=3, drop_rate=0.25)
    assert set(np.unique(stays)) == {0.0, 1.0}
    assert stays.any(axis=1).all()
    # 0.75, and a third of the steps that would have dropped all.
    expected = 0.75 + 0.25**3 / 3
    np.testing.assert_allclose(stays.mean(axis=0), expected, atol=0.02)
    # Independent but for those steps.
    both = np.mean(stays[:, 0] * stays[:, 1])
    assert both == pytest.approx(0.75**2, abs=0.02)
    lonely = table(count=2, drop_rate=0.999)
    np.testing.assert_allclose(lonely.mean(axis=0), 0.5, atol=0.02)


def test_survival_in_a_graph_of_a_schedule_and_as_json():
    weight = keras.optimizers.schedules.PolynomialDecay(2.0, PERIOD, 1.0)
    survival = Survival(weight, 0, 2, 0.5, [3, 1])
    text = json.dumps(keras.saving.serialize_keras_object(survival))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    stays = Survival(1.0, 0, 2, 0.5, [3, 1])
    graph = tf.function(again, jit_compile=True)
    for step in (0, 1, 2, 3, PERIOD + 2):
        expected = float(weight(step)) * float(stays(step % PERIOD))
        assert float(graph(tf.constant(step, tf.int64))) == pytest.approx(expected)


def test_the_data_may_hold_what_all_teachers_answer(models, vectors):
    teacher, first, student, _ = models
    seen = []

    def train_data(teacher):
        seen.append(teacher and list(teacher.taps))
        if teacher is None:
            return batched(vectors)
        return cache_teacher(teacher, vectors, dtype="float32", verbose=0).batch(16)

    stages = [
        still("first", first),
        Stage("alone", keras.models.clone_model(first), 1),
        still("student", student),
    ]
    chain = DistillationChain(teacher, stages, dense=True)
    result = chain.fit(train_data, batched(vectors), verbose=0)
    assert seen == [["teacher_0"], None, ["teacher_0", "first_1"]]
    expected = sum(value(x, student, vectors) for x in (teacher, first))
    found = result.histories["student"]["distillation_loss"][0]
    assert found == pytest.approx(expected, rel=1e-5)


def with_hidden(units, name="hidden"):
    layers = [keras.Input((4,)), keras.layers.Dense(units, name=name)]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


def test_a_layer_is_tapped_in_each_teacher_with_a_bridge_of_its_own(vectors):
    teacher, first, student = map(with_hidden, (8, 6, 5))
    stages = [
        still("first", first, losses.FitNet(("hidden", None))),
        still("student", student, [losses.FitNet(("hidden", None)), "kd"]),
    ]
    chain = DistillationChain(teacher, stages, dense=True)
    result = chain.fit(batched(vectors), batched(vectors), verbose=0)
    assert result.histories["student"]["distillation_loss"][0] > 0


def test_a_layer_that_one_teacher_lacks(vectors):
    teacher, first, student = with_hidden(8), with_hidden(6, "other"), with_hidden(5)
    stages = [
        Stage("first", first, 1, distillation_losses="kd"),
        Stage("student", student, 1, distillation_losses=losses.FitNet(("hidden", None))),
    ]
    chain = DistillationChain(teacher, stages, dense=True)
    message = f"^Stage 'student': There is no layer 'first_1/{first.name}/hidden'"
    with pytest.raises(ValueError, match=message):
        chain.fit(batched(vectors), batched(vectors), verbose=0)


def test_a_loss_that_has_its_layers_already(vectors):
    loss = losses.FitNet()
    loss.build((None, 3), (None, 4))
    stages = [still("s", with_hidden(5), loss)]
    chain = DistillationChain(with_hidden(8), stages, dense=True)
    with pytest.raises(ValueError, match=r"^Stage 's': FitNet\(\) has made its layers"):
        chain.fit(batched(vectors), batched(vectors), verbose=0)


def test_keras_own_losses(models, vectors):
    teacher, first, student, _ = models
    loss = keras.distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence())
    chain = DistillationChain(
        teacher, [still("f", first), still("s", student, loss)], dense=True
    )
    result = chain.fit(batched(vectors), batched(vectors), verbose=0)
    expected = sum(value(x, student, vectors, KD) for x in (teacher, first))
    found = result.histories["s"]["distillation_loss"][0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{"drop_rate": 0.5}, {"drop_rate": 1.0, "dense": True}, {"drop_rate": -0.1}],
    ids=str,
)
def test_bad_drop_rates(models, arguments):
    with pytest.raises(ValueError, match="less than 1, and goes with dense=True. Received"):
        DistillationChain(models[0], [still("s", models[1])], **arguments)


def test_every_earlier_model_must_fit_the_student(models, vectors):
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    chain = DistillationChain(models[0], [still("s", other)], dense=True)
    with pytest.raises(ValueError, match="must take the inputs that `teacher` takes"):
        chain.fit(vectors, vectors, verbose=0)
