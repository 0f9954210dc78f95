"""A taught student beside the same student alone: the figures, and what chance may give."""

import dataclasses
import math

import numpy as np

from keras_kd.evaluation.uncertainty import (
    McNemar,
    OverSeeds,
    largest_by_chance,
    mcnemar,
    over_seeds,
    student_t,
)
from keras_kd.report.stage_settings import Differences, differences, is_given

# Where a p-value counts as more than chance.
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
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
    def fewer(self):
        """By how many errors the student is better, one number a seed; negative: worse."""
        return [b - a for a, b in zip(self.errors, self.baseline_errors, strict=True)]

    @property
    def sign(self):
        """1 where the student is better in the sum over the seeds, -1 worse, 0 neither."""
        return int(np.sign(sum(self.fewer)))

    @property
    def gain(self):
        """The difference of accuracies in points over the seeds, an `OverSeeds`."""
        # Of whole numbers: a sum of 0 is 0, and is rounded to no side.
        seeds = over_seeds(self.fewer)
        points = 100 / self.examples
        deviation = None if seeds.deviation is None else points * seeds.deviation
        return OverSeeds(seeds.count, points * sum(self.fewer) / seeds.count, deviation)

    @property
    def by_seeds(self):
        """By how many errors the mean over several seeds may differ by their chance, 95 %.

        Student's t of the differences, which are paired by their seeds:
        t * deviation / sqrt(seeds), with t = 12.71 for two seeds, 4.30 for three.
        """
        freedom = len(self.fewer) - 1
        deviation = over_seeds(self.fewer).deviation
        return student_t(freedom) * deviation / math.sqrt(freedom + 1)

    @property
    def by_chance(self):
        """By how many errors the mean over several seeds may differ by chance, 95 %.

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
        examples = self.by_examples
        if examples is None:
            alone = [largest_by_chance(x.only_first + x.only_baseline) for x in self.tests]
            examples = sum(alone) / len(alone)
        return math.hypot(self.by_seeds, examples)

    @property
    def beyond_chance(self):
        """Whether chance hardly explains the difference.

        With one seed by McNemar's test, of which another seed's training is no part; with
        several, where the mean difference is more than `by_chance`.
        """
        if len(self.tests) == 1:
            return bool(self.tests[0].p_value < SIGNIFICANT and self.sign)
        return abs(sum(self.fewer)) > len(self.fewer) * self.by_chance


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
        A list of `Comparison`, in the order of the stages, of what is finished.
    """
    stages = [model for model in runs[0].models if not is_given(model)]
    return [
        _compared(student, alone, runs)
        for student in stages
        for alone in stages
        if student.taught_by
        and not alone.taught_by
        and alone.architecture == student.architecture
        and any(run.done(student.name) and run.done(alone.name) for run in runs)
    ]


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
    return Comparison(
        student.name,
        baseline.name,
        [a.metrics.evaluation.errors for a, _ in pairs],
        [b.metrics.evaluation.errors for _, b in pairs],
        pairs[0][0].metrics.evaluation.examples,
        [mcnemar_of(a, b) for a, b in pairs],
        _by_examples(pairs),
        differences(runs[0], student, baseline),
    )


def _by_examples(pairs):
    """`chance_of_examples` of the answers; None where the seeds' test data differ."""
    labels = pairs[0][0].answers.labels
    if not all(np.array_equal(a.answers.labels, labels) for a, _ in pairs):
        return None
    right = [[np.equal(x.answers.predicted, labels) for x in pair] for pair in pairs]
    return chance_of_examples(np.array([a.astype(int) - b.astype(int) for a, b in right]))


def mcnemar_of(model, baseline):
    """McNemar's test of two `runs.reader.Model`s on the same test data.

    Raises:
        ValueError: Their answers are to different data.
    """
    ours, others = model.answers, baseline.answers
    if not np.array_equal(ours.labels, others.labels):
        raise ValueError(
            f"{model.folder / 'answers.csv'} and {baseline.folder / 'answers.csv'} have "
            "different labels, so they are not of the same test data."
        )
    return mcnemar(ours.labels, ours.predicted, others.predicted)
