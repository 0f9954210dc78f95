"""A model whose loss has settings and schedules, and the step at which these are read."""

import keras
from keras import ops

from keras_kd.losses.schedules import is_schedule


class ScheduledModel(keras.Model):
    """Knows the optimizer's step wherever its loss is computed, on every backend.

    Schedules are read at the iterations of the optimizer; in validation at those of the
    last training step. The step is a variable of the model, so that it is part of a
    compiled step, and so that a saved model goes on where it stopped.
    """

    # Attributes that are the constructor's arguments, from which all else was made.
    fixed = ()
    _is_made = False
    _schedule_step = None
    _handed_step = None
    _traced_settings = None
    _tested_settings = None

    def __setattr__(self, name, value):
        if self._is_made and name in self.fixed:
            raise ValueError(
                f"`{name}` of a {type(self).__name__} cannot be changed, as its losses, "
                "taps and compiled steps were made for it. Make a new one of the same "
                "models, whose weights it keeps; a schedule changes a number in training. "
                f"Received: {name}={value!r}."
            )
        super().__setattr__(name, value)

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`; ours takes the same.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        """As Keras's; anew where a loss's settings are no longer what they were."""
        settings = self._settings()
        changed = self._traced_settings not in (None, settings)
        self._traced_settings = settings
        return super().make_train_function(force=force or changed)

    def make_test_function(self, force=False):
        """As Keras's; anew where a loss's settings are no longer what they were."""
        settings = self._settings()
        changed = self._tested_settings not in (None, settings)
        self._tested_settings = settings
        return super().make_test_function(force=force or changed)

    def _settings(self):
        """What the losses were set to, as far as a compiled step has it for a constant."""
        losses = [x for loss in self.distillation_losses for x in _with_adopted(loss)]
        return [
            {k: x for k, x in vars(loss).items() if _is_setting(x)} for loss in losses
        ]

    def follow_schedules(self, values, losses):
        """Makes the variable, if any of the numbers, or of the losses', is scheduled."""
        numbers = [*values, *(x for loss in losses for x in vars(loss).values())]
        if any(map(is_schedule, numbers)):
            self._schedule_step = self.add_weight(
                name="schedule_step",
                initializer="zeros",
                dtype="int",
                trainable=False,
                aggregation="only_first_replica",
            )

    def current_step(self, training):
        """The step for schedules, a scalar integer; 0 where nothing is scheduled."""
        if self._schedule_step is None:
            return 0
        if training:
            step = self._handed_step
            step = self.optimizer.iterations if step is None else step
            self._schedule_step.assign(ops.cast(step, self._schedule_step.dtype))
        return ops.convert_to_tensor(self._schedule_step)

    def compute_loss_and_updates(self, *args, optimizer_variables=None, **kwargs):
        """Keras's, of its JAX trainer, which hides the optimizer's state from the loss."""
        if self._schedule_step is not None and optimizer_variables is not None:
            state = zip(self.optimizer.variables, optimizer_variables, strict=True)
            with keras.StatelessScope(state_mapping=list(state)):
                self._handed_step = ops.convert_to_tensor(self.optimizer.iterations)
        try:
            return super().compute_loss_and_updates(
                *args, optimizer_variables=optimizer_variables, **kwargs
            )
        finally:
            self._handed_step = None


def _with_adopted(loss):
    adopted = getattr(loss, "loss", None)
    return [loss, adopted] if hasattr(adopted, "__dict__") else [loss]


def _is_setting(value):
    return isinstance(value, (str, int, float, tuple)) or is_schedule(value)
