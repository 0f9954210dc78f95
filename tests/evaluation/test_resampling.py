import numpy as np
import pytest
from scipy import stats

from keras_kd.evaluation.resampling import interval, permutation_test, value
from keras_kd.tasks.scores import SCORES


def values(error):
    error = np.asarray(error, "float64")
    return {"count": np.ones(len(error)), "absolute": np.abs(error)}


def test_the_interval_of_a_mean_is_scipys():
    error = np.random.default_rng(0).exponential(size=400)
    low, high = interval(SCORES["mean_absolute_error"], values(error))
    theirs = stats.bootstrap(
        (error,), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    # Draws are others; the interval is some 0.2 wide.
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.012)


def test_it_covers_the_truth_as_often_as_it_says():
    rng, score = np.random.default_rng(2), SCORES["mean_absolute_error"]
    held = 0
    for _ in range(200):
        low, high = interval(score, values(rng.exponential(size=100)))
        held += low <= 1 <= high
    # Of 200 with 95 %: four deviations of 3.1 below, and what a percentile interval lacks.
    assert 174 <= held < 200


def test_what_belongs_to_one_example_is_drawn_together():
    """Ten pixels of an example that are all right or all wrong tell no more than one."""
    right = np.random.default_rng(3).integers(0, 2, 60)
    one = {"count": np.ones(60), "right": right}
    ten = {key: 10 * x for key, x in one.items()}
    score = SCORES["accuracy"]
    assert interval(score, one) == interval(score, ten)


def test_intervals_of_ranks_and_of_too_little():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, (150, 1))
    rows = {"label": label, "logit": label + rng.normal(size=(150, 1))}
    score, arrays = SCORES["roc_auc"], {"count": np.ones(150)}
    low, high = interval(score, arrays, rows)
    found = value(score, arrays, rows)
    # Hanley and McNeil's standard error of an area.
    q1, q2 = found / (2 - found), 2 * found**2 / (1 + found)
    yes = label.sum()
    no = 150 - yes
    variance = (yes - 1) * (q1 - found**2) + (no - 1) * (q2 - found**2)
    error = np.sqrt((found * (1 - found) + variance) / (yes * no))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    first = {key: x[:1] for key, x in rows.items()}
    assert interval(score, {"count": np.ones(1)}, first) is None
    same = {"label": np.ones((5, 1)), "logit": np.zeros((5, 1))}
    assert interval(score, {"count": np.ones(5)}, same) is None


def test_the_seed_is_the_users():
    arrays, score = values(np.random.default_rng(5).normal(size=50)), SCORES["r2"]
    score = SCORES["mean_absolute_error"]
    assert interval(score, arrays) == interval(score, arrays)
    assert interval(score, arrays) != interval(score, arrays, seed=1)


def test_the_permutation_test_of_a_mean_is_scipys():
    rng = np.random.default_rng(6)
    ours, others = rng.exponential(size=40), rng.exponential(1.5, size=40)
    found = permutation_test(SCORES["mean_absolute_error"], values(ours), values(others))
    theirs = stats.permutation_test(
        (ours, others),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=7,
    )
    # Less of an error is better.
    assert found.difference == pytest.approx(others.mean() - ours.mean())
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.015)


def test_every_exchange_of_three_examples():
    ours, others = [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]
    found = permutation_test(SCORES["mean_absolute_error"], values(ours), values(others))
    # Of 8 ways to exchange two give a sum of +-7, the real one and its mirror.
    assert (found.difference, found.p_value) == (-7 / 3, pytest.approx(2 / 8, abs=0.02))


def test_models_that_answer_alike():
    same = values([1.0, 2.0])
    found = permutation_test(SCORES["mean_absolute_error"], same, same)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_equal_models_are_told_apart_no_more_often_than_said():
    rng, score = np.random.default_rng(8), SCORES["mean_absolute_error"]
    ps = [
        permutation_test(
            score, values(rng.exponential(size=30)), values(rng.exponential(size=30))
        ).p_value
        for _ in range(150)
    ]
    assert np.mean(np.array(ps) < 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
    assert np.mean(np.array(ps) < 0.5) == pytest.approx(0.5, abs=0.17)
