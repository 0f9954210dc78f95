"""How the stages of a run were trained: what each saw, and in what two of them differ."""

import dataclasses

from keras_kd import losses


@dataclasses.dataclass(frozen=True)
class Differences:
    """What sets two stages apart, beside the teacher.

    Attributes:
        unfair: Words for what makes them no like at all: other labels, other first weights.
        others: Words for other settings, such as the epochs.
    """

    unfair: tuple = ()
    others: tuple = ()

    @property
    def words(self):
        return [*self.unfair, *self.others]


def differences(run, one, other):
    """The `Differences` between two stages of a run, as far as the run tells.

    Args:
        run: A `runs.reader.Run`.
        one, other: A `runs.reader.Model` each, of stages of it.
    """
    unfair = {
        "labels": (_labels(run, one), _labels(run, other)),
        "first weights": (start(run, one), start(run, other)),
    }
    ours, others = (_settings(run, x) for x in (one, other))
    if unfair["labels"][0] != unfair["labels"][1]:
        ours.pop("examples", None)  # Told already.
    return Differences(
        tuple(_against(x, *pair) for x, pair in unfair.items() if pair[0] != pair[1]),
        tuple(_against(x, ours[x], others[x]) for x in ours if ours[x] != others[x]),
    )


def _against(word, one, other):
    if isinstance(one, (dict, list)) or isinstance(other, (dict, list)):
        return f"another {word}"
    return f"{word}: {_text(one)} against {_text(other)}"


def _text(value):
    if isinstance(value, frozenset):
        return " and ".join(sorted(map(examples_in_words, value))) or "none"
    if isinstance(value, tuple):
        return examples_in_words(value)
    return "random" if value is None else str(value)


def table(run, name):
    """The table of a stage in the run's recipe; empty where there is none."""
    stages = (run.manifest.recipe or {}).get("stage", []) if run.manifest else []
    return next((x for x in stages if x.get("name") == name), {})


def is_given(model):
    """Whether a model was not trained in the run: its teacher, a file or an ensemble."""
    return model.stage is None or model.stage.epochs == 0


def start(run, model):
    """The file, or shipped model, whose weights a stage began with; None: none."""
    name = table(run, model.name).get("model")
    # A table is a family's, untrained.
    is_name = isinstance(name, str) and not name.startswith("applications/")
    return name if is_name and ("/" in name or name.endswith(".keras")) else None


def batch_size(run, model):
    """Examples a step of a stage; None where the run does not tell."""
    recipe = run.manifest.recipe or {}
    return table(run, model.name).get("batch_size") or recipe.get("batch_size")


def views(run, model):
    """How many augmented views a stage saw of each image; 0: the images as they are."""
    augmentation = (run.manifest.recipe or {}).get("augmentation") or {}
    own = table(run, model.name).get("views")
    return augmentation.get("views", 0) if own is None else own


def examples(run, model):
    """(classes, number) that the recipe chooses of the training examples; None: all."""
    own = table(run, model.name)
    classes = own.get("classes")
    return classes and tuple(sorted(classes)), own.get("examples")


def examples_in_words(chosen):
    """What `examples` gives, as text: "1,000 examples of the classes 1, 2"."""
    classes, number = chosen
    words = "all examples" if number is None else f"{number:,} examples"
    if classes:
        words += f" of the class{'es' * (len(classes) > 1)} {', '.join(map(str, classes))}"
    return words


def repeat(run, model):
    """How often a stage saw each example in an epoch."""
    return table(run, model.name).get("repeat") or 1


def _settings(run, model):
    """dict of word to what two stages must have alike, if only the teacher is to differ."""
    stage = model.stage
    settings = {
        "epochs": stage.epochs,
        "optimizer": stage.optimizer,
        "choice of the epoch": [stage.patience, stage.restore_best, stage.monitor],
    }
    if not (stage.patience or stage.restore_best):
        settings["choice of the epoch"] = "none"
    if run.manifest and run.manifest.recipe:
        settings |= {
            "examples": examples(run, model),
            "times each in an epoch": repeat(run, model),
            "views of each": views(run, model),
            "batch size": batch_size(run, model),
        }
    return settings


def _labels(run, model):
    """Which labelled examples a stage, or the line of its teachers, learned from.

    A student that sees no labels has them from its teachers. Of a given teacher they are
    not known; then those of the examples that the student saw are taken.

    Returns:
        A frozenset of what `examples` gives.
    """
    own = frozenset([examples(run, model)])
    if not model.taught_by or _sees_labels(run, model):
        return own
    found = frozenset()
    waiting = list(model.taught_by)
    for name in waiting:
        teacher = run[name]
        members = (table(run, name).get("ensemble") or {}).get("models", [])
        if members:
            waiting += [x for x in members if x not in waiting]
        elif is_given(teacher):
            return own
        else:
            found |= _labels(run, teacher)
    return found


def _sees_labels(run, model):
    weight = model.stage.student_loss_weight
    if weight is None or isinstance(weight, dict) or weight > 0:
        return True
    names = [x.get("name") for x in table(run, model.name).get("losses", [])]
    return any(losses.LOSSES[x].needs_labels for x in names if x in losses.LOSSES)


def held_out(recipe):
    """What of the training examples a recipe holds out, in words; "" where nothing.

    Args:
        recipe: As it stands in a manifest, a dict.
    """
    own = recipe.get("dataset")
    if isinstance(own, dict):
        # Given, or a share of the training examples.
        return "validation examples" if own.get("validation", 0) else ""
    count = recipe.get("validation_examples")
    return f"{count:,}" if count else ""
