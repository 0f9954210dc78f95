"""Whether distillation was worth it, in plain words, from the figures of a run folder."""

import dataclasses
import math

import numpy as np

from keras_kd.tables import shown_count
from keras_kd.uncertainty import McNemar, mcnemar, over_seeds

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
    """

    student: str
    baseline: str
    errors: list
    baseline_errors: list
    examples: int
    tests: list[McNemar]

    @property
    def fewer(self):
        """By how many errors the student is better, one number a seed; negative: worse."""
        return [b - a for a, b in zip(self.errors, self.baseline_errors, strict=True)]

    @property
    def gain(self):
        """The difference of accuracies in points over the seeds, an `OverSeeds`."""
        return over_seeds([100 * x / self.examples for x in self.fewer])

    @property
    def beyond_chance(self):
        """Whether chance hardly explains the difference.

        With one seed by McNemar's test; with several, where the mean difference is more
        than twice its standard error, of three seeds or more.
        """
        if len(self.tests) == 1:
            return self.tests[0].p_value < SIGNIFICANT
        error = self.gain.deviation / math.sqrt(self.gain.count)
        return self.gain.count > 2 and abs(self.gain.mean) > 2 * error


def comparisons(runs):
    """Every taught stage beside each labels-alone stage of the same architecture.

    Args:
        runs: A list of `run_reader.Run`, of the same recipe with different seeds.

    Returns:
        A list of `Comparison`, in the order of the stages, of what is finished.
    """
    stages = [model for model in runs[0].models if model.stage]
    return [
        _compared(student.name, alone.name, runs)
        for student in stages
        for alone in stages
        if student.taught_by
        and not alone.taught_by
        and alone.architecture == student.architecture
        and any(run.done(student.name) and run.done(alone.name) for run in runs)
    ]


def _compared(student, baseline, runs):
    pairs = [
        (run[student], run[baseline])
        for run in runs
        if run.done(student) and run.done(baseline)
    ]
    return Comparison(
        student,
        baseline,
        [a.metrics.evaluation.errors for a, _ in pairs],
        [b.metrics.evaluation.errors for _, b in pairs],
        pairs[0][0].metrics.evaluation.examples,
        [mcnemar_of(a, b) for a, b in pairs],
    )


def mcnemar_of(model, baseline):
    """McNemar's test of two `run_reader.Model`s on the same test data.

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


def last_distilled(runs):
    """Name of the last finished taught stage of the first run that has one, or None."""
    for run in runs:
        for model in reversed(run.models):
            if model.taught_by and model.done:
                return model.name
    return None


def verdict(runs):
    """The verdict on the last distilled student.

    Args:
        runs: As `comparisons` takes them.

    Returns:
        `(headline, sentences)`: a short sentence, and the list of those that give reasons.
    """
    student = last_distilled(runs)
    if student is None:
        return "No distilled student is finished, so there is no verdict yet.", []
    size = _size(runs, student)
    ours = [x for x in comparisons(runs) if x.student == student]
    if not ours:
        return "Whether distillation was worth it, this run cannot say.", [
            f"No finished stage trains the architecture of “{student}” on labels alone. A "
            "stage without losses, of the same model, would make the comparison.",
            *size,
        ]
    return _headline(ours[0]), list(map(_unbroken, [*_reasons(ours[0]), *size]))


def warnings(runs):
    """A sentence for each taught stage that ends worse than its architecture alone."""
    return [
        f"“{x.student}” was taught and ends worse than “{x.baseline}”, the same "
        f"architecture trained on labels alone: {_errors(x.errors)} errors against "
        f"{_errors(x.baseline_errors)} in {x.examples:,}"
        + (f" (McNemar's p {p_value(x.tests[0])})." if len(x.tests) == 1 else ".")
        for x in comparisons(runs)
        if x.gain.mean < 0
    ]


def p_value(test):
    """A p-value with its sign of equality: "= 0.012" or "< 0.001"."""
    return "< 0.001" if test.p_value < 0.001 else f"= {test.p_value:.3f}"


def _unbroken(sentence):
    """Holds a number and its sign together at the end of a line."""
    for sign in (" ± ", " %", " < ", " = "):
        sentence = sentence.replace(sign, sign.replace(" ", "\N{NO-BREAK SPACE}"))
    return sentence


