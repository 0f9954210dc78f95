"""What chance may give, simulated: two equally good ways of training, no false alarms."""

import math

import numpy as np
import pytest

from keras_kd.evaluation.uncertainty import McNemar, mcnemar
from keras_kd.report.gain import (
    Comparison,
    DifferentData,
    ScoreComparison,
    chance_of_examples,
    comparisons,
)
from keras_kd.report.gain import test_of as paired_test
from keras_kd.runs import reader
from tests.runs.sample_run import make_task_run

DRAWS, EXAMPLES = 1000, 300

# (share of examples that tell the two apart, spread of the seeds, spread of the examples):
# how far a seed, or an example whatever the seed, favours one of them, in log-odds.
NULLS = {
    "neither": (0.1, 0.0, 0.0),
    "seeds": (0.1, 0.6, 0.0),
    "examples": (0.1, 0.0, 30.0),
    "both": (0.1, 0.5, 3.0),
    "few examples": (0.02, 0.0, 30.0),
}


def compared(apart):
    """A `Comparison` of answers that differ so: (seeds, examples), in -1, 0, 1."""
    tests = [McNemar(0, 0, None)] * len(apart)
    if len(apart) == 1:
        labels = np.zeros(apart.shape[1], int)
        tests = [mcnemar(labels, labels + (apart[0] < 0), labels + (apart[0] > 0))]
    return Comparison(
        "student",
        "alone",
        [int(x) for x in np.sum(apart < 0, axis=1)],
        [int(x) for x in np.sum(apart > 0, axis=1)],
        apart.shape[1],
        tests,
        chance_of_examples(apart),
    )


def draw(rng, seeds, share, of_seeds, of_examples):
    """Differences of two ways of training of which neither is better, in expectation."""
    shape = (seeds, EXAMPLES)
    tells = rng.random(EXAMPLES if of_examples else shape) < share
    odds = of_seeds * rng.normal(size=(seeds, 1)) + of_examples * rng.normal(size=EXAMPLES)
    return tells * np.where(rng.random(shape) < 1 / (1 + np.exp(-odds)), 1, -1)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 10])
def test_no_more_than_5_percent_of_nothing_is_taken_for_something(seeds, null):
    share, of_seeds, of_examples = NULLS[null]
    if seeds == 1:
        of_seeds = 0.0  # One says nothing of others, and the page says so.
    rng = np.random.default_rng([seeds, *map(ord, null)])
    alarms = [
        compared(draw(rng, seeds, share, of_seeds, of_examples)).beyond_chance
        for _ in range(DRAWS)
    ]
    # Three standard errors of a simulation of 5 %.
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10])
def test_the_seeds_alone_give_no_more_than_5_percent(seeds):
    """Differences of seeds so large that the examples hardly matter: Student's t."""
    rng = np.random.default_rng(seeds)
    alarms = 0
    for _ in range(4000):
        fewer = np.round(rng.normal(0, 1000, seeds)).astype(int)
        tests = [McNemar(max(x, 0), max(-x, 0), 0.0) for x in fewer.tolist()]
        errors = [5000 - x for x in fewer.tolist()]
        found = Comparison("s", "a", errors, [5000] * seeds, 10_000, tests, 1.0)
        alarms += found.beyond_chance
    # No fewer either: it is no test that never says anything.
    assert 0.04 < alarms / 4000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def of_counts(errors, alone, both_ways=20):
    """A `Comparison` of errors in 10,000; on so many the worse one alone is right."""
    tests = []
    for a, b in zip(errors, alone, strict=True):
        more, less = max(b - a, 0) + both_ways, max(a - b, 0) + both_ways
        n, k = more + less, min(more, less)
        tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        tests.append(McNemar(more, less, min(1.0, 2 * tail)))
    return Comparison("student", "alone", errors, alone, 10_000, tests)


@pytest.mark.parametrize(
    "errors, alone, beyond",
    [
        # Seeds that agree to the last error leave the examples, of which one is nothing.
        ([100] * 3, [101] * 3, False),
        ([100] * 10, [101] * 10, False),
        ([100] * 3, [160] * 3, True),
        # Two seeds that agree about what each of them shows alone.
        ([100, 100], [200, 200], True),
        ([100, 100], [200, 210], True),
        ([200, 200], [100, 100], True),
        # 12.71 standard errors are more than 20 and 60 fewer give.
        ([100, 100], [120, 160], False),
        # A mean of 30 with a deviation of 10: 5.2 standard errors of three seeds.
        ([100] * 3, [120, 130, 140], True),
        # And of 10: 1.7 of them.
        ([100] * 3, [100, 110, 120], False),
    ],
)
def test_what_is_beyond_chance(errors, alone, beyond):
    assert of_counts(errors, alone).beyond_chance == beyond
    assert of_counts(alone, errors).beyond_chance == beyond


