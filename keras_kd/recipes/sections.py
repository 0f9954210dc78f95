"""What a table of a recipe may hold, beside plain numbers and names."""

import difflib
import math
from typing import Annotated, Literal

import keras
import numpy as np
import pydantic
from pydantic import Field

from keras_kd import losses, students
from keras_kd.data.augmentation import Deform
from keras_kd.datasets.load import Own
from keras_kd.losses.arguments import check_positive, is_finite_number
from keras_kd.losses.schedules import is_schedule, last_step
from keras_kd.students import applications
from keras_kd.training import checks

# What a model's name begins with that is one of keras.applications.
_APPLICATIONS = "applications/"

# Numbers of an optimizer that are steps or limits; others may be of any sign.
_SIZES = ("learning_rate", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
_SIZES += ("epsilon", "initial_accumulator_value", "l1_regularization_strength")
_SIZES += ("l2_regularization_strength", "l2_shrinkage_regularization_strength")
# What of an average stays at each step: with 1 nothing is ever added.
_KEPT = ("beta_1", "beta_2", "rho", "momentum", "ema_momentum")


# The forms of a field that is a name, or a table; of a problem no reader needs the word.
NAME, TABLE, APPLICATION = "a name", "a table", "an application"


def one_of(names, kind):
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


def made(value):
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
    for key, argument in arguments.items():
        _check_point(f"{name} > {key}", argument, key)
    try:
        schedule = getattr(keras.optimizers.schedules, name)(**arguments)
        steps = 0, last_step(schedule)
        first, last = (float(schedule(step)) for step in steps)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"not a schedule of Keras: {error}") from error
    for word, value in (("begins", first), ("ends", last)):
        if not math.isfinite(value):
            raise ValueError(f"the schedule {name} {word} with {value}, no finite number")
    return schedule


def _check_point(place, value, key):
    """Refuses what is no number, of a schedule's arguments that are numbers."""
    if key in ("name", "staircase", "cycle"):
        return
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, (int, float)) or isinstance(each, bool):
            raise ValueError(f"{place} must be a number. Received: {each!r}")
        if not is_finite_number(each) or "steps" in key and each <= 0:
            allowed = "1 or greater" if "steps" in key else "finite"
            raise ValueError(f"{place} must be {allowed}. Received: {each!r}")


def _or_schedule(check):
    """Lets a number be a schedule's table instead; `check` refuses what it may not give."""

    def validate(value, validate_number):
        if not isinstance(value, dict):
            return validate_number(value)
        check(made(value))
        return value

    return pydantic.WrapValidator(validate)


