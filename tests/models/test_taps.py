"""Layers' outputs by name, in a model's one forward pass."""

import keras
import numpy as np
import pytest

from keras_kd.models.taps import Taps, find_layer, logits_layer, outputs_made_of

X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def functional():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name="functional")


def sequential():
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    layers = [keras.layers.Input((4,)), hidden, keras.layers.Dense(3, name="head")]
    return keras.Sequential(layers, name="sequential")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = keras.layers.Dense(8, activation="relu", name="hidden")
        self.last = keras.layers.Dense(3, name="head")

    def call(self, x):
        return self.last(self.first(x))


def subclassed():
    model = Subclassed()
    model(X)
    return model


@pytest.mark.parametrize("make", [functional, sequential, subclassed])
def test_tap_is_the_layers_output(make):
    model = make()
    outputs, taps = Taps(model, {"hidden", None}).call(X, training=False)
    hidden = find_layer(model, "hidden")
    np.testing.assert_array_equal(taps["hidden"], hidden(X))
    np.testing.assert_array_equal(outputs, model(X))


def test_layer_inside_nested_models():
    inputs = keras.Input((4,))
    backbone = functional()
    backbone.name = "backbone"
    inner = keras.Model(inputs, backbone(inputs), name="inner")
    model = keras.Sequential([keras.layers.Input((4,)), inner, keras.layers.Dense(2)])
    _, taps = Taps(model, {"inner/backbone/hidden"}).call(X, training=False)
    expected = backbone.get_layer("hidden")(X)
    np.testing.assert_array_equal(taps["inner/backbone/hidden"], expected)


def test_layer_inside_a_layer_that_is_no_model():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.dense = keras.layers.Dense(8, name="dense")

        def call(self, x):
            return self.dense(x)

    block = Block()
    model = keras.Sequential([keras.layers.Input((4,)), block, keras.layers.Dense(2)])
    _, taps = Taps(model, {"block/dense"}).call(X, training=False)
    np.testing.assert_array_equal(taps["block/dense"], block.dense(X))


