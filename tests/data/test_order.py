"""Arrays and PyDatasets come in an order by a seed, and with steps without an end."""

import keras
import numpy as np
import pytest

from keras_kd.data.order import behind, in_order

COUNT = 96


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return (np.arange(12 * index, 12 * index + 12),)


class Endless(Batches):
    num_batches = None


def passes_of(data, count):
    """The examples of so many passes, each a list."""
    found = []
    for _ in range(count):
        if isinstance(data, keras.utils.PyDataset):
            data.epoch = len(found)
            data.on_epoch_begin()
        found.append(np.concatenate([np.ravel(x) for x, in data]).tolist())
    return found


@pytest.mark.parametrize("make", [lambda: np.arange(COUNT), Batches])
def test_what_fit_would_shuffle_is_shuffled(make):
    """All of it in each pass, in another order, and in another one for another seed."""
    first, second = passes_of(in_order(make(), [0, 0]), 2)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert passes_of(in_order(make(), [0, 0]), 2) == [first, second]
    assert passes_of(in_order(make(), [0, 1]), 1) != [first]


@pytest.mark.parametrize("make", [lambda: np.arange(COUNT), Batches, Endless])
def test_with_steps_the_passes_follow_each_other(make):
    def taken(first, count):
        data = behind(in_order(make(), [0, 0], steps=5), first)
        pairs = zip(range(count), data, strict=False)
        return [np.ravel(x).tolist() for _, (x,) in pairs]

    whole = taken(0, 20)
    assert taken(4, 16) == whole[4:]
    if make is not Endless:
        in_a_pass = COUNT // len(whole[0])
        first, second = whole[:in_a_pass], whole[in_a_pass : 2 * in_a_pass]
        assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(COUNT))
        assert first != second


def test_arrays_of_all_kinds():
    """Of any library, and in a list, which are several inputs."""
    import tensorflow as tf

    x, y = np.arange(6.0), np.arange(6)
    (wanted,) = in_order((x, y), [0])
    for data in (tf.constant(x), y), (x, tf.constant(y)):
        (found,) = in_order(data, [0])
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(a, b)
    ((inputs, labels),) = in_order(([x, x[:, None] + 1], y), [0])
    np.testing.assert_array_equal(inputs[0], wanted[0])
    np.testing.assert_array_equal(inputs[1][:, 0], wanted[0] + 1)
    np.testing.assert_array_equal(labels, wanted[1])


@pytest.mark.parametrize("given", [(1,), (1, None), (1, None, None), 1])
def test_arrays_without_labels(given):
    x = np.arange(COUNT)
    data = in_order(tuple(x if i else i for i in given) if given != 1 else x, [0])
    (wanted,) = passes_of(in_order((x,), [0]), 1)
    assert passes_of(data, 1) == [wanted] and wanted != sorted(wanted)


def test_arrays_with_weights_and_without_labels():
    x = np.arange(COUNT)
    for found, labels, weights in in_order((x, None, x * 2), [0]):
        assert labels is None
        np.testing.assert_array_equal(weights, 2 * found)
    for found, labels in in_order((x, x * 3, None), [0]):
        np.testing.assert_array_equal(labels, 3 * found)


def test_arrays_of_nothing():
    with pytest.raises(ValueError, match="`train_data` holds no examples"):
        in_order((np.zeros((0, 3)), np.zeros(0)), [0])


def test_other_data_stay_as_they_are():
    import tensorflow as tf

    data = tf.data.Dataset.range(3)
    assert in_order(data, [0]) is data
    assert list(in_order(data, [0], steps=2).take(5).as_numpy_iterator()) == [0, 1, 2, 0, 1]
    assert behind(data, 0) is data
