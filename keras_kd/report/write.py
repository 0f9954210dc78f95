"""A run folder as a report: Markdown with pictures beside it, and one HTML page."""

from pathlib import Path

import keras

from keras_kd import files
from keras_kd.evaluation.profile import latencies
from keras_kd.extras import needed_by
from keras_kd.runs import reader

# Rounds of timing: a median that holds, in seconds even for large models.
_REPEATS = 100


def write_report(run_dir, output=None):
    """Writes the report of a run to `run_dir`/report, or to another folder.

    There are report.html, one page that needs nothing else; report.md with its pictures as
    PNG beside it; and recipe.toml, where the run was of a recipe, to repeat it. A report
    that is there already is replaced. Latency is measured anew, on this machine.

    Args:
        run_dir: The folder of a run, or of a run over several seeds, finished or not.
        output: The folder to write to, of a run folder that may only be read, say; made if
            it is not there.

    Returns:
        `(headline, path)`: the verdict in a sentence, and the path of report.html.

    Raises:
        FileNotFoundError: There is no run folder, or a file of it is missing.
        OSError: The folder cannot be written to.
        ModuleNotFoundError: What draws the report is not installed.
        ValueError: A file is damaged, or is not of a run.
    """
    with needed_by("A report", "report"):
        from keras_kd.report import page as report_page
    folder = reader.read(run_dir)
    page = report_page.page(folder, *measured(folder))
    output = folder.path / "report" if output is None else Path(output)
    try:
        for name, content in report_page.files(page).items():
            with files.renamed_when_done(output / name) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}. The report can be written to another folder: `output` "
            "(--output) names it",
            str(output),
        ) from error
    return page["headline"], output / "report.html"


def measured(folder):
    """Latencies of the finished models of a run folder's first run, on this machine.

    Args:
        folder: A `reader.RunFolder`.

    Returns:
        `(milliseconds, problems)`: dict of model name to the median milliseconds of one
        example, and a sentence for each thing that was not measured.
    """
    loaded, problems = {}, []
    for model in next(iter(folder.runs.values())).models:
        if not model.done:
            continue
        if not model.has_model:
            problems.append(_problem(model.name, "no file holds a function's model."))
            continue
        path = model.file("model.keras")
        try:
            load = keras.saving.load_model
            loaded[model.name] = load(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds for what it cannot load.
            problems.append(_problem(model.name, error))
    try:
        times = latencies(list(loaded.values()), repeats=_REPEATS)
    except Exception as error:  # So does TensorFlow for what it cannot run.
        return {}, [*problems, _problem("the models", error)]
    times = dict(zip(loaded, times, strict=True))
    return {name: x.median for name, x in times.items()}, problems


def _problem(what, error):
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"The latency of {what} was not measured: {reason[0]}"
