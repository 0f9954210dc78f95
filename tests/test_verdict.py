"""The verdict's words, from answers whose counts are known."""

from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keras_kd.run_reader import Run
from keras_kd.verdict import comparisons, last_distilled, mcnemar_of, verdict, warnings

EXAMPLES = 200


def a_model(name, wrong, taught_by=(), architecture="small", parameters=100, done=True):
    """A model that errs on these examples alone; every label is 0."""
    predicted = np.zeros(EXAMPLES, dtype="int64")
    predicted[list(wrong)] = 1
    answers = SimpleNamespace(labels=np.zeros(EXAMPLES, dtype="int64"), predicted=predicted)
    evaluation = SimpleNamespace(errors=len(wrong), examples=EXAMPLES)
    return SimpleNamespace(
        name=name,
        folder=Path(name),
        stage=None if name == "teacher" else True,
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
