"""What is said of files that Keras cannot load, before training or after."""

import random

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses import DistillationLoss
from keras_kd.training.loading import check_saves, load_keras_file

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


NOT_LOADED = [
    (lambda: keras.layers.Lambda(lambda x: 2 * x, output_shape=(4,)), "it holds code"),
    (OwnLayer, "'OwnLayer' in the file is not known"),
    (lambda: keras.layers.Activation(double), "'double' in the file is not known"),
]


@pytest.mark.parametrize("make, reason", NOT_LOADED)
def test_a_file_that_could_not_be_loaded_is_told(policy, make, reason):
    model = of_layers(make())
    before = model.get_weights()
    numbers = random.getstate()
    assert reason in check_saves(model)
    assert random.getstate() == numbers
    for weights, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)


class Unwritten(keras.Model):
    """A model whose configuration cannot be written."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise ZeroDivisionError("no configuration")


def test_a_file_that_could_not_be_written_is_refused():
    model = Unwritten()
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="could not be saved, so .*no configuration"):
        check_saves(model)


def test_what_is_all_of_keras_needs_no_file(policy, monkeypatch):
    ensemble = kd.teachers.Ensemble([of_layers(), of_layers()])
    for layer in keras.layers.BatchNormalization(), ensemble:
        model = layer if isinstance(layer, keras.Model) else of_layers(layer)
        assert check_saves(model) is None
        assert model.dtype_policy.name == policy
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda **_: 1 / 0)
    assert check_saves(of_layers(keras.layers.Dropout(0.5))) is None
