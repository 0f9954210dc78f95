"""Layers that several models share, in one file of all of them."""

import keras
import numpy as np
import pytest

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense():
    return keras.layers.Dense(5, name="shared")


def backbone():
    layers = [keras.layers.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(5)]
    return keras.Sequential(layers, name="shared")


def with_state():
    layers = [keras.layers.Input((4,)), keras.layers.BatchNormalization(), dense()]
    return keras.Sequential(layers, name="shared")


def frozen(make):
    layer = make()
    layer(np.ones((2, 4), "float32"))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.random(x.shape) for x in layer.weights])
    layer.trainable = False
    return layer


def functional(layer, units):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units)(layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def sequential(layer, units):
    layers = [keras.Input((4,)), layer, keras.layers.Dense(units), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def one_teacher(models):
    return models[0], "kd"


def ensemble(models):
    return kd.teachers.Ensemble(models), "kd"


def several(models):
    teacher = kd.teachers.Several(dict(zip("ab", models, strict=True)))
    taps = teacher.taps.values()
    return teacher, [kd.losses.SoftTargets(taps=(path, None)) for path in taps]


def same(models, others, x):
    for model, other in zip(models, others, strict=True):
        ours, theirs = (keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, other))
        for outputs, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("include_teacher", [True, False])
@pytest.mark.parametrize("teaching", [one_teacher, ensemble, several])
@pytest.mark.parametrize(
    "make, model_of",
    [(dense, functional), (backbone, functional), (with_state, sequential)],
)
def test_a_distiller_comes_back_with_the_right_weights(
    make, model_of, teaching, include_teacher, vectors, tmp_path
):
    layer = frozen(make)
    teacher, losses = teaching([model_of(layer, 8), model_of(layer, 7)])
    distiller = kd.Distiller(teacher, model_of(layer, 4), losses)
    distiller.compile("adam", LOSS)
    distiller.fit(*vectors, verbose=0)
    path = tmp_path / "d.keras"
    distiller.save(path, include_teacher=include_teacher)
    if include_teacher:
        again = keras.saving.load_model(path)
    else:
        again = kd.load_distiller(path, teacher)
    same([again.teacher, again.student], [teacher, distiller.student], vectors[0])
    before = again.teacher.get_weights()
    again.fit(*vectors, verbose=0)
    for weights, expected in zip(again.teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("teaching", [ensemble, several])
def test_so_does_a_teacher_of_several_alone(teaching, vectors, tmp_path):
    layer = frozen(backbone)
    # All three, of which Keras would make two one object.
    models = [functional(layer, units) for units in (8, 7)]
    teacher, _ = teaching(models)
    teacher.save(tmp_path / "t.keras")
    same([keras.saving.load_model(tmp_path / "t.keras")], [teacher], vectors[0])


def test_so_do_students_that_teach_each_other(vectors, tmp_path):
    layer = frozen(dense)
    students = {name: functional(layer, n) for name, n in (("a", 4), ("b", 5), ("c", 6))}
    mutual = kd.MutualDistiller(students)
    mutual.compile("adam", LOSS)
    mutual.fit(*vectors, verbose=0)
    mutual.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    same([again], [mutual], vectors[0])


def test_so_does_a_vocabulary_that_is_no_weight(tmp_path):
    lookup = keras.layers.StringLookup(name="lookup")
    lookup.adapt(np.array(["red", "green", "blue"]))

    def of_text(units):
        inputs = keras.Input((2,), dtype="string")
        x = keras.layers.Embedding(5, units)(lookup(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))

    distiller = kd.Distiller(of_text(8), of_text(4), "kd")
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    words = np.array([["red", "blue"], ["green", "none"]])
    for ours, theirs in ((again.teacher, distiller.teacher), (again, distiller)):
        np.testing.assert_array_equal(ours(words), theirs(words))


def test_what_shares_nothing_says_nothing_of_it(make_model):
    teacher = kd.teachers.Ensemble([make_model(), make_model()])
    distiller = kd.Distiller(teacher, make_model(), "kd")
    assert "shared_layers" not in teacher.get_config()
    assert "shared_layers" not in distiller.get_config()


@pytest.mark.parametrize("make", [dense, with_state])
def test_what_a_model_of_a_graph_holds_beside_it_does_not_count(make, vectors, tmp_path):
    """A model for its features, say, which no configuration of it has."""
    layer = frozen(make)
    models = [functional(layer, units) for units in (8, 4)]
    for model in models:
        model.features = keras.Model(model.inputs, model.layers[-2].output)
    distiller = kd.Distiller(*models, "kd")
    distiller.compile("adam", LOSS)
    distiller.fit(*vectors, verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    same(models, [loaded.teacher, loaded.student], vectors[0])
