import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_kd.evaluation.profile import Latency, latencies, latency, profile
from keras_kd.recipes import zoo


@pytest.mark.parametrize(
    "name, macs",
    [
        ("mnist_teacher", 11_021_029),
        ("mnist_ta", 3_073_557),
        ("mnist_student", 1_237_941),
    ],
)
def test_macs_are_the_published(name, macs):
    assert profile(zoo.build(name)).macs == macs


def test_pure_macs_count_products_alone():
    # Two convolutions at their output positions, two dense layers.
    by_hand = 26 * 26 * 9 * 32 + 23 * 23 * 9 * 32 * 64
    by_hand += 11 * 11 * 64 * 128 + 128 * 10
    assert profile(zoo.build("mnist_teacher")).pure_macs == by_hand
    assert profile(zoo.build("mnist_student")).pure_macs == 784 * 784 * 2 + 784 * 10


def test_the_student_for_devices_is_small():
    cost = profile(zoo.build("mnist_device_cnn"))
    by_hand = 13 * 13 * 9 * 16 + 11 * 11 * (9 * 16 + 16 * 32) + 9 * 9 * (9 * 32 + 32 * 48)
    by_hand += 4 * 4 * (9 * 48 + 48 * 64) + 4 * 4 * 64 * 10
    assert cost.pure_macs == by_hand
    assert cost.parameters <= 20_000 and cost.macs <= 400_000


def test_depthwise_and_several_inputs():
    image, vector = keras.Input((8, 8, 2)), keras.Input((3,))
    x = keras.layers.DepthwiseConv2D(3, use_bias=False)(image)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), vector])
    model = keras.Model([image, vector], keras.layers.Dense(5, use_bias=False)(x))
    cost = profile(model)
    assert cost.pure_macs == 6 * 6 * 9 * 2 + (6 * 6 * 2 + 3) * 5
    assert cost.parameters == 9 * 2 + (6 * 6 * 2 + 3) * 5


@pytest.mark.parametrize("kind", ["dict", "list", "nested"])
def test_inputs_in_the_structure_of_the_model(kind, recwarn):
    """A dict's keys come in another order than they were declared in."""
    number, word = keras.Input((6,), name="num"), keras.Input((2,), name="cat")
    taken = {
        "dict": {"num": number, "cat": word},
        "list": [number, word],
        "nested": {"num": [number], "cat": {"one": word}},
    }[kind]
    joined = keras.layers.Concatenate()([keras.layers.Dense(5)(number), word])
    model = keras.Model(taken, keras.layers.Dense(3)(joined))
    assert profile(model).pure_macs == 6 * 5 + 7 * 3
    assert latency(model, repeats=1).median > 0
    assert not [x for x in recwarn if "structure" in str(x.message)]


class Fails(keras.layers.Layer):
    """Once it is told to."""

    fails = False

    def call(self, x):
        if self.fails:
            raise ZeroDivisionError("not today")
        return x


def test_a_model_that_does_not_run(caplog):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), Fails()])
    assert profile(model).pure_macs == 12
    model.layers[-1].fails = True
    found = profile(model)
    assert found.macs is None and found.parameters == 15
    assert "The multiply-accumulates of " in caplog.text and "it raises " in caplog.text


def test_unbuilt_model():
    with pytest.raises(ValueError, match="`model` must be built"):
        profile(keras.Sequential([keras.layers.Dense(2)]))


def test_subclassed_model(caplog):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    model = Subclassed()
    model(np.ones((1, 2)))
    with caplog.at_level("WARNING", "keras_kd"):
        cost = profile(model)
    assert (cost.parameters, cost.macs, cost.pure_macs) == (0, None, None)
    assert "with known input shapes. Received: the model 'subclassed" in cost.unknown
    assert caplog.messages == [cost.unknown]


def test_unknown_image_size():
    model = keras.Sequential(
        [keras.layers.Input((None, None, 1)), keras.layers.Conv2D(2, 3)]
    )
    cost = profile(model)
    assert (cost.parameters, cost.macs, cost.pure_macs) == (20, None, None)
    assert "fixed input shapes but for the batch. Received: [(None, None" in cost.unknown


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a model runs: as many ms as `passes[name]` gives next.

    Returns `(passes, ran)`, the second a list of the names of the models that ran.
    """
    import tensorflow as tf

    now, passes, ran = [0.0], {}, []

    def fake_pass(model):
        def run(*inputs):
            tf.debugging.assert_all_finite(inputs[0], "the input is given")
            ran.append((model.name, [tuple(x.shape) for x in inputs]))
            now[0] += next(passes[model.name]) / 1000

        return SimpleNamespace(get_concrete_function=lambda *_: run)

    monkeypatch.setattr("keras_kd.evaluation.profile._forward", fake_pass)
    monkeypatch.setattr("keras_kd.evaluation.profile.time.perf_counter", lambda: now[0])
    return passes, ran


def test_latency_is_of_the_passes_after_the_first_ten(make_model, clock):
    passes, ran = clock
    # 21 passes of 1, 2, ... 21 ms, in another order, behind slow ones.
    timed = np.random.default_rng(0).permutation(np.arange(1.0, 22.0))
    passes["a"] = iter([1000.0] * 10 + timed.tolist())
    found = latency(make_model(name="a"), batch_size=7, repeats=21)
    # Of 21 the 20th is the 95th percentile.
    assert found == Latency(7, 21, pytest.approx(11.0), pytest.approx(20.0))
    assert ran == [("a", [(7, 4)])] * 31


def test_many_models_are_no_retracing(make_model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)
    latencies([make_model(units=units) for units in range(1, 9)], repeats=1)
    assert "retracing" not in caplog.text


def test_models_run_in_turn_each_first_as_often(make_model, clock):
    passes, ran = clock
    names = ["a", "b", "c"]
    passes |= {name: iter([2.0 + i] * 13) for i, name in enumerate(names)}
    found = latencies([make_model(name=name) for name in names], repeats=3)
    assert [x.median for x in found] == pytest.approx([2, 3, 4])
    order = "".join(name for name, _ in ran)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert rounds == (["abc", "bca", "cab"] * 5)[:13]


def test_latency_runs_the_model_compiled():
    """One trace, and the same inputs in each pass of the graph."""
    traced, seen = [], []

    class Spy(keras.layers.Layer):
        def call(self, first, second, training=None):
            import tensorflow as tf

            traced.append(training)
            arrays = [first, second]
            tf.py_function(lambda *x: seen.append([y.numpy() for y in x]), arrays, [])
            return first

    inputs = [keras.Input((2, 3)), keras.Input((4,), dtype="int32")]
    model = keras.Model(inputs, Spy()(*inputs))
    traced.clear()
    found = latency(model, batch_size=5, repeats=3)
    assert traced == [False], "one trace, in inference mode"
    assert len(seen) == 13
    first, second = seen[0]
    assert first.shape == (5, 2, 3) and second.shape == (5, 4)
    assert first.std() > 0 and not second.any()
    for again, _ in seen:
        np.testing.assert_array_equal(again, first)
    assert 0 < found.median <= found.percentile_95


def test_latency_of_bad_arguments(make_model):
    with pytest.raises(ValueError, match="`batch_size` must be an integer, 1 or greater"):
        latency(make_model(), batch_size=0)
    with pytest.raises(ValueError, match="`repeats` must be an integer.*repeats=2.5"):
        latency(make_model(), repeats=2.5)
    with pytest.raises(ValueError, match="`model` must be built"):
        latencies([make_model(), keras.Sequential()])
