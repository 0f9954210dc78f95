"""Whether distillation was worth it, in plain words, from the figures of a run folder."""

import math

from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.report.gain import SIGNIFICANT, ScoreComparison, comparisons, likes
from keras_kd.tasks.scores import SCORES


def last_distilled(runs):
    """Name of the last finished taught stage of the first run that has one, or None."""
    for run in runs:
        for model in reversed(run.models):
            if model.taught_by and model.done:
                return model.name
    return None


def verdict(runs):
    """The verdict on the last distilled student.

    It is beside the stage on labels alone that was trained as the student was. Where
    several were, it must hold against each; where none was, it is beside the nearest, and
    says so; of one that saw other labels nothing is said.

    Args:
        runs: As `comparisons` takes them.

    Returns:
        `(headline, sentences)`: a short sentence, and the list of those that give reasons.
    """
    student = last_distilled(runs)
    if student is None:
        return "No distilled student is finished, so there is no verdict yet.", []
    size = _size(runs, student)
    every = [x for x in comparisons(runs) if x.student == student]
    judged = likes(every)
    if not judged:
        reasons = [*map(_not_compared, every)] or [
            f"No finished stage trains the architecture of “{student}” on labels alone. "
            + _what_would(runs)
        ]
        return "Whether distillation was worth it, this run cannot say.", [*reasons, *size]
    reasons = [reason for x in judged for reason in _reasons(x)]
    if len(judged) > 1:
        reasons.insert(0, _several(judged))
    reasons += [_not_compared(x) for x in every if x not in judged]
    return _of_all(judged), list(map(_unbroken, [*reasons, *size]))


def _what_would(runs):
    if any(getattr(run.manifest, "labels_of", None) for run in runs):
        return "The data have none; labelled ones would make the comparison."
    return "A stage without losses, of the same model, would make the comparison."


def warnings(runs):
    """A sentence for each taught stage that ends worse than its architecture alone.

    Beside the same stages as a verdict on it would be, see `gain.likes`.
    """
    every = comparisons(runs)
    judged = [
        x
        for student in dict.fromkeys(x.student for x in every)
        for x in likes([y for y in every if y.student == student])
    ]
    return [
        f"“{x.student}” was taught and ends worse than “{x.baseline}”, the same "
        f"architecture trained on labels alone: {_against(x)}"
        + (f" ({_test_name(x)} p {p_value(x.tests[0])})." if len(x.tests) == 1 else ".")
        + _trained_otherwise(x)
        for x in judged
        if x.sign < 0
    ]


def _against(compared):
    x = compared
    if isinstance(x, ScoreComparison):
        ours, others = (_mean(x.score, y) for y in (x.values, x.baseline_values))
        return f"{x.score.words} {ours} against {others} on {x.examples:,} examples"
    return "{} errors against {} in {:,}".format(*_pair(x), x.examples)


def _test_name(compared):
    is_score = isinstance(compared, ScoreComparison)
    return "the permutation test's" if is_score else "McNemar's"


def _several(judged):
    names = " and ".join(f"“{x.baseline}”" for x in judged)
    as_it = "as near to it as each other" if judged[0].apart.words else "as it was"
    return (
        f"{len(judged)} stages on labels alone were trained {as_it}, {names}; the verdict "
        "is what holds against each."
    )


def _trained_otherwise(compared):
    words = compared.apart.words
    if not words:
        return ""
    return (
        f" But “{compared.baseline}” differs in more than the teacher ("
        f"{'; '.join(words)}), and no stage alone does in less."
    )


def _not_compared(compared):
    return (
        f"“{compared.baseline}”, of the same architecture on labels alone, is not "
        f"compared: it was trained otherwise ({'; '.join(compared.apart.words)})."
    )


def p_value(test):
    """A p-value with its sign of equality: "= 0.012" or "< 0.001"."""
    return "< 0.001" if test.p_value < 0.001 else f"= {test.p_value:.3f}"


def _unbroken(sentence):
    """Holds a number and its sign together at the end of a line."""
    for sign in (" ± ", " %", " < ", " = "):
        sentence = sentence.replace(sign, sign.replace(" ", "\N{NO-BREAK SPACE}"))
    return sentence


def _of_all(judged):
    """The headline for all that one student is compared with."""
    if len({x.sign for x in judged}) > 1:
        return "Whether distillation was worth it depends on what it is compared with."
    # What is surely so against one is said if it is so against each.
    unsure = [x for x in judged if not x.beyond_chance]
    return _headline((unsure or judged)[0])


