"""What is known of a model before it runs, whatever attributes it has."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.models.symbolic import (
    in_another_order,
    input_names,
    input_shapes,
    input_structure,
    output_names,
    output_structure,
    symbolic_inputs,
    symbolic_outputs,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OWN = ("outputs", "inputs", "input", "output_names", "teacher", "student", "loss")
OWN += ("distillation_losses", "batches_in_logs", "call_endpoint_fn", "models")


class OwnAttributes(keras.layers.Layer):
    """A layer with attributes of its own that have names which models have, too."""

    def __init__(self, value=3, **kwargs):
        super().__init__(**kwargs)
        self.value, self.dense = value, keras.layers.Dense(4)
        for name in set(OWN) - {"input"}:
            setattr(self, name, value)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


class OwnProperties(keras.Model):
    """A subclassed model of that kind."""

    outputs = property(lambda self: 5)
    inputs = property(lambda self: [1])
    input = output_names = "xy"
    teacher = "none"

    def __init__(self):
        super().__init__()
        self.hidden, self.student = keras.layers.Dense(4), keras.layers.Dense(3)

    def call(self, x):
        return self.student(self.hidden(x))


def functional(layer, structure=lambda x: x):
    inputs = keras.Input((4,), name="x")
    x = keras.layers.Dense(3, name="head")(layer(inputs))
    return keras.Model(inputs, structure(x))


def of_two(order, kind):
    inputs = {name: keras.Input((size,), name=name) for name, size in (("a", 1), ("b", 3))}
    x = keras.layers.Concatenate()([keras.layers.Dense(2)(inputs[k]) for k in "ab"])
    given = {k: inputs[k] for k in order} if kind is dict else [inputs[k] for k in order]
    return keras.Model(given, keras.layers.Dense(3)(x))


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_models_of_symbols_know_them(make_model, kind):
    model = functional(keras.layers.Dense(2)) if kind == "functional" else make_model()
    assert [x.shape for x in symbolic_inputs(model)] == [(None, 4)]
    assert [x.shape for x in symbolic_outputs(model)] == [(None, 3)]
    assert input_structure(model).shape[-1] == 4
    assert output_structure(model).shape[-1] == 3


def test_structures_are_those_of_the_model():
    model = functional(keras.layers.Dense(2), lambda x: {"logits": x})
    assert list(output_structure(model)) == ["logits"]
    assert output_names(model) == ("head",)
    assert list(input_structure(of_two("ba", dict))) == ["b", "a"]


def test_others_do_not_whatever_attributes_they_have():
    layer, model = OwnAttributes(), OwnProperties()
    model(np.ones((2, 4)))
    for x in (layer, model, keras.Sequential([keras.layers.Dense(2)])):
        assert symbolic_inputs(x) == symbolic_outputs(x) == []
        assert input_structure(x) is None and output_structure(x) is None
        assert input_names(x) == () and input_shapes(x) == []
    assert output_names(layer) == output_names(model) == ()


def test_a_layer_with_such_attributes_is_tapped(vectors):
    models = [functional(OwnAttributes(name="own")) for _ in range(2)]
    losses = ["kd", kd.losses.FitNet(taps=("own", "own"))]
    distiller = kd.Distiller(*models, losses)
    distiller.compile("sgd", LOSS)
    history = distiller.fit(*vectors, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_model_with_such_attributes_is_taught_and_exported(vectors, tmp_path):
    teacher, student = OwnProperties(), OwnProperties()
    for model in (teacher, student):
        model(vectors[0])
    distiller = kd.Distiller(teacher, student, "kd")
    distiller.compile("sgd", LOSS)
    distiller.fit(*vectors, verbose=0)
    path = tmp_path / "student.tflite"
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
    kd.export(student, path, "litert", examples=x)
    assert path.is_file()


def test_names_and_orders_of_inputs():
    assert input_names(of_two("ba", list)) == ("b", "a")
    # Keras sorts the keys of a dict.
    assert input_names(of_two("ba", dict)) == ("a", "b")
    first = of_two("ab", list)
    assert in_another_order(first, of_two("ba", list))
    assert not in_another_order(first, of_two("ba", dict))
    assert input_shapes(of_two("ba", list)) == [(None, 3), (None, 1)]
    assert input_shapes(of_two("ba", list), like=first) == [(None, 1), (None, 3)]
