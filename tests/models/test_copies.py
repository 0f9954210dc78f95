"""A copy is the model: in layers, state and answers, or it is refused."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_kd import teachers
from keras_kd.models.copies import copy_model, untrained_copy
from keras_kd.training.precision import in_float32

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")
RAW = X * np.float32([1000, 0.001, 50, 1]) + np.float32([5e4, 3, -7, 0])
WORDS = np.array([["cat"], ["dog"], ["cow"], ["cat"], ["owl"], ["dog"]])


def sequential(*parts, shape=(4,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def adapted(**arguments):
    layer = layers.Normalization(**arguments)
    layer.adapt(RAW)
    return layer


def normalised():
    return sequential(adapted(), layers.Dense(3)), RAW


def normalised_inside():
    inner = sequential(adapted(), layers.Dense(5, "relu"))
    inputs = keras.Input((4,))
    x = layers.Dropout(0.5)(inner(inputs))
    return keras.Model(inputs, layers.Dense(2)(x)), RAW


def integers():
    lookup = layers.IntegerLookup()
    lookup.adapt(np.array([3, 5, 7]))
    model = sequential(
        lookup, layers.Embedding(6, 4), layers.Flatten(), shape=(1,), dtype="int64"
    )
    return model, np.array([[3], [5], [7], [8]])


def strings():
    lookup = layers.StringLookup(output_mode="one_hot")
    lookup.adapt(WORDS)
    return sequential(lookup, layers.Dense(2), shape=(1,), dtype="string"), WORDS


def texts():
    vectors = layers.TextVectorization(output_mode="tf_idf")
    vectors.adapt(WORDS[:, 0])
    return sequential(vectors, layers.Dense(2), shape=(1,), dtype="string"), WORDS


def bins():
    layer = layers.Discretization(num_bins=3, output_mode="one_hot")
    layer.adapt(X)
    return sequential(layer, layers.Flatten(), layers.Dense(2)), X


def shared():
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((4,), name="a")}
    dense = layers.Dense(3, "tanh")
    first, second = dense(inputs["a"]), dense(inputs["b"])
    outputs = {"sum": layers.Add()([first, second]), "first": first}
    return keras.Model(inputs, outputs), {"a": X, "b": X[::-1].copy()}


FACTOR = 3.0


def relu(x):
    """Of the name of one of Keras's, and not the same."""
    return ops.relu(x) + FACTOR


def functions():
    scale = 2.0
    parts = [
        layers.Lambda(lambda x: x * scale * FACTOR, output_shape=(4,)),
        layers.Dense(4, activation=relu),
        layers.Dense(4, activation=lambda x: x - FACTOR),
    ]
    return sequential(*parts), X


def moved_statistics():
    model = sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2))
    model.layers[1].set_weights([RNG.random(3) for _ in range(4)])
    return model, X


def wrapped():
    parts = [
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.TimeDistributed(layers.Dense(4)),
        layers.SpectralNormalization(layers.Conv1D(2, 1)),
    ]
    return sequential(*parts, shape=(5, 4)), np.repeat(X[:, None], 5, axis=1)


def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x)), np.repeat(
        X[:, None], 5, axis=1
    )


