import keras
import numpy as np
import pytest

from keras_kd.students import applications


def test_it_is_that_of_keras_untrained():
    model = applications.build("MobileNetV3Small", (32, 40, 2), (3,), alpha=0.25)
    theirs = keras.applications.MobileNetV3Small(
        (32, 40, 2), alpha=0.25, weights=None, classes=3, include_preprocessing=False
    )
    assert model.count_params() == theirs.count_params()
    assert model.layers[-1].activation is keras.activations.linear
    assert model(np.zeros((1, 32, 40, 2))).shape == (1, 3)
    assert not [x for x in model.layers if isinstance(x, keras.layers.Rescaling)]


def test_names():
    assert {"MobileNetV3Small", "EfficientNetB0", "ResNet50"} <= set(applications.names())
    for name in applications.names():
        applications.check(name, {})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("MobileNetV3Smal", (32, 32, 3), (2,)), "Did you mean 'MobileNetV3Small'"),
        (("MobileNetV3Small", (8, 8, 3), (2,)), r"does not take input_shape=\(8, 8, 3\)"),
        (("MobileNetV3Small", (32, 32, 3), (32, 32, 2)), r"`output_shape`.*\(answers,\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        applications.build(*arguments)


@pytest.mark.parametrize("key", ["weights", "classes", "input_shape", "aplha"])
def test_what_is_no_argument(key):
    with pytest.raises(ValueError, match=f"`{key}` is no argument.*own are alpha"):
        applications.check("MobileNetV3Small", {key: 1})
