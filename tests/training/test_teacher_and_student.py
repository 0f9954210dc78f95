"""Which models can be trained together."""

import keras
import numpy as np
import pytest

import keras_kd
from keras_kd.training.batch import pack
from keras_kd.training.teacher_and_student import (
    check_inputs,
    check_models,
    check_peers,
)


def two_inputs():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    return keras.Model(inputs, keras.layers.Dense(3)(inputs[0] + inputs[1]))


def of_width(width):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(3)])


@pytest.mark.parametrize("unknown", [(None, 4), (3, None)])
def test_unknown_dimensions_fit_any(make_model, unknown):
    inputs = keras.Input(batch_shape=(unknown[0], unknown[1] or 4))
    student = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    check_inputs(np.zeros((3, 4)), make_model(), student)


@pytest.mark.parametrize(
    ("make_student", "shapes"),
    [
        (lambda: of_width(5), r"\(None, 4\).*\(None, 5\)"),
        (two_inputs, r"\[\(None, 4\)\].*\[\(None, 4\), \(None, 4\)\]"),
    ],
    ids=["shapes", "number"],
)
def test_other_inputs_are_refused_when_data_bring_none_for_the_teacher(
    make_model, make_student, shapes
):
    teacher, student = make_model(), make_student()
    distiller = keras_kd.Distiller(teacher, student, "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = [np.zeros((6, *i.shape[1:])) for i in student.inputs]
    x, before = x[0] if len(x) == 1 else x, student.get_weights()
    for call in (distiller.fit, distiller.train_on_batch):
        with pytest.raises(ValueError, match=f"inputs that `teacher` takes.*{shapes}"):
            call(x, np.zeros(6))
    for weight, now in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, now)
    carried = pack(x, teacher_inputs=np.zeros((6, 4)))
    distiller.fit(carried, np.zeros(6), verbose=0)
    with pytest.raises(ValueError, match=r"teacher inputs of shape \(6, 7\).*\(None, 4\)"):
        check_inputs(pack(x, teacher_inputs=np.zeros((6, 7))), teacher, student)


def shared_norm(**arguments):
    return keras.layers.BatchNormalization(center=False, scale=False, **arguments)


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=(20, 4)))
    return layer


