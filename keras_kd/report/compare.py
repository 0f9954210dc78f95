"""Runs side by side: their models, what differs in their recipes, McNemar's test."""

from keras_kd.evaluation.uncertainty import McNemar, over_seeds
from keras_kd.report.gain import DifferentData, test_of
from keras_kd.report.tables import duration, finished, score_cell
from keras_kd.report.verdict import p_value
from keras_kd.runs import reader
from keras_kd.tables import code, markdown_table, plain
from keras_kd.tasks.scores import SCORES

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compare_runs(paths):
    """Compares run folders.

    Args:
        paths: Two or more run folders, of one seed or of several, finished or not.

    Returns:
        Markdown: which run is which, the models in rows with each run's score, errors
        and seconds of training, what differs between the recipes, and the paired test
        between models of the same name that answered the same test data: McNemar's where
        an answer is right or wrong, else a permutation test.

    Raises:
        FileNotFoundError: There is no such run folder, or a file of it is missing.
        ValueError: There are fewer than two or more than 26 paths, or a file is damaged.
    """
    paths = list(paths)
    if not 2 <= len(paths) <= len(_LETTERS):
        raise ValueError(
            f"`paths` must be 2 to {len(_LETTERS)} run folders. Received: {len(paths)}."
        )
    folders = dict(zip(_LETTERS, map(reader.read, paths), strict=False))
    parts = [_names(folders), _models(folders)]
    first, *others = folders
    for other in others:
        parts.append(f"{first} -> {other}\n\n" + _differences(folders, first, other))
    return "\n\n".join(parts)


def _names(folders):
    lines = []
    for letter, folder in folders.items():
        runs, manifest = list(folder.runs.values()), folder.manifest
        recipe = f"recipe {plain(manifest.recipe_name)}, " * bool(manifest.recipe_name)
        count = len(runs)
        seeds = f", {count} seed{'s' * (count > 1)}" if manifest.kind == "seeds" else ""
        day = f"{manifest.created:%Y-%m-%d}"
        lines.append(f"{letter} = {code(folder.path)}: {recipe}{day}{seeds}")
    return "\n".join(f"- {line}" for line in lines)


def _models(folders):
    by_run = {
        letter: dict(finished(list(folder.runs.values())))
        for letter, folder in folders.items()
    }
    names = list(dict.fromkeys(name for models in by_run.values() for name in models))
    if not names:
        return "No model is finished in any of these runs."
    rows = [
        {"model": plain(name)}
        | {
            f"{letter} {column}": text
            for letter, models in by_run.items()
            for column, text in _columns(models.get(name)).items()
        }
        for name in names
    ]
    # Columns of scores that not all models have come with dashes.
    heads = list(dict.fromkeys(head for row in rows for head in row))
    heads.sort(key=lambda head: head != "model" and _LETTERS.index(head[0]) + 1)
    rows = [{head: row.get(head, "–") for head in heads} for row in rows]
    return markdown_table(rows, numbers_from=1)


def _columns(models):
    """One model of a run, over its seeds: its score, errors, training; none of no model."""
    if not models:
        return {}
    counted = [model.metrics.evaluation for model in models]
    score = SCORES[counted[0].counts]
    columns = {score.label: score_cell(score, counted)}
    if all(x.is_right_or_wrong for x in counted):
        errors = over_seeds([x.errors for x in counted])
        columns["errors"] = f"{errors.mean:,.0f}"
        if len(counted) > 1:
            columns["errors"] = f"{errors.mean:,.1f} ± {errors.deviation:,.1f}"
    seconds = [x.metrics.seconds for x in models if x.metrics.seconds is not None]
    trained = duration(over_seeds(seconds).mean) if seconds else "–"
    return columns | {"trained": trained}


def _differences(folders, first, other):
    """What differs in the recipes, and the tests of models of the same name."""
    manifests = [folders[x].manifest for x in (first, other)]
    ours, others = (x.recipe for x in manifests)
    if ours is None or others is None:
        lines = ["not both runs are of a recipe"]
    else:
        lines = [*_changed(_flat(ours), _flat(others)), *_reordered(ours, others)]
        lines = lines or ["the recipes are the same"]
    lines += _changed(*map(_versions, manifests))
    lines += _other_models(*(next(iter(folders[x].runs.values())) for x in (first, other)))
    return "\n".join(f"- {line}" for line in [*lines, *_tests(folders, first, other)])


