"""Searches over a recipe, by KerasTuner, in one process or in several."""

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path

from keras_kd import files
from keras_kd.chain.progress import Progress, bar_if_shown
from keras_kd.distribution import jobs as job_processes
from keras_kd.extras import needed_by
from keras_kd.losses.arguments import check_integer
from keras_kd.models.fingerprints import model_fingerprint
from keras_kd.recipes.recipe import AS_JSON
from keras_kd.recipes.run import TEACHER_OUTPUTS, teacher_of
from keras_kd.runs import manifest
from keras_kd.tuning import trials as tune_trials

# How long a worker waits for its chief to begin, in seconds.
PATIENCE = 600

_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def tune(recipe, folder, data_dir=None, verbose="auto", name=None, jobs=1):
    """Tries the values that a recipe's table [tune] names, and writes down the best.

    Trials are compared on the held-out images, and have the same seed, first weights and
    order of the data. The test images are never read. Stages that no trial varies are
    trained once, and what a teacher says is computed once for all trials.

    Called again with the same folder, after a kill too, it goes on: trials that are done
    are kept, and the interrupted one goes on after its last whole epoch. With more `trials`
    than before, more are made.

    With the environment's KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT it is one of several processes on a shared folder: the one with
    "chief" in its id waits at that address until the others, the workers, have trained all
    trials, and writes the outcome; each worker has an id of its own.

    Args:
        recipe: A `keras_kd.tuning.recipe.TunedRecipe`.
        folder: A folder, new or of this search, for `best.toml`, a recipe with the best
            trial's values; `trials.md`, a table; and `trials.png`, a picture.
        data_dir: TFDS's data folder; None for TFDS's default.
        verbose: "auto" shows a line a trial and a stage, 0 nothing.
        name: The recipe's, for the manifest.
        jobs: How many trials are trained at a time, an integer, 1 or greater: in processes
            of this machine on cores of their own, which this one starts. No more than
            there are cores, or trials. Each trial is the same as one after the other;
            which ones "bayesian" and "hyperband" choose hangs on which have ended.

    Returns:
        The table of the trials, Markdown, the best first; None for a worker.

    Raises:
        ModuleNotFoundError: KerasTuner is not installed, or what draws.
        RunError, FileExistsError: `folder` holds another search, or something else.
        BlockingIOError: Another process searches in `folder`.
        FloatingPointError: No trial converged.
        JobError: Of several jobs some trials failed otherwise, or their processes were
            killed; the others are done.
        TimeoutError: A worker has waited ten minutes for its chief.
        ValueError: A model does not fit another one, or a stage is searched in vain; or
            `jobs` is less than 1, or more and this is one of several processes.
    """
    jobs = check_integer("jobs", jobs, least=1)
    with needed_by("A search", "tune"):
        from keras_kd.tuning import report as tune_report
        from keras_kd.tuning import search
    is_distributed, is_worker = _role()
    if is_distributed and jobs > 1:
        raise ValueError(
            f"`jobs` starts processes itself, and the environment's {_VARIABLES[0]} says "
            f"that this is one of several. Give one of both. Received: jobs={jobs}."
        )
    teacher = teacher_of(recipe)
    trials = tune_trials.Trials(recipe, teacher, folder, data_dir)
    settings = _settings(recipe, teacher, name)
    progress = Progress([], verbose)
    with contextlib.ExitStack() as stack:
        if is_worker:
            if not _is_wanted(folder, settings, recipe.tune.trials):
                progress.say("The search is over: there is nothing to do for a worker.")
                return None
        else:
            manifest.check_folder(folder)
            stack.enter_context(files.locked(files.make(folder)))
            manifest.open_search(folder, settings, trials=recipe.tune.trials, done=False)
            if not is_distributed:
                files.remove_unfinished(folder)
        if is_worker or not is_distributed:
            trials.prepare(verbose)
        else:
            progress.say(f"Waiting for workers at {':'.join(_address())}")
        to_do = _side_by_side(recipe, folder, data_dir, verbose, jobs) if jobs > 1 else None
        found = search.search(
            recipe, folder, trials, progress.say, is_worker, is_distributed, to_do
        )
        if found is None:
            return None
        table = _write(recipe, folder, found, tune_report)
        manifest.open_search(folder, settings, trials=recipe.tune.trials, done=True)
        tune_trials.remove_checkpoints(Path(folder) / search.PROJECT)
        shutil.rmtree(Path(folder) / TEACHER_OUTPUTS, ignore_errors=True)
    return table


