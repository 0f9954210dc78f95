"""How sure a score is that is no plain rate: bootstrap, paired permutation test."""

import dataclasses
import statistics

import numpy as np

_REPEATS, _PERMUTATIONS = 1000, 10_000
# Of more answers than these so many draws tell as much, as the interval is narrow.
_MANY, _FEWER = 100_000, 200
# Quantile of the normal distribution that leaves 2.5 % on either side.
_Z = statistics.NormalDist().inv_cdf(0.975)
# Numbers drawn at a time.
_AT_A_TIME = 2**22


def interval(score, arrays, rows=None, seed=0):
    """The 95 % bootstrap interval of a score: other test examples, not other seeds.

    As many examples as there are are drawn with replacement, 1,000 times (of more than
    100,000 answers 200 times), and the score is taken of each draw; the interval is from
    its 2.5th to its 97.5th percentile. All that belongs to one example, its pixels say, is
    drawn together.

    Args:
        score: A `keras_kd.tasks.scores.Score`.
        arrays: dict of name to (n, ...), what is added up in each example.
        rows: dict of name to (n, ...), for scores of ranks.
        seed: Of the draws; the same one gives the same interval.

    Returns:
        `(low, high)`; None of fewer than two examples, or where it is not defined for most
        draws.

    Reference:
        Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    count = len(next(iter(arrays.values())))
    if count < 2:
        return None
    answers = count if score.of_sums else max(x.size for x in rows.values())
    repeats = _REPEATS if answers <= _MANY else _FEWER
    draws = _draws(count, repeats, np.random.default_rng(seed))
    found = np.concatenate([value(score, arrays, rows, times) for times in draws])
    found = found[np.isfinite(found)]
    if len(found) < repeats // 2:
        return None
    return tuple(map(float, np.percentile(found, (2.5, 97.5))))


def value(score, arrays, rows=None, times=None):
    """A score of examples that each count so often.

    Args:
        score, arrays, rows: As `interval` takes them.
        times: (repeats, n), whole numbers; None is each once.

    Returns:
        (repeats,), NaN where the score is not defined; of None, a float.
    """
    once = times is None
    if score.of_sums:
        found = score.of_sums(_Added(lambda key: _added(arrays[key], times)))
        return float(found) if once else found
    count = len(next(iter(rows.values())))
    found = score.of_rows(rows, np.ones((1, count), int) if once else times)
    return float(found[0]) if once else found


class _Added(dict):
    """Sums by name, each added up when a score first asks for it: it asks for few."""

    def __init__(self, add):
        super().__init__()
        self._add = add

    def __missing__(self, key):
        self[key] = self._add(key)
        return self[key]


def _added(array, times):
    if times is None:
        return array.sum(axis=0, dtype="float64")
    return np.tensordot(times.astype("float64"), array, 1)


def _draws(count, repeats, rng):
    """How often each example is drawn: some repeats at a time, (repeats, n)."""
    at_a_time = max(1, _AT_A_TIME // count)
    for first in range(0, repeats, at_a_time):
        here = min(at_a_time, repeats - first)
        drawn = rng.integers(0, count, (here, count)) + count * np.arange(here)[:, None]
        times = np.bincount(drawn.ravel(), minlength=here * count)
        yield times.reshape(here, count)


def margin(score, pairs, seed=0):
    """By how much a mean difference may differ with other test examples, 95 %.

    Args:
        score: A `keras_kd.tasks.scores.Score` of sums.
        pairs: Of each seed of training `(ours, others)`, dicts of name to (n, ...), all of
            the same examples, which are drawn for all of them together.
        seed: Of the draws.

    Returns:
        1.96 standard deviations of the mean over the pairs, in the score's unit.
    """
    count, found = len(pairs[0][0]["count"]), []
    for times in _draws(count, _REPEATS, np.random.default_rng(seed)):
        differences = [
            value(score, ours, times=times) - value(score, others, times=times)
            for ours, others in pairs
        ]
        found.append(np.mean(differences, axis=0))
    found = np.concatenate(found)
    return float(_Z * np.std(found[np.isfinite(found)]))


@dataclasses.dataclass(frozen=True)
class Permutation:
    """Two models on the same examples.

    Attributes:
        difference: By how much the first is better, in the score's unit; negative: worse.
        p_value: How probable it is that two equally good models differ at least so much in
            these examples, in (0, 1].
    """

    difference: float
    p_value: float


def permutation_test(score, ours, others, seed=0):
    """A paired permutation test of whether two models are equally good.

    Of two equally good models each example's answers might as well be the other's. They
    are exchanged at random, example by example, 10,000 times; the p-value is the share of
    these, the real one among them, in which the scores differ at least as much.

    Args:
        score: A `keras_kd.tasks.scores.Score` of sums.
        ours, others: dicts of name to (n, ...), what is added up in each of the same
            examples.
        seed: Of the exchanges; the same one gives the same p-value.

    Returns:
        A `Permutation`.

    Reference:
        Noreen, "Computer Intensive Methods for Testing Hypotheses", 1989, section 2.7;
        Phipson, Smyth, "Permutation p-values should never be zero", 2010.
    """
    first = score.sign * (value(score, ours) - value(score, others))
    count, rng = len(ours["count"]), np.random.default_rng(seed)
    at_a_time = max(1, _AT_A_TIME // count)
    # The real one; rounding does not make it less than itself.
    as_large, least = 1, abs(first) * (1 - 1e-9)
    for done in range(0, _PERMUTATIONS, at_a_time):
        here = min(at_a_time, _PERMUTATIONS - done)
        kept = rng.integers(0, 2, (here, count)).astype("float64")
        mine = _Added(lambda key, kept=kept: _exchanged(ours[key], others[key], kept))
        theirs = _Added(lambda key, kept=kept: _exchanged(others[key], ours[key], kept))
        found = np.abs(score.of_sums(mine) - score.of_sums(theirs))
        as_large += int(np.sum(~(found < least)))
    return Permutation(first, as_large / (_PERMUTATIONS + 1))


def _exchanged(one, other, kept):
    """Sums of one model's examples where they are kept, else of the other's."""
    return np.tensordot(kept, one, 1) + np.tensordot(1 - kept, other, 1)
