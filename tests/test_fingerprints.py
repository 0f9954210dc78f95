"""Fingerprints are the same for the same, and differ for what differs."""

import keras
import numpy as np
import pytest

from keras_kd.fingerprints import (
    ExamplesFingerprint,
    cache_settings,
    teacher_fingerprint,
)


@pytest.fixture
def teacher(make_model):
    return make_model(name="teacher")


def of_examples(*batches):
    fingerprint = ExamplesFingerprint()
    for batch in batches:
        fingerprint.update([batch])
    return fingerprint.result()


def test_a_saved_compiled_or_frozen_teacher_is_the_same(teacher, tmp_path):
    before = teacher_fingerprint(teacher)
    teacher.compile("adam", "mse")
    teacher.trainable = False
    teacher.save(tmp_path / "teacher.keras")
    assert teacher_fingerprint(teacher) == before
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    assert teacher_fingerprint(loaded) == before


def test_one_changed_weight_is_another_teacher(teacher):
    before = teacher_fingerprint(teacher)
    bias = teacher.weights[1]
    bias.assign(bias + keras.ops.one_hot(0, 8) * 1e-6)
    after = teacher_fingerprint(teacher)
    assert after["weights"] != before["weights"]
    assert after["architecture"] == before["architecture"]


def test_another_activation_is_another_architecture(teacher):
    other = keras.models.clone_model(
        teacher, clone_function=lambda layer: layer.__class__.from_config(
            layer.get_config() | {"activation": "tanh"}
        )
    )
    other.set_weights(teacher.get_weights())
    before, after = teacher_fingerprint(teacher), teacher_fingerprint(other)
    assert after["architecture"] != before["architecture"]
    assert after["weights"] == before["weights"]


def test_a_teacher_without_a_configuration_has_a_fingerprint():
    class Teacher(keras.Model):
        def __init__(self, something):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    teachers = [Teacher(object()), Teacher(object())]
    for model in teachers:
        model(np.ones((1, 3)))
    teachers[1].set_weights(teachers[0].get_weights())
    assert teacher_fingerprint(teachers[0]) == teacher_fingerprint(teachers[1])


def test_the_size_of_batches_does_not_matter():
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert of_examples(x[:4], x[4:]) == of_examples(x)
    assert of_examples(x)["examples"] == 10


def test_order_shows_in_one_fingerprint_and_not_in_the_other():
    x = np.random.default_rng(0).normal(size=(10, 3))
    before, after = of_examples(x), of_examples(x[::-1])
    assert after["data"] != before["data"]
    assert after["data_in_any_order"] == before["data_in_any_order"]


def test_one_changed_byte_shows_in_both():
    x = np.zeros((10, 3), "uint8")
    before = of_examples(x)
    x[7, 1] = 1
    after = of_examples(x)
    assert after["data"] != before["data"]
    assert after["data_in_any_order"] != before["data_in_any_order"]


def test_settings_tell_what_augment_does(teacher):
    def settings(shift):
        def augment(inputs, indices, view, seed):
            return inputs + shift * keras.ops.cast(view, "float32")[:, None]

        x = np.zeros((2, 4), "float32")
        return cache_settings(teacher, x, [], augment, views=2, seed=0)["augment"]

    assert settings(1.0) == settings(1.0) != settings(2.0)
