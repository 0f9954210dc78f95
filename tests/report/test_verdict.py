"""The verdict's words, from answers whose counts are known."""

import re
from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keras_kd.evaluation.uncertainty import McNemar
from keras_kd.recipes import recipe
from keras_kd.report.gain import Comparison, comparisons, mcnemar_of
from keras_kd.report.verdict import (
    _headline,
    _reasons,
    last_distilled,
    verdict,
    warnings,
)
from keras_kd.runs import reader
from keras_kd.runs.reader import Run
from tests.runs.sample_run import make_task_run

EXAMPLES = 200
STAGE = {
    "epochs": 4,
    "optimizer": {"class": "Adam"},
    "student_loss_weight": None,
    "patience": None,
    "restore_best": False,
    "monitor": "val_loss",
}


def a_model(name, wrong, taught_by=(), architecture="small", parameters=100, done=True):
    """A model that errs on these examples alone; every label is 0."""
    predicted = np.zeros(EXAMPLES, dtype="int64")
    predicted[list(wrong)] = 1
    answers = SimpleNamespace(labels=np.zeros(EXAMPLES, dtype="int64"), predicted=predicted)
    evaluation = SimpleNamespace(
        errors=len(wrong), examples=EXAMPLES, is_right_or_wrong=True
    )
    return SimpleNamespace(
        name=name,
        folder=Path(name),
        stage=None if name == "teacher" else SimpleNamespace(**STAGE),
        taught_by=list(taught_by),
        architecture=architecture,
        answers=answers,
        metrics=SimpleNamespace(
            parameters=parameters, macs=2 * parameters, evaluation=evaluation
        ),
        done=done,
    )


def a_run(student, alone, folder="run"):
    models = [
        a_model("teacher", range(3), architecture=None, parameters=2500),
        a_model("student", student, ["teacher"]),
        a_model("alone", alone),
    ]
    return Run(Path(folder), None, models)


def plain(sentences):
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")


def test_a_student_that_is_better():
    # Only the student is right on 5..24, only the other on 0, 1; 2, 3, 4 both miss.
    run = a_run(student=range(5), alone=range(2, 25))
    headline, reasons = verdict([run])
    assert headline == "Distillation was worth it."
    text = plain(reasons)
    assert "“student” makes 5 errors in 200 examples (97.50 %)" in text
    assert "“alone”, the same architecture trained on labels alone, makes 23" in text
    assert "(88.50 %). That is 18 errors fewer, a difference of +9.00 points." in text
    assert "Only “student” is right on 20 examples, only “alone” on 2: " in text
    p = 2 * sum(comb(22, k) for k in range(3)) / 2**22
    assert p < 0.001 and "McNemar's exact test gives p < 0.001." in text
    assert "only a run over several can tell" in text
    assert "“student” has 100 parameters, 25.0 times fewer than “teacher”, " in text
    assert "takes 200 MACs, 25.0 times fewer than “teacher”, which makes 3 " in text
    assert text.endswith("errors where “student” makes 5.")
    assert warnings([run]) == []


@pytest.mark.parametrize(
    "student, alone, headline",
    [
        (range(5), range(2, 8), "came out ahead, but by no more than chance may give."),
        (range(5), range(5, 10), "made no difference to the number of errors."),
        (range(6), range(2, 7), "did not help: the difference is within what chance"),
        (range(30), range(2), "did harm."),
    ],
)
def test_headlines(student, alone, headline):
    assert f"Distillation {headline}" in verdict([a_run(student, alone)])[0]


def test_the_warning_of_a_worse_student():
    (warning,) = warnings([a_run(student=range(6), alone=range(2, 7))])
    # The other alone is right on 0 and 1, the student alone on 6.
    assert warning == (
        "“student” was taught and ends worse than “alone”, the same architecture trained "
        "on labels alone: 6 errors against 5 in 200 (McNemar's p = 1.000)."
    )
    assert _p(2, 1) == 1


def test_no_warning_of_an_equal_student():
    assert warnings([a_run(student=range(5), alone=range(5, 10))]) == []


