"""Parts of models: run one after the other, they are the model."""

import keras
import numpy as np
import pytest

from keras_kd.losses import graphs

X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def functional():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="relu", name="first")(inputs)
    # A path around it.
    x = keras.layers.Add(name="sum")([x, keras.layers.Dense(5, name="second")(x)])
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(x))


def sequential():
    names = ("first", "sum", "last")
    layers = [keras.layers.Dense(4, activation="tanh", name=name) for name in names]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


def nested():
    inner = functional()
    inner.name = "backbone"
    layers = [keras.layers.Dense(4), inner, keras.layers.Dense(2, name="last")]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


def run(parts, x):
    for part in parts:
        x = part(x)
    return np.array(x)


@pytest.mark.parametrize(
    "make, path",
    [
        (functional, "first"),
        (functional, "sum"),
        (functional, "last"),
        (functional, None),
        (sequential, "first"),
        (sequential, "last"),
        (sequential, None),
        (nested, "backbone"),
        (nested, "backbone/first"),
        (nested, "backbone/sum"),
        (nested, "backbone/last"),
    ],
)
def test_parts_make_the_model(make, path):
    model = make()
    up_to, after = graphs.up_to(model, path), graphs.after(model, path)
    np.testing.assert_array_equal(run(after, run(up_to, X)), np.array(model(X)))
    names = [x.name for x in (*up_to, *after)]
    assert len(names) == len(set(names))
    # The model is as it was.
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(X), model(X))


def test_the_part_ends_at_the_layer():
    model = functional()
    (part,) = graphs.up_to(model, "first")
    np.testing.assert_array_equal(part(X), model.get_layer("first")(X))
    assert graphs.after(model, "last") == []


def test_a_path_around_the_layer():
    with pytest.raises(ValueError, match="output of its layer 'second' alone"):
        graphs.after(functional(), "second")


@pytest.mark.parametrize("part", [graphs.up_to, graphs.after])
def test_no_such_layer(part):
    with pytest.raises(ValueError, match="is made without a layer 'third'"):
        part(functional(), "third")


def test_inputs_of_another_size():
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((4, 4, 2)), *layers])
    (rest,) = graphs.after(model, layers[0].name)
    assert graphs.for_inputs(rest, (None, 2))(X[:, :2]).shape == (5, 3)
    whole = keras.Model(model.inputs[0], model.outputs[0])
    small = graphs.for_inputs(whole, (None, 2, 3, 2))
    x = X[:4].reshape(-1, 2, 2, 2)[:, :, :1].repeat(3, axis=2)
    np.testing.assert_allclose(
        small(x), layers[1](x.mean(axis=(1, 2))), rtol=1e-5, atol=1e-6
    )


def test_weights_for_a_height_and_width():
    layers = [keras.layers.LayerNormalization(axis=[1, 2]), keras.layers.Flatten()]
    model = keras.Sequential([keras.layers.Input((1, 1, 2)), *layers])
    whole = keras.Model(model.inputs[0], model.outputs[0])
    # They would be broadcast.
    with pytest.raises(ValueError, match="cannot take those of shape"):
        graphs.for_inputs(whole, (None, 2, 2, 2))
