"""A dataset that shuffles row numbers, against tf.data on the examples themselves."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.examples import ExamplesDataset, rows_in_turn, views_in_turn

COUNT = 50


@pytest.fixture
def examples():
    """Example i is (i, 10 i)."""
    values = tf.range(COUNT, dtype=tf.int64)

    def gather(rows):
        x = tf.gather(values, rows)
        return x, 10 * x

    return ExamplesDataset(tf.data.Dataset.range(COUNT), gather)


@pytest.fixture
def plain():
    values = np.arange(COUNT)
    return tf.data.Dataset.from_tensor_slices((values, 10 * values))


def numbers(dataset):
    return [int(x) for batch, _ in dataset for x in np.atleast_1d(batch)]


def test_it_is_a_dataset_of_single_examples(examples, plain):
    assert isinstance(examples, tf.data.Dataset)
    assert examples.element_spec == plain.element_spec
    assert len(examples) == COUNT
    assert list(examples.as_numpy_iterator()) == list(plain.as_numpy_iterator())


@pytest.mark.parametrize(
    "transform",
    [
        lambda ds: ds.shuffle(COUNT, seed=3),
        lambda ds: ds.shuffle(10, seed=3, reshuffle_each_iteration=False).repeat(2),
        lambda ds: ds.repeat(3).take(70),
        lambda ds: ds.skip(7),
        lambda ds: ds.shard(num_shards=3, index=1),
    ],
    ids=["shuffle", "repeat", "take", "skip", "shard"],
)
def test_transformations_do_what_tf_data_does(examples, plain, transform):
    ours, theirs = transform(examples), transform(plain)
    assert isinstance(ours, ExamplesDataset)
    for _ in range(2):
        assert numbers(ours) == numbers(theirs)
        assert numbers(ours.batch(8)) == numbers(theirs.batch(8))


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_batches_have_the_shapes_of_tf_data(examples, plain, drop_remainder):
    ours = examples.batch(8, drop_remainder=drop_remainder)
    theirs = plain.batch(8, drop_remainder=drop_remainder)
    assert ours.element_spec == theirs.element_spec
    assert len(ours) == len(theirs) == (6 if drop_remainder else 7)


def test_each_epoch_has_every_example_once_in_another_order(examples):
    shuffled = examples.shuffle(COUNT, seed=0).batch(8)
    epochs = [numbers(shuffled) for _ in range(3)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = examples.shuffle(COUNT, seed=0).batch(8)
    assert [numbers(again) for _ in range(3)] == epochs


def test_x_and_y_of_a_batch_belong_together(examples):
    for x, y in examples.shuffle(COUNT).batch(8):
        np.testing.assert_array_equal(y, 10 * x)


def test_what_it_does_not_know_is_left_to_tf_data(examples):
    assert numbers(examples.filter(lambda x, y: x < 3)) == [0, 1, 2]
    doubled = examples.map(lambda x, y: (2 * x, y)).batch(8)
    assert numbers(doubled) == list(range(0, 2 * COUNT, 2))


def test_keras_fits_on_it(examples):
    model = keras.Sequential([keras.layers.Input(()), keras.layers.Reshape((1,))])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    batches = examples.shuffle(COUNT).batch(8)
    history = model.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2


def counted(make):
    """Two datasets of one whose examples are the numbers of views, and what they see."""

    def gather(rows):
        return rows // COUNT, rows % COUNT

    examples = ExamplesDataset(rows_in_turn(3, COUNT), gather)
    rows = examples.map(lambda view, number: (view, number))
    return [make(dataset) for dataset in (examples, rows)]


SPLITS = {
    "take and skip": lambda ds: (ds.take(9).batch(5), ds.skip(9).batch(5)),
    "of batches": lambda ds: (ds.batch(5).take(2), ds.batch(5).skip(2)),
    "shards": lambda ds: (ds.shard(2, 0).batch(5), ds.shard(2, 1).batch(5)),
    "mapped": lambda ds: (
        ds.map(lambda *x: x).batch(5).take(3),
        ds.filter(lambda *x: True).batch(5).prefetch(1),
    ),
    "shuffled": lambda ds: (
        ds.shuffle(COUNT, seed=1).batch(5).take(2),
        ds.shuffle(COUNT).take(20).batch(5),
    ),
    "joined": lambda ds: (
        ds.take(9).concatenate(ds.skip(20)).batch(5),
        ds.batch(5).apply(lambda x: x.take(2)),
    ),
}


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_made_of_a_dataset_counts_its_own_iterations(split):
    for parts in counted(SPLITS[split]):
        for epoch in range(4):
            for part in parts:
                assert {int(v) for views, _ in part for v in views} == {epoch % 3}


@pytest.mark.parametrize("seed", [None, 3])
def test_parts_of_a_shuffled_dataset_have_no_example_in_common(seed):
    def split(dataset):
        shuffled = dataset.shuffle(COUNT, seed, reshuffle_each_iteration=False)
        return shuffled.take(20), shuffled.skip(20)

    for parts in counted(split):
        for _ in range(2):
            seen = [int(number) for part in parts for _, number in part]
            assert sorted(seen) == list(range(COUNT)) != seen


def test_an_order_without_a_seed_follows_the_global_one(examples):
    def orders():
        keras.utils.set_random_seed(4)
        (first, _) = counted(lambda ds: ds.shuffle(COUNT).batch(COUNT))
        return [next(iter(first))[1].numpy().tolist() for _ in range(2)]

    first = orders()
    assert first == orders() and first[0] != first[1]


@pytest.mark.parametrize("views", [1, 3])
def test_views_take_turns(views):
    def make_dataset(view):
        return tf.data.Dataset.range(view * 10, view * 10 + 2)

    dataset = views_in_turn(make_dataset, views, count=2)
    gc.collect()
    assert len(dataset) == 2
    shuffled = dataset.shuffle(2, seed=0).batch(2)
    seen = [sorted(next(shuffled.as_numpy_iterator())) for _ in range(4)]
    assert seen == [[10 * (e % views), 10 * (e % views) + 1] for e in range(4)]
    rounds = list(dataset.repeat(2).as_numpy_iterator())
    second = 10 * (1 % views)
    assert rounds == [0, 1, second, second + 1]
