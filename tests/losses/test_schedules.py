"""Numbers that are schedules, and what is refused of them."""

import keras
import numpy as np
import pytest

from keras_kd import losses
from keras_kd.losses.schedules import shown, value_at

schedules = keras.optimizers.schedules
LINEAR = schedules.PolynomialDecay(8.0, decay_steps=10, end_learning_rate=2.0)


class NotSaved(schedules.LearningRateSchedule):
    """A user's own, which Keras can use and not save."""

    def __call__(self, step):
        return 3.0 + keras.ops.cast(step, "float32")


def test_values():
    assert value_at(4.0, 3) == 4.0
    assert [float(value_at(LINEAR, step)) for step in (0, 5, 20)] == [8.0, 5.0, 2.0]
    assert value_at(LINEAR, 0, "float64").dtype == "float64"


def test_shown():
    assert shown(0.5) == "0.5"
    assert shown(LINEAR) == (
        "PolynomialDecay(initial_learning_rate=8.0, decay_steps=10, "
        "end_learning_rate=2.0, power=1.0, cycle=False)"
    )


def at_step(loss, step):
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 3))
    values = loss.at_step(step, "float64").compute_loss(teacher, student)
    return float(values)


@pytest.mark.parametrize("step, temperature", [(0, 8.0), (5, 5.0), (10, 2.0), (99, 2.0)])
def test_a_loss_at_a_step(step, temperature):
    loss = losses.SoftTargets(LINEAR)
    expected = at_step(losses.SoftTargets(temperature), 0)
    assert at_step(loss, step) == pytest.approx(expected, rel=1e-6)
    assert loss.temperature is LINEAR


def test_without_schedules_it_is_the_loss_itself():
    loss = losses.SoftTargets()
    assert loss.at_step(3) is loss


def test_a_users_own_schedule():
    loss = losses.SoftTargets(NotSaved())
    assert at_step(loss, 2) == pytest.approx(at_step(losses.SoftTargets(5.0), 0), rel=1e-6)
    assert repr(loss) == "SoftTargets(temperature=NotSaved(), form='kl')"


@pytest.mark.parametrize(
    "schedule, message",
    [
        (
            schedules.CosineDecay(8.0, decay_steps=100),
            "`temperature` must be greater than 0 at every step, and is 0.0 at step 100",
        ),
        (
            schedules.CosineDecay(0.0, 100, 0.1, warmup_target=8.0, warmup_steps=10),
            "is 0.0 at step 0. Received: temperature=CosineDecay.initial_learning_rate=0.0",
        ),
        (
            schedules.CosineDecay(1.0, 90, 0.0, warmup_target=8.0, warmup_steps=10),
            "is 0.0 at step 100",
        ),
        (schedules.PiecewiseConstantDecay([5], [4.0, -1.0]), "is -1.0 at step 6"),
        (schedules.ExponentialDecay(8, 10, 0.5), "whole numbers; .* 8.0 for 8"),
        (schedules.PiecewiseConstantDecay([5], [4, 1]), "whole numbers"),
    ],
)
def test_schedules_that_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        losses.SoftTargets(schedule)


def test_other_numbers_are_no_schedules():
    with pytest.raises(ValueError, match="`p` must be a finite number, 1 or greater"):
        losses.AttentionTransfer(p=LINEAR)
    with pytest.raises(ValueError, match="`beta` must be a finite number, 0 or greater"):
        losses.DKD(beta=LINEAR)
