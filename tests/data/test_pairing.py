"""Pairs of examples and what the teacher takes of them: all, in order, or an error."""

import pytest
import tensorflow as tf

from keras_kd.data.pairing import check_fixed_order, pairs

COUNTED = tf.data.Dataset.range(5)


def counted_while_read(count):
    """A data set whose length tf.data does not know."""
    return tf.data.Dataset.range(count).filter(lambda x: x >= 0)


@pytest.mark.parametrize(
    "examples", [COUNTED, counted_while_read(5)], ids=["known", "not"]
)
@pytest.mark.parametrize("inputs", [COUNTED, counted_while_read(5)], ids=["known", "not"])
def test_each_element_keeps_its_form(examples, inputs):
    examples = examples.map(lambda x: (x, {"label": 2 * x}))
    read = list(pairs(examples, inputs.map(lambda x: {"a": x + 10})).as_numpy_iterator())
    assert read == [((k, {"label": 2 * k}), {"a": k + 10}) for k in range(5)]


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_them_stops_the_reading(count):
    with pytest.raises(tf.errors.InvalidArgumentError, match="ended before the other"):
        list(pairs(COUNTED, counted_while_read(count)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="ended before the other"):
        list(pairs(counted_while_read(count), COUNTED))


def test_another_number_that_is_known_is_told_at_once():
    with pytest.raises(ValueError, match="Received: 4 rows for 5 examples"):
        pairs(COUNTED, COUNTED.take(4))


@pytest.mark.parametrize(
    "shuffled",
    [
        COUNTED.shuffle(5),
        COUNTED.shuffle(5, seed=1).map(lambda x: x).batch(2).unbatch(),
        tf.data.Dataset.zip(COUNTED, COUNTED.shuffle(5)),
    ],
    ids=["plain", "within", "beside"],
)
def test_what_is_shuffled_anew_is_refused(shuffled):
    with pytest.raises(ValueError, match="shuffled anew"):
        check_fixed_order(shuffled)
    for one in (pairs, lambda x, y: pairs(y, x)):
        with pytest.raises(ValueError, match="shuffled anew"):
            one(shuffled, COUNTED)


def test_an_order_that_stays_is_taken():
    check_fixed_order(COUNTED.shuffle(5, reshuffle_each_iteration=False).map(lambda x: x))
    check_fixed_order(COUNTED.shuffle(5).cache().map(lambda x: x))
