"""Fake quantisation: as NumPy rounds, as the int8 file answers, and trained through."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.exporters.fake_quantization import (
    FakeQuantized,
    Int8Range,
    int8_kernel,
    without_fake_quantization,
)

SHAPE = (8, 8, 2)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def rounded(values, lowest, highest):
    """Values on the 256 steps of a range that has zero among its steps, in float64."""
    scale = (np.float64(highest) - lowest) / 255
    zero = np.round(-lowest / scale)
    steps = np.clip(np.round(np.float64(values) / scale + zero), 0, 255)
    return (steps - zero) * scale


def rounded_kernel(kernel, axes):
    scale = np.abs(np.float64(kernel)).max(axis=axes, keepdims=True) / 127
    return np.round(kernel / scale) * scale


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            layers.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.SeparableConv2D(6, 3, activation="relu", name="separable"),
            layers.DepthwiseConv2D(
                3, depth_multiplier=2, activation="relu", name="depthwise"
            ),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(5, name="logits"),
        ],
        name="small",
    )
    # Keras's initial biases, zero, would hide what is done with them.
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(0.3 * random(*layer.bias.shape))
    return model


@pytest.fixture
def x():
    return random(1100, *SHAPE)


@pytest.mark.parametrize(
    "shape, channel_axes, axes",
    [((7, 5), 1, 0), ((3, 3, 4, 6), 1, (0, 1, 2)), ((3, 3, 4, 2), 2, (0, 1))],
)
def test_kernels_are_rounded_for_each_channel(shape, channel_axes, axes):
    kernel = random(*shape) * random(shape[-1], seed=1)
    given = int8_kernel(tf.constant(kernel), channel_axes)
    np.testing.assert_allclose(given, rounded_kernel(kernel, axes), rtol=1e-5, atol=1e-7)
    assert np.abs(given - kernel).max() > 1e-3


def test_a_channel_of_zeros_stays_zero():
    kernel = random(4, 3) * np.float32([1, 0, 1])
    given = np.asarray(int8_kernel(tf.constant(kernel)))
    assert np.all(given[:, 1] == 0) and np.all(np.isfinite(given))


def test_the_gradient_goes_straight_through_a_kernels_rounding():
    kernel, upstream = tf.Variable(random(7, 5)), random(7, 5, seed=1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(int8_kernel(kernel) * upstream)
    np.testing.assert_array_equal(tape.gradient(loss, kernel), upstream)


def test_a_range_rounds_and_cuts_off():
    layer = Int8Range()
    layer.observes = True
    seen = np.float32([-1.0, 0.5, 3.0])
    np.testing.assert_array_equal(layer(seen), seen)
    layer.observes = False
    values = tf.constant(2 * random(200))
    with tf.GradientTape() as tape:
        tape.watch(values)
        given = layer(values)
    np.testing.assert_allclose(given, rounded(values, -1, 3), atol=1e-6)
    # Zero is a step, which shifts the others: from -64 to 191 times 4 / 255.
    inside = (values > -64 * 4 / 255) & (values < 191 * 4 / 255)
    np.testing.assert_array_equal(tape.gradient(given, values), np.float32(inside))
    assert not layer.trainable_variables


def test_ranges_are_what_calibration_met(model, x):
    aware = kd.quantization_aware(model, x[:300])
    conv, separable = model.layers[0](x[:300]), aware.get_layer("separable")
    np.testing.assert_allclose(aware.get_layer("conv").inputs_range.highest, x[:300].max())
    np.testing.assert_allclose(separable.inputs_range.lowest, 0)
    np.testing.assert_allclose(separable.inputs_range.highest, np.max(conv), rtol=1e-6)
    depthwise = keras.ops.depthwise_conv(conv, model.layers[1].depthwise_kernel)
    for name, expected in ("lowest", np.min(depthwise)), ("highest", np.max(depthwise)):
        given = getattr(separable.between_range, name)
        np.testing.assert_allclose(given, expected, rtol=1e-5)
    logits = aware.get_layer("logits").outputs_range
    np.testing.assert_allclose(logits.lowest, np.min(model(x[:300])), rtol=1e-5)
    assert not hasattr(aware.get_layer("conv"), "outputs_range")


def through(values, layer_range):
    limits = float(layer_range.lowest), float(layer_range.highest)
    return rounded(values, *limits).astype("float32")


def assert_on_the_same_steps(given, expected):
    """But for a value in fifty, which float32 puts on a step beside."""
    step = (np.max(given) - np.min(given)) / 255
    differs = np.abs(given - expected)
    assert differs.max() < 5 * step and np.mean(differs > 0.5 * step) < 0.02


def test_separable_convolution_is_two_rounded_ones(x):
    layer = layers.SeparableConv2D(
        5, 3, strides=2, padding="same", depth_multiplier=2, activation="tanh"
    )
    model = keras.Sequential([layers.Input(SHAPE), layer])
    layer.bias.assign(random(5))
    ranges = kd.quantization_aware(model, x[:50]).layers[0]
    depthwise = layers.DepthwiseConv2D(
        3, strides=2, padding="same", depth_multiplier=2, use_bias=False
    )
    pointwise = layers.Conv2D(5, 1, activation="tanh")
    keras.Sequential([layers.Input(SHAPE), depthwise, pointwise])
    depthwise.set_weights([rounded_kernel(np.asarray(layer.depthwise_kernel), (0, 1))])
    kernel = rounded_kernel(np.asarray(layer.pointwise_kernel), (0, 1, 2))
    pointwise.set_weights([kernel, np.asarray(layer.bias)])
    between = depthwise(through(x[:50], ranges.inputs_range))
    outputs = pointwise(through(between, ranges.between_range))
    expected = through(outputs, ranges.outputs_range)
    assert_on_the_same_steps(np.asarray(ranges(x[:50])), expected)


@pytest.mark.parametrize(
    "layer, axes",
    [
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (0, 1)),
        (layers.Conv2D(5, 3, strides=2, padding="same", activation="relu"), (0, 1, 2)),
        (layers.Dense(7), 0),
    ],
)
def test_a_layer_computes_with_rounded_kernels_on_rounded_inputs(layer, axes, x):
    model = keras.Sequential([layers.Input(SHAPE), layer])
    layer.bias.assign(random(*layer.bias.shape))
    ranges = kd.quantization_aware(model, x[:50]).layers[0]
    # Channels of sizes so different that one scale for all would show.
    kernel = layer.kernel * np.geomspace(1, 0.01, layer.kernel.shape[-1])
    ranges.layer.kernel.assign(kernel)
    layer.kernel.assign(rounded_kernel(np.asarray(ranges.layer.kernel), axes))
    expected = through(layer(through(x[:50], ranges.inputs_range)), ranges.outputs_range)
    assert_on_the_same_steps(np.asarray(ranges(x[:50])), expected)


def test_a_copy_with_the_same_weights(model, x):
    before = model.get_weights()
    aware = kd.quantization_aware(model, x[:100])
    assert [layer.name for layer in aware.layers] == [layer.name for layer in model.layers]
    kinds = {layer.name for layer in aware.layers if isinstance(layer, FakeQuantized)}
    assert kinds == {"conv", "separable", "depthwise", "logits"}
    plain = without_fake_quantization(aware)
    assert [type(layer) for layer in plain.layers] == [
        type(layer) for layer in model.layers
    ]
    np.testing.assert_array_equal(plain(x), model(x))
    aware.get_layer("logits").layer.kernel.assign(0 * before[-2])
    for weight, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert np.all(without_fake_quantization(aware).get_layer("logits").kernel == 0)
    assert without_fake_quantization(model) is model


def test_answers_as_the_int8_file(model, x, tmp_path):
    pytest.importorskip("ai_edge_litert")
    from keras_kd.exporters.runtimes import open_file

    aware = kd.quantization_aware(model, x[:300])
    path = tmp_path / "small.tflite"
    exported = kd.export(
        aware,
        path,
        "litert",
        quantization="int8",
        calibration=x[:300],
        examples=x,
        # An untrained model's answers are close to each other.
        min_agreement=0.9,
    )
    assert exported.parameters == model.count_params()
    file, expected = open_file(path).predict(x), aware.predict(x, verbose=0)
    step = (np.max(expected) - np.min(expected)) / 255
    assert np.abs(file - expected).max() < 3 * step
    # Closer than the float model, which is what there is to train for.
    from_float = np.abs(file - model.predict(x, verbose=0))
    assert np.abs(file - expected).mean() < 0.5 * from_float.mean()


def test_it_is_trained_under_the_float_teacher(model, x):
    teacher = keras.models.clone_model(model)
    aware = kd.quantization_aware(model, x[:100])
    ranges = [np.asarray(v) for v in aware.non_trainable_variables if v.shape == ()]
    weights = [np.asarray(v) for v in aware.trainable_variables]
    assert len(weights) == len(model.trainable_variables)
    distiller = kd.Distiller(teacher, aware, "kd", student_loss_weight=0)
    distiller.compile(keras.optimizers.Adam(0.01))
    losses = distiller.fit(x, batch_size=100, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    for old, new in zip(weights, aware.trainable_variables, strict=True):
        assert np.any(old != np.asarray(new))
    after = [np.asarray(v) for v in aware.non_trainable_variables if v.shape == ()]
    # Lowest, then highest: they only widen.
    assert all(np.less_equal(after[::2], ranges[::2]))
    assert all(np.greater_equal(after[1::2], ranges[1::2]))
    assert np.any(np.greater(after, ranges))


def test_trained_far_it_still_answers_as_the_int8_file(tmp_path):
    """Although its weights, and so the ranges, have grown since the calibration."""
    pytest.importorskip("ai_edge_litert")
    from keras_kd.exporters.runtimes import open_file

    keras.utils.set_random_seed(0)
    x = random(1200, 15)
    y = np.argmax(x[:, :3], axis=1)
    dense = [layers.Dense(16, "relu"), layers.Dense(3)]
    model = keras.Sequential([layers.Input((15,)), *dense])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware = kd.quantization_aware(model, x)
    before = np.ptp(aware.predict(x, verbose=0))
    aware.compile(keras.optimizers.Adam(0.01), loss)
    aware.fit(x, y, epochs=10, verbose=0)
    answers = aware.predict(x, verbose=0)
    assert np.ptp(answers) > 3 * before
    np.testing.assert_array_equal(aware.predict(x, verbose=0), answers)
    path = tmp_path / "m.tflite"
    kd.export(
        aware, path, "litert", quantization="int8", calibration=x, examples=(x, y)
    )
    step = np.ptp(answers) / 255
    assert np.abs(open_file(path).predict(x) - answers).max() < 4 * step


def test_saved_and_loaded_it_answers_the_same(model, x, tmp_path):
    aware = kd.quantization_aware(model, x[:100])
    aware.save(tmp_path / "aware.keras")
    loaded = keras.saving.load_model(tmp_path / "aware.keras")
    np.testing.assert_array_equal(loaded(x), aware(x))
    np.testing.assert_array_equal(without_fake_quantization(loaded)(x), model(x))


def test_whoever_imports_the_package_can_load_it(model, x, tmp_path):
    """In a process of its own: here all is imported."""
    kd.quantization_aware(model, x[:100]).save(tmp_path / "aware.keras")
    code = (
        "import keras, keras_kd, sys; "
        "print([x.name for x in keras.saving.load_model(sys.argv[1]).layers])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "aware.keras"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str([layer.name for layer in model.layers]), done.stderr


# Keras would warn of inputs in another structure than the model's.
def test_a_model_whose_input_is_in_a_dict(x):
    inputs = keras.Input(SHAPE, name="image")
    outputs = layers.Dense(2, name="logits")(layers.Flatten()(inputs))
    model = keras.Model({"image": inputs}, {"class": outputs})
    plain = kd.quantization_aware(keras.Model(inputs, outputs), x[:50])
    for calibration in ({"image": x[:50]}, (x[:50], x[:50, 0, 0, 0], x[:50, 0, 0, 1])):
        aware = kd.quantization_aware(model, calibration)
        np.testing.assert_array_equal(aware({"image": x})["class"], plain(x))


def test_mixed_precision_becomes_float32(x):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input(SHAPE)
        outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(inputs))
        model = keras.Model(inputs, layers.Dense(2)(outputs))
    finally:
        keras.config.set_dtype_policy("float32")
    aware = kd.quantization_aware(model, x)
    assert {v.dtype for v in aware.variables} == {"float32"}
    assert aware(x).dtype == tf.float32
    np.testing.assert_allclose(aware(x), np.float32(model(x)), atol=0.1)


class Doubled(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    "layer, named",
    [
        (layers.BatchNormalization(name="norm"), "'norm' of type BatchNormalization"),
        (Doubled(3, name="mine"), "'mine' of type Doubled"),
        (keras.Sequential([layers.Dense(3)], name="inner"), "'inner' of type Sequential"),
    ],
)
def test_layers_that_it_does_not_know_are_refused(layer, named):
    model = keras.Sequential([layers.Input((4,)), layer])
    with pytest.raises(ValueError, match=f"has the layer {named}.*Known: Activation"):
        kd.quantization_aware(model, random(10, 4))


def test_other_arguments_are_refused(model, x):
    unbuilt = keras.Sequential([layers.Dense(2)], name="raw")
    with pytest.raises(ValueError, match="`model` must be a built .* 'raw' of type Seq"):
        kd.quantization_aware(unbuilt, x)
    with pytest.raises(ValueError, match=r"`calibration` .* \(8, 8, 2\). Received: \(3,\)"):
        kd.quantization_aware(model, random(10, 3))
    with pytest.raises(ValueError, match="`calibration` is empty"):
        kd.quantization_aware(model, x[:0])
    a, b = keras.Input((4,)), keras.Input((4,))
    two = keras.Model([a, b], layers.Dense(2)(a))
    with pytest.raises(ValueError, match="`model` must have one input.* with 2"):
        kd.quantization_aware(two, random(10, 4))
