"""Every identifier, and some instances of other arguments, through every check."""

import doctest
import functools
import inspect
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses, testing, with_index
from tests.losses import instances

# Layers that losses make here, before any test, have the same weights in each run.
keras.utils.set_random_seed(0)
LOSSES = [
    *map(instances.get, losses.names()),
    losses.SoftTargets(form="cross_entropy"),
    losses.SoftTargets(temperature=1.0),
    losses.SoftTargets(temperature=20.0),
    losses.SoftTargets(temperature=20.0, form="cross_entropy"),
    losses.LogitMSE("half_sum"),
    losses.DKD(alpha=1.0, beta=0.5, temperature=1.0),
    losses.DKD(alpha=0.0, beta=2.0, temperature=20.0),
    losses.DIST(beta=1.0, gamma=0.0),
    losses.DIST(beta=0.0, gamma=1.0, temperature=2.0),
    losses.LogitStd(temperature=1.0, unbiased=False),
    losses.LogitStd(temperature=4.0, multiplier=1.0),
    losses.NKD(gamma=1.0, temperature=4.0),
    losses.WSL(temperature=4.0),
    losses.TTM(exponent=0.2, weighted=True),
    losses.TTM(exponent=1.0),
    losses.FlowOfSolution(form="sum", pooling="max"),
    losses.FactorTransfer(p1=None, p2=2),
    losses.ActivationBoundaries(margin=0.5, scale=1.0),
    losses.FeatureOverhaul(margin=-0.5),
    losses.FeatureOverhaul(connector="always", taps=[("a", "b"), ("c", "d")]),
    losses.ReviewKD(taps=[("a", "b"), ("c", "d")]),
    losses.SimKD(factor=1, taps=("a", "b")),
    losses.VariationalInformation(init_pred_var=1.0, taps=[("a", "b"), ("c", "d")]),
    losses.CorrelationCongruence(gamma=1.0, order=3),
    losses.ContrastiveRepresentation(64, feat_dim=5, negatives=3, temperature=0.5),
]


@pytest.mark.parametrize(
    "check",
    [check for loss in LOSSES for check in testing.distillation_loss_checks(loss)],
    ids=str,
)
def test_contract(check):
    check()


def make_maps_model(count):
    """As many layers of maps, for losses on features."""
    maps = [
        keras.layers.Conv2D(6, 3, padding="same", name=f"maps{i}") for i in range(count)
    ]
    return keras.Sequential([keras.layers.Input((4, 4, 2)), *maps])


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_under_mixed_precision_student_and_loss_stay_finite(loss, make_model, vectors):
    if isinstance(loss, losses.FeatureLoss):
        # Another of its kind: this one may have layers, for other models.
        count = max(loss.least_pairs, len(loss.taps))
        taps = {"taps": [(f"maps{i}", f"maps{i}") for i in range(count)]}
        loss = type(loss).from_config(loss.get_config() | taps)
        make_model = functools.partial(make_maps_model, count)
        vectors = np.random.default_rng(0).normal(size=(64, 4, 4, 2)), vectors[1]
    else:
        # A loss's layers are made for one Distiller.
        loss = loss.from_config(loss.get_config())
    teacher = make_model()
    keras.config.set_dtype_policy("mixed_float16")
    student = make_model()
    keras.config.set_dtype_policy("float32")
    assert student.outputs[0].dtype == "float16"
    distiller = Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile("sgd")
    before = student.get_weights()
    # Epochs enough for the loss scale to come down to where gradients are finite.
    data = [with_index(vectors).batch(32)] if loss.needs_index else vectors
    history = distiller.fit(*data, epochs=5, shuffle=False, verbose=0).history
    assert np.isfinite(history["distillation_loss"]).all()
    # Not all: what a loss does not see, the last bias for instance, may stay as it is.
    assert all(np.isfinite(new).all() for new in student.get_weights())
    assert np.any(before[0] != student.get_weights()[0])


def takes_schedules(name):
    """Not where a state holds for one temperature."""
    cls = losses.LOSSES[name]
    return "temperature" in inspect.signature(cls).parameters and not cls.has_state


@pytest.mark.parametrize("name", filter(takes_schedules, losses.names()))
def test_temperature_may_be_a_schedule(name):
    """Alone it stands at step 0, and each step has the value of that temperature."""
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 10, 2.0)
    scheduled = losses.get(name, temperature=schedule)
    teacher, student, y_true = testing.make_logits(5, 0)
    teacher, student = np.float32(teacher), np.float32(student)
    for loss, temperature in ((scheduled, 4.0), (scheduled.at_step(5), 3.0)):
        value = loss.compute_loss(teacher, student, y_true)
        number = losses.get(name, temperature=temperature)
        expected = number.compute_loss(teacher, student, y_true)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    text = json.dumps(keras.saving.serialize_keras_object(scheduled))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert json.dumps(keras.saving.serialize_keras_object(again)) == text


@pytest.mark.parametrize("name", losses.names())
def test_class_is_registered_under_the_package(name):
    cls = losses.LOSSES[name]
    assert keras.saving.get_registered_name(cls) == f"keras_kd>{cls.__name__}"


@pytest.mark.parametrize("name", losses.names())
def test_identifier_is_the_name_of_source_and_test(name):
    assert losses.LOSSES[name].__module__ == f"keras_kd.losses._{name}"
    assert (Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("name", losses.names())
def test_docstring_has_formula_arguments_and_a_link_to_the_paper(name):
    text = inspect.getdoc(losses.LOSSES[name])
    before_arguments, arguments = text.split("\nArgs:\n")
    assert "\n    loss" in before_arguments and " = " in before_arguments
    arguments, reference = arguments.split("\nReference:\n")
    for argument in inspect.signature(losses.LOSSES[name]).parameters:
        assert f"    {argument}: " in arguments
    assert "](https://" in reference


@pytest.mark.parametrize("name", losses.names())
def test_docstring_example_runs(name):
    cls = losses.LOSSES[name]
    module = vars(sys.modules[cls.__module__])
    (example,) = doctest.DocTestFinder(recurse=False).find(cls, globs=dict(module))
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