def _p(a, b):
    """The two-sided binomial tail, summed over all outcomes as uneven as this one."""
    n = a + b
    return sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(a - b)) / 2**n


def test_several_seeds():
    runs = [
        a_run(range(4), range(2, 12), "seed-0"),
        a_run(range(6), range(2, 14), "seed-1"),
        a_run(range(5), range(20, 34), "seed-2"),
    ]
    headline, reasons = verdict(runs)
    text = plain(reasons)
    # Errors 4, 6, 5 against 10, 12, 14: 6, 6, 9 fewer, in points 3, 3, 4.5.
    assert headline == "Distillation was worth it."
    assert "Over 3 seeds the distilled “student” is right on 97.50 ± 0.50 % of 200" in text
    assert "labels alone, on 94.00 ± 1.00 % (mean" in text
    assert "difference is +3.50 ± 0.87 points, 5.0 errors against 12.0." in text
    significant = sum(_p(*x) < 0.05 for x in ((8, 2), (8, 2), (14, 5)))
    assert "ahead with 3 of 3 seeds; McNemar's exact test gives p < 0.05 with" in text
    assert f"with {significant} of them (from p = {_p(14, 5):.3f} to " in text
    assert f"to p = {_p(8, 2):.3f})" in text
    assert "which makes 3.0 errors where “student” makes 5.0." in text


def test_seeds_that_do_not_agree():
    runs = [a_run(range(4), range(2, 12)), a_run(range(9), range(2, 4))]
    runs += [a_run(range(5), range(20, 26))]
    # 6, -7 and 1 fewer: the mean is 0, and surely within twice its error.
    assert verdict(runs)[0] == "Distillation made no difference to the number of errors."
    assert not comparisons(runs)[0].beyond_chance
    # 6, -7 and 4 fewer: the mean is 1, its error 4.
    runs[2] = a_run(range(5), range(20, 29))
    assert "by no more than chance" in verdict(runs)[0]
    # Of two seeds nothing is said for sure.
    assert "by no more than chance" in verdict([runs[0], runs[0]])[0]


def test_nothing_to_compare_with():
    run = a_run(range(5), range(9))
    run.models.pop()
    headline, reasons = verdict([run])
    assert headline == "Whether distillation was worth it, this run cannot say."
    assert "No finished stage trains the architecture of “student” on labels" in reasons[0]
    run.models[1].done = False
    assert verdict([run])[0].startswith("No distilled student is finished")


def test_only_the_same_architecture_is_compared():
    run = a_run(range(5), range(9))
    run.models.insert(1, a_model("ta", range(4), ["teacher"], architecture="middle"))
    (compared,) = comparisons([run])
    assert (compared.student, compared.baseline) == ("student", "alone")
    run.models.append(a_model("last", range(2), ["ta"]))
    assert last_distilled([run]) == "last"
    assert len(comparisons([run])) == 2


def test_answers_to_different_data():
    run = a_run(range(5), range(9))
    run["alone"].answers.labels[0] = 1
    with pytest.raises(
        ValueError, match="student/answers.csv and alone/answers.csv have d"
    ):
        mcnemar_of(run["student"], run["alone"])


@pytest.mark.parametrize(
    "parameters, words",
    [(2500, "as many as"), (5150, "2.1 times as many as"), (2400, "1.04 times fewer than")],
)
def test_sizes_in_words(parameters, words):
    run = a_run(range(5), range(9))
    run["student"].metrics.parameters = parameters
    assert f"{parameters:,} parameters, {words} “teacher”" in plain(verdict([run])[1])


def of_stages(*stages, tables=None, seeds=1, stage_fields=None):
    """Runs of stages (name, errors of each seed, taught_by) and their recipe's tables."""
    runs = []
    for seed in range(seeds):
        models = [a_model("teacher", range(3), architecture=None, parameters=2500)]
        for name, errors, taught_by in stages:
            models.append(a_model(name, errors[seed], taught_by))
            for key, value in (stage_fields or {}).get(name, {}).items():
                setattr(models[-1].stage, key, value)
        rows = [
            {"name": x[0], "model": "mnist_fc_8"} | (tables or {}).get(x[0], {})
            for x in stages
        ]
        manifest = SimpleNamespace(recipe={"batch_size": 100, "stage": rows})
        runs.append(Run(Path(f"seed-{seed}"), manifest, models))
    return runs


