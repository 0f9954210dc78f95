import math
from fractions import Fraction

import numpy as np
import pytest

from keras_kd.evaluation.uncertainty import (
    McNemar,
    OverSeeds,
    largest_by_chance,
    mcnemar,
    over_seeds,
    student_t,
    wilson_interval,
)


@pytest.mark.parametrize(
    "right, examples", [(9870, 10_000), (3, 7), (1, 1), (0, 5), (5, 5)]
)
def test_wilson_interval_holds_what_the_score_test_does_not_reject(right, examples):
    """Its ends are the fractions q at which |p - q| is 1.96 standard errors of q."""
    q = np.linspace(0, 1, 2_000_001)
    distance = np.square(right / examples - q) * examples
    inside = q[distance <= 1.959963984540054**2 * q * (1 - q) + 1e-15]
    low, high = wilson_interval(right, examples)
    assert low == pytest.approx(inside[0], abs=1e-6)
    assert high == pytest.approx(inside[-1], abs=1e-6)


def test_wilson_interval_of_all_and_none():
    # Of n with none right the upper end is z^2 / (n + z^2).
    assert wilson_interval(0, 10) == (0.0, pytest.approx(3.8414588 / 13.8414588))
    low, high = wilson_interval(10, 10)
    assert (low, high) == (pytest.approx(10 / 13.8414588), 1.0)


@pytest.mark.parametrize("right, examples", [(3, 2), (-1, 2), (0, 0)])
def test_wilson_interval_of_bad_counts(right, examples):
    with pytest.raises(ValueError, match=f"Received: right={right}, examples={examples}"):
        wilson_interval(right, examples)


def pair(only_first, only_baseline, both=3, neither=2):
    """labels, predicted and baseline_predicted with these counts."""
    first = [1] * only_first + [0] * only_baseline + [1] * both + [0] * neither
    baseline = [0] * only_first + [1] * only_baseline + [1] * both + [2] * neither
    return np.ones(len(first), int), np.array(first), np.array(baseline)


@pytest.mark.parametrize("b, c", [(1, 0), (5, 1), (1, 5), (10, 25), (7, 6)])
def test_mcnemar_sums_the_binomial_tails(b, c):
    n = b + c
    probabilities = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
    uneven = [p for k, p in enumerate(probabilities) if abs(2 * k - n) >= abs(b - c)]
    assert mcnemar(*pair(b, c)) == McNemar(b, c, pytest.approx(float(sum(uneven))))


def test_mcnemar_of_models_that_differ_nowhere_or_evenly():
    assert mcnemar(*pair(0, 0)) == McNemar(0, 0, 1.0)
    assert mcnemar(*pair(4, 4)) == McNemar(4, 4, 1.0)


def test_mcnemar_of_thousands():
    # The normal approximation with continuity correction is good to 1e-3 here.
    z = (abs(4000 - 4200) - 1) / math.sqrt(8200)
    assert mcnemar(*pair(4000, 4200)).p_value == pytest.approx(
        math.erfc(z / math.sqrt(2)), rel=1e-3
    )
    assert 0 <= mcnemar(*pair(3000, 0)).p_value < 1e-300


def test_mcnemar_of_other_examples():
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(3,\), \(2,\)"):
        mcnemar([0, 1, 2], [0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"shapes \(0,\)"):
        mcnemar([], [], [])


def test_over_seeds():
    # Squared distances from the mean: 4 + 0 + 0 + 4, over 4 - 1.
    found = over_seeds([2.0, 4.0, 4.0, 6.0])
    assert found == OverSeeds(4, 4.0, pytest.approx(math.sqrt(8 / 3)))
    assert over_seeds([0.9909, 0.9912, 0.9915]).percent() == "99.12 ± 0.03"
    assert over_seeds(np.float32([0.25, 0.75])).percent(digits=0) == "50 ± 35"


def test_one_seed_has_no_deviation():
    assert over_seeds([0.5]) == OverSeeds(1, 0.5, None)
    assert over_seeds([0.98765]).percent() == "98.77"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [0.5, None], [0.5, math.inf]])
def test_over_seeds_of_bad_values(values):
    with pytest.raises(ValueError, match="`values` must hold one finite number"):
        over_seeds(values)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 8, 12, 25, 40, 101, 500])
def test_the_largest_difference_by_chance(count):
    """By the binomial tails in fractions, outcome by outcome."""
    chances = {}
    for heads in range(count + 1):
        uneven = abs(2 * heads - count)
        chance = Fraction(math.comb(count, heads), 2**count)
        chances[uneven] = chances.get(uneven, 0) + chance
    by_chance = [
        d
        for d in chances
        if sum(p for other, p in chances.items() if other >= d) >= Fraction(1, 20)
    ]
    assert largest_by_chance(count) == max(by_chance)


def test_the_largest_difference_of_very_many():
    assert largest_by_chance(10_000) == 196
    # Beyond what is summed: 1.96 * sqrt(n), with the correction for continuity.
    assert abs(largest_by_chance(1_000_000) - 1960) <= 2


@pytest.mark.parametrize(
    "freedom, quantile",
    # Student's own table, as Abramowitz and Stegun have it, 26.10.
    [
        (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262),
        (10, 2.228), (29, 2.045), (30, 2.042), (120, 1.980),
    ],
)  # fmt: skip
def test_students_t(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 11])
def test_students_t_is_the_integral_of_its_density(freedom):
    t = student_t(freedom)
    x = np.linspace(-t, t, 200_001)
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
    density = scale / math.sqrt(freedom * math.pi)
    density = density * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-8)


def test_students_t_of_no_freedom():
    with pytest.raises(ValueError, match="`freedom` must be at least 1. Received: fre"):
        student_t(0)
