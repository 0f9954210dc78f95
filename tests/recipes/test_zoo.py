import keras
import numpy as np
import pytest

from keras_kd.recipes import zoo


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("mnist_teacher", 1_011_466),
        ("mnist_ta", 501_834),
        ("mnist_student", 1_238_730),
    ],
)
def test_parameters_are_the_published(name, parameters):
    model = zoo.build(name)
    assert model.count_params() == parameters
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)


def test_outputs_are_logits():
    logits = zoo.build("mnist_ta")(np.ones((2, 28, 28, 1), "float32"))
    assert float(keras.ops.min(logits)) < 0


def test_dropout_rates_are_the_published():
    rates = {
        name: [x.rate for x in zoo.build(name).layers if hasattr(x, "rate")]
        for name in ("mnist_teacher", "mnist_ta", "mnist_student")
    }
    assert rates == {
        "mnist_teacher": [0.5, 0.5],
        "mnist_ta": [0.25, 0.25],
        "mnist_student": [],
    }


def test_dropout_net_is_regularised_as_in_the_paper():
    model = zoo.build("mnist_dropout_net")
    assert [x.units for x in model.layers if hasattr(x, "units")] == [1200, 1200, 10]
    assert [x.rate for x in model.layers if hasattr(x, "rate")] == [0.2, 0.5, 0.5]
    weights = np.full((784, 1200), 1.0, "float32")
    constrained = model.get_layer("hidden1").kernel.constraint(weights)
    squared_lengths = np.sum(np.square(constrained), axis=0)
    np.testing.assert_allclose(squared_lengths, 15.0, rtol=1e-4)
    assert model.get_layer("logits").kernel.constraint is None


def test_seed_fixes_the_weights():
    kernels = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        kernels.append(zoo.build("mnist_student").get_weights()[0])
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    "name, same",
    [
        ("mnist_cnn_32_64", "mnist_teacher"),
        ("mnist_cnn_16_32", "mnist_ta"),
        ("mnist_fc_784_784", "mnist_student"),
        ("mnist_small_cnn_32_64", "mnist_small_cnn"),
        ("mnist_device_cnn_16_32_48_64", "mnist_device_cnn"),
    ],
)
def test_a_family_at_the_widths_of_a_fixed_name(name, same):
    """The same layers, dropout rates, and weights from the same seed."""
    models = []
    for x in (name, same):
        keras.utils.set_random_seed(3)
        models.append(zoo.build(x))
    family, fixed = models
    assert (family.name, fixed.name) == (name, same)
    configs = [[x.get_config() for x in model.layers] for model in models]
    for config in (*configs[0], *configs[1]):
        # Numbered through in a process.
        if config["name"].startswith(("flatten", "dropout", "max_pooling")):
            config.pop("name")
    assert configs[0] == configs[1]
    for weights, others in zip(family.get_weights(), fixed.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


def test_parameters_of_families():
    cnn = 9 * 6 + 6 + 9 * 6 * 10 + 10 + 11 * 11 * 10 * 128 + 128 + 128 * 10 + 10
    assert zoo.build("mnist_cnn_6_10").count_params() == cnn
    fc = 784 * 7 + 7 + 7 * 3 + 3 + 3 * 5 + 5 + 5 * 10 + 10
    assert zoo.build("mnist_fc_7_3_5").count_params() == fc
    assert zoo.build("mnist_fc_7").count_params() == 784 * 7 + 7 + 7 * 10 + 10
    small = 9 * 6 + 6 + 9 * 6 + 6 * 4 + 4 + 5 * 5 * 4 * 10 + 10
    assert zoo.build("mnist_small_cnn_6_4").count_params() == small
    device = 9 * 6 + 6 + (9 * 6 + 6 * 4 + 4) + (9 * 4 + 4 * 3 + 3) + (9 * 3 + 3 * 5 + 5)
    device += 4 * 4 * 5 * 10 + 10
    assert zoo.build("mnist_device_cnn_6_4_3_5").count_params() == device


def test_dropout_of_the_cnn_family():
    rates = [zoo.cnn_dropout((1, width)) for width in (16, 32, 48, 64, 512)]
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5]
    built = zoo.build("mnist_cnn_24_48")
    assert [x.rate for x in built.layers if hasattr(x, "rate")] == [0.375, 0.375]