BETTER, ALIKE, WORSE = [range(5)], [range(2, 8)], [range(40)]
TAUGHT = ("student", BETTER, ["teacher"])


def test_other_labels_are_no_baseline():
    stages = TAUGHT, ("few", WORSE, []), ("alone", [range(4)], [])
    examples = {"student": {"examples": 1000}, "alone": {"examples": 1000}}
    runs = of_stages(*stages, tables=examples | {"few": {"examples": 100}})
    headline, reasons = verdict(runs)
    assert headline.startswith("Distillation did not help")
    text = plain(reasons)
    assert "“few”, of the same architecture on labels alone, is not compared" in text
    assert "labels: 1,000 examples against 100 examples" in text
    (warning,) = warnings(runs)
    assert "worse than “alone”" in warning
    # Without the right one nothing is said, in whatever order they stand.
    for others in ([1], []):
        kept = [stages[0], *(stages[i] for i in others)]
        headline, _ = verdict(of_stages(*kept, tables=examples | {"few": {"examples": 9}}))
        assert headline == "Whether distillation was worth it, this run cannot say."


def test_a_student_without_labels_has_its_teachers_labels():
    """As in mnist_few_labels: 100 and 1,000 labels, each taught on to all images."""
    shipped = {x.name: x.model_dump() for x in recipe.load("mnist_few_labels").stage}
    stages = [
        ("teacher_100", [range(20)], []), ("student_100", [range(21)], ["teacher_100"]),
        ("student_100_alone", [range(90)], []), ("teacher_1000", [range(10)], []),
        ("student_1000", [range(11)], ["teacher_1000"]),
        ("student_1000_alone", [range(12)], []),
    ]  # fmt: skip
    fields = {f"student_{x}": {"student_loss_weight": 0.0} for x in (100, 1000)}
    runs = of_stages(*stages, tables=shipped, stage_fields=fields)
    for name in ("teacher_100", "teacher_1000"):
        runs[0][name].architecture = "big"
    headline, reasons = verdict(runs)
    assert headline == (
        "Distillation came out ahead, but by no more than chance may give, as far as a "
        "baseline with other settings can tell."
    )
    text = plain(reasons)
    assert "“student_1000_alone”, the same architecture trained on labels" in text
    assert "“student_100_alone”, of the same architecture on labels alone, is not" in text
    assert "labels: 1,000 examples against 100 examples" in text
    assert "examples: all examples against 1,000 examples" in text


@pytest.mark.parametrize(
    "table, field, words",
    [
        ({"batch_size": 50}, {}, "batch size: 100 against 50"),
        ({"repeat": 3}, {}, "times each in an epoch: 1 against 3"),
        ({"views": 2}, {}, "views of each: 0 against 2"),
        ({}, {"epochs": 2}, "epochs: 4 against 2"),
        ({}, {"optimizer": {"class": "SGD"}}, "another optimizer"),
        ({}, {"restore_best": True}, "another choice of the epoch"),
    ],
)
def test_a_baseline_that_was_trained_otherwise(table, field, words):
    stages = TAUGHT, ("alone", [range(2, 25)], [])
    runs = of_stages(*stages, tables={"alone": table}, stage_fields={"alone": field})
    headline, reasons = verdict(runs)
    assert headline == (
        "Distillation was worth it, as far as a baseline with other settings can tell."
    )
    assert f"“alone” differs in more than the teacher ({words})" in plain(reasons)
    # One that differs in nothing is taken before it, and is enough.
    runs = of_stages(
        *stages, ("like", [range(40, 49)], []),
        tables={"alone": table}, stage_fields={"alone": field},
    )  # fmt: skip
    headline, reasons = verdict(runs)
    assert headline.endswith("but by no more than chance may give.")
    assert "“like”, the same architecture trained on labels alone" in plain(reasons)