def _side_by_side(recipe, folder, data_dir, verbose, jobs):
    """A function that trains a search's trials in processes; None: there is one job."""
    say = Progress([], verbose).say
    shares = job_processes.shares(jobs, recipe.tune.trials, say)
    if len(shares) == 1:
        return None
    setup = {
        "recipe": recipe.model_dump(**AS_JSON),
        "folder": str(folder),
        "data_dir": None if data_dir is None else str(data_dir),
    }

    def train(tasks):
        # Hyperband does not say how many there will be.
        shown = bar_if_shown(tasks.count, verbose if tasks.count else 0)
        with shown as bar:
            failed = job_processes.run(
                tune_trials.__name__, setup, shares, tasks, say, bar
            )
        if failed:
            reasons = "; ".join(f"{label}: {why}" for label, why in failed.items())
            raise job_processes.JobError(
                f"{len(failed)} trials are not done. {reasons}. What is done is kept in "
                f"{folder}: to go on, give the same command, or the same call."
            )

    return train


def _role():
    """Whether this is one of several processes, and whether it is a worker."""
    if not os.environ.get("KERASTUNER_ORACLE_IP"):
        return False, False
    missing = [x for x in _VARIABLES if not os.environ.get(x)]
    if missing:
        raise ValueError(
            f"With KERASTUNER_ORACLE_IP the environment must have {missing[0]}, too."
        )
    return True, "chief" not in os.environ["KERASTUNER_TUNER_ID"]


def _address():
    return os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"]


def _settings(recipe, teacher, name):
    """What makes the search what it is; how many trials it makes may be another number."""
    resolved = recipe.model_dump(**AS_JSON)
    del resolved["tune"]["trials"]
    return {
        "recipe_name": name,
        "recipe": resolved,
        "teacher": teacher and model_fingerprint(teacher),
    }


def _is_wanted(folder, settings, trials):
    """Whether a worker's chief is at work; waits for it to begin.

    Raises:
        RunError: The chief searches over another recipe.
        TimeoutError: There is none.
    """
    until = time.monotonic() + PATIENCE
    path = Path(folder) / manifest.MANIFEST
    while time.monotonic() < until:
        if path.is_file():
            content = manifest.read(folder, "tune")
            manifest.check_same(folder, content, settings)
            if content["done"] and content["trials"] == trials:
                return False
            # Else a chief that wants more trials is about to say so.
            with contextlib.suppress(OSError):
                socket.create_connection(_address(), timeout=5).close()
                return True
        time.sleep(0.5)
    raise TimeoutError(
        f"There is no chief at {':'.join(_address())}, with its search in {folder}, for "
        f"{PATIENCE} s. Start one: the same command with KERASTUNER_TUNER_ID=chief."
    )


def _write(recipe, folder, found, tune_report):
    """Writes the outcome, and gives the table."""
    best = next(iter(tune_report.ranked(recipe, found)), None)
    if best is None or best.objective is None:
        raise FloatingPointError(
            f"None of the {len(found)} trials converged; see {folder}. Search smaller "
            "learning rates."
        )
    folder = Path(folder)
    table = tune_report.table(recipe, found)
    text = tune_report.best_recipe(recipe, best)
    png = tune_report.picture(recipe, found).png
    files.write_text(folder / "best.toml", text)
    files.write_text(folder / "trials.md", table + "\n")
    with files.renamed_when_done(folder / "trials.png") as temporary:
        temporary.write_bytes(png)
    return table
