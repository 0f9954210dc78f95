import keras
import pytest

from keras_kd import students
from keras_kd.students.family_of import Known
from tests.students.test_families import PARAMETERS, SAMPLES


@pytest.mark.parametrize("family", [x for x in PARAMETERS if x != "mlp"])
def test_a_model_is_known_by_its_layers(family):
    model = students.build(family, *SAMPLES[family], 5)
    renamed = keras.models.clone_model(
        model, clone_function=lambda x: type(x).from_config(x.get_config() | {"name": None})
    )
    assert students.family_of(renamed) == (Known(family, *SAMPLES[family]), 5)


def test_values_of_any_size_are_known():
    model = students.build("mlp", (4,), (1,), 6)
    values = keras.layers.Rescaling(20.0, 100.0)(model.output)
    known, width = students.family_of(keras.Model(model.inputs, values))
    assert (known, width) == (Known("mlp", (4,), (1,)), 6)
    assert known.build(3).output_shape == (None, 1)


def test_others_are_of_none():
    like = students.build("separable_cnn", (8, 8, 1), (2,), 3)

    def changed(layer):
        own = layer.get_config()
        more = {"strides": (1, 1)} if own["name"] == "level1_down_depthwise" else {}
        return type(layer).from_config(own | more)

    others = [
        keras.models.clone_model(like, clone_function=changed),
        keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Conv2D(3, 3)]),
        keras.Sequential([keras.layers.Input((2,)), keras.layers.Softmax()]),
        keras.applications.MobileNetV3Small((32, 32, 3), 0.1, weights=None, classes=2),
    ]
    assert others[0].count_params() == like.count_params()
    assert [students.family_of(x) for x in others] == [None] * 4
