"""What is said of files that Keras cannot load, before training or after."""

import random

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses import DistillationLoss
from keras_kd.training.loading import check_loads_again, load_keras_file

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Own(DistillationLoss):
    """A loss of a user's own that is not registered."""

    def compute_loss(self, teacher, student, y_true=None, sample_weight=None):
        return keras.ops.mean(keras.ops.square(teacher - student))


class OwnLayer(keras.layers.Layer):
    """A layer of that kind."""

    def call(self, x):
        return x


def own_label_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def of_layers(*layers):
    return keras.Sequential([keras.layers.Input((4,)), *layers, keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "parts, named",
    [
        ({"losses": lambda: Own()}, "'Own' in `distillation_losses`"),
        ({"student": lambda: of_layers(OwnLayer())}, "'OwnLayer' in `student`"),
        ({"loss": lambda: own_label_loss}, "'own_label_loss' in "),
    ],
)
def test_what_is_not_registered_is_named(make_model, tmp_path, parts, named):
    made = {"losses": lambda: "kd", "student": make_model, "loss": lambda: LOSS} | parts
    teacher, path = make_model(), tmp_path / "d.keras"
    distiller = kd.Distiller(teacher, made["student"](), made["losses"]())
    distiller.compile("sgd", made["loss"]())
    distiller.optimizer.build(distiller.trainable_variables)
    known = {x.__name__: x for x in (Own, OwnLayer, own_label_loss)}
    distiller.save(path, include_teacher=False)
    with pytest.raises(ValueError, match=f"{named}.* not known .* custom_objects={{'"):
        kd.load_distiller(path, teacher)
    assert kd.load_distiller(path, teacher, custom_objects=known)
    if "loss" not in parts:
        distiller.save(path)
        with pytest.raises(ValueError, match=f"{named}.* custom_objects={{'"):
            keras.saving.load_model(path)


def test_a_student_of_a_mutual_distiller_is_named(make_model, tmp_path):
    students = {"a": make_model(), "b": of_layers(OwnLayer())}
    mutual = kd.MutualDistiller(students)
    mutual.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="'OwnLayer' in `students` is not known"):
        keras.saving.load_model(tmp_path / "m.keras")


def test_a_file_with_what_is_not_registered_names_it(tmp_path):
    of_layers(OwnLayer()).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="'OwnLayer' in .*m.keras is not known"):
        load_keras_file(tmp_path / "m.keras")


def double(x):
    return 2 * x


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: keras.layers.Lambda(lambda x: 2 * x, output_shape=(4,)), "it holds code"),
        (OwnLayer, "'OwnLayer' in The file is not known"),
        (lambda: keras.layers.Activation(double), "'double' in The file is not known"),
    ],
)
def test_a_model_that_would_not_load_again_is_refused(policy, make, reason):
    model = of_layers(make())
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"could not be read again .* {reason}"):
        check_loads_again(model)
    for weights, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)


def test_one_that_loads_again_is_not(policy, tmp_path):
    model = of_layers(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))
    numbers = random.getstate()
    check_loads_again(model)
    assert random.getstate() == numbers
    assert model.dtype_policy.name == policy
