"""What is on the pages of a report, and the files they become."""

import os
import platform

from keras_kd.report.answer_plots import confusion, reliability
from keras_kd.report.devices import conditions, device_table
from keras_kd.report.drawing import styles
from keras_kd.report.gain import comparisons, likes
from keras_kd.report.images import contact_sheet, disagreements, picture_sheet
from keras_kd.report.plots import curves, pareto
from keras_kd.report.recipe import recipe_file, repeat
from keras_kd.report.rendering import rendered
from keras_kd.report.tables import (
    MOST_CLASSES,
    accuracy_table,
    class_table,
    cost_table,
    notes,
)
from keras_kd.report.verdict import last_distilled, verdict, warnings


def page(folder, latencies, problems):
    """All that the templates show.

    Args:
        folder: A `runs.reader.RunFolder`.
        latencies, problems: What `report.measured` gives.

    Returns:
        dict of the templates' variables.
    """
    runs = list(folder.runs.values())
    manifest = folder.manifest
    headline, reasons = verdict(runs)
    recipe_text, command = repeat(manifest)
    return {
        "title": manifest.recipe_name or folder.path.resolve().name,
        "facts": _facts(folder, runs),
        "unfinished": _unfinished(folder),
        "headline": headline,
        "reasons": reasons,
        "warnings": warnings(runs),
        "several": len(runs) > 1,
        "accuracies": accuracy_table(runs),
        "score_notes": notes(runs),
        "costs": cost_table(runs, latencies),
        "cost_notes": problems,
        "devices": _devices(folder),
        "measured_on": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores",
        "pictures": _pictures(runs, manifest, latencies),
        "recipe": recipe_text,
        "recipe_file": recipe_file(manifest),
        "command": command,
        "versions": {"keras_kd": manifest.keras_kd, **manifest.versions},
        "machine": manifest.machine,
        **_of_one_run(folder, runs),
    }


def files(page):
    """The files of a report.

    Args:
        page: What `page` gives.

    Returns:
        dict of file name to bytes, report.html last.
    """
    pictures = [*page["pictures"].values(), page["reliability"], *page["confusions"]]
    pictures += [*page["sheets"].values(), *page["answers"].values()]
    files = {f"{x.name}.png": x.png for x in pictures if x}
    if page["recipe_file"]:
        files["recipe.toml"] = page["recipe_file"].encode()
    for name in ("report.md", "report.html"):
        files[name] = rendered(name, page).encode()
    return files


def _facts(folder, runs):
    """Date, data and seeds, as dict of word to text."""
    manifest = folder.manifest
    recipe = manifest.recipe or {}
    counted = [
        x.metrics.evaluation.examples for run in runs for x in run.models if x.done
    ]
    examples = f"{counted[0]:,} test examples" if counted else ""
    seeds = manifest.seeds if manifest.kind == "seeds" else [recipe.get("seed")]
    name = recipe.get("dataset")
    name = name["path"] if isinstance(name, dict) else name
    data = [str(x) for x in (name, examples) if x]
    seeds = [str(x) for x in seeds if x is not None]
    return {
        "Date": manifest.created.strftime("%Y-%m-%d %H:%M %Z").strip(),
        "Data": ", ".join(data),
        "Seed" + "s" * (len(seeds) > 1): ", ".join(seeds),
        "Run folder": folder.path.resolve().name,
    }


def _unfinished(folder):
    """A sentence for each stage and each seed that is not finished."""
    sentences = []
    if folder.manifest.kind == "seeds":
        sentences += [
            f"Seed {seed} has not begun."
            for seed in folder.manifest.seeds
            if seed not in folder.runs
        ]
    for seed, run in folder.runs.items():
        where = "" if seed is None else f" with seed {seed}"
        for model in run.models:
            name = f"{model.name}{where}"
            if not model.stage:
                sentences += [] if model.done else [f"{name} is not measured yet."]
            elif model.stage.state == "failed":
                reason = model.stage.error or "the run gives no reason."
                sentences.append(f"{name} failed: {reason}")
            elif model.stage.state == "training":
                epochs = max(map(len, model.history.values()), default=0)
                sentences.append(
                    f"{name} is not finished: {epochs} of {model.stage.epochs} epochs."
                )
            elif model.stage.state == "waiting":
                sentences.append(f"{name} has not begun.")
    return sentences


def _devices(folder):
    """What is shown of the exported files of the first run; None where there are none."""
    seed, run = next(iter(folder.runs.items()))
    exports = run.exports
    return exports and {
        "table": device_table(run, exports.files),
        "note": conditions(run, exports, seed),
        "refused": [
            f"{x.file} of {x.model} was not written: {x.reason}" for x in exports.refused
        ],
    }


def _pictures(runs, manifest, latencies):
    """dict of name to `Picture`, of those that compare all models."""
    macs = {x.name: x.metrics.macs for run in runs for x in run.models if x.done}
    published = {
        stage["name"]: stage["published_accuracy"]
        for stage in (manifest.recipe or {}).get("stage", [])
        if stage.get("published_accuracy")
    }
    return {
        "macs": pareto(runs, macs, "macs", "MACs"),
        "latency": pareto(runs, latencies, "latency", "latency (ms)"),
        "curves": curves(runs, published),
    }


def _of_one_run(folder, runs):
    """What is shown of the first run whose last distilled student is finished."""
    name = last_distilled(runs)
    if name is None:
        nothing = {"student": None, "reliability": None, "confusions": [], "sheets": {}}
        return nothing | {"answers": {}}
    seed, run = next((k, x) for k, x in folder.runs.items() if x.done(name))
    student = run[name]
    teachers = [run[x] for x in student.taught_by if run.done(x)]
    alone = likes([x for x in comparisons([run]) if x.student == name])
    alone = [run[x.baseline] for x in alone]
    images = {
        x.name: disagreements(run, x.name)
        for x in reversed(run.models)
        if x.taught_by and x.done
    }
    images = {name: shown for name, shown in images.items() if shown is not None}
    answers = {
        x.name: picture_sheet(run, x.name, number)
        for number, x in enumerate(reversed(run.models), 1)
        if x.taught_by and x.done
    }
    return {
        "answers": {name: picture for name, picture in answers.items() if picture},
        "student": name,
        "seed": seed,
        "reliability": reliability([*teachers, student, *alone], styles([run]), seed),
        "confusions": [
            confusion(model, f"confusion_{number}")
            for number, model in enumerate([student, *(alone or teachers)][:2], 1)
            if model.metrics.evaluation.is_right_or_wrong
        ],
        "classes": class_table([student, *teachers, *alone]),
        "cut_classes": len(student.metrics.evaluation.per_class) > MOST_CLASSES,
        "most_classes": MOST_CLASSES,
        "images": images,
        "counts": {x: _count(run[x], shown) for x, shown in images.items()},
        "sheets": {
            x: contact_sheet(shown, x, number)
            for number, (x, shown) in enumerate(images.items(), 1)
            if shown
        },
    }


def _count(model, shown):
    """How many of all disagreements are shown, in words."""
    counted = model.metrics.evaluation
    if not shown:
        return "none"
    if counted.fidelity is None:
        return f"{len(shown)} images"
    total = round((1 - counted.fidelity.agreement) * counted.examples)
    return f"the first {len(shown)} of {total:,} images"
