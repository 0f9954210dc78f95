"""Runs a recipe over several seeds, one after the other or in processes side by side."""

import gc
import json
import logging
import shutil
from pathlib import Path

from keras_kd import files
from keras_kd.chain import progress
from keras_kd.distribution import jobs as job_processes
from keras_kd.distribution.jobs import JobError
from keras_kd.distribution.served import serve
from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.losses.arguments import check_integer
from keras_kd.recipes import data as recipe_data
from keras_kd.recipes.recipe import AS_JSON, Recipe
from keras_kd.recipes.run import TEACHER_OUTPUTS, models_and_data, run
from keras_kd.report.tables import score_cell
from keras_kd.runs import manifest
from keras_kd.runs.schema import EvaluationEntry
from keras_kd.tables import markdown_table, shown_count
from keras_kd.tasks.scores import SCORES

logger = logging.getLogger(__name__)


def run_seeds(recipe, count, run_dir, data_dir=None, verbose="auto", name=None, jobs=1):
    """Runs a recipe with several seeds: its own, and those after it.

    Args:
        recipe, data_dir, verbose, name: As `run` takes them.
        count: How many seeds.
        run_dir: A folder, new or of this recipe over seeds, for one run folder a seed,
            "seed-0" and so on, and a table of all. Finished seeds are skipped, the
            interrupted one goes on; a larger `count` adds to what is there.
        jobs: How many seeds are run at a time, an integer, 1 or greater: in processes on
            cores of their own, with the results of one after the other. No more than there
            are cores, or seeds. The processes know what files say, and not what a program
            has registered or set. Of Keras's own bars they show a line for each epoch.

    Returns:
        A Markdown table of mean and standard deviation over the seeds: of all that are
        finished in the folder, also those beyond `count`.

    Raises:
        RunError, FileExistsError: As `run`.
        JobError: Of several jobs some seeds failed, or their processes were killed; the
            others are done.
        ValueError: `count` or `jobs` is less than 1, the last seed is 2**32 or more, or as
            `run`.
    """
    if count < 1:
        raise ValueError(f"`seeds` must be at least 1. Received: seeds={count}.")
    jobs = check_integer("jobs", jobs, least=1)
    seeds = list(range(recipe.seed, recipe.seed + count))
    if seeds[-1] >= 2**32:
        raise ValueError(
            f"`seeds`: the last of {count} seeds from {recipe.seed} on would be "
            f"{seeds[-1]}, and seeds are less than 2**32. Give fewer, or a smaller first "
            "`seed`."
        )
    say = progress.Progress([], verbose).say
    shares = job_processes.shares(jobs, count, say) if jobs > 1 else []
    settings = {"recipe_name": name, "recipe": recipe.model_dump(**AS_JSON)}
    folder = manifest.open_seeds(run_dir, settings, seeds)
    outputs = folder / TEACHER_OUTPUTS
    try:
        if len(shares) > 1:
            _side_by_side(recipe, seeds, folder, data_dir, verbose, name, shares, say)
        else:
            run_one = _runner(recipe, folder, data_dir, verbose, name)
            for seed in seeds:
                run_one(seed)
    finally:
        if not any(folder.glob("seed-*")):
            # None has begun: another recipe may, as where there is one seed.
            shutil.rmtree(folder)
    shutil.rmtree(outputs, ignore_errors=True)
    rows = _of_all_seeds(folder)
    table = _over_seeds(list(rows.values()))
    files.write_text(folder / "results.md", table + "\n")
    files.write_json(folder / "results.json", rows)
    return table


def _side_by_side(recipe, seeds, folder, data_dir, verbose, name, shares, say):
    """Runs seeds in processes.

    Raises:
        JobError: Some failed; names each, and says how to go on.
    """

    def prepare():
        if not all((folder / f"seed-{x}" / "results.json").is_file() for x in seeds):
            _prepare(recipe, folder / TEACHER_OUTPUTS, data_dir, verbose)

    setup = {
        "recipe": recipe.model_dump(**AS_JSON),
        "folder": str(folder),
        "data_dir": None if data_dir is None else str(data_dir),
        # Bars of several would write over each other.
        "verbose": 2 if verbose == 1 else verbose,
        "name": name,
    }
    tasks = _Seeds(seeds)
    if verbose == 0:
        say = logger.warning
    with progress.bar_if_shown(len(seeds), verbose) as bar:
        failed = job_processes.run(__name__, setup, shares, tasks, say, bar, prepare)
    if failed or tasks.left:
        reasons = [f"{label}: {why}" for label, why in failed.items()]
        if tasks.left:
            reasons.append(f"{len(tasks.left)} were not begun")
        raise JobError(
            f"Of {len(seeds)} seeds {len(failed) + len(tasks.left)} are not done. "
            f"{'; '.join(reasons)}. What is done is kept in {folder}: to go on, give the "
            f"same command with --run-dir {folder} --resume, or the same call."
        )


