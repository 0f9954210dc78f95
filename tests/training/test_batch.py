"""What goes into a batch comes out again, and nothing else is taken for it."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_kd.training import batch


def round_trip(own, taps):
    """Through a tf.data.Dataset, as `fit` receives it."""
    packed = batch.pack(np.zeros((6, 2), "float32"), batch.encode(own, taps))
    dataset = tf.data.Dataset.from_tensor_slices(packed).batch(6)
    return batch.unpack(next(iter(dataset)))


def test_inputs_and_outputs_come_out_as_they_went_in():
    logits, features = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
    x, (own, taps) = round_trip(logits, {"backbone/block3": features})
    assert ops.shape(x) == (6, 2)
    np.testing.assert_array_equal(own, logits)
    assert list(taps) == ["backbone/block3"]
    np.testing.assert_array_equal(taps["backbone/block3"], features)


@pytest.mark.parametrize("outputs", [None, np.ones((6, 3), "float32")], ids=["", "both"])
def test_numbers_of_examples_come_out_beside_inputs_and_outputs(outputs):
    x = {"a": np.zeros((6, 2), "float32")}
    encoded = None if outputs is None else batch.encode(outputs, {})
    packed = batch.pack(x, encoded, index=np.arange(6))
    (read,) = tf.data.Dataset.from_tensor_slices(packed).batch(6)
    assert batch.index_of(read).numpy().tolist() == [*range(6)]
    assert list(batch.inputs_of(read)) == list(batch.unpack(read)[0]) == ["a"]
    kept = batch.unpack(read)[1]
    assert kept is None if outputs is None else np.array_equal(kept[0], outputs)


def test_each_model_gets_its_own_inputs():
    x, own = {"a": np.zeros((6, 2))}, np.ones((6, 3))
    packed = batch.pack(x, teacher_inputs=own, index=np.arange(6))
    assert batch.inputs_of(packed) is x
    assert batch.teacher_inputs_of(packed) is own
    assert batch.has_teacher_inputs(packed)
    assert batch.unpack(packed) == (x, None)
    for other in (x, batch.pack(x, index=np.arange(6)), np.zeros((6, 2))):
        assert not batch.has_teacher_inputs(other)
        assert batch.teacher_inputs_of(other) is batch.inputs_of(other)


def test_what_is_the_teachers_can_be_left_out():
    x, outputs = np.zeros((6, 2)), batch.encode(np.ones((6, 3)), {}, of="0a")
    for kept in ({"index": np.arange(6)}, {}):
        packed = batch.pack(x, outputs, teacher_inputs=x, **kept)
        left = batch.without_teacher(packed)
        assert batch.inputs_of(left) is x
        assert batch.teacher_of(left) is None and not batch.has_teacher_inputs(left)
        assert (batch.index_of(left) is not None) == bool(kept)
    assert batch.without_teacher(x) is x


def test_outputs_say_whose_they_are():
    x, one = np.zeros((6, 2), "float32"), np.ones((6, 3), "float32")
    packed = batch.pack(x, batch.encode(one, {"hidden": one}, of="0a"))
    dataset = tf.data.Dataset.from_tensor_slices(packed).batch(6)
    assert batch.teacher_of(dataset.element_spec) == "0a"
    (read,) = dataset
    assert batch.teacher_of(read) == "0a"
    np.testing.assert_array_equal(batch.unpack(read)[1][0], one)
    assert list(batch.unpack(read)[1][1]) == ["hidden"]
    for whose, other in (
        ("", batch.pack(x, batch.encode(one, {}))),
        ("", batch.pack(x, batch.encode(one, {"of": one}))),
        (None, batch.pack(x, index=np.arange(6))),
        (None, x),
        (None, {"of 0a": x}),
    ):
        assert batch.teacher_of(other) == whose


def test_outputs_keep_their_structure():
    one = np.ones((6, 3), "float32")
    _, (own, taps) = round_trip([one, {"a": one, "b": (one, one)}], {})
    assert isinstance(own, list) and isinstance(own[1]["b"], tuple)
    assert taps == {}
    _, (own, taps) = round_trip(None, {"hidden": [one, one]})
    assert own is None and isinstance(taps["hidden"], list)


def test_halves_become_float32():
    _, (own, _) = round_trip(np.ones((6, 3), "float16"), {})
    assert own.dtype == "float32"


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((6, 2)),
        {"inputs": np.zeros(2), "teacher_outputs": np.zeros(2)},
        {"keras_kd.inputs": np.zeros(2)},
        {"keras_kd.inputs": np.zeros(2), "index": np.zeros(2)},
        (np.zeros(2), np.zeros(2)),
    ],
)
def test_inputs_of_a_user_are_left_alone(x):
    unpacked, teacher_outputs = batch.unpack(x)
    assert unpacked is x
    assert teacher_outputs is None
    assert batch.inputs_of(x) is x
    assert batch.index_of(x) is None


@pytest.mark.parametrize("places", [(), (5,)])
def test_top_k_becomes_dense(places):
    rng = np.random.default_rng(0)
    classes = rng.permuted(np.tile(np.arange(7), (6, *places, 1)), axis=-1)[..., :2]
    log_probs = rng.normal(size=(6, *places, 3)).astype("float16")
    kept = batch.TopK(log_probs, classes.astype("uint8"), num_classes=7)
    _, (own, _) = round_trip(kept, {})

    expected = np.repeat(np.float32(log_probs[..., 2:]), 7, axis=-1)
    np.put_along_axis(expected, classes, np.float32(log_probs[..., :2]), axis=-1)
    np.testing.assert_array_equal(own, expected)


def test_top_k_has_a_static_shape_in_a_graph():
    spec = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 2), "int32")]

    @tf.function(input_signature=spec)
    def dense(log_probs, classes):
        packed = batch.pack(0, batch.encode(batch.TopK(log_probs, classes, 7), {}))
        own = batch.unpack(packed)[1][0]
        assert own.shape == (None, 7)
        return own

    assert dense(np.zeros((4, 3), "float32"), np.array([[0, 1]] * 4)).shape == (4, 7)