@pytest.mark.parametrize(
    "widths",
    [
        "", "_", "_8", "_8_", "_8_0", "_8_-2", "_8_16_24", "_8_x", "_8_1.5", "_08_16",
        "_8_2049", "_8_" + "9" * 5000, "_8_\u0662", "_8_16\n",
    ],
)  # fmt: skip
def test_bad_widths(widths):
    message = "mnist_cnn takes 2 widths, each a whole number from 1 to 2048 .*mnist_cnn_24"
    with pytest.raises(ValueError, match=message) as caught:
        zoo.build(f"mnist_cnn{widths}")
    assert repr(f"mnist_cnn{widths}") in str(caught.value)


def test_how_many_widths():
    zoo.check("mnist_fc_1_2_3_2048")
    with pytest.raises(ValueError, match="mnist_fc takes 1 to 4 widths, .*mnist_fc_64_64"):
        zoo.check("mnist_fc_1_2_3_4_5")


def test_family_of():
    for name in (
        "mnist_cnn_3_5",
        "mnist_fc_9",
        "mnist_fc_9_8_128",
        "mnist_small_cnn_4_2",
        "mnist_device_cnn_4_2_3_5",
    ):
        family, widths = zoo.family_of(zoo.build(name))
        assert zoo.family_name(family, widths) == name
    assert zoo.family_of(zoo.build("mnist_student")) == ("mnist_fc", (784, 784))
    assert zoo.family_of(zoo.cnn((3, 5), 0.9, name="mine")) == ("mnist_cnn", (3, 5))
    kept = [x for x in zoo.cnn((3, 5), 0.1).layers if not hasattr(x, "rate")]
    without_dropout = keras.Sequential([keras.layers.Input((28, 28, 1)), *kept])
    assert zoo.family_of(without_dropout) == ("mnist_cnn", (3, 5))


def test_of_no_family():
    """Each differs in one thing: activation, stride, too many layers, images, classes."""
    ours = zoo.cnn((3, 5), 0.1)
    assert zoo.family_of(ours) == ("mnist_cnn", (3, 5))
    for layer, key, value in (
        ("conv1", "activation", "tanh"),
        ("pool1", "strides", (2, 2)),
        ("logits", "units", 9),
        ("hidden1", "use_bias", False),
    ):
        changed = [
            type(x).from_config(x.get_config() | ({key: value} if x.name == layer else {}))
            for x in ours.layers
        ]
        model = keras.Sequential([keras.layers.Input((28, 28, 1)), *changed])
        assert zoo.family_of(model) is None
    assert zoo.family_of(zoo.fully_connected((2, 2, 2, 2, 2))) is None
    wide = keras.Sequential([keras.layers.Input((28, 29, 1)), keras.layers.Flatten()])
    wide.add(keras.layers.Dense(5, activation="relu"))
    wide.add(keras.layers.Dense(10))
    assert zoo.family_of(wide) is None


def test_unknown_name():
    known = "mnist_teacher, mnist_ta, .*mnist_student, and with widths .*mnist_fc_64_64"
    with pytest.raises(ValueError, match=f"model .*'vgg'. Known: {known}") as caught:
        zoo.build("vgg")
    assert "did you mean" not in str(caught.value)
    for name, meant in (
        ("mnist_studet", "mnist_student"),
        ("mnist_cn_24_48", "mnist_cnn_24_48"),
        ("mnist_fcc_64", "mnist_fc_64"),
    ):
        with pytest.raises(ValueError, match=f"; did you mean '{meant}'?"):
            zoo.build(name)
    for name in (None, 3, ["mnist_ta"]):
        with pytest.raises(ValueError, match="no such model"):
            zoo.build(name)
