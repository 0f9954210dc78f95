import keras
import numpy as np
import pytest

from keras_kd import zoo


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


def test_seed_fixes_the_weights():
    kernels = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        kernels.append(zoo.build("mnist_student").get_weights()[0])
    np.testing.assert_array_equal(*kernels)


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` must be one of 'mnist_teacher'.*'vgg'"):
        zoo.build("vgg")