class Draws(keras.layers.Layer):
    """A layer of a user's own with a seed, and a count of its calls in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x, training=False):
        if not training:
            return x
        self.count.assign(self.count + 1)
        return x + keras.random.normal((4,), seed=self.seeds)


def frozen(layer):
    layer.trainable = False
    return layer


MOVED = {
    "statistics": shared_norm,
    "spectral": lambda: frozen(keras.layers.SpectralNormalization(keras.layers.Dense(4))),
    "own": Draws,
    "own, frozen": lambda: frozen(Draws()),
}
STILL = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "frozen statistics": lambda: frozen(shared_norm()),
    "adapted": adapted,
    "no dropout": lambda: keras.layers.Dropout(0.0),
    "frozen": lambda: frozen(keras.layers.Dense(4)),
}


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.shared, self.last = layer, keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.last(self.shared(x, training=training))


def functional(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))


def nested(layer):
    inputs = keras.Input((4,))
    return keras.Sequential([inputs, functional(layer), keras.layers.Dense(3)])


def unbuilt(layer):
    return keras.Sequential([layer, keras.layers.Dense(3)])


def subclassed(layer):
    model = Subclassed(layer)
    # Not every layer takes `training`.
    layer_call = layer.__class__.call
    if "training" not in layer_call.__code__.co_varnames:
        model.call = lambda x, training=None: model.last(layer(x))
    model(np.zeros((1, 4)))
    return model


@pytest.mark.parametrize("make", [functional, nested, subclassed, unbuilt])
@pytest.mark.parametrize("kind", [*MOVED, *STILL])
def test_state_that_training_moves_is_not_shared(kind, make):
    layer = (MOVED | STILL)[kind]()
    teacher, student = functional(layer), make(layer)
    before = [keras.ops.convert_to_numpy(v) for v in teacher.variables]
    if kind in MOVED:
        with pytest.raises(ValueError, match="state training changes.*Shared: .*/"):
            check_models(teacher, student)
        with pytest.raises(ValueError, match="share state that training changes"):
            check_peers(functional(layer), student)
    else:
        check_models(teacher, student)
        check_peers(functional(layer), student)
    # It was only looked at.
    for value, v in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(value, v)


def of_two(order, kind, sizes=(2, 2)):
    pairs = zip("ab", sizes, strict=True)
    inputs = {name: keras.Input((size,), name=name) for name, size in pairs}
    x = [keras.layers.Dense(4)(inputs["a"]), keras.layers.Dense(5)(inputs["b"])]
    given = {k: inputs[k] for k in order} if kind is dict else [inputs[k] for k in order]
    return keras.Model(given, keras.layers.Dense(3)(keras.layers.Concatenate()(x)))


def divergence64(teacher, student):
    """Of softened outputs at the default temperature, 4."""
    log_p, log_q = (
        x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        for x in (np.float64(teacher) / 4, np.float64(student) / 4)
    )
    return 16 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
@pytest.mark.parametrize("kinds", [(list, list), (list, dict), (dict, list)])
@pytest.mark.parametrize("orders", [("ab", "ba"), ("ba", "ab"), ("ba", "ba")])
def test_a_dict_of_inputs_is_taken_by_name(vectors, orders, kinds, sizes):
    models = [of_two(*each, sizes) for each in zip(orders, kinds, strict=True)]
    a, b = np.split(vectors[0], sizes[:1], axis=1)
    distiller = keras_kd.Distiller(*models, "kd", student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0))
    history = distiller.fit({"b": b, "a": a}, batch_size=64, verbose=0).history
    answers = [
        model({"a": a, "b": b} if kind is dict else [{"a": a, "b": b}[k] for k in order])
        for model, order, kind in zip(models, orders, kinds, strict=True)
    ]
    expected = divergence64(*answers)
    assert history["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("made_of", ["arrays", "cached"])
def test_a_list_is_refused_where_orders_differ(vectors, made_of):
    teacher, student = of_two("ab", list), of_two("ba", list)
    x, y = [vectors[0][:, :2], vectors[0][:, 2:]], vectors[1]
    distiller = keras_kd.Distiller(teacher, student, "kd")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss)
    data = (x, y)
    if made_of == "cached":
        data = (keras_kd.cache_teacher(teacher, (tuple(x), y), verbose=0).batch(16),)
    with pytest.raises(ValueError, match="'a', 'b', .* 'b', 'a'. Give a dict of name"):
        distiller.fit(*data, shuffle=False, verbose=0)
    # Without the teacher there is nothing to take for another input.
    distiller.evaluate(x, y, verbose=0)


def test_students_of_other_orders_take_no_list(vectors):
    students = {"one": of_two("ab", list), "two": of_two("ba", list)}
    mutual = keras_kd.MutualDistiller(students)
    x = {"a": vectors[0][:, :2], "b": vectors[0][:, 2:]}
    first, second = mutual.predict(x, verbose=0)
    np.testing.assert_allclose(first, students["one"]([x["a"], x["b"]]), rtol=1e-5)
    np.testing.assert_allclose(second, students["two"]([x["b"], x["a"]]), rtol=1e-5)
    with pytest.raises(ValueError, match="Give a dict of name to input"):
        mutual.predict([x["a"], x["b"]], verbose=0)


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
def test_models_of_a_teacher_take_inputs_by_name(vectors, kind, sizes):
    models = [of_two("ab", list, sizes), of_two("ba", kind, sizes)]
    a, b = np.split(vectors[0], sizes[:1], axis=1)
    second = [b, a] if kind is list else {"a": a, "b": b}
    answers = [models[0]([a, b]), models[1](second)]
    several = keras_kd.teachers.Several({"one": models[0], "two": models[1]})
    for outputs, expected in zip(several([a, b]), answers, strict=True):
        np.testing.assert_allclose(outputs, expected, rtol=1e-5)
    probabilities = [np.exp(np.float64(x) / 4) for x in answers]
    mean = sum(x / x.sum(axis=-1, keepdims=True) for x in probabilities) / 2
    outputs = keras_kd.teachers.Ensemble(models)([a, b])
    np.testing.assert_allclose(outputs, 4 * np.log(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", [lambda x: {"logits": x}, lambda x: [x]])
def test_models_of_a_teacher_with_one_output_in_a_structure(vectors, structure):
    def made():
        inputs = keras.Input((4,))
        return keras.Model(inputs, structure(keras.layers.Dense(3)(inputs)))

    models = [made(), made()]
    answers = [keras.tree.flatten(model(vectors[0]))[0] for model in models]
    several = keras_kd.teachers.Several(dict(zip("ab", models, strict=True)))
    for outputs, expected in zip(several(vectors[0]), answers, strict=True):
        np.testing.assert_array_equal(outputs, expected)
    ensemble = keras_kd.teachers.Ensemble(models, weights=[1, 0])
    log_p = keras.ops.log_softmax(answers[0] / 4)
    np.testing.assert_allclose(ensemble(vectors[0]), 4 * log_p, rtol=1e-5, atol=1e-5)
