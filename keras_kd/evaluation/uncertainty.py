"""How sure a measured accuracy is: its interval, a test of two models, several seeds."""

import dataclasses
import functools
import math
import statistics

import numpy as np

from keras_kd.losses.arguments import is_finite_number

# Quantile of the normal distribution that leaves 2.5 % on either side.
_Z = statistics.NormalDist().inv_cdf(0.975)
# Sums of whole binomials of more examples would take seconds.
_EXACT = 10_000


def wilson_interval(right, examples):
    """The 95 % Wilson score interval of a fraction.

        (p + z^2 / 2n  ±  z * sqrt(p * (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    with p = right / n, n = examples and z = 1.96. It stays within [0, 1] and has a width
    where all or none are right. It tells how far another sample of test examples would move
    the fraction, not what another seed of training would.

    Args:
        right: How many of the examples were answered right, 0 <= right <= examples.
        examples: How many there were, at least 1.

    Returns:
        `(low, high)`, floats in [0, 1].

    Raises:
        ValueError: The counts are out of range.

    Reference:
        Wilson, "Probable inference, the law of succession, and statistical inference",
        Journal of the American Statistical Association 22, 1927; recommended by Brown,
        Cai, DasGupta, "Interval estimation for a binomial proportion", Statistical Science
        16, 2001.
    """
    if not 0 <= right <= examples or examples < 1:
        raise ValueError(
            "`right` must be between 0 and `examples`, and `examples` at least 1. "
            f"Received: right={right!r}, examples={examples!r}."
        )
    fraction, square = right / examples, _Z**2 / examples
    middle = (fraction + square / 2) / (1 + square)
    spread = fraction * (1 - fraction) / examples + square / (4 * examples)
    half = _Z * math.sqrt(spread) / (1 + square)
    # Rounding alone would keep these ends from being 0 and 1.
    low = middle - half if right else 0.0
    return low, middle + half if right < examples else 1.0


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Two models on the same examples.

    Attributes:
        only_first: On how many the first alone was right.
        only_baseline: On how many the baseline alone was right.
        p_value: How probable it is that two equally good models differ in these examples
            at least so unevenly, in [0, 1].
    """

    only_first: int
    only_baseline: int
    p_value: float


def mcnemar(labels, predicted, baseline_predicted):
    """McNemar's exact test of whether two models are equally often right.

    The examples that one alone gets right would fall to either of two equally good models
    like a fair coin; the p-value is the two-sided tail of that binomial distribution, in
    whole numbers, without an approximation.

    Args:
        labels: (n,), integers.
        predicted: (n,), the first model's answers.
        baseline_predicted: (n,), the other's to the same examples in the same order.

    Returns:
        A `McNemar`. Its p-value is 1 where no example tells the two apart.

    Raises:
        ValueError: The arguments are not one-dimensional, equally long, and not empty.

    Reference:
        McNemar, "Note on the sampling error of the difference between correlated
        proportions or percentages", Psychometrika 12, 1947; in its exact form.
    """
    arrays = [np.asarray(x) for x in (labels, predicted, baseline_predicted)]
    shapes = [x.shape for x in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise ValueError(
            "`labels`, `predicted` and `baseline_predicted` must hold one number for each "
            f"of the same examples. Received: shapes {', '.join(map(str, shapes))}."
        )
    labels, predicted, baseline = arrays
    right, baseline_right = predicted == labels, baseline == labels
    only_first = int(np.sum(right & ~baseline_right))
    only_baseline = int(np.sum(baseline_right & ~right))
    p_value = _two_sided(only_first, only_baseline)
    return McNemar(only_first, only_baseline, p_value)


def _two_sided(heads, tails):
    """Probability of a split at least as uneven, of heads + tails throws of a fair coin."""
    count, fewer = heads + tails, min(heads, tails)
    ways = total = 1
    for k in range(fewer):
        ways = ways * (count - k) // (k + 1)
        total += ways
    # An even split lies in both tails, and would count twice.
    return min(1.0, 2 * total / 2**count)


@functools.cache
def largest_by_chance(count):
    """The largest difference whose p-value in McNemar's exact test is no less than 5 %.

    Args:
        count: How many examples one of two models alone answers right.

    Returns:
        The largest only_first - only_baseline of so many examples, an integer; `count`
        itself where all may fall to one side by chance, as of five or fewer.
    """
    if count > _EXACT:
        # With the correction for continuity it is the same to one in thousands.
        near = math.floor(_Z * math.sqrt(count) + 1)
        return near - (count - near) % 2
    ways = total = 1
    for fewer in range(count // 2 + 1):
        # The p-value of a split into these fewer and the others is 2 * total / 2**count.
        if 2 * total * 20 >= 2**count:
            return count - 2 * fewer
        ways = ways * (count - fewer) // (fewer + 1)
        total += ways
    return 0


@functools.cache
def student_t(freedom):
    """The quantile of Student's t that leaves 2.5 % on either side: 4.30 of 2, 2.78 of 4.

    With theta = atan(t / sqrt(freedom)) the probability of [-t, t] is a finite sum
    (Abramowitz, Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4):

        odd:   2 / pi * (theta + sin(theta) * (cos + 2/3 cos^3 + 2*4 / 3*5 cos^5 + ...))
        even:  sin(theta) * (1 + 1/2 cos^2 + 1*3 / 2*4 cos^4 + ...)

    up to the power freedom - 2. It grows with theta, which is found by halving.

    Args:
        freedom: Degrees of freedom, an integer, at least 1.

    Raises:
        ValueError: `freedom` is less.
    """
    if freedom < 1:
        raise ValueError(f"`freedom` must be at least 1. Received: freedom={freedom!r}.")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _probability_within(middle, freedom) < 0.95:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _probability_within(theta, freedom):
    cosine, sine, odd = math.cos(theta), math.sin(theta), freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A quantity over several seeds.

    Attributes:
        count: How many seeds.
        mean: Their mean.
        deviation: Their sample standard deviation, None of a single seed.
    """

    count: int
    mean: float
    deviation: float | None

    def percent(self, digits=2):
        """A fraction as a cell of a table in per cent: "99.12 ± 0.03"."""
        mean = f"{100 * self.mean:.{digits}f}"
        if self.deviation is None:
            return mean
        return f"{mean} ± {100 * self.deviation:.{digits}f}"


def over_seeds(values):
    """Mean and sample standard deviation (divided by n - 1) of one value per seed.

    Args:
        values: Finite numbers, one or more.

    Returns:
        An `OverSeeds`.

    Raises:
        ValueError: There is no value, or one is no finite number.
    """
    values = list(values)
    if not values or not all(map(is_finite_number, values)):
        raise ValueError(
            f"`values` must hold one finite number for each seed. Received: {values!r}."
        )
    values = list(map(float, values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return OverSeeds(len(values), statistics.fmean(values), deviation)