def test_the_model_runs_once_and_in_the_mode_asked_for():
    calls = []

    class Counts(keras.layers.Layer):
        def call(self, x, training=None):
            calls.append(training)
            return x

    layers = [keras.layers.Input((4,)), Counts(name="counts"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    calls.clear()
    taps = Taps(model, {"counts"})
    taps.call(X, training=True)
    taps.call(X, training=False)
    assert calls == [True, False]


def test_the_model_is_left_as_it_was():
    model = functional()
    before = {layer.name: dict(layer.__dict__) for layer in model.layers}
    Taps(model, {"hidden"}).call(X, training=False)
    for layer in model.layers:
        assert layer.__dict__.keys() == before[layer.name].keys()


def test_the_model_is_left_as_it_was_after_an_error():
    model = functional()
    with pytest.raises(ValueError, match="incompatible with the layer"):
        Taps(model, {"hidden"}).call(X[:, :2], training=False)
    assert "call" not in find_layer(model, "hidden").__dict__


def shared_layer():
    inputs = keras.Input((4,))
    twice = keras.layers.Dense(4, name="twice")
    return keras.Model(inputs, twice(twice(inputs)))


def test_a_layer_that_runs_twice_is_an_error():
    with pytest.raises(ValueError, match="'twice' of .* ran 2 times in one forward pass"):
        Taps(shared_layer(), {"twice"}).call(X, training=False)


def test_a_layer_that_does_not_run_is_an_error():
    class Skips(keras.Model):
        def __init__(self):
            super().__init__(name="skips")
            self.noise = keras.layers.GaussianNoise(1.0, name="noise")

        def call(self, x, training=False):
            return self.noise(x) if training else x

    model = Skips()
    model(X, training=True)
    with pytest.raises(ValueError, match="'noise' of 'skips' ran 0 times"):
        Taps(model, {"noise"}).call(X, training=False)


def test_unknown_layer_lists_near_ones():
    message = "no layer 'hiden' in 'functional'. Near names: 'hidden'. Its layers: .*head"
    with pytest.raises(ValueError, match=message):
        Taps(functional(), {"hiden"})


def test_unknown_layer_of_a_nested_model_lists_its_path():
    backbone = functional()
    layers = [keras.layers.Input((4,)), backbone, keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="Near names: 'functional/hidden'"):
        find_layer(keras.Sequential(layers), "functional/hiden")


class Block(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Dense(units, name="conv")

    def call(self, x):
        return self.conv(x)


class TwoBlocks(keras.Model):
    """Blocks of one name, as attributes or in a list."""

    def __init__(self, in_list, names):
        super().__init__(name="two")
        blocks = [Block(units, name=name) for units, name in zip((8, 6), names)]
        if in_list:
            self.blocks = blocks
        else:
            self.first, self.second = blocks
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x):
        blocks = self.blocks if hasattr(self, "blocks") else [self.first, self.second]
        for block in blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("in_list", [True, False])
@pytest.mark.parametrize("path", ["block", "block/conv"])
def test_two_layers_of_one_name_are_refused(in_list, path):
    model = TwoBlocks(in_list, ["block", "block"])
    model(X)
    message = f"2 layers of 'two' go by '{path}': a (Block|Dense).*, a .*own: head"
    with pytest.raises(ValueError, match=message):
        Taps(model, {path})
    assert find_layer(model, "head") is model.head
    inputs = keras.Input((4,))
    around = keras.Model(inputs, keras.layers.ReLU()(model(inputs)))
    with pytest.raises(ValueError, match=f"go by 'two/{path}'"):
        find_layer(around, f"two/{path}")
    apart = TwoBlocks(in_list, ["block", "other"])
    apart(X)
    assert find_layer(apart, "other/conv").units == 6


def test_a_layer_that_is_shared_is_one():
    shared = Block(4, name="block")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert find_layer(model, "block/conv") is shared.conv


def test_the_logits_layer_and_what_it_takes():
    assert logits_layer(functional()) == ("head", "hidden")
    assert logits_layer(sequential()) == ("head", "hidden")
    softmax = keras.Sequential([sequential(), keras.layers.Softmax()])
    assert logits_layer(softmax) == ("sequential/head", "sequential/hidden")
    backbone = functional()
    head = keras.layers.Dense(2, activation="softmax", name="classes")
    nested = keras.Sequential([keras.layers.Input((4,)), backbone, head])
    assert logits_layer(nested) == ("classes", "functional")


def test_models_without_such_a_layer():
    with pytest.raises(ValueError, match="'subclassed' must be a Functional or Sequential"):
        logits_layer(subclassed())
    inputs = keras.Input((4,))
    dense = [keras.layers.Dense(3, name=name) for name in ("first", "second")]
    several = keras.Model(inputs, [layer(inputs) for layer in dense], name="several")
    with pytest.raises(ValueError, match="'several' must be"):
        logits_layer(several)
    relu = keras.Sequential([keras.layers.Input((4,)), keras.layers.ReLU(name="last")])
    with pytest.raises(ValueError, match="last layer is 'last', a ReLU"):
        logits_layer(relu)
    linear = keras.Model(inputs, dense[0](inputs), name="linear")
    with pytest.raises(ValueError, match="'linear' must have a hidden layer"):
        logits_layer(linear)


def recurrent(units=6, head=None):
    inputs = keras.Input((5, 4))
    outputs = keras.layers.LSTM(units, return_state=True, name="lstm")(inputs)
    return keras.Model(inputs, (head or keras.layers.Dense(3))(outputs[0]))


def attending(_=None):
    inputs = keras.Input((5, 4))
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    x, _ = attention(inputs, inputs, return_attention_scores=True)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def of_two_heads(name="inner"):
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(k, name=f"head{k}")(inputs) for k in (2, 3)]
    return keras.Model(inputs, heads, name=name)


class Gives(keras.layers.Layer):
    """A layer with a dict of outputs."""

    def call(self, x):
        return {"twice": 2 * x, "as_it_is": x}


SEQUENCES = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")


def test_one_output_of_a_layer_that_gives_several():
    model = recurrent()
    names = {"lstm:0", "lstm:1", "lstm:2", "lstm"}
    _, taps = Taps(model, names).call(SEQUENCES, training=False)
    expected = find_layer(model, "lstm")(SEQUENCES)
    assert len(expected) == len(taps["lstm"]) == 3
    for k, output in enumerate(expected):
        np.testing.assert_array_equal(taps[f"lstm:{k}"], output)
    # The cell's state is no copy of its output.
    assert np.abs(taps["lstm:2"] - taps["lstm:1"]).max() > 0


def test_the_scores_of_an_attention():
    model = attending()
    _, taps = Taps(model, {"attention:1"}).call(SEQUENCES, training=False)
    assert taps["attention:1"].shape == (3, 2, 5, 5)
    np.testing.assert_allclose(np.sum(taps["attention:1"], axis=-1), 1, rtol=1e-5)


def test_one_output_of_a_dict_and_of_a_nested_model():
    inputs = keras.Input((4,))
    x = Gives(name="gives")(inputs)
    inner = of_two_heads()
    model = keras.Model(inputs, inner(x["twice"]))
    names = {"gives:0", "gives:1", "inner:1", "inner/head3:0"}
    _, taps = Taps(model, names).call(X, training=False)
    # In Keras's order, which sorts.
    np.testing.assert_array_equal(taps["gives:0"], X)
    np.testing.assert_array_equal(taps["gives:1"], 2 * X)
    np.testing.assert_array_equal(taps["inner:1"], inner(2 * X)[1])
    np.testing.assert_array_equal(taps["inner/head3:0"], taps["inner:1"])


def test_an_output_that_is_not_there():
    message = "gives 3 outputs: 'lstm:0', 'lstm:1', 'lstm:2'. Received: 'lstm:3'"
    with pytest.raises(ValueError, match=message):
        Taps(recurrent(), {"lstm:3"})
    message = "gives 1 output: 'hidden:0'. Received: 'hidden:1'"
    with pytest.raises(ValueError, match=message):
        Taps(functional(), {"hidden:1"})
    # Of a subclassed model it shows when it runs.
    taps = Taps(subclassed(), {"hidden:1"})
    with pytest.raises(ValueError, match="gives 1 output"):
        taps.call(X, training=False)


@pytest.mark.parametrize("name", ["lst:1", "lstm:x", "lstm:", "lstm:-1", ":1"])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="There is no layer"):
        Taps(recurrent(), {name})


