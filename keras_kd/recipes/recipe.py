"""A recipe: an experiment written as TOML, parsed as data, validated before it runs."""

import tomllib
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field

from keras_kd import data
from keras_kd.chain.carried import is_given
from keras_kd.chain.chain import DistillationChain
from keras_kd.chain.stage import named
from keras_kd.recipes.model_files import is_trained
from keras_kd.recipes.sections import (
    APPLICATION,
    NAME,
    TABLE,
    ApplicationRecipe,
    AugmentationRecipe,
    DataRecipe,
    Flag,
    Integer,
    ModelRecipe,
    PositiveInt,
    Rate,
    Section,
    Seed,
    one_of,
)
from keras_kd.recipes.shapes import Shapes
from keras_kd.recipes.stage import StageRecipe
from keras_kd.runs import manifest
from keras_kd.teachers.scales import SCALES
from keras_kd.training import precision
from keras_kd.training.teacher_and_student import check_same_inputs

RECIPES = Path(__file__).parent
DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "auto")

# A field of a number may hold a schedule's table, of which pydantic would warn.
AS_JSON = {"mode": "json", "warnings": False}


class Recipe(Section):
    """A validated recipe; the fields are the keys of the TOML file."""

    # A name; or a table of the user's own: { path = "photos", image_size = [96, 96] }.
    dataset: Annotated[
        Annotated[str, one_of(list(data.DATASETS), "data set"), pydantic.Tag(NAME)]
        | Annotated[DataRecipe, pydantic.Tag(TABLE)],
        pydantic.Discriminator(lambda x: NAME if isinstance(x, str) else TABLE),
    ]
    seed: Seed = 0
    batch_size: PositiveInt
    # Of the students while they train; what is measured and saved is float32.
    # "auto" becomes mixed_bfloat16 where that is faster, else float32.
    dtype_policy: Annotated[str, one_of(DTYPE_POLICIES, "dtype policy")] = "float32"
    # "mnist/teacher" is a folder of models/; a path that ends in .keras is a file.
    teacher: str | None = None
    # How the teacher wants its images; as a student's, [0, 1], without.
    teacher_scale: Annotated[str, one_of(list(SCALES), "scale")] | None = None
    # As DistillationChain takes them.
    dense: Flag = False
    drop_rate: Rate = 0.0
    # Each epoch sees another view of every training image. Without it: as they are.
    augmentation: AugmentationRecipe | None = None
    # So many of the last training images are held out; the accuracy after each epoch, and
    # what a stage chooses by it, is then on them. With 0 it is on the test images. Of own
    # data `dataset.validation` says it.
    validation_examples: Annotated[Integer, Field(ge=0)] = 0
    # With `validation_examples` of 0, whether the test images are seen after each epoch; if
    # not, once, at the end.
    test_each_epoch: Flag = True
    stage: Annotated[list[StageRecipe], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _chooses_policy(self):
        if self.dtype_policy == "auto":
            # Layers of files keep their own, which is float32 where nobody asked for more.
            of_files = any(x.epochs and is_trained(x.model) for x in self.stage)
            chosen = "float32" if of_files else precision.chosen_policy("auto")
            self.__dict__["dtype_policy"] = chosen
        return self

    @property
    def holds_out(self):
        """Whether training images are held out for validation."""
        own = not isinstance(self.dataset, str) and self.dataset.validation > 0
        return own or self.validation_examples > 0

    @pydantic.model_validator(mode="after")
    def _holds_out_once(self):
        if self.validation_examples and not isinstance(self.dataset, str):
            raise ValueError(
                "validation_examples goes with a named data set; of own data say "
                "dataset.validation, the share that is held out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _chooses_by_validation(self):
        for stage in self.stage:
            by = "restore_best" if stage.restore_best else "patience"
            chooses = stage.restore_best or stage.patience is not None
            if chooses and not self.holds_out:
                raise ValueError(
                    f"stage {stage.name!r} chooses its epoch, by {by}, which needs "
                    "validation_examples: never by the test images"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _names_differ(self):
        seen = {}
        for stage in self.stage:
            # Some file systems take these for one folder.
            folder = stage.name.strip().casefold()
            if stage.name != stage.name.strip():
                raise ValueError(f"the name {stage.name!r} begins or ends with a space")
            if folder in seen and seen[folder] != stage.name:
                raise ValueError(
                    f"the names {seen[folder]!r} and {stage.name!r} differ in capital "
                    "letters alone, and would be one folder on some systems"
                )
            seen[folder] = stage.name
        return self

    def batch_size_of(self, stage):
        """Examples a step of a stage."""
        return stage.batch_size or self.batch_size

    def views_of(self, stage):
        """How many views a stage sees of each image, and what makes them, or None."""
        if self.augmentation is None or stage.views == 0:
            return 1, None
        return stage.views or self.augmentation.views, self.augmentation.make()

    @pydantic.model_validator(mode="after")
    def _views_have_an_effect(self):
        for stage in self.stage:
            if stage.views is not None and self.augmentation is None:
                raise ValueError(
                    f"stage {stage.name!r} has views, which go with an augmentation table"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _test_each_epoch_has_an_effect(self):
        if not self.test_each_epoch and self.holds_out:
            raise ValueError(
                "test_each_epoch goes without validation_examples, which are seen instead"
            )
        return self

    @property
    def is_sized_by_data(self):
        """Whether a model's shape is that of the data, and of their classes."""
        tables = (ModelRecipe, ApplicationRecipe)
        return any(isinstance(x.model, tables) for x in self.stage)

    @pydantic.model_validator(mode="after")
    def _tasks_are_those_of_the_data(self):
        for stage in self.stage:
            named = isinstance(self.dataset, str)
            if named and stage.task not in (None, "multiclass"):
                raise ValueError(
                    f"stage {stage.name!r} has task = {stage.task!r}, and the labels of "
                    f'{self.dataset} are one class of several: give "multiclass", or leave '
                    "task out"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _drop_rate_has_an_effect(self):
        if self.drop_rate and not self.dense:
            raise ValueError("drop_rate goes with dense = true")
        return self


def make_chain(recipe, teacher, parts=None):
    """The `DistillationChain` of a recipe, with models of their first weights.

    Args:
        recipe: A `Recipe`.
        teacher: Its teacher, loaded, as it sees the students' inputs; or None.
        parts: The `keras_kd.datasets.parts.Parts`; needed where `recipe.is_sized_by_data`.

    Raises:
        ValueError: A model does not fit another one, or a stage its model.
    """
    if recipe.is_sized_by_data and parts is None:
        raise ValueError(
            "A `model` that is a table, of a family, needs `parts`: its size is that of "
            "the data. Give these, or its name, or a .keras file."
        )
    shapes = Shapes.of(recipe, parts, teacher) if recipe.is_sized_by_data else None
    models = {} if teacher is None else {"teacher": teacher}
    stages = []
    for section in recipe.stage:
        stage = section.make(recipe.seed, recipe.dtype_policy, models, shapes)
        if teacher is not None:
            # All models of a recipe are shown the images of one data set.
            with named(stage):
                check_same_inputs(teacher, stage.student)
        models = models | {stage.name: stage.student}
        stages.append(stage)
    chain = DistillationChain(
        teacher, stages, recipe.dense, recipe.drop_rate, seed=recipe.seed
    )
    for stage in chain.stages:
        if is_given(chain.teachers_of(stage)):
            # A recipe's data carry no outputs; it would be found out when it is its turn.
            raise ValueError(
                f"Stage {stage.name!r} has losses and no teacher: the recipe has none, and "
                "a stage before it teaches where it has losses itself, or is named: "
                'write taught_by = "NAME".'
            )
    return chain


def names():
    """The recipes that come with the library, as a list of strings."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name_or_path, kind=Recipe, run_dir=None, **overrides):
    """Reads and validates a recipe.

    Args:
        name_or_path: A name of `names()`, or a path that ends in `.toml`.
        kind: `Recipe`, or `keras_kd.tuning.recipe.TunedRecipe`, one with a table [tune].
        run_dir: A run folder; if a run in it is gone on with, a `dtype_policy` of "auto" is
            what it was when that began, on whatever machine.
        **overrides: `seed`, or `batch_size` or `epochs` (of every stage that is trained,
            whatever its own), each an int, or `dtype_policy`; None leaves what is there.

    Returns:
        A `Recipe`, of that kind.

    Raises:
        FileNotFoundError: No such recipe.
        ValueError: The file is not TOML or not a recipe; names each wrong place in it. Or
            an override would have no effect, as no stage is trained.
    """
    if str(name_or_path).endswith(".toml"):
        path = Path(name_or_path)
    else:
        path = RECIPES / f"{name_or_path}.toml"
        if name_or_path not in names():
            raise FileNotFoundError(
                f"There is no recipe {str(name_or_path)!r}. Known: {', '.join(names())}. "
                "A recipe of your own is a path that ends in .toml."
            )
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe file {path}.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error
    return _validate(table, path, kind, overrides, run_dir)


def _begun_with(run_dir):
    """The dtype policy that a folder's run or search has; None where there is none."""
    if not (Path(run_dir) / manifest.MANIFEST).is_file():
        return None
    return (manifest.read(run_dir).get("recipe") or {}).get("dtype_policy")


# Overrides that take the place of what a stage says itself.
_OF_STAGES = ("epochs", "batch_size")


def _validate(table, path, kind, overrides, run_dir):
    given = {key: value for key, value in overrides.items() if value is not None}
    if given.get("epochs", 1) < 1:
        raise ValueError(
            "`epochs` must be an integer, 1 or greater: it is of every stage that is "
            f"trained. Received: epochs={given['epochs']!r}."
        )
    of_stages, idle = {key: given[key] for key in _OF_STAGES if key in given}, list(given)
    given.pop("epochs", None)
    table = table | given
    if table.get("dtype_policy") == "auto" and run_dir is not None:
        table["dtype_policy"] = _begun_with(run_dir) or "auto"
    try:
        recipe = kind.model_validate(table)
        if idle and not any(stage.epochs for stage in recipe.stage):
            raise ValueError(
                f"{path} trains no stage, so {' and '.join(idle)} would have no effect. "
                "Leave that out."
            )
        if of_stages:
            # A given model is none to train.
            table["stage"] = [
                stage | of_stages if stage.get("epochs") else stage
                for stage in table["stage"]
            ]
            recipe = kind.model_validate(table)
        return recipe
    except pydantic.ValidationError as error:
        lines = [f"{path} is not a valid recipe:"]
        for problem in error.errors():
            # What is wrong with the whole names its stage itself.
            place = _place(problem["loc"], table)
            lines.append(f"  {place + ': ' if place else ''}{_message(problem)}")
        raise ValueError("\n".join(lines)) from error


def _place(location, table):
    """A place in the file as a reader finds it: `stage 2 ("student") > losses 1 > name`."""
    words = []
    for part in location:
        if isinstance(part, int):
            words[-1] += f" {part + 1}"
            if words == [f"stage {part + 1}"] and isinstance(table["stage"][part], dict):
                words[0] += f' ("{table["stage"][part].get("name", "")}")'
        elif part not in (NAME, TABLE, APPLICATION):
            words.append(part)
    return " > ".join(words)


def _message(problem):
    if problem["type"] == "extra_forbidden":
        searched = problem["loc"] == ("tune",)
        return "goes with keras-kd tune, not with a run" if searched else "unknown key"
    return problem["msg"].removeprefix("Value error, ")
