"""The process on TensorFlow that counts, asked from this one, whose backend it also is."""

import keras
import pytest

from keras_kd.evaluation import elsewhere
from keras_kd.evaluation.operations import UnknownCount
from keras_kd.evaluation.profile import profile
from keras_kd.recipes import zoo


def of_two_inputs():
    number, word = keras.Input((6,), name="num"), keras.Input((2,), name="cat")
    joined = keras.layers.Concatenate()([keras.layers.Dense(5)(number), word])
    return keras.Model({"num": number, "cat": word}, keras.layers.Dense(3)(joined))


class Own(keras.layers.Layer):
    def call(self, x):
        return x


def counted(model):
    return elsewhere.count(model, [(1, *x.shape[1:]) for x in model.inputs])


@pytest.mark.parametrize("make", [lambda: zoo.build("mnist_ta"), of_two_inputs])
def test_it_counts_as_this_process(make):
    model = make()
    here, there = profile(model), counted(model)
    assert there.products == here.pure_macs
    assert there.products + there.others // 2 == here.macs


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Own, "Could not locate class 'Own'"),
        (lambda: keras.layers.Lambda(lambda x: x), "Python lambda"),
    ],
)
def test_a_class_that_it_does_not_know(layer, why):
    model = keras.Sequential([keras.layers.Input((4,)), layer(), keras.layers.Dense(3)])
    with pytest.raises(UnknownCount, match=why):
        counted(model)


def test_one_that_has_ended_is_started_again():
    model = keras.Sequential([keras.layers.Input((7,)), keras.layers.Dense(3)])
    process = elsewhere._process()
    process.kill()
    process.wait()
    with pytest.raises(UnknownCount, match="has ended"):
        counted(model)
    assert counted(model).products == 21
    assert elsewhere._process().pid != process.pid


def test_on_another_backend_it_is_asked(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    model = keras.Sequential([keras.layers.Input((9,)), keras.layers.Dense(3)])
    before = elsewhere._asked.cache_info().misses
    assert profile(model).pure_macs == 27
    assert elsewhere._asked.cache_info().misses == before + 1
