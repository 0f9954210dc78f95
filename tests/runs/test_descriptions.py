"""Descriptions tell one function or object from another, in each process alike."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_kd.runs.descriptions import described, tells_all
from keras_kd.runs.manifest import without_code

FACTOR = 2.0


def times(factor):
    return lambda y_true, y_pred: factor * y_pred


def by_global(y_true, y_pred):
    return FACTOR * y_pred


class Plain:
    """Keras cannot write it down."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, y_true, y_pred):
        return self.factor * y_pred


class WithoutConfig(keras.losses.Loss):
    """Keras writes down of it what its base class has."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * y_pred


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that has no configuration."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


class Another(Rate):
    def __call__(self, step):
        return self.rate / 2


def decayed(*names):
    optimizer = keras.optimizers.AdamW(0.1)
    if names:
        optimizer.exclude_from_weight_decay(var_names=list(names))
    return optimizer


def metric(function):
    return keras.metrics.MeanMetricWrapper(function, name="m")


PAIRS = {
    "captured": (lambda: times(1.0), lambda: times(2.0)),
    "captured object": (lambda: times(Plain(1.0)), lambda: times(Plain(2.0))),
    "captured function": (lambda: times(times(1.0)), lambda: times(times(2.0))),
    "lambda": (lambda: lambda y: y + 1, lambda: lambda y: y + 2),
    "operation": (lambda: lambda y: y + 1, lambda: lambda y: y - 1),
    "default": (lambda: lambda y, a=1: y, lambda: lambda y, a=2: y),
    "within": (lambda: lambda y: (lambda: y + 1)(), lambda: lambda y: (lambda: y + 2)()),
    "partial": (
        lambda: functools.partial(by_global, y_true=1),
        lambda: functools.partial(by_global, y_true=2),
    ),
    "method": (lambda: Plain(1.0).__call__, lambda: Plain(2.0).__call__),
    "attribute": (lambda: Plain(1.0), lambda: Plain(2.0)),
    "array": (lambda: Plain(np.arange(99)), lambda: Plain(np.arange(99)[::-1])),
    "nested": (lambda: Plain([Plain(1.0)]), lambda: Plain([Plain(2.0)])),
    "loss": (lambda: WithoutConfig(1.0), lambda: WithoutConfig(2.0)),
    "rate": (
        lambda: keras.optimizers.Adam(Rate(0.1)),
        lambda: keras.optimizers.Adam(Rate(0.2)),
    ),
    "class of rate": (
        lambda: keras.optimizers.Adam(Rate(0.1)),
        lambda: keras.optimizers.Adam(Another(0.1)),
    ),
    "beside the rate": (
        lambda: keras.optimizers.Adam(Rate(0.1), beta_1=0.8),
        lambda: keras.optimizers.Adam(Rate(0.1), beta_1=0.9),
    ),
    "rate within": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Rate(0.1))),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Rate(0.2))),
    ),
    "no decay": (decayed, lambda: decayed("bias")),
    "metric": (lambda: metric(times(1.0)), lambda: metric(times(2.0))),
}


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("pair", PAIRS)
def test_others_have_another_description(pair):
    one, other = PAIRS[pair]
    said = described(one())
    assert described(one()) == said != described(other())
    assert json.loads(json.dumps(said)) == said
    assert tells_all(said)
    # That was all that told them apart before.
    assert without_code(said) == without_code(described(other())) or pair == "class of rate"


def test_a_number_of_the_module_counts(monkeypatch):
    said = described(by_global)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert described(by_global) != said


def test_what_cannot_be_told_is_said():
    """A lock, and an iterator, have no state that could be read."""
    for thing in (iter([1]), (x for x in ())):
        assert not tells_all(described(Plain(thing)))
        assert not tells_all(described(times(thing)))


def test_loops_come_to_an_end():
    first, second = Plain(None), Plain(None)
    first.factor, second.factor = second, first
    assert not tells_all(described(first))


@pytest.mark.slow
def test_the_same_in_another_process():
    def said(seed):
        script = (
            "import json; from tests.runs import test_descriptions as t; print(json.dumps("
            "[t.described(x()) for n, p in t.PAIRS.items() for x in p if n != 'metric']))"
        )
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
        )
        return json.loads(run.stdout)

    assert said("1") == said("2")
