"""A recipe with a table [tune]: what a search tries, and each try as a recipe."""

import dataclasses
import difflib
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from keras_kd.recipes.recipe import AS_JSON, Recipe
from keras_kd.recipes.sections import DataRecipe, LossRecipe, PositiveInt, Section
from keras_kd.recipes.stage import StageRecipe

NUMBERS = ("temperature", "student_loss_weight", "learning_rate")
# In the order in which they are put in: a temperature goes into the loss that was chosen.
KEYS = ("model", "loss", *NUMBERS)
_NAMES = ("name", "family", "application")
_OF_DISTILLATION = ("loss", "temperature", "student_loss_weight")
# The steps of a search are larger; and so 32 bits, in which it may travel, hold a number.
_DIGITS = 4

Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Section):
    """Any number from `min` to `max`; with sampling "log", each factor as probable."""

    min: Number
    max: Number
    sampling: Literal["linear", "log"] = "linear"

    @pydantic.model_validator(mode="after")
    def _is_a_range(self):
        if not self.min < self.max:
            raise ValueError(f"min must be less than max. Received: {self.min}, {self.max}")
        if self.sampling == "log" and self.min <= 0:
            raise ValueError(f'sampling = "log" goes with min > 0. Received: {self.min}')
        return self

    def rounded(self, number):
        """The number that a trial has, in few digits, so that a recipe can be read."""
        return min(max(float(f"{number:.{_DIGITS}g}"), self.min), self.max)


def _range_or_list(value, validate_range):
    if not isinstance(value, list):
        return validate_range(value)
    if len(value) < 2:
        raise ValueError("a list must have two values or more; one goes into the stage")
    return value


Values = Annotated[Range, pydantic.WrapValidator(_range_or_list)]


def _of_validation(metric):
    if not metric.startswith("val_"):
        raise ValueError(
            "must be a metric of the images that are held out, such as val_accuracy. "
            f"Received: {metric!r}"
        )
    return metric


