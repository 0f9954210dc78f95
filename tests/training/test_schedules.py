"""Schedules inside a Distiller: read at the optimizer's iterations, however it runs."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import Distiller, losses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STEPS = 6
TEMPERATURE = keras.optimizers.schedules.PolynomialDecay(8.0, STEPS, 2.0)
WEIGHT = keras.optimizers.schedules.PolynomialDecay(0.0, STEPS, 3.0)
LABELS = keras.optimizers.schedules.PolynomialDecay(1.0, STEPS, 0.0)


def linear(first, last):
    return np.linspace(first, last, STEPS + 1)[:STEPS]


@pytest.fixture
def models(make_model):
    return make_model(units=16), make_model()


def scheduled(models, optimizer=None, **compile_arguments):
    distiller = Distiller(
        *models,
        [losses.SoftTargets(TEMPERATURE), "logit_mse"],
        [1.0, WEIGHT],
        student_loss_weight=LABELS,
        validation_distillation=True,
    )
    # Without steps of its own it is the schedules alone that change the losses.
    distiller.compile(optimizer or keras.optimizers.SGD(0.0), LOSS, **compile_arguments)
    return distiller


def expected(models, vectors):
    """The three losses at each step, by numbers."""
    x, y = vectors
    teacher, student = (model.predict(x, verbose=0) for model in models)
    soft = [
        float(losses.SoftTargets(t).compute_loss(teacher, student))
        for t in linear(8.0, 2.0)
    ]
    mse = float(losses.get("logit_mse").compute_loss(teacher, student))
    on_labels = float(LOSS(y, student))
    distillation = np.array(soft) + linear(0.0, 3.0) * mse
    weight = linear(1.0, 0.0)
    return {
        "student_loss": np.full(STEPS, on_labels),
        "distillation_loss": distillation,
        "total_loss": weight * on_labels + (1 - weight) * distillation,
    }


def twice(vectors):
    """Two batches, both of all the vectors."""
    return [np.concatenate([x, x]) for x in vectors]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
def test_each_step_has_its_own_values(models, vectors, arguments):
    distiller = scheduled(models, **arguments)
    fit = {"batch_size": 64, "epochs": STEPS // 2, "shuffle": False, "verbose": 0}
    history = distiller.fit(*twice(vectors), **fit).history
    for name, values in expected(models, vectors).items():
        means = values.reshape(-1, 2).mean(axis=1)
        np.testing.assert_allclose(history[name], means, rtol=1e-5, err_msg=name)


def test_validation_is_at_the_last_step(models, vectors):
    distiller = scheduled(models)
    for epoch in range(2):
        logs = distiller.fit(*vectors, batch_size=64, validation_data=vectors, verbose=0)
        seen = logs.history["val_total_loss"]
        assert seen == pytest.approx([expected(models, vectors)["total_loss"][epoch]])


def test_gradient_accumulation_counts_whole_steps(models, vectors):
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)
    distiller = scheduled(models, optimizer)
    fit = {"batch_size": 64, "epochs": 2, "shuffle": False, "verbose": 0}
    history = distiller.fit(*twice(vectors), **fit).history
    values = expected(models, vectors)["distillation_loss"][:2]
    np.testing.assert_allclose(history["distillation_loss"], values, rtol=1e-5)


def test_under_mixed_precision(models, vectors, make_model):
    keras.config.set_dtype_policy("mixed_float16")
    student = make_model()
    keras.config.set_dtype_policy("float32")
    distiller = scheduled((models[0], student))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = distiller.fit(*vectors, batch_size=64, epochs=3, verbose=0).history
    values = expected((models[0], student), vectors)["distillation_loss"][:3]
    np.testing.assert_allclose(history["distillation_loss"], values, rtol=1e-3)


def test_models_of_float64(vectors, make_model):
    keras.config.set_dtype_policy("float64")
    models = make_model(), make_model()
    keras.config.set_dtype_policy("float32")
    history = scheduled(models).fit(*vectors, batch_size=64, verbose=0).history
    values = expected(models, vectors)["distillation_loss"][:1]
    np.testing.assert_allclose(history["distillation_loss"], values, rtol=1e-5)


@pytest.mark.parametrize("include_teacher", [True, False])
def test_a_saved_one_goes_on(models, vectors, tmp_path, include_teacher):
    distiller = scheduled(models, keras.optimizers.SGD(0.1))
    distiller.fit(*vectors, batch_size=64, epochs=2, verbose=0)
    distiller.save(tmp_path / "d.keras", include_teacher=include_teacher)
    if include_teacher:
        again = keras.saving.load_model(tmp_path / "d.keras")
    else:
        again = kd.load_distiller(tmp_path / "d.keras", teacher=models[0])
    for name in ("student_loss_weight", "distillation_loss_weights"):
        shown = [
            repr(keras.saving.serialize_keras_object(getattr(x, name)))
            for x in (distiller, again)
        ]
        assert shown[0] == shown[1] and "PolynomialDecay" in shown[0]
    results = [
        x.evaluate(*vectors, verbose=0)
        + x.fit(*vectors, batch_size=64, epochs=2, verbose=0).history["total_loss"]
        for x in (distiller, again)
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


def test_only_a_scheduled_one_has_a_step_of_its_own(models):
    plain = Distiller(*models, "kd")
    assert len(plain.weights) == len(models[0].weights) + len(models[1].weights)
    assert len(scheduled(models).weights) == len(plain.weights) + 1


def test_a_scheduled_weight_on_labels_needs_labels_and_teacher(models, vectors):
    distiller = Distiller(*models, "kd", student_loss_weight=LABELS)
    with pytest.raises(ValueError, match="`loss`, the student's loss on the labels"):
        distiller.compile("sgd")
    assert distiller.run_teacher(vectors[0]).own is not None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"student_loss_weight": WEIGHT}, "between 0 and 1 at every step, and is 3.0 at"),
        (
            {"distillation_loss_weights": TEMPERATURE.from_config(
                TEMPERATURE.get_config() | {"end_learning_rate": -1.0}
            )},
            "`distillation_loss_weights` must be 0 or greater at every step, and is -1.0",
        ),
        (
            {"distillation_loss_weights": [WEIGHT, 1.0]},
            r"each of the 1 distillation losses. Received: \[PolynomialDecay\(.*, 1.0\]",
        ),
    ],
)  # fmt: skip
def test_schedules_that_are_refused(models, arguments, message):
    with pytest.raises(ValueError, match=message):
        Distiller(*models, "kd", **arguments)
