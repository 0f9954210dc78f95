"""The choice of widths, against costs and steps worked out here."""

import math

import numpy as np
import pytest

from keras_kd.evaluation.profile import Profile, profile
from keras_kd.recipes import assistant_widths, zoo


def cost(macs, parameters):
    return Profile(parameters, macs, macs)


def fc_parameters(*widths):
    sizes = [784, *widths, 10]
    return sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))


def fc_macs(*widths):
    """A bias is half a MAC, as published; halves are dropped."""
    sizes = [784, *widths, 10]
    pairs = list(zip(sizes, sizes[1:], strict=False))
    return (2 * sum(a * b for a, b in pairs) + sum(sizes[1:])) // 2


def fc(*widths):
    return cost(fc_macs(*widths), fc_parameters(*widths))


def choose(teacher, student, count):
    families = ("mnist_fc", teacher), ("mnist_fc", student)
    family, widths = assistant_widths.choose(families, fc(*teacher), fc(*student), count)
    assert family == "mnist_fc"
    return widths


def distance(x, target):
    return sum((math.log(a) - math.log(b)) ** 2 for a, b in zip(x, target, strict=True))


@pytest.mark.parametrize("family, widths", [
    ("mnist_cnn", (7, 9)), ("mnist_small_cnn", (5, 12)), ("mnist_fc", (9, 7, 5)),
    ("mnist_cnn", (32, 64)), ("mnist_fc", (31,)),
])  # fmt: skip
def test_costs_are_the_measured(family, widths):
    measured = profile(zoo.build(zoo.family_name(family, widths)))
    (macs, parameters), _ = assistant_widths._costs(family, [widths, widths])
    assert parameters == measured.parameters
    assert abs(macs - measured.macs) <= 1


def test_costs_of_wide_models_by_hand():
    wide = [(2048,) * 4, (1999, 3, 1, 784)]
    for costs, widths in zip(assistant_widths._costs("mnist_fc", wide), wide, strict=True):
        assert costs[1] == fc_parameters(*widths)
        assert abs(costs[0] - fc_macs(*widths)) <= 1


def test_nearest_to_even_steps_between_one_family():
    """Every other width between is farther from its step."""
    teacher, student = (600,), (6,)
    widths = choose(teacher, student, 3)
    for step, (width,) in enumerate(widths, 1):
        targets = [
            big ** (1 - step / 4) * small ** (step / 4)
            for big, small in (
                (fc_macs(600), fc_macs(6)),
                (fc_parameters(600), fc_parameters(6)),
            )
        ]
        distances = {
            w: distance((fc_macs(w), fc_parameters(w)), targets) for w in range(7, 600)
        }
        assert min(distances, key=distances.get) == width


def test_widths_go_from_the_one_model_to_the_other():
    widths = choose((400, 50), (4, 50), 2)
    assert [second for _, second in widths] == [50, 50]
    assert 400 > widths[0][0] > widths[1][0] > 4
    # The first is halved twice where the second is halved once.
    for first, second in choose((1600, 64), (25, 8), 3):
        assert second == pytest.approx(64 * (first / 1600) ** 0.5, abs=0.6)


def test_teachers_proportions_where_the_depth_differs():
    for first, second in choose((400, 100), (20,), 3):
        assert first == pytest.approx(4 * second, abs=2)


def test_students_family_where_the_teacher_is_of_none():
    student = (64, 32)
    families = None, ("mnist_fc", student)
    teacher = cost(10**7, 10**7)
    family, widths = assistant_widths.choose(families, teacher, fc(*student), 1)
    assert family == "mnist_fc"
    ((first, second),) = widths
    assert first == pytest.approx(2 * second, abs=1)
    # A step of one ratio, as near as widths come.
    target = math.sqrt(10**7 * fc_macs(*student))
    assert fc_macs(first, second) == pytest.approx(target, rel=0.01)


def test_macs_alone_where_the_student_has_no_fewer_parameters():
    """Two students of the same MACs; more parameters change nothing, fewer do."""
    families, teacher = (("mnist_cnn", (32, 64)), None), cost(11_021_029, 1_011_466)
    chosen = {
        parameters: assistant_widths.choose(
            families, teacher, cost(1_237_941, parameters), 1
        )[1]
        for parameters in (1_011_466, 1_238_730, 9_000_000, 20_000)
    }
    more = chosen[1_238_730]
    assert chosen[1_011_466] == chosen[9_000_000] == more
    macs = profile(zoo.build(zoo.family_name("mnist_cnn", more[0]))).macs
    assert macs == pytest.approx(math.sqrt(11_021_029 * 1_237_941), rel=0.02)
    assert chosen[20_000] < more


def test_as_many_as_there_are():
    assert choose((5,), (1,), 3) == [(4,), (3,), (2,)]
    for count, student in ((4, (1,)), (1, (4,))):
        there_are = 4 - student[0]
        with pytest.raises(ValueError, match=f"`assistants` .* {there_are}. Received"):
            choose((5,), student, count)


def test_nearest_leaves_enough_for_the_others():
    points = np.array([[9.0], [8.0], [7.0], [6.0]])
    nearest = assistant_widths._nearest
    assert nearest(points, np.array([[6.1], [6.0]])) == [2, 3]
    assert nearest(points, np.array([[8.9], [8.8]])) == [0, 1]
    assert nearest(points, np.array([[8.1], [6.2]])) == [1, 3]


def test_family_that_does_not_go_far_enough():
    families = ("mnist_cnn", (32, 64)), ("mnist_fc", (1,))
    teacher = cost(11_021_029, 1_011_466)
    with pytest.raises(ValueError, match=r"not go far enough: .* to 29,776, .*\[1, 1\]"):
        assistant_widths.choose(families, teacher, fc(1), 3)
    with pytest.raises(ValueError, match=r"not go far enough: .*\[2048\]"):
        assistant_widths.choose((None, ("mnist_fc", (9,))), cost(10**12, 10**9), fc(9), 1)