def test_given_models_are_not_trained_on_labels_alone():
    stages = TAUGHT, ("given", WORSE, [])
    runs = of_stages(*stages, stage_fields={"given": {"epochs": 0}})
    assert comparisons(runs) == [] and warnings(runs) == []
    assert verdict(runs)[0] == "Whether distillation was worth it, this run cannot say."
    # Nor is one that goes on from the weights of a file.
    runs = of_stages(*stages, tables={"given": {"model": "distilled.keras"}})
    headline, reasons = verdict(runs)
    assert headline == "Whether distillation was worth it, this run cannot say."
    assert "first weights: random against distilled.keras" in plain(reasons)


def test_several_baselines():
    stages = TAUGHT, ("a", [range(2, 25)], []), ("b", ALIKE, [])
    headline, reasons = verdict(of_stages(*stages))
    assert headline == "Distillation came out ahead, but by no more than chance may give."
    text = plain(reasons)
    assert "2 stages on labels alone were trained as it was, “a” and “b”" in text
    assert "makes 23" in text and "makes 6" in text
    headline, _ = verdict(of_stages(*stages[:2], ("b", [range(30, 60)], [])))
    assert headline == "Distillation was worth it."
    runs = of_stages(*stages[:2], ("b", [range(4)], []))
    headline, _ = verdict(runs)
    assert headline == (
        "Whether distillation was worth it depends on what it is compared with."
    )
    assert len(warnings(runs)) == 1


SURE = {"Distillation was worth it": 1, "Distillation did harm": -1}
UNSURE = {
    "Distillation came out ahead": 1,
    "Distillation did not help": -1,
    "Distillation made no difference": 0,
}


def judged(headline):
    """(is it sure, who is better), or None where it says neither."""
    for is_sure, words in ((True, SURE), (False, UNSURE)):
        for start, sign in words.items():
            if headline.startswith(start):
                return is_sure, sign
    assert headline.startswith("Whether distillation was worth it"), headline
    return None


def a_random_case(rng):
    seeds = int(rng.integers(1, 5))
    spread = rng.choice([0, 1, 8])

    def errors(mean):
        starts = rng.integers(0, 60, seeds)
        counts = np.clip(mean + np.round(spread * rng.normal(size=seeds)), 0, 90)
        same = rng.random() < 0.5
        return [range(0 if same else int(a), int(a * (not same) + n))
                for a, n in zip(starts, counts, strict=True)]  # fmt: skip

    mean = int(rng.integers(0, 50))
    stages = [("student", errors(mean), ["teacher"])]
    tables = {"student": {"examples": 100}}
    for name in "abc"[: rng.integers(1, 4)]:
        stages.append((name, errors(mean + int(rng.choice([-25, -2, 0, 0, 2, 25]))), []))
        tables[name] = {"examples": int(rng.choice([100, 100, 50]))}
        tables[name] |= {"repeat": int(rng.choice([1, 1, 2]))}
    order = rng.permutation(len(stages))
    return of_stages(*(stages[i] for i in order), tables=tables, seeds=seeds)


def test_no_headline_contradicts_a_line_of_its_page():
    rng = np.random.default_rng(7)
    seen = set()
    for _ in range(400):
        runs = a_random_case(rng)
        headline, reasons = verdict(runs)
        text, said, warned = plain(reasons), judged(headline), warnings(runs)
        seen.add(said)
        compared = re.findall(
            r"distilled “student” .*?“(\w)”, the same architecture trained", text
        )
        ours = [len(run["student"].answers.predicted.nonzero()[0]) for run in runs]
        signs = set()
        for name in compared:
            others = [len(run[name].answers.predicted.nonzero()[0]) for run in runs]
            sign = int(np.sign(sum(others) - sum(ours)))
            signs.add(sign)
            assert any(f"worse than “{name}”" in x for x in warned) == (sign < 0)
        about = [x for x in compared if any(f"worse than “{x}”" in w for w in warned)]
        assert len(warned) == len(about)
        if said is None:
            assert len(signs) != 1
            continue
        is_sure, sign = said
        assert signs == {sign}
        # The margins and p-values that stand there say what the headline does.
        margins = re.findall(
            r"difference is ([+-][\d.]+) ± .*?up to ([\d.]+) points by chance", text
        )
        beyond = [abs(float(a)) > float(b) for a, b in margins]
        if len(runs) == 1:
            ps = re.findall(r"exact test gives p (?:=|<) ([\d.]+)\.", text)
            beyond = [float(p) < 0.05 for p in ps]
        assert len(beyond) == len(compared) and all(beyond) == is_sure
        differences = re.findall(r"difference (?:is|of) ([+-][\d.]+)", text)
        assert {int(np.sign(float(x))) for x in differences} == {sign}
        counts = re.findall(r"([\d.]+) errors against ([\d.]+)\.", text)
        assert all(np.sign(float(b) - float(a)) == sign for a, b in counts)
    assert seen == {None, (True, 1), (True, -1), (False, 1), (False, -1), (False, 0)}


