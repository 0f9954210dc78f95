"""A recipe: an experiment written as TOML, parsed as data, validated before it runs."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pydantic
from pydantic import Field

from keras_kd import data, files, losses
from keras_kd.chain.chain import DistillationChain
from keras_kd.chain.stage import Stage
from keras_kd.data.augmentation import Deform
from keras_kd.recipes import zoo
from keras_kd.teachers import Ensemble
from keras_kd.training import checks
from keras_kd.training.loading import load_keras_file

RECIPES = Path(__file__).parent
SHIPPED_MODELS = Path(__file__).parents[2] / "models"

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")

# A field of a number may hold a schedule's table, of which pydantic would warn.
AS_JSON = {"mode": "json", "warnings": False}

PositiveInt = Annotated[int, Field(strict=True, ge=1)]


def _one_of(names, kind):
    def check(value):
        if value in names:
            return value
        near = difflib.get_close_matches(value, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no such {kind}: {value!r}. Known: {', '.join(names)}{hint}")

    return pydantic.AfterValidator(check)


SCHEDULES = sorted(
    name
    for name, value in vars(keras.optimizers.schedules).items()
    if isinstance(value, type) and name != "LearningRateSchedule"
)


def _made(value):
    """A value of a recipe; of a table with the key `schedule`, the schedule it stands for.

        temperature = { schedule = "CosineDecay", initial_learning_rate = 8.0, ... }

    Raises:
        ValueError: There is no such schedule, or it does not take these arguments.
    """
    if not isinstance(value, dict):
        return value
    arguments = dict(value)
    name = arguments.pop("schedule", None)
    if name not in SCHEDULES:
        raise ValueError(
            f"a table stands for a schedule of Keras. Received: schedule = {name!r}. "
            f"Known: {', '.join(SCHEDULES)}"
        )
    try:
        return getattr(keras.optimizers.schedules, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a schedule of Keras: {error}") from error


def _or_schedule(check):
    """Lets a number be a schedule's table instead; `check` refuses what it may not give."""

    def validate(value, validate_number):
        if not isinstance(value, dict):
            return validate_number(value)
        check(_made(value))
        return value

    return pydantic.WrapValidator(validate)


Weight = Annotated[
    float,
    Field(ge=0),
    _or_schedule(lambda x: checks.check_weights(x, count=1)),
]
Fraction = Annotated[
    float,
    Field(ge=0, le=1),
    _or_schedule(lambda x: checks.check_fraction("student_loss_weight", x)),
]


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Named(Section):
    """A table with a name and the named object's own arguments beside it."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str

    @pydantic.model_validator(mode="after")
    def _arguments_fit(self):
        self.make()
        return self


class LossRecipe(_Named):
    name: Annotated[str, _one_of(losses.names(), "loss")]

    def make(self):
        arguments = {key: _made(value) for key, value in self.model_extra.items()}
        return losses.get(self.name, **arguments)


class OptimizerRecipe(_Named):
    def make(self):
        arguments = {key: _made(value) for key, value in self.model_extra.items()}
        config = {"class_name": self.name, "config": arguments}
        try:
            return keras.optimizers.get(config)
        except (TypeError, ValueError) as error:
            first_line = str(error).splitlines()[0]
            raise ValueError(f"not a Keras optimizer: {first_line}") from error


def _zoo_or_file(value):
    return value if _is_trained(value) else zoo.check(value)


def _is_trained(model):
    """Whether a stage's model is a file, or a shipped one; else it is one of the zoo."""
    return model.endswith(".keras") or "/" in model


