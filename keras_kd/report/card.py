"""A model card: README.md of one model, from its run, in the form that hubs read."""

import dataclasses

import keras_kd
from keras_kd import files as run_dirs
from keras_kd.data import DATASETS
from keras_kd.extras import needed_by
from keras_kd.models.symbolic import symbolic_inputs, symbolic_outputs
from keras_kd.report import devices, stage_settings
from keras_kd.report.recipe import repeat
from keras_kd.report.tables import accuracy_table, notes
from keras_kd.runs import reader
from keras_kd.runs.schema import DeviceFile
from keras_kd.tasks.find import last_activation
from keras_kd.tasks.scores import SCORES
from keras_kd.teachers.ensemble import Ensemble
from keras_kd.training.loading import load_keras_file

# Of models with more layers their number is given, not each one.
_MOST_LAYERS = 20


@dataclasses.dataclass(frozen=True)
class Data:
    """What a card says of the training and test data.

    Attributes:
        name: As people call it.
        hub_name: Its name on the Hugging Face hub.
        credit: Who made it and under which licence, "by ..., under ...".
    """

    name: str
    hub_name: str
    credit: str | None = None


def write_card(run_dir, name, *, overwrite=False, **arguments):
    """Writes a model's card, README.md, into its folder of a run.

    Args:
        run_dir: The folder of a run; of one over several seeds, the first seed is taken.
        name: "teacher", or the stage's name.
        overwrite: Whether a README.md that is there is replaced.
        **arguments: `license` and others of `card`.

    Returns:
        The path of the README.md.

    Raises:
        FileExistsError: There is one.
        FileNotFoundError, ModuleNotFoundError, ValueError: As `card`.
    """
    run = _first_run(run_dir)
    path = _finished(run, name).folder / "README.md"
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists, and may hold what you wrote. Nothing was changed: move it "
            "away, or replace it with overwrite=True (--overwrite)."
        )
    run_dirs.write_text(path, card(run_dir, name, **arguments))
    return path


def card(run_dir, name, *, title=None, license=None, dataset=None, data_license=None):
    """The card of a finished model, as the text of a Hugging Face model card.

    Args:
        run_dir, name: As `write_card` takes them.
        title: The model's name in the card; `name` by default.
        license: The model's, an identifier of the hub's, for instance "apache-2.0". None
            gives none: whoever trained a model chooses, this library cannot.
        dataset: What it was trained and tested on, by its name on the hub, where the run
            does not tell; a run of a recipe does.
        data_license: The licence of that data set.

    Returns:
        A string: YAML between two lines of dashes, then Markdown.

    Raises:
        FileNotFoundError: There is no run folder, or a file of it is missing.
        ModuleNotFoundError: What fills in the template is not installed.
        ValueError: The run has no such model, no file holds it, or it is not finished; a
            file is damaged; or `dataset` is given for a run that tells its own.
    """
    with needed_by("A model card", "report"):
        from keras_kd.report.rendering import rendered
    run = _first_run(run_dir)
    model = _finished(run, name)
    recipe = run.manifest.recipe or {}
    if not model.has_model:
        raise ValueError(
            f"{name!r} in {run.path} is a function, or outputs that the data carried: "
            "there is no model to make a card of. Give the name of a student."
        )
    loaded = load_keras_file(model.file("model.keras"))
    files = _files(run, name)
    measured = run.exports if any(x.profile for x in files) else None
    return rendered(
        "card.md",
        {
            "title": title or name,
            "license": license,
            "data": _data(recipe, dataset, data_license),
            "recipe": recipe,
            "model": model,
            "evaluation": model.metrics.evaluation,
            "score": SCORES[model.metrics.evaluation.counts],
            "score_notes": notes([run]),
            "trained": not stage_settings.is_given(model),
            "given": stage_settings.is_given(model) and not _members(run, name),
            "looked": _looked(recipe, model),
            "settings": _settings(run, model),
            "shape": _Shape.of(loaded, model.metrics.evaluation),
            "needs_keras_kd": _is_ours(loaded),
            "lineage": [*_lineage(run, model), *_made_of(run, model, loaded)],
            "results": accuracy_table([run]),
            "devices": files and devices.device_table(run, files),
            "conditions": measured and devices.conditions(run, measured),
            "file": _to_load(files, name),
            "rounded": _rounded(files, name),
            "repeat": repeat(run.manifest),
            "weakest": _weakest(model),
            "class_names": _class_names(model, files),
            "versions": {"keras_kd": run.manifest.keras_kd, **run.manifest.versions},
        },
    )


def _first_run(run_dir):
    return next(iter(reader.read(run_dir).runs.values()))


def _finished(run, name):
    if run.done(name):
        return run[name]
    known = ", ".join(repr(x.name) for x in run.models if x.done)
    raise ValueError(
        f"{run.path} has no finished model {str(name)!r}. Finished: {known or 'none'}."
    )