def test_small_differences_are_not_rounded_away():
    """One error more in 60,000 over 12 seeds: worse, and shown as worse."""
    tests = [McNemar(3, 3, 1.0)] * 11 + [McNemar(3, 4, 1.0)]
    x = Comparison("s", "a", [100] * 11 + [101], [100] * 12, 60_000, tests)
    (first, *_) = _reasons(x)
    assert "difference is -0.0001 ±" in first and "100.1 errors against 100.0." in first
    assert _headline(x).startswith("Distillation did not help")


@pytest.mark.parametrize(
    "task, places, words, unit",
    [
        ("regression", 0, "mean absolute error", ""),
        ("multiclass", 2, "mean IoU", " points"),
        ("multilabel", 0, "accuracy", " points"),
    ],
)
def test_a_verdict_by_the_score_that_counts(tmp_path, task, places, words, unit):
    run = reader.read(make_task_run(tmp_path / "run", task, places)).runs[None]
    headline, reasons = verdict([run])
    (found,) = comparisons([run])
    expected = "was worth it" if found.tests[0].p_value < 0.05 else "came out ahead, but"
    assert expected in headline
    text = " ".join(reasons).replace("\N{NO-BREAK SPACE}", " ")
    article = "an" if words[0] == "a" else "a"
    percent = " %" if unit else ""
    ours, others = (found.score.shown(x[0]) for x in (found.values, found.baseline_values))
    assert f"“student” has {article} {words} of {ours}{percent} on 40 examples" in text
    assert f"labels alone, one of {others}{percent}. That is better by" in text
    assert f"{found.gain.mean:.{found.score.digits}f}{unit}. A paired permutation" in text
    assert f"“teacher”, which has {article} {words} of" in text
    assert warnings([run]) == []


def test_scores_over_seeds_in_words(tmp_path):
    runs = [
        reader.read(make_task_run(tmp_path / f"{x}", "regression", seed=x)).runs[None]
        for x in (0, 1, 2)
    ]
    _, reasons = verdict(runs)
    text = " ".join(reasons).replace("\N{NO-BREAK SPACE}", " ")
    (found,) = comparisons(runs)
    mean, deviation = np.mean(found.values), np.std(found.values, ddof=1)
    assert f"mean absolute error of {mean:.4f} ± {deviation:.4f} on 40 examples" in text
    assert f"better by {found.gain.mean:.4f} ± {found.gain.deviation:.4f}. The" in text
    assert f"may make it up to {found.by_chance:.4f} by chance (95 %)" in text
    assert "is ahead with 3 of 3 seeds; a paired permutation test gives p < 0.05" in text


def test_the_warning_of_a_worse_score(tmp_path):
    path = make_task_run(tmp_path / "run", "regression", noise={"student": 2.0})
    run = reader.read(path).runs[None]
    (sentence,) = warnings([run])
    ours, others = (
        run[x].metrics.evaluation.scores["mean_absolute_error"].value
        for x in ("student", "alone")
    )
    assert ours > others
    assert f"mean absolute error {ours:.4f} against {others:.4f} on 40 examples" in sentence
    assert "(the permutation test's p " in sentence
    assert verdict([run])[0] == "Distillation did harm."
