"""Examples carry their number through shuffle and batch, to the losses that need it."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd as kd
from keras_kd.cache import index as example_index
from keras_kd.losses import DistillationLoss
from keras_kd.training import batch


def numbered(count=20):
    """Examples whose x, label and weight tell their number."""
    numbers = np.arange(count)
    x = np.stack([numbers, -numbers, numbers, -numbers], axis=1)
    return x.astype("float32"), numbers % 3, numbers / 10


def in_tensors(data):
    return tf.data.Dataset.from_tensor_slices(data)


@pytest.fixture(params=[tuple, in_tensors], ids=["arrays", "dataset"])
def form(request):
    return request.param


def test_each_example_keeps_its_number(form):
    seen = []
    dataset = kd.with_index(form(numbered())).shuffle(20, seed=1).batch(6)
    for packed, labels, weights in dataset:
        index = batch.index_of(packed).numpy()
        x = batch.inputs_of(packed).numpy()
        np.testing.assert_array_equal(x[:, 0], index)
        np.testing.assert_array_equal(labels, index % 3)
        np.testing.assert_allclose(weights, index / 10)
        assert batch.unpack(packed)[1] is None
        seen += index.tolist()
    assert sorted(seen) == list(range(20)) and seen != sorted(seen)


def test_inputs_alone_and_inputs_in_a_dict(form):
    x = numbered()[0]
    for inputs in (x, {"a": x, "b": (x, x)}):
        data = inputs if form is tuple else form(inputs)
        (packed,) = kd.with_index(data).batch(20)
        assert batch.index_of(packed).numpy().tolist() == list(range(20))
        tf.nest.assert_same_structure(batch.inputs_of(packed), inputs)


def test_the_number_of_examples_stays_known(form):
    dataset = kd.with_index(form(numbered()))
    assert dataset.cardinality() == 20 and dataset.batch(6).cardinality() == 4


@pytest.mark.parametrize("path", [None, "cache"])
def test_what_cache_teacher_returns_carries_numbers(form, path, make_model, tmp_path):
    data = form(numbered())
    dataset = kd.cache_teacher(
        make_model(),
        data,
        path and tmp_path / path,
        views=2,
        augment=lambda inputs, indices, view, seed: inputs,
        verbose=0,
    )
    for _ in range(2):
        for packed, *_ in dataset.shuffle(20).batch(6):
            index = batch.index_of(packed).numpy()
            np.testing.assert_array_equal(batch.inputs_of(packed)[:, 0], index)
            assert batch.unpack(packed)[1] is not None
    with pytest.raises(ValueError, match="carries the examples' numbers already"):
        kd.with_index(dataset)


@pytest.mark.parametrize(
    "dataset, message",
    [
        (None, "`dataset` must be a tf.data.Dataset of single examples"),
        ((np.ones(3), np.ones(4)), "one row for each example"),
        (in_tensors(np.ones(3)).repeat(), "infinite"),
        (in_tensors(np.ones(3)).take(0), "empty"),
    ],
    ids=["none", "lengths", "infinite", "empty"],
)
def test_bad_data(dataset, message):
    with pytest.raises(ValueError, match=message):
        kd.with_index(dataset)


class Numbers(DistillationLoss):
    """Zero where each example's number is what its outputs are, one elsewhere."""

    needs_index = True

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None, index=None
    ):
        is_own = ops.equal(ops.cast(teacher_outputs[:, 0], "int64"), index)
        wrong = ops.mean(1.0 - ops.cast(is_own, "float32"))
        return wrong + 0 * ops.mean(student_outputs)


def test_the_losses_that_need_it_receive_it_and_models_do_not(make_model, form):
    inputs = keras.Input((4,))
    teacher = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    teacher.set_weights([np.float32([[1], [0], [0], [0]]), np.zeros(1)])
    student = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    losses = [Numbers(), kd.losses.LogitMSE()]
    distiller = kd.Distiller(teacher, student, losses, [1.0, 0.0], 0.0)
    distiller.compile("sgd")
    x, *_ = numbered()
    data = kd.with_index(x if form is tuple else form(x))
    fit = {"shuffle": False, "verbose": 0}
    history = distiller.fit(data.shuffle(20).batch(6), epochs=2, **fit).history
    assert history["distillation_loss"] == [0.0, 0.0]
    wrong = data.map(lambda x: batch.pack(batch.inputs_of(x), index=batch.index_of(x) + 1))
    history = distiller.fit(wrong.batch(6), **fit).history
    assert history["distillation_loss"] == [1.0]
    assert distiller.predict(data.batch(6), verbose=0).shape == (20, 1)


def test_docstring_example_runs():
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(example_index.with_index, globs=vars(example_index))
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