def _headline(compared):
    better = compared.gain.mean > 0
    if compared.gain.mean == 0:
        return "Distillation made no difference to the number of errors."
    if compared.beyond_chance:
        return "Distillation was worth it." if better else "Distillation did harm."
    if better:
        return "Distillation came out ahead, but by no more than chance may give."
    return "Distillation did not help: the difference is within what chance may give."


def _reasons(compared):
    x = compared
    if len(x.tests) > 1:
        return _reasons_over_seeds(x)
    test = x.tests[0]
    return [
        f"The distilled “{x.student}” makes {_of(x.errors[0], 'error')} in {x.examples:,} "
        f"examples ({_accuracy(x.errors[0], x.examples)}); “{x.baseline}”, the same "
        f"architecture trained on labels alone, makes {x.baseline_errors[0]:,} "
        f"({_accuracy(x.baseline_errors[0], x.examples)}). That is {_change(x.fewer[0])}, "
        f"a difference of {x.gain.mean:+.2f} points.",
        f"Only “{x.student}” is right on {_of(test.only_first, 'example')}, only "
        f"“{x.baseline}” on {test.only_baseline:,}: McNemar's exact test gives p "
        f"{p_value(test)}. Of one seed, this compares two trained models; what another "
        "seed would give, only a run over several can tell.",
    ]


def _reasons_over_seeds(compared):
    x, count = compared, len(compared.tests)
    means = [
        over_seeds([1 - errors / x.examples for errors in of_model])
        for of_model in (x.errors, x.baseline_errors)
    ]
    ps = sorted(x.tests, key=lambda test: test.p_value)
    significant = sum(test.p_value < SIGNIFICANT for test in x.tests)
    return [
        f"Over {count} seeds the distilled “{x.student}” is right on {means[0].percent()} "
        f"% of {x.examples:,} examples; “{x.baseline}”, the same architecture trained on "
        f"labels alone, on {means[1].percent()} % (mean ± standard deviation). The "
        f"difference is {x.gain.mean:+.2f} ± {x.gain.deviation:.2f} points, "
        f"{_errors(x.errors)} errors against {_errors(x.baseline_errors)}.",
        f"“{x.student}” is ahead with {sum(y > 0 for y in x.fewer)} of {count} seeds; "
        f"McNemar's exact test gives p < {SIGNIFICANT} with {significant} of them "
        f"({_range(ps)}).",
    ]


def _range(tests):
    """The least and the greatest p of these, as text."""
    least, greatest = (f"p {p_value(x)}" for x in (tests[0], tests[-1]))
    return f"each {least}" if least == greatest else f"from {least} to {greatest}"


def _size(runs, student):
    """Size, MACs and errors of the student beside the first of its line of teachers."""
    run = next(run for run in runs if run.done(student))
    root = run[student]
    while root.taught_by:
        root = run[root.taught_by[0]]
    ours, its = run[student].metrics, root.metrics
    mine, theirs = (
        _errors([run[x].metrics.evaluation.errors for run in runs if run.done(x)])
        for x in (student, root.name)
    )
    return [
        f"“{student}” has {ours.parameters:,} parameters, "
        f"{_times(ours.parameters, its.parameters)} “{root.name}”, and takes "
        f"{_macs(ours.macs, its.macs)} “{root.name}”, which makes "
        f"{theirs} errors where “{student}” makes {mine}."
    ]


def _macs(mine, theirs):
    if mine is None or theirs is None:
        return f"{shown_count(mine)} MACs against {shown_count(theirs)} of"
    return f"{mine:,} MACs, {_times(mine, theirs)}"


def _times(mine, theirs):
    """How many times fewer than those of the other, or as many as it has."""
    if mine == theirs:
        return "as many as"
    if not mine or not theirs:
        return f"against {theirs:,} of"
    ratio = max(mine, theirs) / min(mine, theirs)
    digits = 2 if ratio < 2 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f} times {'fewer than' if theirs > mine else 'as many as'}"


def _change(fewer):
    if fewer == 0:
        return "as many"
    return f"{_of(abs(fewer), 'error')} {'fewer' if fewer > 0 else 'more'}"


def _of(count, noun):
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _accuracy(errors, examples):
    return f"{100 * (1 - errors / examples):.2f} %"


def _errors(counts):
    if len(counts) == 1:
        return f"{counts[0]:,}"
    return f"{over_seeds(counts).mean:,.1f}"