class TuneTable(Section):
    """The table [tune]."""

    strategy: Literal["random", "bayesian", "hyperband"] = "random"
    # How many; Hyperband makes as many as the stage has epochs for.
    trials: PositiveInt | None = None
    # After the last epoch of the stage, or the one that it restores. More is better, but of
    # what ends in "loss".
    objective: Annotated[str, pydantic.AfterValidator(_of_validation)] = "val_accuracy"
    # The stage that is judged, and that a key of the space without a name is of. Defaults
    # to the last that is taught.
    stage: str | None = None
    # "temperature", of that stage; "ta.model", of one that teaches it.
    space: Annotated[dict[str, Values], Field(min_length=1)]

    @pydantic.field_validator("space", mode="before")
    @classmethod
    def _without_tables(cls, space):
        """TOML reads ta.model = [...] as a table `ta` with the key `model`."""
        flat = {}
        for key, value in space.items() if isinstance(space, dict) else ():
            is_stage = isinstance(value, dict) and value and set(value) <= set(KEYS)
            flat |= {f"{key}.{x}": value[x] for x in value} if is_stage else {key: value}
        return flat

    @pydantic.model_validator(mode="after")
    def _trials_have_an_effect(self):
        if self.strategy == "hyperband" and self.trials is not None:
            raise ValueError("hyperband makes its own number of trials: leave out trials")
        if self.strategy != "hyperband" and self.trials is None:
            raise ValueError(f"{self.strategy} needs trials, how many there shall be")
        return self


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    Attributes:
        name: As the space has it, "temperature" or "ta.temperature".
        stage: Name of its stage.
        key: One of `KEYS`.
        values: A `Range`; or a dict of label to value.
    """

    name: str
    stage: str
    key: str
    values: Range | dict

    def value(self, drawn):
        """The value of a trial for which a label, or a number of the range, was drawn."""
        if isinstance(self.values, Range):
            return self.values.rounded(drawn)
        return self.values[drawn]

    def label(self, value):
        """A value as it stands in a table."""
        if isinstance(self.values, Range):
            return f"{value:g}"
        return next(label for label, x in self.values.items() if x == value)

    def examples(self):
        """Values that the stage must take, if it is to take all: the list, or both ends."""
        if isinstance(self.values, Range):
            return [self.values.min, self.values.max]
        return list(self.values.values())


class TunedRecipe(Recipe):
    """A recipe that is searched over; see `keras_kd.tuning.tune.tune`."""

    tune: TuneTable

    @property
    def judged(self):
        """Name of the stage that the trials are compared by."""
        return _judged(self.tune, self.stage)

    @property
    def dimensions(self):
        """A list of `Dimension`, in the order of the file; a stage's loss comes first."""
        return _dimensions(self.tune, self.stage)

    @property
    def is_sized_by_data(self):
        """As `Recipe` has it, of the models that are tried, too."""
        models = [x for x in self.dimensions if x.key == "model"]
        tried = [self.with_values({x.name: y}) for x in models for y in x.examples()]
        return super().is_sized_by_data or any(x.is_sized_by_data for x in tried)

    @pydantic.field_validator("tune")
    @classmethod
    def _fits_the_stages(cls, tune, info):
        stages = info.data.get("stage")
        if stages is None:  # Refused already.
            return tune
        own = info.data.get("dataset")
        held_out = own.validation if isinstance(own, DataRecipe) else 0
        if not info.data.get("validation_examples") and not held_out:
            raise ValueError("a search needs validation_examples: never by the test images")
        sections = {stage.name: stage for stage in stages}
        dimensions = _dimensions(tune, stages)
        for dimension in dimensions:
            of_stage = {x.key: x for x in dimensions if x.stage == dimension.stage}
            _check(dimension, sections[dimension.stage], set(of_stage))
            if dimension.key == "loss":
                own = [x for x in tune.space[dimension.name] if isinstance(x, dict)]
                _check_losses(dimension, own, of_stage.get("temperature"))
        return tune

    def values_of(self, drawn):
        """dict of `Dimension.name` to value, of those that KerasTuner has drawn."""
        return {x.name: x.value(drawn[x.name]) for x in self.dimensions if x.name in drawn}

    def with_values(self, values):
        """The recipe, without its table [tune], that has the values of a trial.

        Args:
            values: dict of `Dimension.name` to value; what is not in it stays as it is.

        Returns:
            A `Recipe`.
        """
        table = self.model_dump(**AS_JSON, exclude={"tune"}, exclude_unset=True)
        table["stage"] = []
        for stage in self.stage:
            own = [x for x in self.dimensions if x.stage == stage.name]
            chosen = {x.key: values[x.name] for x in own if x.name in values}
            table["stage"].append(_table_with(stage, chosen))
        return Recipe.model_validate(table)


def _judged(tune, stages):
    taught = [x.name for x in stages if x.losses]
    if tune.stage is None and taught:
        return taught[-1]
    if tune.stage not in [x.name for x in stages]:
        raise ValueError(
            f"stage must be the name of a stage. Received: {tune.stage!r}. "
            f"Known: {', '.join(x.name for x in stages)}"
        )
    return tune.stage


def _dimensions(tune, stages):
    judged, sections = _judged(tune, stages), {x.name: x for x in stages}
    found = []
    for name, values in tune.space.items():
        stage, _, key = name.rpartition(".")
        stage = stage or judged
        if stage not in sections or key not in KEYS:
            known = [*KEYS, *(f"{x}.{key}" for x in sections for key in KEYS)]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"space > {name}: nothing that can be searched. Known: {', '.join(KEYS)}, "
                f"and of another stage, as in {known[len(KEYS)]!r}{hint}"
            )
        if not isinstance(values, Range):
            labels = list(map(_label, values))
            if len(set(labels)) < len(labels):
                raise ValueError(f"space > {name}: names a value twice. Received: {values}")
            made = [_made(x, key, sections[stage]) for x in values]
            values = dict(zip(labels, made, strict=True))
        found.append(Dimension(name, stage, key, values))
    _check_once(found)
    # The values of one may hang on another's of the same stage.
    return sorted(found, key=lambda x: x.key in NUMBERS)


def _check_once(dimensions):
    """Refuses two keys for the same thing: one of them would have no effect."""
    named = {}
    for x in dimensions:
        first = named.setdefault((x.stage, x.key), x.name)
        if first != x.name:
            raise ValueError(
                f"space > {x.name}: is the same as {first}, of stage {x.stage!r}. Leave "
                "one of them out."
            )