def _data(recipe, dataset, data_license):
    """The `Data` of a run; None where neither the run nor the user tells."""
    of_recipe = recipe.get("dataset")
    known = DATASETS.get(of_recipe) if isinstance(of_recipe, str) else None
    if known and (dataset or data_license):
        raise ValueError(
            f"`dataset` and `data_license` are for runs that do not tell; this one is on "
            f"{known.name}. Received: dataset={dataset!r}, data_license={data_license!r}."
        )
    if data_license and not dataset:
        raise ValueError(
            "`data_license` goes with `dataset`. Received: "
            f"data_license={data_license!r}, dataset={dataset!r}."
        )
    if known:
        return Data(known.title, known.hub_name, known.credit)
    credit = f"under {data_license}" if data_license else None
    return Data(dataset, dataset, credit) if dataset else None


def _settings(run, model):
    """How it was trained, as dict of word to text; of one that was not, empty."""
    if stage_settings.is_given(model):
        return {}
    stage, recipe = model.stage, run.manifest.recipe or {}
    weight = stage.student_loss_weight
    if weight is None and stage.losses:
        weight = 0.5  # Stage's default.
    settings = {
        "Losses of distillation": ", ".join(map(_call, stage.losses)),
        "Their weights": stage.loss_weights,
        "Weight of the labels' loss": weight,
        "First weights": stage_settings.start(run, model),
        "Training examples": _examples(run, model),
        "Epochs": _epochs(model),
        "Batch size": stage_settings.batch_size(run, model),
        "Optimizer": stage.optimizer and _call(stage.optimizer),
        "Dtype policy in training": recipe.get("dtype_policy"),
        "Seed": _seed(run, model),
    }
    return {word: str(x) for word, x in settings.items() if x not in (None, "", [])}


def _epochs(model):
    """How many epochs it was trained, and with which one's weights it ended."""
    stage, metrics = model.stage, model.metrics
    done = stage.epochs if metrics.epochs is None else metrics.epochs
    words = f"{done}" if done == stage.epochs else f"{done} of at most {stage.epochs}"
    if metrics.best_epoch is None:
        return words
    if stage.restore_best:
        return f"{words}, of which the best was kept (after {metrics.best_epoch})"
    return f"{words}, of which the last was kept (the best was after {metrics.best_epoch})"


def _examples(run, model):
    """Which training examples it saw in an epoch, where a recipe tells."""
    if not run.manifest.recipe:
        return None
    words = stage_settings.examples_in_words(stage_settings.examples(run, model))
    held_out = stage_settings.held_out(run.manifest.recipe)
    if held_out:
        words += f", but the {held_out} held out"
    times, views = (x(run, model) for x in (stage_settings.repeat, stage_settings.views))
    words += f", each {times} times in an epoch" * (times > 1)
    return words + (f", in {views} augmented views" if views else "")


def _seed(run, model):
    seed = (run.manifest.recipe or {}).get("seed")
    own = stage_settings.table(run, model.name).get("seed")
    return f"{seed} (and {own}, the stage's own)" if own else seed


def _looked(recipe, model):
    """When the test examples were looked at, a sentence; None where a run does not tell."""
    is_known = recipe and not stage_settings.held_out(recipe)
    if not is_known or stage_settings.is_given(model):
        return None
    if recipe.get("test_each_epoch", True):
        return (
            "The test examples were looked at after every epoch, for the curve; nothing "
            "was chosen by them."
        )
    return "The test examples were looked at once, when the training was over."


def _members(run, name):
    """Names of the models that an ensemble of the run's recipe is made of."""
    return (stage_settings.table(run, name).get("ensemble") or {}).get("models", [])


def _call(config):
    """A loss or an optimizer as it is written: `SoftTargets(temperature=4.0)`."""
    if not isinstance(config, dict):
        return str(config)
    config = dict(config)
    name = config.pop("class", None) or config.pop("class_name", "?")
    given = {k: x for k, x in config.items() if x is not None and x is not False}
    return f"{name}({', '.join(f'{k}={_value(x)}' for k, x in given.items())})"


