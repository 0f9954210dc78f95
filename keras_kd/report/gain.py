"""A taught student beside the same student alone: the figures, and what chance may give."""

import dataclasses
import math

import numpy as np

from keras_kd.evaluation.resampling import Permutation, margin, permutation_test
from keras_kd.evaluation.uncertainty import (
    McNemar,
    OverSeeds,
    largest_by_chance,
    mcnemar,
    over_seeds,
    student_t,
)
from keras_kd.report.stage_settings import Differences, differences, is_given
from keras_kd.tasks.scores import SCORES, Score

# Where a p-value counts as more than chance.
SIGNIFICANT = 0.05


class _OverSeeds:
    """What chance may give of a paired difference over seeds.

    A class has `better`, by how much the student is better with each seed, `tests`, one
    with a `p_value` a seed, and `by_examples`.
    """

    @property
    def sign(self):
        """1 where the student is better in the sum over the seeds, -1 worse, 0 neither."""
        return int(np.sign(sum(self.better)))

    @property
    def by_seeds(self):
        """By how much the mean over several seeds may differ by their chance, 95 %.

        Student's t of the differences, which are paired by their seeds:
        t * deviation / sqrt(seeds), with t = 12.71 for two seeds, 4.30 for three.
        """
        freedom = len(self.better) - 1
        deviation = over_seeds(self.better).deviation
        return student_t(freedom) * deviation / math.sqrt(freedom + 1)

    @property
    def by_chance(self):
        """By how much the mean over several seeds may differ by chance, 95 %.

        There are two chances: which seeds it was, and which test examples. Each has its
        own standard error and its own quantile q, and the margin is

            sqrt((q_seeds * error_seeds)^2 + (q_examples * error_examples)^2)

        So seeds that happen to agree, of which a t alone would divide by nearly nothing, do
        not make much of one error in 10,000; and two seeds that agree that a difference is
        larger than both are believed.

        Why it errs in no more than 5 %: |Z| <= sqrt(x) of a normal Z has a probability g(x)
        that is concave in x. The variance of the mean is the sum of both, with shares a and
        1 - a; so g of the mean, weighted with these, of both squared margins is no less
        than the mean of their g, each of which is 95 % in expectation (Hajek, "Inequalities
        for the generalized Student's distribution", 1962).
        """
        return math.hypot(self.by_seeds, self.examples_chance)

    @property
    def beyond_chance(self):
        """Whether chance hardly explains the difference.

        With one seed by the test of these examples, of which another seed's training is no
        part; with several, where the mean difference is more than `by_chance`.
        """
        if len(self.tests) == 1:
            return bool(self.tests[0].p_value < SIGNIFICANT and self.sign)
        return abs(sum(self.better)) > len(self.better) * self.by_chance


@dataclasses.dataclass(frozen=True)
class Comparison(_OverSeeds):
    """A taught student beside one of the same architecture that saw the labels alone.

    Attributes:
        student, baseline: Their names.
        errors, baseline_errors: Of each, one number a seed.
        examples: Of the test data.
        tests: A `McNemar` a seed.
        by_examples: What `chance_of_examples` gives of their answers. None: as if all seeds
            differed in the same examples, which is the most that it may be.
        apart: The `Differences` of how they were trained, beside the teacher.
    """

    student: str
    baseline: str
    errors: list
    baseline_errors: list
    examples: int
    tests: list[McNemar]
    by_examples: float | None = None
    apart: Differences = Differences()

    @property
    def better(self):
        """By how many errors the student is better, one number a seed; negative: worse."""
        return [b - a for a, b in zip(self.errors, self.baseline_errors, strict=True)]

    @property
    def gain(self):
        """The difference of accuracies in points over the seeds, an `OverSeeds`."""
        # Of whole numbers: a sum of 0 is 0, and is rounded to no side.
        seeds = over_seeds(self.better)
        points = 100 / self.examples
        deviation = None if seeds.deviation is None else points * seeds.deviation
        return OverSeeds(seeds.count, points * sum(self.better) / seeds.count, deviation)

    @property
    def examples_chance(self):
        """`by_examples`, or the most that it may be."""
        if self.by_examples is not None:
            return self.by_examples
        alone = [largest_by_chance(x.only_first + x.only_baseline) for x in self.tests]
        return sum(alone) / len(alone)


@dataclasses.dataclass(frozen=True)
class ScoreComparison(_OverSeeds):
    """As `Comparison`, of answers that are not right or wrong, by the score that counts.

    Attributes:
        student, baseline, examples, apart: As `Comparison` has them.
        score: The `keras_kd.tasks.scores.Score`.
        values, baseline_values: Of each, one value a seed.
        tests: A `Permutation` a seed.
        by_examples: What `resampling.margin` gives of their answers; where the seeds' test
            data differ, of each seed alone, the mean.
    """

    student: str
    baseline: str
    score: Score
    values: list
    baseline_values: list
    examples: int
    tests: list[Permutation]
    by_examples: float = 0.0
    apart: Differences = Differences()

    @property
    def better(self):
        """By how much the student is better, one number a seed; negative: worse."""
        pairs = zip(self.values, self.baseline_values, strict=True)
        return [self.score.sign * (a - b) for a, b in pairs]

    @property
    def gain(self):
        """By how much it is better over the seeds, in points or the score's unit."""
        return over_seeds([self.score.scale * x for x in self.better])

    @property
    def examples_chance(self):
        """`by_examples`."""
        return self.by_examples


