"""Training data gone on with come in the order in which they would have come."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.chain import passes, random_state
from keras_kd.data.order import behind, in_order

COUNT = 12


class Sees(keras.Model):
    """Notes what it is given, batch by batch, and learns nothing."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.seen.append(keras.ops.convert_to_numpy(x).ravel().tolist())
        return {"loss": 0.0}


class Own(keras.utils.PyDataset):
    """Shuffles its examples at the end of an epoch, by a generator of some kind."""

    def __init__(self, generator=None, workers=1):
        super().__init__(workers=workers)
        self.generator, self.order = generator, np.arange(COUNT)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = self.order[3 * index : 3 * index + 3, np.newaxis].astype("float32")
        return x, x

    def on_epoch_end(self):
        if self.generator is random:
            self.order = np.array(random.sample(range(COUNT), COUNT))
        elif self.generator is not None:
            self.order = self.generator.permutation(COUNT)


def numbers():
    return tf.data.Dataset.range(COUNT)


def batches(dataset):
    def pair(x):
        x = tf.cast(x, tf.float32)[:, tf.newaxis]
        return x, x

    return dataset.batch(3).map(pair)


def flipped():
    flip = keras.layers.RandomFlip("horizontal", seed=1)
    images = tf.data.Dataset.range(COUNT).map(
        lambda x: tf.cast(tf.stack([x, -x]), tf.float32)[tf.newaxis, :, tf.newaxis]
    )
    return images.batch(3).map(lambda x: (flip(x, training=True), x))


DATA = {
    "as they are": lambda: batches(numbers()),
    "shuffled": lambda: batches(numbers().shuffle(COUNT, seed=1)),
    "twice": lambda: batches(numbers().shuffle(4, seed=1)).shuffle(4, seed=2),
    "of unknown length": lambda: batches(
        numbers().shuffle(COUNT, seed=1).filter(lambda x: x > 2)
    ),
    "cached": lambda: batches(numbers().shuffle(COUNT, seed=1).cache()),
    "cached between": lambda: batches(
        numbers().shuffle(COUNT, seed=1).cache().shuffle(COUNT, seed=2)
    ),
    "repeated": lambda: batches(numbers().shuffle(COUNT, seed=1).repeat(2)),
    "one after another": lambda: batches(
        numbers().shuffle(COUNT, seed=1).concatenate(numbers().shuffle(COUNT, seed=2))
    ),
    "a layer in it": flipped,
    "arrays": lambda: np.arange(COUNT, dtype="float32")[:, np.newaxis],
    "PyDataset": Own,
    "PyDataset by its generator": lambda: Own(np.random.default_rng(0)),
    "PyDataset by NumPy": lambda: Own(np.random),
    "PyDataset by Python": lambda: Own(random),
}


def orders(data, epochs, begun=0, steps=None):
    """What a model sees of the data in each epoch, as `StageRun` fits it."""
    model = Sees()
    if steps:
        data = behind(data, begun * steps)
    else:
        data = passes.counted(data, begun)

    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            passes.begin_epoch(data, epoch)
            self.starts.append(len(model.seen))

    model.compile(run_eagerly=True)
    begin = Begin()
    begin.starts = []
    how = {"shuffle": False, "verbose": 0, "callbacks": [begin], "steps_per_epoch": steps}
    model.fit(data, epochs=epochs, initial_epoch=begun, **how)
    passes.begin_epoch(data, epochs)
    ends = [*begin.starts[1:], len(model.seen)]
    return [model.seen[a:b] for a, b in zip(begin.starts, ends, strict=True)]