class AugmentationRecipe(Section):
    """Views of the training images; beside `views` the arguments of `augment.Deform`."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    views: PositiveInt
    # Of the views; not the recipe's, so that all its seeds see the same ones, and what a
    # given teacher says of them is computed once.
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    # Whether they are made once, and kept in memory as bytes: 47 MB a view of MNIST.
    stored: bool = False

    def make(self):
        try:
            return Deform(**self.model_extra)
        except TypeError as error:
            raise ValueError(f"not what keras_kd.augment.Deform takes: {error}") from error

    @pydantic.model_validator(mode="after")
    def _arguments_fit(self):
        self.make()
        return self


class EnsembleRecipe(Section):
    """Trained stages as one model; the fields are those of `teachers.Ensemble`."""

    models: Annotated[list[str], Field(min_length=1)]
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    temperature: Annotated[float, Field(gt=0)] = 4.0


class StageRecipe(Section):
    name: str
    # Of the zoo; or a trained model, as `teacher` names them.
    model: Annotated[str, pydantic.AfterValidator(_zoo_or_file)] | None = None
    # Instead of `model`: stages before this one, or "teacher", together.
    ensemble: EnsembleRecipe | None = None
    # With 0 a trained model is given as it is, and teaches.
    epochs: Annotated[int, Field(strict=True, ge=0)] = 0
    # Beside the recipe's: stages of one recipe that differ in it have other first weights
    # and another order of the images.
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    # Instead of the recipe's.
    batch_size: PositiveInt | None = None
    # The training images: of these classes alone; so many of them, drawn at random, of each
    # class as many; each so often in an epoch.
    classes: Annotated[list[int], Field(min_length=1)] | None = None
    examples: PositiveInt | None = None
    repeat: PositiveInt = 1
    # Of the recipe's `augmentation`, instead of its own; with 0 the images as they are.
    views: Annotated[int, Field(strict=True, ge=0)] | None = None
    # Of the model's dropout layers, instead of their own rates.
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adam")
    losses: list[LossRecipe] = []
    # A number, or a schedule's table: { schedule = "PolynomialDecay", ... }.
    distillation_loss_weights: list[Weight] | None = None
    student_loss_weight: Fraction | None = None
    # These, too, as Stage takes them.
    taught_by: str | list[str] | None = None
    patience: PositiveInt | None = None
    restore_best: bool = False
    monitor: str = "val_loss"
    # Printed beside ours; no part of the training.
    published_accuracy: list[float] = []

    def seed_of(self, recipe_seed):
        """The seed of the stage's first weights and of its images' order."""
        if self.seed == 0:
            return recipe_seed
        mixed = np.random.SeedSequence([recipe_seed, self.seed])
        return int(mixed.generate_state(1)[0])

    def taps_teacher(self):
        """Whether a loss looks at layers of the teacher, not at its outputs alone."""
        taps = (pair for loss in self.losses for pair in loss.make().taps)
        return any(pair.teacher is not None for pair in taps)

    def make(self, seed, dtype_policy="float32", models=None):
        """The `Stage`.

        Args:
            seed: The recipe's.
            dtype_policy: Of the student.
            models: dict of name to model, of the stages before and "teacher", for an
                ensemble.

        Raises:
            ValueError: An ensemble's models are not there before it, or do not go together;
                or `dropout` is given to a model without dropout layers.
        """
        keras.utils.set_random_seed(self.seed_of(seed))
        if self.ensemble is not None:
            return Stage(self.name, self._ensemble(models or {}), 0)
        with_default = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype_policy)
        try:
            student = _load_to_train(self.model)
        finally:
            keras.config.set_dtype_policy(with_default)
        if self.epochs and _is_trained(self.model):
            self._check_policy(student, dtype_policy)
        if self.dropout is not None:
            self._set_dropout(student)
        weights = self.distillation_loss_weights
        return Stage(
            self.name,
            student,
            self.epochs,
            distillation_losses=[x.make() for x in self.losses] or None,
            distillation_loss_weights=weights and list(map(_made, weights)),
            student_loss_weight=_made(self.student_loss_weight),
            optimizer=self.optimizer.make(),
            taught_by=self.taught_by,
            patience=self.patience,
            restore_best=self.restore_best,
            monitor=self.monitor,
        )

    def _ensemble(self, models):
        missing = [name for name in self.ensemble.models if name not in models]
        if missing:
            raise ValueError(
                f"Stage {self.name!r}: `ensemble` must be of models before it "
                f"({', '.join(models) or 'there are none'}). Received: {missing[0]!r}."
            )
        members = [models[name] for name in self.ensemble.models]
        return Ensemble(
            members, self.ensemble.weights, self.ensemble.temperature, name=self.name
        )

    def _check_policy(self, student, dtype_policy):
        """Refuses a file whose layers compute otherwise than the recipe says."""
        layers = [x for x in student._flatten_layers(include_self=False) if x.weights]
        found = {x.dtype_policy.name for x in layers}
        mixed = {x for x in found if x.startswith("mixed_")}
        wanted = {dtype_policy} - {"float32"}
        if mixed == wanted:
            return
        raise ValueError(
            f"Stage {self.name!r}: `dtype_policy` has no effect on the layers of a file. "
            f"Received: dtype_policy={dtype_policy!r}, and {self.model!r} with "
            f"{', '.join(sorted(mixed or found))}. Give that as dtype_policy, or a file "
            "of a model that was made under the other, by keras.config.set_dtype_policy."
        )

    def _set_dropout(self, student):
        layers = [x for x in student.layers if isinstance(x, keras.layers.Dropout)]
        if not layers:
            raise ValueError(
                f"Stage {self.name!r}: `dropout` has no effect on {self.model!r}, which "
                "has no dropout layers. Leave it out."
            )
        for layer in layers:
            layer.rate = self.dropout

    @pydantic.model_validator(mode="after")
    def _one_model(self):
        if (self.model is None) == (self.ensemble is None):
            raise ValueError("give one of `model` and `ensemble`")
        return self

    @pydantic.model_validator(mode="after")
    def _of_training_if_trained(self):
        if self.epochs:
            if self.ensemble is not None:
                raise ValueError("an ensemble is not trained: leave out epochs")
            return self
        fields = type(self).model_fields
        for name in ("seed", "batch_size", "classes", "examples", "repeat", "views"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} goes with epochs, of which there are none")
        return self

    @pydantic.model_validator(mode="after")
    def _untrained_is_trained(self):
        if self.ensemble is None and self.epochs == 0 and not _is_trained(self.model):
            raise ValueError(
                f"epochs = 0 goes with a trained model, and {self.model!r} of the zoo is "
                "none; name a .keras file or a shipped model"
            )
        return self


class Recipe(Section):
    """A validated recipe; the fields are the keys of the TOML file."""

    dataset: Annotated[str, _one_of(list(data.DATASETS), "data set")]
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    batch_size: PositiveInt
    # Of the students while they train; what is measured and saved is float32.
    dtype_policy: Annotated[str, _one_of(DTYPE_POLICIES, "dtype policy")] = "float32"
    # "mnist/teacher" is a folder of models/; a path that ends in .keras is a file.
    teacher: str | None = None
    # As DistillationChain takes them.
    dense: bool = False
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Each epoch sees another view of every training image. Without it: as they are.
    augmentation: AugmentationRecipe | None = None
    # So many of the last training images are held out; the accuracy after each epoch, and
    # what a stage chooses by it, is then on them. With 0 it is on the test images.
    validation_examples: Annotated[int, Field(strict=True, ge=0)] = 0
    # With `validation_examples` of 0, whether the test images are seen after each epoch; if
    # not, once, at the end.
    test_each_epoch: bool = True
    stage: Annotated[list[StageRecipe], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _chooses_by_validation(self):
        for stage in self.stage:
            chooses = stage.restore_best or stage.patience is not None
            if chooses and not self.validation_examples:
                raise ValueError(
                    f"stage {stage.name!r} chooses its epoch, which needs "
                    "validation_examples: never by the test images"
                )
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
        if not self.test_each_epoch and self.validation_examples:
            raise ValueError(
                "test_each_epoch goes without validation_examples, which are seen instead"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _drop_rate_has_an_effect(self):
        if self.drop_rate and not self.dense:
            raise ValueError("drop_rate goes with dense = true")
        return self


def make_chain(recipe, teacher):
    """The `DistillationChain` of a recipe, with models of their first weights.

    Args:
        recipe: A `Recipe`.
        teacher: Its teacher, loaded; or None.

    Raises:
        ValueError: A model does not fit another one, or a stage its model.
    """
    models = {} if teacher is None else {"teacher": teacher}
    stages = []
    for section in recipe.stage:
        stage = section.make(recipe.seed, recipe.dtype_policy, models)
        models = models | {stage.name: stage.student}
        stages.append(stage)
    return DistillationChain(
        teacher, stages, recipe.dense, recipe.drop_rate, seed=recipe.seed
    )


def names():
    """The recipes that come with the library, as a list of strings."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _load_to_train(name):
    return load_model(name) if _is_trained(name) else zoo.build(name)