def chance_of_examples(differences):
    """By how many errors other test examples may change a mean over seeds, 95 %.

    Two equally good models are as probably one way apart in an example as the other, so of
    the example's mean over the seeds, x, the sum has the standard error sqrt(sum x^2). Its
    quantile is that of McNemar's exact test of as many examples; where all seeds differ in
    the same ones, this is that test.

    Args:
        differences: (seeds, examples), 1 where the student alone is right, -1 where the
            other alone is, else 0.
    """
    mean = np.mean(differences, axis=0)
    count = int(np.count_nonzero(np.any(differences, axis=0)))
    if not count:
        return 0.0
    return largest_by_chance(count) * math.sqrt(np.sum(np.square(mean)) / count)


def comparisons(runs):
    """Every taught stage beside each labels-alone stage of the same architecture.

    A given stage, such as a file, was trained elsewhere, nobody knows how, so it is none.

    Args:
        runs: A list of `runs.reader.Run`, of the same recipe with different seeds.

    Returns:
        A list of `Comparison`, or of `ScoreComparison` where answers are not right or
        wrong, in the order of the stages, of what is finished.
    """
    stages = [model for model in runs[0].models if not is_given(model)]
    found = [
        _compared(student, alone, runs)
        for student in stages
        for alone in stages
        if student.taught_by
        and not alone.taught_by
        and alone.architecture == student.architecture
        and any(run.done(student.name) and run.done(alone.name) for run in runs)
    ]
    # Of two tasks nothing can be said.
    return [x for x in found if x is not None]


def likes(every):
    """Of one student's comparisons those that tell most of what the teacher is worth.

    Args:
        every: A list of `Comparison`, of one student.

    Returns:
        Those whose baseline was trained in the same way; where there is none, those that
        differ in the fewest settings; never one with other labels, or other first weights.
    """
    fair = [x for x in every if not x.apart.unfair]
    fewest = min((len(x.apart.others) for x in fair), default=0)
    return [x for x in fair if len(x.apart.others) == fewest]


def _compared(student, baseline, runs):
    pairs = [
        (run[student.name], run[baseline.name])
        for run in runs
        if run.done(student.name) and run.done(baseline.name)
    ]
    measured = [tuple(x.metrics.evaluation for x in pair) for pair in pairs]
    names, apart = (student.name, baseline.name), differences(runs[0], student, baseline)
    examples = measured[0][0].examples
    if all(x.is_right_or_wrong for pair in measured for x in pair):
        errors = ([x.errors for x in of_model] for of_model in zip(*measured, strict=True))
        tests = [mcnemar_of(a, b) for a, b in pairs]
        return Comparison(*names, *errors, examples, tests, _by_examples(pairs), apart)
    kinds = {(x.task, x.counts) for pair in measured for x in pair}
    if len(kinds) > 1:
        return None
    # Where a model's own mask left out others there is no pair.
    if not all(same_labels(*(x.answers.arrays for x in pair)) for pair in pairs):
        return None
    score = SCORES[measured[0][0].counts]
    values = (
        [x.scores[score.name].value for x in of_model]
        for of_model in zip(*measured, strict=True)
    )
    tests = [permutation_of(a, b) for a, b in pairs]
    return ScoreComparison(
        *names, score, *values, examples, tests, _margin(score, pairs), apart
    )


def _by_examples(pairs):
    """`chance_of_examples` of the answers; None where the seeds' test data differ."""
    labels = pairs[0][0].answers.labels
    if not all(np.array_equal(a.answers.labels, labels) for a, _ in pairs):
        return None
    right = [[np.equal(x.answers.predicted, labels) for x in pair] for pair in pairs]
    return chance_of_examples(np.array([a.astype(int) - b.astype(int) for a, b in right]))


def _margin(score, pairs):
    arrays = [tuple(x.answers.arrays for x in pair) for pair in pairs]
    if all(same_labels(ours, arrays[0][0]) for ours, _ in arrays):
        return margin(score, arrays)
    return sum(margin(score, [pair]) for pair in arrays) / len(arrays)


def same_labels(ours, others):
    """Whether what two models' answers add up to may be of the same labels."""
    keys = [x for x in ("count", "labels", "value") if x in ours and x in others]
    return all(np.array_equal(ours[key], others[key]) for key in keys)


def test_of(model, baseline):
    """The paired test of two `runs.reader.Model`s on the same test data.

    Returns:
        A `McNemar`, or a `Permutation` of answers that are not right or wrong; None where
        they are of two tasks.

    Raises:
        DifferentData: Their answers are to different data.
    """
    both = [x.metrics.evaluation for x in (model, baseline)]
    if all(x.is_right_or_wrong for x in both):
        return mcnemar_of(model, baseline)
    return permutation_of(model, baseline) if both[0].counts == both[1].counts else None


def mcnemar_of(model, baseline):
    """McNemar's test of two `runs.reader.Model`s on the same test data.

    Raises:
        DifferentData: Their answers are to different data.
    """
    ours, others = model.answers, baseline.answers
    if not np.array_equal(ours.labels, others.labels):
        raise _different(model, baseline, "answers.csv")
    return mcnemar(ours.labels, ours.predicted, others.predicted)


def permutation_of(model, baseline):
    """As `mcnemar_of`, a `Permutation` by the score that counts."""
    score = SCORES[model.metrics.evaluation.counts]
    ours, others = model.answers.arrays, baseline.answers.arrays
    if ours.keys() != others.keys() or not same_labels(ours, others):
        raise _different(model, baseline, "answers.npz")
    return permutation_test(score, ours, others)


class DifferentData(ValueError):
    """Two models were tested on different data."""


def _different(model, baseline, file):
    return DifferentData(
        f"{model.folder / file} and {baseline.folder / file} have different labels, so "
        "they are not of the same test data."
    )