class Block(layers.Layer):
    """Not registered, with layers of its own that no configuration tells of."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = layers.Normalization()
        self.dense = layers.Dense(units)

    def build(self, shape):
        if not self.norm.built:
            self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(self.norm(x))

    def get_config(self):
        return super().get_config() | {"units": self.units}


def own_layers():
    block = Block(3)
    block.norm.adapt(RAW)
    return sequential(block, layers.Dense(2)), RAW


class Subclassed(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.units = units
        self.block, self.last = Block(units), layers.Dense(2)

    def call(self, x):
        return self.last(self.block(x))

    def get_config(self):
        return {"units": self.units}


def own_model():
    model = Subclassed(3)
    model.block.norm.adapt(RAW)
    model(RAW)
    return model, RAW


def frozen_by_hand():
    model = own_layers()[0]
    model.layers[0].dense.trainable = False
    model.layers[1].bias.trainable = False
    return model, RAW


def ensemble():
    return teachers.Ensemble([normalised()[0], sequential(layers.Dense(3))]), RAW


def several():
    return teachers.Several({"a": normalised()[0], "b": own_layers()[0]}), RAW


MAKERS = [
    normalised,
    normalised_inside,
    integers,
    strings,
    texts,
    bins,
    shared,
    functions,
    moved_statistics,
    wrapped,
    attention,
    own_layers,
    own_model,
    frozen_by_hand,
    ensemble,
    several,
]


def answers(model, x):
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    outputs = keras.tree.flatten(model(x, training=False))
    return [np.asarray(keras.ops.cast(y, "float32")) for y in outputs]


def flags(model):
    return [x.trainable for x in (*model._flatten_layers(), *model.variables)]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_answers_as_the_model(make, policy):
    keras.config.set_dtype_policy(policy)
    model, x = make()
    keras.config.set_dtype_policy("float32")
    expected = answers(model, x)
    before = random.getstate(), [v.numpy().tobytes() for v in model.variables]
    copy = copy_model(model)
    assert random.getstate() == before[0]
    for ours, theirs in zip(answers(copy, x), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    names = [(layer.name, layer.dtype_policy.name) for layer in copy._flatten_layers()]
    assert names == [(y.name, y.dtype_policy.name) for y in model._flatten_layers()]
    assert flags(copy) == flags(model)
    assert [v.numpy().tobytes() for v in copy.variables] == before[1]
    # It is another one.
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    for variable in copy.trainable_variables:
        variable.assign(variable * 0)
    assert [v.numpy().tobytes() for v in model.variables] == before[1]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("make", MAKERS)
def test_in_float32_it_answers_as_the_same_model_made_in_float32(make):
    keras.utils.set_random_seed(1)
    plain, x = make()
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed, _ = make()
    # What is made under the global policy of the user's further work stays out of it.
    single = in_float32(mixed)
    keras.config.set_dtype_policy("float32")
    assert {y.dtype_policy.name for y in single._flatten_layers()} == {"float32"}
    for ours, theirs in zip(single.variables, mixed.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for variable, other in zip(plain.variables, single.variables, strict=True):
        variable.assign(other)
    for ours, theirs in zip(answers(single, x), answers(plain, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert flags(single) == flags(mixed)


def differ(model, other):
    """Names of the variables whose values differ."""
    pairs = zip(model.variables, other.variables, strict=True)
    return [b.path for a, b in pairs if not np.array_equal(a, b)]


@pytest.mark.parametrize("make", [normalised, normalised_inside, own_layers, own_model])
def test_an_untrained_copy_keeps_what_was_adapted(make):
    model, _ = make()
    model.trainable_variables[0].assign_add(model.trainable_variables[0] * 0 + 1)
    new = untrained_copy(model)
    for layer, other in zip(new._flatten_layers(), model._flatten_layers(), strict=True):
        if isinstance(layer, layers.Normalization):
            np.testing.assert_array_equal(layer(RAW), other(RAW))
            assert np.abs(np.array(layer(RAW)).mean(axis=0)).max() < 1e-2
    kernels = [v.path for v in model.trainable_variables if "kernel" in v.path]
    assert set(kernels) <= set(differ(new, model))
    assert differ(untrained_copy(model), new), "each has weights of its own"


@pytest.mark.parametrize("make", [integers, strings, texts, bins])
def test_an_untrained_copy_keeps_its_vocabulary(make):
    model, x = make()
    x = ops.convert_to_tensor(x)
    found = [y.layers[0](x) for y in (model, copy_model(model), untrained_copy(model))]
    for values in found[1:]:
        np.testing.assert_array_equal(values, found[0])


def test_an_untrained_copy_keeps_frozen_layers_and_no_moving_statistics():
    frozen_norm, free_norm = layers.BatchNormalization(), layers.BatchNormalization()
    bare = layers.BatchNormalization(center=False, scale=False)
    frozen = sequential(layers.Dense(4), frozen_norm)
    model = sequential(frozen, free_norm, bare, layers.Dropout(0.5), layers.Dense(2))
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(RNG.random(variable.shape))
    frozen.trainable = False
    new = untrained_copy(model)
    assert flags(new) == flags(model)
    kept = {id(v) for v in frozen.variables}
    same = [
        id(b)
        for a, b in zip(new.variables, model.variables, strict=True)
        if np.array_equal(a, b)
    ]
    assert set(same) == kept
    for layer in new.layers[1:3]:
        np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))
        np.testing.assert_array_equal(layer.moving_variance, np.ones(4))


def test_a_model_that_is_frozen_as_a_whole():
    model, _ = normalised()
    model.trainable = False
    with pytest.raises(ValueError, match="All layers of .* are frozen.*Set `trainable`"):
        untrained_copy(model)


def test_an_unbuilt_model():
    with pytest.raises(ValueError, match="Call it on a batch first.*unbuilt model 'none'"):
        copy_model(keras.Sequential([layers.Dense(2)], name="none"))


class Remembers(layers.Layer):
    """Has state that Keras does not save."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