# What TOML writes as such: `true` is no number, and neither is "0.5".
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True)]
PositiveInt = Annotated[Integer, Field(ge=1)]
# A number, or a text with a unit: "100kB".
Limit = Annotated[float, Field(strict=True)] | Annotated[int, Field(strict=True)] | str
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
Flag = Annotated[bool, Field(strict=True)]
# Of a dropout layer, or of teachers that are left out.
Rate = Annotated[Number, Field(ge=0, lt=1)]
Weight = Annotated[
    Number,
    Field(ge=0),
    _or_schedule(lambda x: checks.check_weights(x, count=1)),
]
Fraction = Annotated[
    Number,
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

    def _arguments(self):
        arguments = {}
        for key, value in self.model_extra.items():
            try:
                arguments[key] = made(value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return arguments


class LossRecipe(_Named):
    name: Annotated[str, one_of(losses.names(), "loss")]

    def make(self):
        arguments = self._arguments()
        return losses.get(self.name, **arguments)


class OptimizerRecipe(_Named):
    def make(self):
        arguments = self._arguments()
        for key, value in arguments.items():
            if is_schedule(value) and key != "learning_rate":
                raise ValueError(f"{key} must be a number; learning_rate takes a schedule")
            _check_number(key, value)
        config = {"class_name": self.name, "config": arguments}
        try:
            return keras.optimizers.get(config)
        except (TypeError, ValueError) as error:
            first_line = str(error).splitlines()[0]
            raise ValueError(f"not a Keras optimizer: {first_line}") from error


def _check_number(key, value):
    """Refuses what no optimizer takes for a number, and Keras finds out in training."""
    # Of a schedule, where it begins.
    value = float(value(0)) if callable(value) else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_number, allowed = is_number and math.isfinite(value), "a finite number"
    if key in _SIZES:
        is_number, allowed = is_number and value >= 0, allowed + ", 0 or greater"
    elif key in _KEPT:
        is_number = is_number and 0 <= value < 1
        allowed = "a number that is 0 or greater, and less than 1"
    elif key == "name" or not isinstance(value, (str, float)):
        return
    if not is_number:
        raise ValueError(f"{key} must be {allowed}. Received: {value!r}")


class AugmentationRecipe(Section):
    """Views of the training images; beside `views` the arguments of `augment.Deform`."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    views: PositiveInt
    # Of the views; not the recipe's, so that all its seeds see the same ones, and what a
    # given teacher says of them is computed once.
    seed: Seed = 0
    # Whether they are made once, and kept in memory as bytes: 47 MB a view of MNIST.
    stored: Flag = False

    def make(self):
        try:
            return Deform(**self.model_extra)
        except TypeError as error:
            raise ValueError(f"not what keras_kd.augment.Deform takes: {error}") from error

    @pydantic.model_validator(mode="after")
    def _arguments_fit(self):
        self.make()
        return self


def _checked(name):
    return pydantic.AfterValidator(lambda x: check_positive(name, x))


class EnsembleRecipe(Section):
    """Trained stages as one model; the fields are those of `teachers.Ensemble`."""

    models: Annotated[list[str], Field(min_length=1)]
    weights: list[Annotated[Number, Field(ge=0)]] | None = None
    temperature: Annotated[Number, Field(gt=0), _checked("temperature")] = 4.0


class ApplicationRecipe(Section):
    """An architecture of keras.applications, untrained, in the shape of the data.

        model = { application = "MobileNetV3Small", alpha = 0.5 }
        model = "applications/MobileNetV3Small"
    """

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    application: str

    @classmethod
    def of(cls, name):
        """Of "applications/NAME", a table; anything else as it is."""
        if isinstance(name, str) and name.startswith(_APPLICATIONS):
            return {"application": name.removeprefix(_APPLICATIONS)}
        return name

    def make(self, input_shape, output_shape):
        """A model of its first weights.

        Raises:
            ValueError: As `keras_kd.students.applications.build`.
        """
        own = self.model_extra
        return applications.build(self.application, input_shape, output_shape, **own)

    @pydantic.model_validator(mode="after")
    def _arguments_fit(self):
        applications.check(self.application, self.model_extra)
        return self


class DataRecipe(Section):
    """A user's own data; the fields are those of `keras_kd.datasets.load.Own`."""

    path: str
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    channels: Literal[1, 3] | None = None
    validation: Annotated[Number, Field(ge=0, lt=1)] = Own.validation
    test: Annotated[Number, Field(ge=0, lt=1)] = Own.test
    skip_unreadable: Flag = Own.skip_unreadable
    labels: Flag = Own.labels
    label: str | None = None
    length: PositiveInt | None = None
    task: Literal["multiclass", "regression"] | None = None

    def make(self):
        """The `Own` that `keras_kd.datasets.load` takes."""
        return Own(**self.model_dump())


class ModelRecipe(Section):
    """A model of a family, in the shape of the data; the fields are those of `students`."""

    family: Annotated[str, one_of(students.names(), "family")]
    # Its width, or the largest within these limits.
    width: PositiveInt | None = None
    max_bytes: Limit | None = None
    max_macs: Limit | None = None
    max_parameters: Limit | None = None
    max_latency: Limit | None = None

    def make(self, shapes):
        """A model of its first weights, which knows the training inputs' means.

        Args:
            shapes: A `keras_kd.recipes.shapes.Shapes`.
        """
        parts, width = shapes.parts, self.width
        made_for = self.family, shapes.inputs, shapes.outputs
        if width is None:
            width = students.largest(*made_for, self._limits(), parts.columns)
        model = students.build(*made_for, width, parts.columns)
        if parts.kind != "images":
            students.prepare(model, parts.train[0])
        if shapes.values is None:
            return model
        # Values of any size come out of numbers about 1, which it learns as fast.
        mean, deviation = np.mean(shapes.values), np.std(shapes.values) or 1.0
        values = keras.layers.Rescaling(float(deviation), float(mean), name="values")
        return keras.Model(model.inputs, values(model.output), name=model.name)

    def _limits(self):
        given = self.model_dump(exclude={"family", "width"})
        return students.Limits(**given)

    @pydantic.model_validator(mode="after")
    def _sized_once(self):
        if (self.width is None) == (not self._limits().any):
            raise ValueError("give its width, or limits: max_bytes, max_macs, ...")
        return self
