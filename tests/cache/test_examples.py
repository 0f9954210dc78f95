"""What is taken as examples, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.cache.examples import ArrayExamples, StreamedExamples, fingerprints
from keras_kd.training import batch

X = np.arange(20.0, dtype="float32").reshape(10, 2)
Y = np.arange(10)


def slices(*data):
    return tf.data.Dataset.from_tensor_slices(data if len(data) > 1 else data[0])


def join_stream(examples, seen=X, augment=None, views=1):
    """Joined with outputs 10 * number + view, as a teacher would have given to `seen`."""

    def read_view(view):
        told = fingerprints(tf.constant(seen))
        outputs = 10 * tf.range(len(seen), dtype=tf.int64) + view
        return tf.data.Dataset.from_tensors((told, {"own": outputs}))

    return examples.join(read_view, views, augment, seed=5, count=len(seen))


def test_batches_of_x_in_order():
    for examples in (ArrayExamples((X, Y)), StreamedExamples(slices(X, Y))):
        assert examples.count == 10 and examples.shapes == [(2,)]
        batches = list(examples.inputs(batch_size=4))
        assert [len(x) for x in batches] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(batches), X)


def test_x_may_be_nested():
    x = {"a": X, "b": (X, X)}
    for examples in (ArrayExamples((x, Y)), StreamedExamples(slices(x, Y))):
        first = next(examples.inputs(batch_size=4))
        assert first["b"][1].shape == (4, 2)
    first = next(ArrayExamples(([X, X], Y)).inputs(batch_size=4))
    assert isinstance(first, tuple)


@pytest.mark.parametrize("parts", [(X,), (X, Y), (X, Y, Y / 10)])
def test_labels_and_weights_stay_with_their_example(parts):
    examples = ArrayExamples(parts)
    arrays = examples.join({"own": 10 * Y}, views=1, augment=None, seed=0)
    stream = join_stream(StreamedExamples(slices(*parts)))
    for dataset in (arrays, stream):
        assert len(dataset) == 10
        for element in dataset.shuffle(10).batch(4):
            packed, *labels = element if len(parts) > 1 else (element,)
            x, (own, _) = batch.unpack(packed)
            numbers = own.numpy() // 10
            np.testing.assert_array_equal(x, X[numbers])
            for label, part in zip(labels, parts[1:], strict=True):
                np.testing.assert_array_equal(label, part[numbers])


def augment(inputs, indices, view, seed):
    return inputs + tf.cast(100 * view + 1000 * indices + seed, tf.float32)[:, None]


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_epoch_sees_its_view_of_inputs_and_outputs(in_memory):
    if in_memory:
        outputs = {"own": np.concatenate([10 * Y + view for view in range(3)])}
        dataset = ArrayExamples((X, Y)).join(outputs, 3, augment, seed=5)
    else:
        examples = StreamedExamples(slices(X, Y))
        dataset = join_stream(examples, augment=augment, views=3)
    dataset = dataset.shuffle(10, seed=0).batch(4)
    for epoch in range(4):
        view = epoch % 3
        for packed, y in dataset:
            x, (own, _) = batch.unpack(packed)
            np.testing.assert_array_equal(own, 10 * y + view)
            y = y.numpy()
            np.testing.assert_array_equal(x, X[y] + (100 * view + 1000 * y + 5)[:, None])


def test_a_stream_is_read_into_memory_whole():
    examples = StreamedExamples(slices({"a": X}, Y)).in_memory()
    assert examples.count == 10
    np.testing.assert_array_equal(next(examples.inputs(10))["a"], X)


def test_a_stream_of_unknown_length():
    examples = StreamedExamples(slices(X).filter(lambda x: x[0] >= 0))
    assert examples.count is None
    assert len(join_stream(examples)) == 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ds: ds.shuffle(10, seed=0),
        lambda ds: ds.map(lambda x: x + 1),
        lambda ds: ds.skip(1),
    ],
    ids=["shuffled", "augmented", "shorter"],
)
def test_a_stream_that_changed_since_the_teacher_saw_it_is_refused(spoil):
    dataset = join_stream(StreamedExamples(spoil(slices(X))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="other examples|Incompat"):
        list(dataset)


@pytest.mark.parametrize(
    "data, reason",
    [
        ((X, Y[:5]), r"one row for each example.*\(10, 2\), \(5,\)"),
        ((X, np.float32(1)), "one row for each example"),
        ((X[:0],), "at least one example"),
        (X.tolist(), "tf.data.Dataset .* Received: list"),
        (iter([]), "tf.data.Dataset .* Received: list_iterator"),
        ((np.array(["a", "b"]),), "numbers as x.* Received: str"),
        ((np.array([None, 1]),), "numbers as x.* Received: object"),
    ],
)
def test_arrays_that_are_no_examples_are_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        ArrayExamples(data)


@pytest.mark.parametrize(
    "dataset, reason",
    [
        (slices(X).take(0), "`dataset` is empty"),
        (slices(X).repeat(), "`dataset` is infinite"),
        (slices(X, Y, Y, Y), r"x, \(x, y\) or \(x, y, sample_weight\)"),
        (slices(np.array(["a", "b"])), "numbers as x"),
        (slices(X, tf.ragged.range(Y)), "pad labels of any length"),
        (slices(tf.ragged.range(Y)), "dense tensors"),
    ],
    ids=["empty", "infinite", "four parts", "text", "ragged y", "ragged x"],
)
def test_streams_that_are_no_examples_are_refused(dataset, reason):
    with pytest.raises(ValueError, match=reason):
        StreamedExamples(dataset)


def test_labels_of_any_length_are_refused():
    dataset = slices(X, Y).map(lambda x, y: (x, tf.range(y)))
    with pytest.raises(ValueError, match="differ in shape.*pad labels of any length"):
        list(StreamedExamples(dataset).inputs(4))


def test_an_error_of_the_user_stays_what_it_is():
    dataset = slices(X).map(lambda x: tf.debugging.check_numerics(x / 0, "mine"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"):
        list(StreamedExamples(dataset).inputs(4))