class MakesLess(keras.Model):
    """Has a layer that its constructor does not make."""

    def __init__(self):
        super().__init__()
        self.more = [layers.Dense(2)]

    def call(self, x):
        for layer in self.more:
            x = layer(x)
        return x

    def get_config(self):
        return {}


class WithoutConfig(keras.Model):
    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise NotImplementedError


def remembers():
    model = sequential(layers.Dense(3), Remembers(name="remembers"), layers.Dense(2))
    model.layers[1].factor = 1.01
    return model


def makes_less():
    model = MakesLess()
    model.more.append(layers.Dense(4))
    model(X)
    return model


def without_config():
    model = WithoutConfig(layers.Dense(2))
    model(X)
    return model


@pytest.mark.parametrize(
    "make, reason",
    [
        (remembers, "answers otherwise .*first at the layer 'remembers'"),
        (makes_less, "could not have it loaded|other layers than the model"),
        (without_config, "could not have it saved"),
    ],
)
def test_what_is_no_copy_is_refused(make, reason, caplog):
    model = make()
    with pytest.raises(ValueError, match=reason):
        copy_model(model)
    with pytest.raises(ValueError, match=reason):
        untrained_copy(model)
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = make()
    keras.config.set_dtype_policy("float32")
    # Trained already: it goes on as it is, and this is said.
    if make is not remembers:
        assert in_float32(mixed) is mixed
        assert "stays in mixed precision" in caplog.text


def test_answers_that_no_state_tells_are_not_compared():
    class Noise(layers.Layer):
        def call(self, x):
            return x + keras.random.normal(ops.shape(x))

    assert copy_model(sequential(Noise(), layers.Dense(2))).count_params() == 10


def test_a_model_keeps_its_optimizer_and_state_when_it_is_copied():
    model, x = normalised_inside()
    model.compile("adam", lambda y, z: ops.mean((y - z) ** 2))
    model.fit(x, np.zeros((6, 2)), verbose=0)
    copy = copy_model(model)
    assert model.compiled and not copy.compiled and relu.__name__ == "relu"
    model.fit(x, np.zeros((6, 2)), verbose=0)


def test_policies_of_single_layers():
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    policies["dense_in_float32"] = keras.DTypePolicy("float32")
    parts = [
        layers.Dense(3, dtype="mixed_float16"),
        layers.Dense(3, dtype=policies, name="by_the_map"),
        layers.Dense(3, dtype=policies, name="dense_in_float32"),
        layers.TimeDistributed(layers.Dense(2, dtype="mixed_bfloat16")),
    ]
    model = sequential(*parts, shape=(2, 4))
    assert len({x.dtype_policy.name for x in copy_model(model)._flatten_layers()}) == 4
    single = in_float32(model)
    assert {x.compute_dtype for x in single._flatten_layers()} == {"float32"}


@pytest.mark.parametrize("in_float32", [False, True])
def test_a_model_of_a_strategy(in_float32):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    keras.config.set_dtype_policy("mixed_bfloat16" if in_float32 else "float32")
    with strategy.scope():
        model, x = normalised()
    keras.config.set_dtype_policy("float32")
    copy = copy_model(model, in_float32)
    assert copy._distribute_strategy is None
    if not in_float32:
        np.testing.assert_array_equal(*answers(copy, x), *answers(model, x))
        np.testing.assert_array_equal(copy.layers[0].mean, model.layers[0].mean)
    assert not differ(copy, model)
    with strategy.scope(), pytest.raises(ValueError, match="outside `strategy.scope"):
        copy_model(model)
