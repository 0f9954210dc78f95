"""A Distiller as a file: with its teacher or without, and what goes on after loading."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def made(make_model, losses="kd", **arguments):
    distiller = kd.Distiller(
        make_model(units=16), make_model(name="student"), losses, **arguments
    )
    distiller.compile(keras.optimizers.Adam(0.01, beta_1=0.8), LOSS, metrics=["accuracy"])
    return distiller


def fitted(make_model, vectors, *args, **arguments):
    distiller = made(make_model, *args, **arguments)
    distiller.fit(*vectors, shuffle=False, epochs=2, verbose=0)
    return distiller


def goes_on(distiller, vectors):
    distiller.fit(*vectors, shuffle=False, epochs=2, verbose=0)
    return [v.tobytes() for v in distiller.student.get_weights()]


def test_training_goes_on_to_the_same_bytes(make_model, vectors, tmp_path):
    distiller = fitted(make_model, vectors)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert float(again.optimizer.beta_1) == 0.8
    assert int(again.optimizer.iterations) == int(distiller.optimizer.iterations) > 0
    assert goes_on(again, vectors) == goes_on(distiller, vectors)


def test_training_goes_on_with_the_teacher_handed_back(make_model, vectors, tmp_path):
    distiller = fitted(make_model, vectors)
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    assert distiller.teacher is not None
    again = kd.load_distiller(tmp_path / "d.keras", teacher=distiller.teacher)
    assert again.teacher is distiller.teacher
    assert goes_on(again, vectors) == goes_on(distiller, vectors)


def test_a_teacher_handed_back_keeps_its_weights(make_model, vectors, tmp_path):
    distiller = fitted(make_model, vectors)
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    other = make_model(units=16)
    before = [w.tobytes() for w in other.get_weights()]
    again = kd.load_distiller(tmp_path / "d.keras", teacher=other)
    assert [w.tobytes() for w in other.get_weights()] == before
    pairs = zip(again.student.get_weights(), distiller.student.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_without_the_teacher_the_file_holds_none_of_it(make_model, tmp_path):
    distiller = made(make_model)
    sizes = {}
    for include in (True, False):
        distiller.save(tmp_path / "d.keras", include_teacher=include)
        with zipfile.ZipFile(tmp_path / "d.keras") as file:
            config = json.loads(file.read("config.json"))
            sizes[include] = file.getinfo("model.weights.h5").file_size
    assert config["config"]["teacher"] is None
    assert sizes[False] < sizes[True]


def test_a_file_without_teacher_says_how_to_load_it(make_model, tmp_path):
    made(make_model).save(tmp_path / "d.keras", include_teacher=False)
    with pytest.raises(ValueError, match="keras_kd.load_distiller"):
        keras.saving.load_model(tmp_path / "d.keras")


@pytest.mark.parametrize("what", ["student", "distiller"])
def test_load_distiller_refuses_other_files(make_model, vectors, tmp_path, what):
    distiller = fitted(make_model, vectors)
    model = distiller.student if what == "student" else distiller
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="m.keras holds no Distiller without its teacher"):
        kd.load_distiller(tmp_path / "m.keras", teacher=make_model())


def test_a_teacher_that_does_not_fit_is_refused(make_model, tmp_path):
    made(make_model).save(tmp_path / "d.keras", include_teacher=False)
    with pytest.raises(ValueError, match=r"same shape.*\(None, 5\)"):
        kd.load_distiller(tmp_path / "d.keras", teacher=make_model(num_classes=5))


def test_a_teacher_of_other_widths_is_refused_where_a_loss_has_layers(
    make_model, vectors, tmp_path
):
    teacher, student = make_model(units=8), make_model(units=4)
    names = teacher.layers[0].name, student.layers[0].name
    distiller = kd.Distiller(teacher, student, [kd.losses.FitNet(taps=names), "kd"])
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    other = make_model(units=16)
    other.layers[0].name = names[0]
    words = rf"its layer '{names[0]}' of shape \(None, 8\). Received: .*\(None, 16\)"
    with pytest.raises(ValueError, match=words):
        kd.load_distiller(tmp_path / "d.keras", other)


def test_a_teacher_for_which_a_loss_would_need_layers_is_refused(make_model, tmp_path):
    teacher, student = make_model(units=8), make_model(units=8)
    names = teacher.layers[0].name, student.layers[0].name
    distiller = kd.Distiller(teacher, student, kd.losses.FitNet(taps=names))
    assert not distiller.loss_layers
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    other = make_model(units=16)
    other.layers[0].name = names[0]
    with pytest.raises(ValueError, match=r"shape \(None, 8\). Received: .*\(None, 16\)"):
        kd.load_distiller(tmp_path / "d.keras", other)


def test_objects_of_ones_own_are_given_to_the_loader(make_model, tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    student = keras.Sequential([keras.layers.Input((4,)), Doubled(), keras.layers.Dense(3)])
    distiller = kd.Distiller(make_model(), student, "kd")
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    given = {"Doubled": Doubled}
    again = kd.load_distiller(tmp_path / "d.keras", distiller.teacher, given)
    assert isinstance(again.student.layers[0], Doubled)
    with pytest.raises(ValueError, match="custom_objects={.Doubled.: Doubled}"):
        kd.load_distiller(tmp_path / "d.keras", distiller.teacher)


def test_code_in_a_file_runs_where_that_is_asked_for(make_model, tmp_path):
    layers = [keras.layers.Input((4,)), keras.layers.Lambda(lambda x: x)]
    student = keras.Sequential([*layers, keras.layers.Dense(3)])
    distiller = kd.Distiller(make_model(), student, "kd")
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    with pytest.raises(ValueError, match="safe_mode"):
        kd.load_distiller(tmp_path / "d.keras", distiller.teacher)
    kd.load_distiller(tmp_path / "d.keras", distiller.teacher, safe_mode=False)


@pytest.mark.parametrize(
    "loss",
    [
        kd.losses.SoftTargets(3.0, form="cross_entropy", taps=(None, "head")),
        keras.distillation.LogitsDistillation(3.0, loss=keras.losses.KLDivergence()),
        keras.distillation.FeatureDistillation("mse", None, "head"),
    ],
)
def test_losses_come_back_as_they_were(make_model, vectors, tmp_path, loss):
    student = keras.Sequential([keras.layers.Input((4,))])
    student.add(keras.layers.Dense(3, name="head"))
    distiller = kd.Distiller(make_model(), student, loss, validation_distillation=True)
    distiller.compile("sgd", LOSS)
    expected = distiller.evaluate(*vectors, verbose=0, return_dict=True)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert type(again.distillation_losses[0]) is type(loss)
    assert again.distillation_losses[0].get_config() == loss.get_config()
    assert again.evaluate(*vectors, verbose=0, return_dict=True) == expected


def test_arguments_come_back_as_they_were(make_model, vectors, tmp_path):
    arguments = {
        "distillation_loss_weights": (0.5, 0.0),
        "student_loss_weight": 0.25,
        "teacher_outputs": "probabilities",
        "student_outputs": "logits",
        "validation_distillation": True,
        "name": "mine",
    }
    teacher = keras.Sequential([make_model(), keras.layers.Softmax()])
    teacher.build((None, 4))
    distiller = kd.Distiller(teacher, make_model(), ["kd", "kd"], **arguments)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    for name, value in arguments.items():
        assert getattr(again, name) == value, name
    assert not again.compiled


def test_weights_alone(make_model, vectors, tmp_path):
    distiller, other = (fitted(make_model, vectors) for _ in range(2))
    distiller.save_weights(tmp_path / "d.weights.h5")
    other.load_weights(tmp_path / "d.weights.h5")
    for model in ("teacher", "student"):
        pairs = zip(getattr(distiller, model).weights, getattr(other, model).weights)
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_the_student_has_no_trace_of_the_distiller(make_model, vectors, tmp_path):
    distiller = fitted(make_model, vectors)
    distiller.student.save(tmp_path / "student.keras")
    with zipfile.ZipFile(tmp_path / "student.keras") as file:
        text = file.read("config.json") + file.read("metadata.json")
    assert b"keras_kd" not in text and b"teacher" not in text
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert not student.compiled
    predictions = student.predict(vectors[0], verbose=0)
    np.testing.assert_array_equal(predictions, distiller.predict(vectors[0], verbose=0))


@pytest.mark.parametrize("whole", [True, False], ids=["distiller", "student"])
def test_saved_model_is_the_student(make_model, vectors, tmp_path, whole):
    distiller = fitted(make_model, vectors)
    model = distiller if whole else distiller.student
    model.export(tmp_path / "saved_model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    served = loaded.serve(vectors[0])
    assert len(loaded.variables) == len(distiller.student.variables)
    expected = distiller.student.predict(vectors[0], verbose=0)
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)


def test_a_failed_save_leaves_the_distiller_whole(make_model, vectors, tmp_path):
    distiller = fitted(make_model, vectors)
    teacher = distiller.teacher
    with pytest.raises(ValueError, match="Invalid filepath extension"):
        distiller.save(tmp_path / "d.txt", include_teacher=False)
    assert distiller.teacher is teacher
    distiller.fit(*vectors, verbose=0)