def _label(value):
    if isinstance(value, dict):
        # A loss's name, or a model's.
        names = [value[key] for key in _NAMES if key in value] or ["None"]
        arguments = (f"{key} = {x}" for key, x in value.items() if key not in _NAMES)
        return ", ".join([*map(str, names), *arguments])
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _made(value, key, stage):
    """A value of a list as the recipe has it: a loss's name stands for its table."""
    if key != "loss" or isinstance(value, dict):
        return float(value) if _is_number(value) else value
    own = [x for x in stage.losses if x.name == value]
    return own[0].model_dump(**AS_JSON) if own else {"name": value}


def _check(dimension, stage, searched):
    """Refuses a dimension that a stage does not have, or values that it does not take."""
    place, key = f"space > {dimension.name}", dimension.key
    numbers = all(map(_is_number, dimension.examples()))
    is_list = isinstance(dimension.values, dict)
    if (key in NUMBERS) != numbers or not (is_list or numbers):
        takes = "a list of names, or tables"
        if key in NUMBERS:
            takes = "numbers, or min and max"
        raise ValueError(f"{place}: takes {takes}. Received: {dimension.examples()}")
    if not stage.epochs:
        raise ValueError(f"{place}: stage {stage.name!r} is not trained")
    if key in _OF_DISTILLATION and not stage.losses:
        raise ValueError(f"{place}: stage {stage.name!r} has no losses, and no teacher")
    if key == "loss" and len(stage.losses) > 1:
        raise ValueError(
            f"{place}: takes the place of one loss. Received: {len(stage.losses)}"
        )
    if key == "temperature" and "loss" not in searched and not takes_temperature(stage):
        raise ValueError(f"{place}: no loss of stage {stage.name!r} has a temperature")
    for value in dimension.examples():
        try:
            StageRecipe.model_validate(_table_with(stage, {key: value}))
        except pydantic.ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{place}: {value!r} is refused: {message}") from error


def _check_losses(dimension, own, temperature):
    """Refuses losses of which one, or a temperature, would have no effect.

    Args:
        dimension: The losses' `Dimension`.
        own: Those that the space writes as tables.
        temperature: The `Dimension` of the same stage's temperature, or None.
    """
    place = f"space > {dimension.name}"
    made = {label: LossRecipe.model_validate(x) for label, x in dimension.values.items()}
    configs = {label: (x.name, x.make().get_config()) for label, x in made.items()}
    if temperature is not None:
        fixed = [x for x in own if "temperature" in x]
        if fixed:
            raise ValueError(
                f"{place}: {_label(fixed[0])} has a temperature, which {temperature.name} "
                "searches. Leave one of them out."
            )
        if not any("temperature" in config for _, config in configs.values()):
            raise ValueError(f"space > {temperature.name}: no loss of {place} has one")
    labels = list(configs)
    for i, label in enumerate(labels):
        for before in labels[:i]:
            if configs[before] == configs[label]:
                raise ValueError(f"{place}: {before} and {label} are the same loss")


def takes_temperature(stage):
    """Whether a stage's losses, one of them at least, have a temperature."""
    return any("temperature" in x.make().get_config() for x in stage.losses)


def _table_with(stage, values):
    """The table of a stage, with the values of a trial put in: dict of key to value."""
    table = stage.model_dump(**AS_JSON, exclude_unset=True)
    for key in sorted(values, key=KEYS.index):
        value = values[key]
        if key == "loss":
            table["losses"] = [value]
        elif key == "temperature":
            table["losses"] = [_at_temperature(x, value) for x in table["losses"]]
        elif key == "learning_rate":
            table["optimizer"] = _at_rate(stage.optimizer.model_dump(**AS_JSON), value)
        else:
            table[key] = value
    return table


def _at_temperature(loss, temperature):
    made = LossRecipe.model_validate(loss).make()
    if "temperature" not in made.get_config():
        return loss
    return loss | {"temperature": temperature}


def _at_rate(optimizer, rate):
    """An optimizer's table; of a schedule, the rate is where it starts."""
    schedule = optimizer.get("learning_rate")
    if not isinstance(schedule, dict):
        return optimizer | {"learning_rate": rate}
    if "initial_learning_rate" not in schedule:
        raise ValueError(
            f"the schedule {schedule['schedule']} has no initial_learning_rate to search"
        )
    return optimizer | {"learning_rate": schedule | {"initial_learning_rate": rate}}