def test_a_name_with_a_colon_is_a_name():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(2, name="dense:1")(inputs)
    model = keras.Model(inputs, x)
    _, taps = Taps(model, {"dense:1", "dense:1:0"}).call(X, training=False)
    np.testing.assert_array_equal(taps["dense:1"], model(X))
    np.testing.assert_array_equal(taps["dense:1:0"], model(X))


def test_which_outputs_are_made_of_one_of_them():
    inputs = keras.Input((5, 4))
    _, hidden, cell = keras.layers.LSTM(6, return_state=True, name="lstm")(inputs)
    heads = [keras.layers.Dense(3)(x) for x in (cell, hidden)]
    model = keras.Model(inputs, heads)
    assert outputs_made_of(model, "lstm:1") == (1,)
    assert outputs_made_of(model, "lstm:2") == (0,)
    assert outputs_made_of(model, "lstm:0") == ()
    assert outputs_made_of(model, "lstm") == (0, 1)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("make", [functional, sequential, subclassed])
def test_layers_of_a_quantised_model(make, mode):
    model = make()
    model(X)
    model.quantize(mode)
    outputs, taps = Taps(model, {"hidden"}).call(X, training=False)
    np.testing.assert_array_equal(taps["hidden"], find_layer(model, "hidden")(X))
    np.testing.assert_array_equal(outputs, model(X))
    assert "quantized_call" not in find_layer(model, "hidden").__dict__
