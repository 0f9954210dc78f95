import keras
import numpy as np
import pytest

from keras_kd import zoo
from keras_kd.profile import profile


@pytest.mark.parametrize(
    "name, macs",
    [
        ("mnist_teacher", 11_021_029),
        ("mnist_ta", 3_073_557),
        ("mnist_student", 1_237_941),
    ],
)
def test_macs_are_the_published(name, macs):
    assert profile(zoo.build(name)).macs == macs


def test_pure_macs_count_products_alone():
    # Two convolutions at their output positions, two dense layers.
    by_hand = 26 * 26 * 9 * 32 + 23 * 23 * 9 * 32 * 64
    by_hand += 11 * 11 * 64 * 128 + 128 * 10
    assert profile(zoo.build("mnist_teacher")).pure_macs == by_hand
    assert profile(zoo.build("mnist_student")).pure_macs == 784 * 784 * 2 + 784 * 10


def test_depthwise_and_several_inputs():
    image, vector = keras.Input((8, 8, 2)), keras.Input((3,))
    x = keras.layers.DepthwiseConv2D(3, use_bias=False)(image)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), vector])
    model = keras.Model([image, vector], keras.layers.Dense(5, use_bias=False)(x))
    cost = profile(model)
    assert cost.pure_macs == 6 * 6 * 9 * 2 + (6 * 6 * 2 + 3) * 5
    assert cost.parameters == 9 * 2 + (6 * 6 * 2 + 3) * 5


def test_unbuilt_model():
    with pytest.raises(ValueError, match="`model` must be built"):
        profile(keras.Sequential([keras.layers.Dense(2)]))


def test_subclassed_model():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    model = Subclassed()
    model(np.ones((1, 2)))
    with pytest.raises(ValueError, match="`model` must be built, with known input shapes"):
        profile(model)


def test_unknown_image_size():
    model = keras.Sequential(
        [keras.layers.Input((None, None, 1)), keras.layers.Conv2D(2, 3)]
    )
    with pytest.raises(ValueError, match="fixed input shapes .*None, None, None, 1"):
        profile(model)