def _versions(manifest):
    return {"keras_kd": manifest.keras_kd, **manifest.versions}


def _other_models(ours, others):
    """A line for each model of one name that is another one, whatever the recipes say.

    A file that a recipe names may be another file by now.
    """
    lines = []
    teachers = [run.manifest.teacher for run in (ours, others)]
    if all(teachers) and len({(x.architecture, x.weights) for x in teachers}) > 1:
        lines.append("teacher: another model")
    stages = {x.name: x for x in others.manifest.stages}
    for stage in ours.manifest.stages:
        same = stages.get(stage.name, stage)
        if stage.architecture != same.architecture:
            lines.append(f"{plain(stage.name)}: another architecture")
        elif stage.initial_weights != same.initial_weights:
            word = "first weights" if stage.epochs else "weights"
            lines.append(f"{plain(stage.name)}: other {word}")
    return lines


def _orders(value, place=""):
    """dict of place in a nested recipe to the names there, where they have an order."""
    if isinstance(value, dict):
        items = value.items()
        found = {}
    elif isinstance(value, list) and all(isinstance(x, dict) for x in value):
        names = [str(x.get("name", i + 1)) for i, x in enumerate(value)]
        if len(set(names)) < len(names):
            return {}
        items = zip(names, value, strict=True)
        found = {place: names}
    else:
        return {}
    for key, inner in items:
        found |= _orders(inner, f"{place}.{key}" if place else f"{key}")
    return found


def _reordered(ours, others):
    """A line for each list whose tables are the same ones in another order.

    What a stage learns, and from whom, may hang on it.
    """
    ours, others = _orders(ours), _orders(others)
    lines = []
    for place in ours.keys() & others.keys():
        both = set(ours[place]) & set(others[place])
        one, other = ([x for x in y[place] if x in both] for y in (ours, others))
        if one != other:
            lines.append(code(f"{place}, order: {', '.join(one)} -> {', '.join(other)}"))
    return sorted(lines)


def _changed(ours, others):
    keys = list(dict.fromkeys([*ours, *others]))
    return [
        code(f"{key}: {ours.get(key, 'none')} -> {others.get(key, 'none')}")
        for key in keys
        if ours.get(key) != others.get(key)
    ]


def _flat(value, place=""):
    """A nested recipe as dict of place to value; tables of a list by their names."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and all(isinstance(x, dict) for x in value):
        names = [str(x.get("name", i + 1)) for i, x in enumerate(value)]
        unique = len(set(names)) == len(names)
        items = zip(names if unique else range(1, len(names) + 1), value, strict=True)
    else:
        return {} if value is None else {place: value}
    flat = {}
    for key, inner in items:
        flat |= _flat(inner, f"{place}.{key}" if place else f"{key}")
    return flat


def _tests(folders, first, other):
    """The paired test of each model of both runs; of runs over seeds, none."""
    runs = [list(folders[x].runs.values()) for x in (first, other)]
    if any(folders[x].manifest.kind == "seeds" for x in (first, other)):
        return []
    (ours,), (others,) = runs
    lines = []
    for model in ours.models:
        if not model.done or not others.done(model.name):
            continue
        same = others[model.name]
        try:
            test = test_of(same, model)
        except DifferentData:
            lines.append(f"{plain(model.name)}: not tested, the test data differ")
            continue
        if test is None:
            lines.append(f"{plain(model.name)}: not tested, the tasks differ")
        elif isinstance(test, McNemar):
            lines.append(
                f"{plain(model.name)}: {other} alone is right on {test.only_first:,} "
                f"examples, {first} alone on {test.only_baseline:,}; McNemar's p "
                f"{p_value(test)}"
            )
        else:
            score = SCORES[model.metrics.evaluation.counts]
            lines.append(
                f"{plain(model.name)}: {score.words} of {other} is "
                f"{score.change(test.difference)}; the permutation test's p {p_value(test)}"
            )
    return lines