def _headline(compared):
    counted = "number of errors"
    if isinstance(compared, ScoreComparison):
        counted = compared.score.words
    headline = _judgement(compared.sign, compared.beyond_chance, counted)
    if compared.apart.words:
        headline = headline.removesuffix(".")
        headline += ", as far as a baseline with other settings can tell."
    return headline


def _judgement(sign, beyond_chance, counted):
    if sign == 0:
        return f"Distillation made no difference to the {counted}."
    if beyond_chance:
        return "Distillation was worth it." if sign > 0 else "Distillation did harm."
    if sign > 0:
        return "Distillation came out ahead, but by no more than chance may give."
    return "Distillation did not help: the difference is within what chance may give."


def _reasons(compared):
    x = compared
    several = _scores_over_seeds, _scores_of_one_seed
    if not isinstance(x, ScoreComparison):
        several = _reasons_over_seeds, _reasons_of_one_seed
    reasons = several[len(x.tests) == 1](x)
    return [*reasons, _trained_otherwise(x).strip()] if x.apart.words else reasons


def _reasons_of_one_seed(compared):
    x, test = compared, compared.tests[0]
    ours, others, points = _distinct(
        [
            100 * (1 - x.errors[0] / x.examples),
            100 * (1 - x.baseline_errors[0] / x.examples),
            x.gain.mean,
        ]
    )
    return [
        f"The distilled “{x.student}” makes {_of(x.errors[0], 'error')} in {x.examples:,} "
        f"examples ({ours} %); “{x.baseline}”, the same "
        f"architecture trained on labels alone, makes {x.baseline_errors[0]:,} "
        f"({others} %). That is {_change(x.better[0])}, "
        f"a difference of {_signed(points)} points.",
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
    ours, others = _pair(x)
    (difference,) = _distinct([x.gain.mean])
    return [
        f"Over {count} seeds the distilled “{x.student}” is right on {means[0].percent()} "
        f"% of {x.examples:,} examples; “{x.baseline}”, the same architecture trained on "
        f"labels alone, on {means[1].percent()} % (mean ± standard deviation). The "
        f"difference is {_signed(difference)} ± {x.gain.deviation:.2f} points, "
        f"{ours} errors against {others}. The choice of seeds and of test examples may "
        f"make it up to {_margin(x, difference)} points by chance (95 %).",
        _seed_by_seed(x, "McNemar's exact test"),
    ]


def _seed_by_seed(compared, test):
    x = compared
    ahead, behind = (sum(sign * y > 0 for y in x.better) for sign in (1, -1))
    ps = sorted(x.tests, key=lambda test: test.p_value)
    return (
        f"“{x.student}” is ahead with {ahead} of {len(x.tests)} seeds"
        + f", behind with {behind}" * bool(behind)
        + f"; {test} gives p < {SIGNIFICANT} with {_significant(x)} "
        f"({_range(ps)})."
    )


def _scores_of_one_seed(compared):
    x = compared
    ours, others = (_mean(x.score, y) for y in (x.values, x.baseline_values))
    return [
        f"The distilled “{x.student}” has {_a(x.score)} of {ours} on {x.examples:,} "
        f"examples; “{x.baseline}”, the same architecture trained on labels alone, one of "
        f"{others}. That is {_by(x)}.",
        "A paired permutation test over the examples gives p "
        f"{p_value(x.tests[0])}. Of one seed, this compares two trained models; what "
        "another seed would give, only a run over several can tell.",
    ]


def _scores_over_seeds(compared):
    x = compared
    ours, others = (_mean(x.score, y) for y in (x.values, x.baseline_values))
    difference = f"{x.gain.mean:.{_digits(x)}f}"
    return [
        f"Over {len(x.tests)} seeds the distilled “{x.student}” has {_a(x.score)} of "
        f"{ours} on {x.examples:,} examples; “{x.baseline}”, the same architecture trained "
        f"on labels alone, one of {others} (mean ± standard deviation). That is {_by(x)}. "
        "The choice of seeds and of test examples may make it up to "
        f"{_margin(x, difference)}{_unit(x)} by chance (95 %).",
        _seed_by_seed(x, "a paired permutation test"),
    ]


def _a(score):
    return f"an {score.words}" if score.words[0] in "AaEe" else f"a {score.words}"


def _mean(score, values):
    """A score of one seed, or its mean ± deviation, with its unit."""
    seeds = over_seeds(values)
    text = score.shown(seeds.mean)
    if seeds.deviation is not None:
        text += f" ± {score.shown(seeds.deviation)}"
    return text + score.percent


def _by(compared):
    """By how much one is better or worse, in words."""
    x, gain = compared, compared.gain
    size = f"{abs(gain.mean):.{_digits(x)}f}"
    if gain.deviation is not None:
        size += f" ± {gain.deviation:.{_digits(x)}f}"
    if x.sign == 0:
        return "no difference"
    return f"{'better' if x.sign > 0 else 'worse'} by {size}{_unit(x)}"


def _digits(compared):
    return compared.score.digits_for(abs(compared.gain.mean))


def _unit(compared):
    return f" {compared.score.unit}" if compared.score.unit else ""


def _significant(compared):
    """With how many seeds the difference is significant, and to which side, in words."""
    signs = [
        y > 0
        for y, test in zip(compared.better, compared.tests, strict=True)
        if test.p_value < SIGNIFICANT
    ]
    if all(signs):
        return f"{len(signs)} of them"
    return f"{sum(signs)} for it and {len(signs) - sum(signs)} against it"


def _margin(compared, difference):
    """What chance may give, in points, on the side of the shown difference that it is."""
    if isinstance(compared, ScoreComparison):
        margin, least = compared.score.scale * compared.by_chance, _digits(compared)
    else:
        margin, least = 100 * compared.by_chance / compared.examples, 2
    for digits in range(least, least + 7):
        text = f"{margin:.{digits}f}"
        if (abs(float(difference)) > float(text)) == compared.beyond_chance:
            break
    return text


def _distinct(numbers, digits=2):
    """Numbers as text, with as many digits as tell those apart that differ, and from 0."""
    while digits < 8:
        texts = [f"{x:.{digits}f}" for x in numbers]
        alike = {
            tuple(sorted((a, b)))
            for a, x in zip(texts, numbers, strict=True)
            for b, y in zip(texts, numbers, strict=True)
            if a == b and not math.isclose(x, y, abs_tol=1e-9)
        }
        vanished = [a for a, x in zip(texts, numbers, strict=True) if x and not float(a)]
        if not alike and not vanished:
            break
        digits += 1
    return texts


def _signed(text):
    return text if text.startswith("-") else f"+{text}"


def _pair(compared):
    """The errors of student and baseline, a whole number or a mean, never rounded alike."""
    if len(compared.errors) == 1:
        return [f"{x[0]:,}" for x in (compared.errors, compared.baseline_errors)]
    means = [sum(x) / len(x) for x in (compared.errors, compared.baseline_errors)]
    digits = max(len(x.partition(".")[2]) for x in _distinct(means, 1))
    return [f"{x:,.{digits}f}" for x in means]


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
    both = [x for x in runs if x.done(student) and x.done(root.name)]
    if not both:
        return []
    ours, its = (both[0][x].metrics for x in (student, root.name))
    mine, theirs = (
        _counted([run[x].metrics.evaluation for run in both], noun)
        for x, noun in ((student, ""), (root.name, " errors"))
    )
    macs = ""
    if None not in (ours.macs, its.macs):
        macs = (
            f", and takes {ours.macs:,} MACs, {_times(ours.macs, its.macs)} “{root.name}”"
        )
    if its.parameters is None:
        # A function, or outputs that the data carry.
        size = f"; those of “{root.name}” are unknown. “{root.name}”"
    else:
        size = f", {_times(ours.parameters, its.parameters)} “{root.name}”{macs}, which"
    return [
        f"“{student}” has {ours.parameters:,} parameters{size} {theirs} where “{student}” "
        f"{mine}."
    ]


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


def _counted(evaluations, noun):
    """The errors, or the score that counts, of one seed or the mean of several."""
    if all(x.is_right_or_wrong for x in evaluations):
        counts = [x.errors for x in evaluations]
        mean = f"{over_seeds(counts).mean:,.{1 if len(counts) > 1 else 0}f}"
        return f"makes {mean}{noun}"
    score = SCORES[evaluations[0].counts]
    value = over_seeds([x.scores[score.name].value for x in evaluations]).mean
    return f"has {_a(score)} of {score.shown(value)}{score.percent}"
