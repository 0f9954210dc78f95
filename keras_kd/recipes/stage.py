"""What a recipe may say of a stage, and the `Stage` that it makes."""

from typing import Annotated

import keras
import numpy as np
import pydantic
from pydantic import Field

from keras_kd.chain.stage import Stage
from keras_kd.files import check_folder_name
from keras_kd.recipes.model_files import is_trained, load_to_train, zoo_or_file
from keras_kd.recipes.sections import (
    APPLICATION,
    NAME,
    TABLE,
    ApplicationRecipe,
    EnsembleRecipe,
    Flag,
    Fraction,
    Integer,
    LossRecipe,
    ModelRecipe,
    Number,
    OptimizerRecipe,
    PositiveInt,
    Rate,
    Section,
    Seed,
    Weight,
    made,
    one_of,
)
from keras_kd.tasks.find import ACTIVATIONS
from keras_kd.teachers import Ensemble

Label = Annotated[Integer, Field(ge=0)]


def _form(model):
    if isinstance(model, str):
        return NAME
    is_application = isinstance(model, ApplicationRecipe) or "application" in model
    return APPLICATION if is_application else TABLE


class StageRecipe(Section):
    name: Annotated[str, pydantic.AfterValidator(check_folder_name)]
    # Of the zoo; or a trained model, as `teacher` names them.
    # Or in the shape of the data: { family = "separable_cnn", width = 24 }, or one of
    # keras.applications, untrained: "applications/MobileNetV3Small".
    model: (
        Annotated[
            Annotated[str, pydantic.AfterValidator(zoo_or_file), pydantic.Tag(NAME)]
            | Annotated[ModelRecipe, pydantic.Tag(TABLE)]
            | Annotated[ApplicationRecipe, pydantic.Tag(APPLICATION)],
            pydantic.Discriminator(_form),
            pydantic.BeforeValidator(ApplicationRecipe.of),
        ]
        | None
    ) = None
    # Instead of `model`: stages before this one, or "teacher", together.
    ensemble: EnsembleRecipe | None = None
    # With 0 a trained model is given as it is, and teaches.
    epochs: Annotated[Integer, Field(ge=0)] = 0
    # Beside the recipe's: stages of one recipe that differ in it have other first weights
    # and another order of the images.
    seed: Seed = 0
    # Instead of the recipe's.
    batch_size: PositiveInt | None = None
    # The training images: of these classes alone; so many of them, drawn at random, of each
    # class as many; each so often in an epoch.
    classes: Annotated[list[Label], Field(min_length=1)] | None = None
    examples: PositiveInt | None = None
    repeat: PositiveInt = 1
    # Of the recipe's `augmentation`, instead of its own; with 0 the images as they are.
    views: Annotated[Integer, Field(ge=0)] | None = None
    # Of the model's dropout layers, instead of their own rates.
    dropout: Rate | None = None
    optimizer: OptimizerRecipe = OptimizerRecipe(name="adam")
    losses: list[LossRecipe] = []
    # A number, or a schedule's table: { schedule = "PolynomialDecay", ... }.
    distillation_loss_weights: list[Weight] | None = None
    student_loss_weight: Fraction | None = None
    # These, too, as Stage takes them.
    taught_by: str | list[str] | None = None
    patience: PositiveInt | None = None
    restore_best: Flag = False
    monitor: str = "val_loss"
    # What the student's outputs mean.
    task: Annotated[str, one_of(list(ACTIVATIONS), "task")] | None = None
    # Printed beside ours; no part of the training.
    published_accuracy: list[Number] = []

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

    def needs_index(self):
        """Whether a loss tells examples apart by their numbers."""
        return any(loss.make().needs_index for loss in self.losses)

    def make(self, seed, dtype_policy="float32", models=None, shapes=None):
        """The `Stage`.

        Args:
            seed: The recipe's.
            dtype_policy: Of the student.
            models: dict of name to model, of the stages before and "teacher", for an
                ensemble.
            shapes: A `keras_kd.recipes.shapes.Shapes`, for a model in the data's shape.

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
            if isinstance(self.model, ModelRecipe):
                student = self.model.make(shapes)
            elif isinstance(self.model, ApplicationRecipe):
                student = self.model.make(shapes.inputs, shapes.outputs)
            else:
                student = load_to_train(self.model)
        finally:
            keras.config.set_dtype_policy(with_default)
        if self.epochs and is_trained(self.model):
            self._check_policy(student, dtype_policy)
        if self.dropout is not None:
            self._set_dropout(student)
        weights = self.distillation_loss_weights
        return Stage(
            self.name,
            student,
            self.epochs,
            distillation_losses=[x.make() for x in self.losses] or None,
            distillation_loss_weights=None if weights is None else list(map(made, weights)),
            student_loss_weight=made(self.student_loss_weight),
            optimizer=self.optimizer.make(),
            taught_by=self.taught_by,
            patience=self.patience,
            restore_best=self.restore_best,
            monitor=self.monitor,
            task=self.task or (shapes and shapes.task),
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
    def _weights_fit_losses(self):
        weights = self.distillation_loss_weights
        if weights is None:
            return self
        if len(weights) != len(self.losses):
            raise ValueError(
                "distillation_loss_weights must hold one number for each of the "
                f"{len(self.losses)} losses. Received: {len(weights)}"
            )
        if not any(weights):
            raise ValueError(
                "distillation_loss_weights are all 0, so nothing would be distilled: "
                "leave the losses out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _monitor_has_an_effect(self):
        chooses = self.restore_best or self.patience is not None
        if self.monitor != type(self).model_fields["monitor"].default and not chooses:
            raise ValueError("monitor goes with patience or restore_best")
        return self

    @pydantic.model_validator(mode="after")
    def _classes_are_several(self):
        classes = self.classes or []
        if len(set(classes)) < len(classes):
            raise ValueError(f"classes must differ. Received: {classes}")
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
        if self.ensemble is None and self.epochs == 0 and not is_trained(self.model):
            raise ValueError(
                f"epochs = 0 goes with a trained model, and {self.model!r} of the zoo is "
                "none; name a .keras file or a shipped model"
            )
        return self
