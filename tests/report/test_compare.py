import json
import shutil

import numpy as np
import pytest

from keras_kd.report.compare import compare_runs
from keras_kd.runs import reader
from tests.runs.sample_run import (
    RECIPE,
    change,
    logits,
    make_run,
    make_seeds,
    make_task_run,
    unfinish,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return [make_run(folder / f"run-{seed}", seed=seed) for seed in (0, 1)]


def cells(text, model):
    row = next(x for x in text.splitlines() if x.startswith(f"| {model} "))
    return [x.strip() for x in row.strip("|").split("|")]


def test_models_side_by_side(runs):
    text = compare_runs(runs)
    assert text.startswith(f"- A = `{runs[0]}`: recipe mnist, 2026-05-04\n- B = `")
    labels = logits(200)[0]
    expected = ["student"]
    for seed in (0, 1):
        right = int(np.sum(logits(200, seed)[1]["student"].argmax(1) == labels))
        path = runs[seed] / "student" / "metrics.json"
        low, high = json.loads(path.read_text())["evaluation"]["accuracy_interval"]
        expected += [
            f"{right / 2:.2f} ({100 * low:.2f}–{100 * high:.2f})",
            str(200 - right),
            f"{60 + seed} s",
        ]
    assert cells(text, "student") == expected
    assert cells(text, "teacher")[3] == "–"
    assert "\n- `seed: 0 -> 1`\n" in text


def test_mcnemar_between_models_of_one_name(runs):
    labels, first = logits(200, 0)
    second = logits(200, 1)[1]
    ours, others = (x["alone"].argmax(1) == labels for x in (first, second))
    alone_b, alone_a = int(np.sum(others & ~ours)), int(np.sum(ours & ~others))
    assert alone_a and alone_b
    text = compare_runs(runs)
    line = f"- alone: B alone is right on {alone_b} examples, A alone on {alone_a}; McN"
    assert line in text
    line = "- teacher: B alone is right on 0 examples, A alone on 0; McNemar's p = 1.000"
    assert line in text


def test_other_test_data(runs, tmp_path):
    other = make_run(tmp_path / "other", examples=50)
    text = compare_runs([runs[0], other])
    assert "- ta: not tested, the test data differ" in text


def test_what_differs_in_the_recipes(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    recipe = json.loads(json.dumps(RECIPE))
    recipe["stage"][0]["epochs"] = 9
    recipe["stage"][1]["losses"][0]["temperature"] = 2.0
    recipe["stage"][2]["name"] = "last"
    change(other / "manifest.json", recipe=recipe)
    text = compare_runs([runs[0], other])
    assert "- `stage.ta.epochs: 4 -> 9`" in text
    assert "- `stage.student.losses.kd.temperature: 4.0 -> 2.0`" in text
    assert "- `stage.alone.epochs: 4 -> none`" in text
    assert "- `stage.last.epochs: none -> 4`" in text
    assert "batch_size" not in text
    assert "- the recipes are the same" in compare_runs([runs[0], runs[0]])
    change(other / "manifest.json", recipe=None)
    assert "- not both runs are of a recipe" in compare_runs([runs[0], other])


def test_two_losses_of_one_name(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    recipes = []
    for temperature in (2.0, 3.0):
        recipe = json.loads(json.dumps(RECIPE))
        recipe["stage"][0]["losses"].append({"name": "kd", "temperature": temperature})
        recipes.append(recipe)
    first = shutil.copytree(runs[0], tmp_path / "first")
    change(first / "manifest.json", recipe=recipes[0])
    change(other / "manifest.json", recipe=recipes[1])
    text = compare_runs([first, other])
    assert "- `stage.ta.losses.2.temperature: 2.0 -> 3.0`" in text


def test_seeds_and_what_is_not_finished(runs, tmp_path):
    seeds = make_seeds(tmp_path / "seeds", seeds=(0, 1, 2))
    half = make_run(tmp_path / "half")
    unfinish(half, "alone", "waiting")
    text = compare_runs([runs[0], seeds, half])
    accuracies = []
    for seed in range(3):
        labels, outputs = logits(200, seed)
        accuracies.append(np.mean(outputs["ta"].argmax(1) == labels))
    mean, deviation = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)
    assert cells(text, "ta")[4] == f"{mean:.2f} ± {deviation:.2f}"
    assert ", 3 seeds\n" in text
    assert cells(text, "alone")[-3:] == ["–", "–", "–"]
    of_seeds = text[text.index("A -> B") : text.index("A -> C")]
    assert "McNemar" not in of_seeds and "alone: " not in text[text.index("A -> C") :]


def test_how_many(runs):
    with pytest.raises(ValueError, match="2 to 26 run folders. Received: 1"):
        compare_runs(runs[:1])


def test_names_are_text(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "`<b>|")
    recipe = RECIPE | {"dataset": "<script>`|"}
    change(other / "manifest.json", recipe_name="<b>*x*", recipe=recipe)
    text = compare_runs([runs[0], other])
    assert "recipe &lt;b>\\*x\\*, " in text
    assert "- `dataset: mnist -> <script>'|`" in text


def test_the_same_stages_in_another_order(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    recipe = json.loads(json.dumps(RECIPE))
    recipe["stage"] = recipe["stage"][::-1]
    change(other / "manifest.json", recipe=recipe)
    text = compare_runs([runs[0], other])
    assert "- `stage, order: ta, student, alone -> alone, student, ta`" in text
    assert "the recipes are the same" not in text
    # One more among them is no other order; nor is another name.
    recipe["stage"] = [*RECIPE["stage"][:1], {"name": "new"}, *RECIPE["stage"][1:]]
    change(other / "manifest.json", recipe=recipe)
    assert "order" not in compare_runs([runs[0], other])


def test_the_same_losses_in_another_order(runs, tmp_path):
    folders = []
    for names in (["kd", "dkd"], ["dkd", "kd"]):
        recipe = json.loads(json.dumps(RECIPE))
        recipe["stage"][1]["losses"] = [{"name": x} for x in names]
        folders.append(shutil.copytree(runs[0], tmp_path / names[0]))
        change(folders[-1] / "manifest.json", recipe=recipe)
    assert "- `stage.student.losses, order: kd, dkd -> dkd, kd`" in compare_runs(folders)


def test_other_models_under_the_same_recipe(runs, tmp_path):
    """A file that a recipe names is another one by now; or it is another version."""
    other = shutil.copytree(runs[0], tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["teacher"]["weights"] = "2"
    ta, student, _ = manifest["stages"]
    ta |= {"epochs": 0, "initial_weights": "7"}
    student["architecture"] = "tall"
    change(other / "manifest.json", **manifest | {"keras_kd": "0.2.0"})
    text = compare_runs([runs[0], other])
    for line in (
        "- the recipes are the same",
        "- teacher: another model",
        "- ta: other first weights",
        "- student: another architecture",
        "- `keras_kd: 0.1.0 -> 0.2.0`",
    ):
        assert f"{line}\n" in text
    assert "alone: other" not in text


def test_scores_of_another_task(tmp_path):
    paths = [make_task_run(tmp_path / f"{x}", "regression", seed=x) for x in (0, 1)]
    text = compare_runs(paths)
    ours, others = (
        reader.read(x).runs[None]["student"].metrics.evaluation for x in paths
    )
    value = ours.scores["mean_absolute_error"].value
    low, high = ours.scores["mean_absolute_error"].interval
    assert f"{value:.4f} ({low:.4f}–{high:.4f})" in text
    assert "A mean absolute error" in text and "errors" not in text
    better = value - others.scores["mean_absolute_error"].value
    word = "better" if better > 0 else "worse"
    line = f"student: mean absolute error of B is {word} by {abs(better):.4f}; the perm"
    assert line in text


def test_runs_of_two_tasks(runs, tmp_path):
    other = make_task_run(tmp_path / "other", "multiclass", 2)
    text = compare_runs([runs[0], other])
    assert "A accuracy (%)" in text and "B mean IoU (%)" in text
    assert "student: not tested, the tasks differ" in text