def load(name_or_path, kind=Recipe, **overrides):
    """Reads and validates a recipe.

    Args:
        name_or_path: A name of `names()`, or a path that ends in `.toml`.
        kind: `Recipe`, or `keras_kd.tuning.recipe.TunedRecipe`, one with a table [tune].
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
    return _validate(table, path, kind, overrides)


# Overrides that take the place of what a stage says itself.
_OF_STAGES = ("epochs", "batch_size")


def _validate(table, path, kind, overrides):
    given = {key: value for key, value in overrides.items() if value is not None}
    of_stages, idle = {key: given[key] for key in _OF_STAGES if key in given}, list(given)
    given.pop("epochs", None)
    table = table | given
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
            lines.append(f"  {_place(problem['loc'], table)}: {_message(problem)}")
        raise ValueError("\n".join(lines)) from error


def _place(location, table):
    """A place in the file as a reader finds it: `stage 2 ("student") > losses 1 > name`."""
    words = []
    for part in location:
        if isinstance(part, int):
            words[-1] += f" {part + 1}"
            if words == [f"stage {part + 1}"] and isinstance(table["stage"][part], dict):
                words[0] += f' ("{table["stage"][part].get("name", "")}")'
        else:
            words.append(part)
    return " > ".join(words)


def _message(problem):
    if problem["type"] == "extra_forbidden":
        searched = problem["loc"] == ("tune",)
        return "goes with keras-kd tune, not with a run" if searched else "unknown key"
    return problem["msg"].removeprefix("Value error, ")


def load_model(name_or_path):
    """Loads a `.keras` model with Keras's safe mode on: no code in the file runs.

    Args:
        name_or_path: A path that ends in `.keras`, or a shipped model's name, for
            instance "mnist/teacher".

    Raises:
        FileNotFoundError: No such file, or no shipped model of that name.
        ValueError: The file is not a model that Keras can load safely, or the name leads
            out of the folder of shipped models.
    """
    path = Path(name_or_path)
    if path.suffix != ".keras":
        path = files.inside(SHIPPED_MODELS, name_or_path) / "model.keras"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no model {str(name_or_path)!r} (looked for {path}). A model is a "
            "path that ends in .keras, or the name of a folder in models/ of a clone."
        )
    return load_keras_file(path)
