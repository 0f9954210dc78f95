"""The Distiller through Keras's own methods."""

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(teacher, student, **arguments):
    distiller = Distiller(
        teacher, student, losses.SoftTargets(temperature=2.0), **arguments
    )
    distiller.compile("adam", LOSS, metrics=["accuracy"])
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
    validation = {"val_loss", "val_accuracy", "val_student_loss"}
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
