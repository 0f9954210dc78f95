"""How long to train: what a time allows, and what it never exceeds."""

import pytest

from keras_kd.distillation.plan import Costs, batch_size_for, make_plan

# An image of 784 bytes, a teacher of ten outputs.
SIZES = {"example_bytes": 784, "output_bytes": 40}


@pytest.mark.parametrize(
    "count, expected",
    [(10, 8), (400, 8), (1600, 32), (6400, 128), (60_000, 256), (10**7, 256)],
)
def test_batches_are_of_a_power_of_two(count, expected):
    assert batch_size_for(count) == expected


@pytest.mark.parametrize("minutes", [2, 10, 60])
@pytest.mark.parametrize("baseline", [True, False])
def test_what_is_planned_takes_its_time(minutes, baseline):
    costs = Costs(teacher=1e-4, step=0.01, view=2e-5)
    given = SIZES | {"minutes": minutes, "epochs": None, "baseline": baseline}
    plan = make_plan(costs, 50_000, **given)
    assert plan.views == 0 or plan.epochs >= 30
    # An epoch takes 195 steps, and a sixth more around them.
    trained = plan.epochs + baseline * plan.epochs_alone
    seconds = max(plan.views, 1) * 50_000 * 1.2e-4 + trained * 195 * 0.01 * 1.15
    assert 0.75 * 60 * minutes < seconds <= 0.9 * 60 * minutes or plan.epochs == 300
    assert plan.minutes == pytest.approx(seconds / 60 / 0.9)
    assert plan.epochs_alone == plan.epochs // 2


def test_a_slow_teacher_answers_fewer_views():
    few = make_plan(
        Costs(0.025, 0.01, 1e-4), 2000, **SIZES, minutes=10, epochs=None, baseline=False
    )
    # Two fifths of nine minutes, at 50 seconds a view.
    assert few.views == 4


def test_views_are_no_more_than_epochs_or_than_there_is_memory_for():
    costs = Costs(1e-6, 0.001, 1e-6)
    small = make_plan(costs, 1000, **SIZES, minutes=None, epochs=30, baseline=False)
    assert (small.views, small.epochs, small.stored) == (8, 30, True)
    # So few are not worth a change of the images.
    few = make_plan(costs, 1000, **SIZES, minutes=None, epochs=29, baseline=False)
    assert (few.views, few.stored) == (0, False)
    # A view of 150,528 bytes takes 753 MB, of a gigabyte.
    large = make_plan(costs, 5000, 150_528, 40, minutes=None, epochs=40, baseline=False)
    assert (large.views, large.stored) == (1, True)


def test_without_augmentation_there_are_no_views():
    plan = make_plan(
        Costs(1e-5, 0.01, 0.0), 1000, **SIZES, minutes=1, epochs=None, baseline=True
    )
    assert (plan.views, plan.stored) == (0, False)
    assert "views" not in plan.in_words(True)