def _value(x):
    if isinstance(x, dict) and "class_name" in x:  # A schedule, as Keras writes it.
        return _call({"class": x["class_name"], **x.get("config", {})})
    return f"{x:.6g}" if isinstance(x, float) else repr(x)  # Keras keeps a float32.


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Of a model: what it takes and gives, its layers in a line, and the hub's task.

    Attributes:
        kind: What it is, in words.
        threshold: Above which an output of one unit is a yes.
        is_image: Whether it takes images.
    """

    takes: str
    gives: str
    classes: str
    layers: str
    task: str
    kind: str
    threshold: str
    is_image: bool

    @classmethod
    def of(cls, loaded, evaluation):
        layers = [f"{type(x).__name__}{_output(x)}" for x in loaded.layers]
        if len(layers) > _MOST_LAYERS:
            layers = [f"{len(layers)} layers"]
        # A subclassed model has neither.
        inputs, outputs = symbolic_inputs(loaded), symbolic_outputs(loaded)
        is_image = bool(inputs) and len(inputs[0].shape) == 4
        classes = str(outputs[0].shape[-1]) if outputs else "several"
        where, place = _PLACES[min(evaluation.places, 2)]
        kind, task = _KINDS[evaluation.task]
        if is_image and not evaluation.places and task == "classification":
            task = "image-classification"
        threshold = "0.5" if last_activation(loaded) == "sigmoid" else "0"
        return cls(
            takes=_shapes(inputs),
            gives=_shapes(outputs),
            classes=classes,
            layers="; ".join(layers),
            task=place or task,
            kind=kind.format(classes, "s" * (classes != "1")) + where,
            threshold=threshold,
            is_image=is_image,
        )


# The kind of a model in words, and what the hub calls its task.
_KINDS = {
    "multiclass": ("A classifier of {} classes", "classification"),
    "binary": ("A yes or no", "classification"),
    "multilabel": ("{} labels, each a yes or no of its own", "classification"),
    "regression": ("A model of {} value{}", "tabular-regression"),
}
# Of examples, of sequences and of pictures; the task is the hub's.
_PLACES = (
    ("", None),
    (" for each position of a sequence", "token-classification"),
    (" for each pixel", "image-segmentation"),
)


def _shapes(tensors):
    shapes = [("batch", *map(str, x.shape[1:])) for x in tensors or ()]
    return " and ".join(f"({', '.join(shape)})" for shape in shapes) or "unknown"


def _output(layer):
    try:
        return f" {tuple(layer.output.shape[1:])}"
    except (AttributeError, ValueError):  # It has none, or several.
        return ""


def _weakest(model):
    """(name, `ClassRow`) of the class with the lowest accuracy; None of other tasks."""
    if not model.metrics.evaluation.is_right_or_wrong:
        return None
    classes = [x for x in model.metrics.evaluation.per_class if x.accuracy is not None]
    weakest = min(classes, key=lambda x: x.accuracy, default=None)
    return weakest and (model.class_name(weakest.label), weakest)


def _class_names(model, files):
    """What its classes are called, as the run says it, or an exported file; else none."""
    of_files = [x.export.class_names for x in files if x.model == model.name]
    return next((x for x in (model.class_names, *of_files) if x), [])


def _lineage(run, model):
    """A sentence for the model and for each of its teachers, and theirs."""
    sentences, waiting = [], [model.name]
    for name in waiting:
        before = run[name].taught_by or _members(run, name)
        waiting += [x for x in before if x not in waiting]
        first = stage_settings.start(run, run[name])
        if _members(run, name):
            sentences.append(f"{name} is the ensemble of {' and '.join(before)}.")
        elif stage_settings.is_given(run[name]):
            sentences.append(f"{name} was given to the run, trained before.")
        elif before:
            sentences.append(f"{name} was taught by {' and '.join(before)}.")
        else:
            sentences.append(f"{name} learned from the labels alone.")
        if first and not stage_settings.is_given(run[name]):
            sentences.append(f"Its first weights were those of {first}.")
    return sentences


def _made_of(run, model, loaded):
    """A sentence of an ensemble whose members no recipe names; else none."""
    if not isinstance(loaded, Ensemble) or _members(run, model.name):
        return []
    members = " and ".join(repr(x.name) for x in loaded.models)
    return [f"It is the ensemble of the models {members}."]


def _is_ours(loaded):
    """Whether Keras must know this package to load a model's file."""
    layers = loaded._flatten_layers()
    return any(type(x).__module__.startswith(f"{keras_kd.__name__}.") for x in layers)


def _files(run, name):
    """The `DeviceFile`s of a model, and of what its are compared with."""
    measured = run.exports.files if run.exports else []
    known = {x.export.file for x in measured if x.model == name}
    others = [x for x in run[name].exported if x.file not in known]
    if not known and not others:
        return []
    first = devices.baseline(run)
    shown = [x for x in measured if x.model in (name, first)]
    return shown + [DeviceFile(model=name, export=x) for x in others]


def _to_load(files, name):
    """The exported file whose use is shown: int8 if there is one, else the smallest."""
    ours = [x.export for x in files if x.model == name]
    order = [(x.quantization != "int8", x.file_bytes) for x in ours]
    return ours[order.index(min(order))] if ours else None


def _rounded(files, name):
    """The least agreement of the model's quantised files; None where there is none."""
    ours = [x.export for x in files if x.model == name and x.export.quantization]
    found = [x.proof.agreement for x in ours if x.proof.agreement is not None]
    return min(found, default=None)