class _Seeds(job_processes.Tasks):
    """Attributes: left: Those that are not begun."""

    def __init__(self, seeds):
        self.left = list(seeds)

    def take(self):
        if not self.left:
            return None
        seed = self.left.pop(0)
        return f"seed {seed}", seed


def _prepare(recipe, outputs, data_dir, verbose):
    """Makes once what all seeds share, and tells what is wrong with it.

    That is a shipped teacher that is not there, the data set in TFDS's folder, and what the
    first teacher says of the same examples for every seed.
    """
    teacher, chain, parts = models_and_data(recipe, data_dir, verbose)
    train_data = recipe_data.TrainData(recipe, parts.train, outputs)
    for section, stage in zip(recipe.stage, chain.stages, strict=True):
        is_first = list(chain.teachers_of(stage).values()) == [teacher]
        # Which examples are drawn hangs on the seed.
        is_shared = stage.epochs and is_first and section.examples is None
        if teacher is not None and is_shared and not section.taps_teacher():
            train_data.of(section)(teacher)


def _begin(setup, tell):
    """What a process does for all of its seeds, and the function of a seed."""
    progress.Progress.shown_elsewhere = tell.share
    return _runner(
        Recipe.model_validate(setup["recipe"]),
        Path(setup["folder"]),
        setup["data_dir"],
        setup["verbose"],
        setup["name"],
        # The one that started it has told it.
        lambda line: None,
    )


def _runner(recipe, folder, data_dir, verbose, name, announce=print):
    """A function that runs a seed, on data that are read once for all of them."""
    _, _, parts = models_and_data(recipe, data_dir, verbose, announce)
    outputs = folder / TEACHER_OUTPUTS

    def run_one(seed):
        one, run_dir = recipe.model_copy(update={"seed": seed}), folder / f"seed-{seed}"
        run(one, run_dir, data_dir, verbose, name, outputs, parts=parts)
        gc.collect()

    return run_one


def _of_all_seeds(folder):
    """dict of seed to the rows of its table, of all that are finished in a folder."""
    rows = {}
    for seed in manifest.read(folder, "seeds")["seeds"]:
        path = folder / f"seed-{seed}" / "results.json"
        if path.is_file():
            rows[str(seed)] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return rows


def _is_one(same):
    """Whether these are the rows of one given model, which is the same with every seed."""
    given = all(x["taught_by"] == "given" for x in same)
    return given and all(x["evaluation"] == same[0]["evaluation"] for x in same)


def _over_seeds(results):
    """A table of the models, each a dict of `ModelResult`'s fields, in a list a seed."""
    rows = []
    for same in zip(*results, strict=True):
        if _is_one(same):
            same = same[:1]
        first = same[0]
        evaluations = [EvaluationEntry.model_validate(x["evaluation"]) for x in same]
        score = SCORES[evaluations[0].counts]
        row = {
            "model": first["model"],
            "taught by": first["taught_by"],
            "seeds": len(same),
            score.label: score_cell(score, evaluations, with_interval=False),
        }
        if evaluations[0].is_right_or_wrong:
            errors = over_seeds([x.errors for x in evaluations])
            row[f"errors in {evaluations[0].examples:,}"] = f"{errors.mean:.1f}"
        seconds = [x["seconds"] for x in same]
        rows.append(
            row
            | {
                "parameters": shown_count(first["parameters"]),
                "MACs": shown_count(first["macs"]),
                "seconds": "-" if None in seconds else f"{sum(seconds) / len(same):.0f}",
            }
        )
    return markdown_table(rows, numbers_from=2)


if __name__ == "__main__":
    serve(_begin)