def begin():
    random_state.begin("start", 0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", DATA)
def test_gone_on_with_they_come_in_the_same_order(kind):
    begin()
    wanted = orders(in_order(DATA[kind](), [0, 0]), 5)
    assert (wanted[0] == wanted[1]) == (kind in ("as they are", "cached"))
    for done in (1, 2, 3):
        begin()
        data = in_order(DATA[kind](), [0, 0])
        passes.skip_epochs(data, done)
        assert orders(data, 5, done) == wanted[done:]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", DATA)
def test_so_do_they_in_a_second_stage(kind):
    """One object, or a part of it, in both."""
    if kind == "arrays":
        return
    given = DATA[kind]()
    begin()
    orders(in_order(given, [0, 0]), 2)
    random_state.begin("start", 1)
    wanted = orders(in_order(given, [0, 1]), 3)
    given = DATA[kind]()
    begin()
    passes.skip_epochs(in_order(given, [0, 0]), 2, to_end=True)
    random_state.begin("start", 1)
    data = in_order(given, [0, 1])
    passes.skip_epochs(data, 1)
    assert orders(data, 3, 1) == wanted[1:]


@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("kind", [x for x in DATA if "PyDataset by" not in x])
def test_epochs_of_some_steps_are_one_long_pass(kind, steps):
    """Each goes on where the one before ended; so does one of another process."""
    begin()
    wanted = orders(in_order(DATA[kind](), [0, 0], steps), 4, steps=steps)
    assert [len(x) for x in wanted] == [steps] * 4
    for done in (1, 3):
        begin()
        data = in_order(DATA[kind](), [0, 0], steps)
        passes.skip_epochs(data, done, steps=steps)
        assert orders(data, 4, done, steps=steps) == wanted[done:]
    seen = sum(sum(wanted, []), [])
    if kind in ("as they are", "shuffled", "arrays", "PyDataset"):
        for first in range(0, COUNT * (len(seen) // COUNT), COUNT):
            assert sorted(seen[first : first + COUNT]) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["as they are", "cached", "PyDataset"])
def test_so_they_are_in_a_second_stage(kind):
    """Where no shuffle is read ahead, by as much as there is time for."""
    given = DATA[kind]()
    orders(in_order(given, [0, 0], 3), 2, steps=3)
    wanted = orders(in_order(given, [0, 1], 3), 3, steps=3)
    given = DATA[kind]()
    passes.skip_epochs(in_order(given, [0, 0], 3), 2, to_end=True, steps=3)
    data = in_order(given, [0, 1], 3)
    passes.skip_epochs(data, 1, steps=3)
    assert orders(data, 3, 1, steps=3) == wanted[1:]


def endless():
    while True:
        yield np.zeros((2, 1)), np.zeros(2)


class Endless(Own):
    num_batches = None


@pytest.mark.parametrize(
    "data, message",
    [
        (endless, "`train_data` can be gone through once.*from_generator"),
        (lambda: iter([1, 2]), "can be gone through once"),
        (lambda: iter(batches(numbers())), "can be gone through once"),
        (lambda: zip([1], [2]), "can be gone through once"),
        (lambda: batches(numbers().repeat()), "`train_data` has no end.*steps_per_epoch"),
        (Endless, "has no end"),
    ],
)
def test_what_cannot_be_repeated_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        passes.check_repeatable(train_data=data())


def test_what_has_no_end_is_taken_in_steps():
    data = batches(numbers().repeat())
    passes.check_repeatable(steps=3, train_data=data)
    with pytest.raises(ValueError, match="`train_data` can be gone through once"):
        passes.check_repeatable(steps=3, train_data=endless())


def test_what_can_be_repeated_is_taken():
    for make in DATA.values():
        passes.check_repeatable(train_data=make(), validation_data=None)


@pytest.mark.parametrize(
    "data, said",
    [
        (lambda: batches(numbers().shuffle(3, seed=1)), None),
        (lambda: batches(numbers()), None),
        (lambda: batches(numbers().map(lambda x: x, 2, deterministic=False)), "any order"),
        (lambda: in_order(Own(), [0]), "hangs on its number alone"),
        (lambda: in_order(Own(), [0], 2), "are read ahead of what on_epoch_begin"),
        (lambda: object(), "object gives next cannot be known"),
        (
            lambda: batches(
                numbers().map(lambda x: tf.numpy_function(lambda x: x, [x], tf.int64))
            ),
            "Python functions make its data",
        ),
    ],
)
def test_what_may_be_otherwise_is_said(data, said):
    found = passes.doubts(data(), steps=2 if "read ahead" in (said or "") else None)
    assert (said is None) == (not found)
    assert said is None or said in found[0]


def test_shuffles_that_are_shared():
    shuffled, other = numbers().shuffle(3, seed=1), numbers().shuffle(3, seed=1)
    own = Own(np.random.default_rng(0))
    assert passes.share_state(batches(shuffled), [other, batches(shuffled)])
    assert passes.share_state(shuffled.take(2), [shuffled.skip(2)])
    assert not passes.share_state(batches(shuffled), [batches(other), batches(numbers())])
    assert passes.share_state(in_order(own, [0]), [own])
    still = object()
    assert not passes.share_state(still, [still])