def test_seeds_that_agree_say_what_one_of_them_says():
    """Where all seeds differ in the same examples, by McNemar's exact test."""
    for tells in range(1, 40):
        for ahead in range(tells + 1):
            apart = np.zeros((1, 100), int)
            apart[0, :tells] = [1] * ahead + [-1] * (tells - ahead)
            one = compared(apart)
            assert compared(np.repeat(apart, 3, axis=0)).beyond_chance == one.beyond_chance


def test_differences_that_sum_to_0_favour_neither():
    rng = np.random.default_rng(0)
    for examples in (7, 333, 1000, 10_000, 60_000):
        for _ in range(200):
            fewer = rng.integers(-9, 10, rng.integers(2, 8)).tolist()
            fewer.append(-sum(fewer))
            errors = [100 - x for x in fewer]
            tests = [McNemar(0, 0, 1.0)] * len(fewer)
            none = Comparison("s", "a", errors, [100] * len(fewer), examples, tests)
            assert (none.gain.mean, none.sign, none.beyond_chance) == (0, 0, False)


def test_the_chance_of_examples():
    # Of 12 that tell the two apart, 10 against 2 is the first with p < 0.05.
    apart = np.zeros((1, 50), int)
    apart[0, :12] = [1] * 9 + [-1] * 3
    assert chance_of_examples(apart) == 12 - 2 * 3
    # Two seeds in the same examples say no more of them than one; in others they do.
    assert chance_of_examples(np.repeat(apart, 2, axis=0)) == 6
    other = np.roll(apart, 20)
    # 24 that tell them apart, each by half: 24 - 2 * 7 = 10 is the largest by chance.
    half = 10 * math.sqrt(24 / 4 / 24)
    assert chance_of_examples(np.concatenate([apart, other])) == pytest.approx(half)
    assert chance_of_examples(np.zeros((2, 5), int)) == 0


def of_task(tmp_path, task, places=0, seeds=(0,)):
    folders = (tmp_path / f"{seed}" for seed in seeds)
    return [
        reader.read(make_task_run(x, task, places, seed=seed)).runs[None]
        for x, seed in zip(folders, seeds, strict=True)
    ]


@pytest.mark.parametrize("task, places", [("regression", 0), ("multiclass", 2)])
def test_answers_that_are_not_right_or_wrong_are_compared_by_their_score(
    tmp_path, task, places
):
    (run,) = of_task(tmp_path, task, places)
    (found,) = comparisons([run])
    assert isinstance(found, ScoreComparison) and found.student == "student"
    ours, others = (
        run[x].metrics.evaluation.scores[found.score.name].value
        for x in ("student", "alone")
    )
    sign = -1 if task == "regression" else 1
    assert found.better == [pytest.approx(sign * (ours - others))]
    assert found.gain.mean == pytest.approx(found.score.scale * found.better[0])
    assert found.sign == 1 and found.beyond_chance == (found.tests[0].p_value < 0.05)
    assert found.tests[0].difference == pytest.approx(found.better[0])


def test_scores_over_seeds(tmp_path):
    runs = of_task(tmp_path, "regression", seeds=(0, 1, 2))
    (found,) = comparisons(runs)
    errors = {
        x: [np.array(run[x].answers.rows["error"]) for run in runs]
        for x in ("student", "alone")
    }
    apart = np.array(errors["alone"]) - np.array(errors["student"])
    assert found.better == pytest.approx(apart.mean(axis=1).tolist())
    # Of a mean over examples the bootstrap's deviation is that of the mean.
    of_examples = apart.mean(axis=0)
    expected = 1.96 * of_examples.std() / np.sqrt(len(of_examples))
    assert found.by_examples == pytest.approx(expected, rel=0.1)
    by_seeds = 4.303 * apart.mean(axis=1).std(ddof=1) / np.sqrt(3)
    assert found.by_seeds == pytest.approx(by_seeds, rel=1e-3)
    both = math.hypot(by_seeds, found.by_examples)
    assert found.by_chance == pytest.approx(both, rel=1e-3)


def test_other_test_data_are_told(tmp_path):
    (run,) = of_task(tmp_path / "a", "regression")
    make_task_run(tmp_path / "b", "regression", examples=39)
    other = reader.read(tmp_path / "b").runs[None]
    with pytest.raises(DifferentData, match="answers.npz have different labels"):
        paired_test(run["student"], other["student"])
    (pixels,) = of_task(tmp_path / "c", "multiclass", 2)
    assert paired_test(run["student"], pixels["student"]) is None
