"""A model whose loss has schedules in it, and the step at which they are read."""

import keras
from keras import ops

from keras_kd.losses.schedules import is_schedule


class ScheduledModel(keras.Model):
    """Knows the optimizer's step wherever its loss is computed, on every backend.

    Schedules are read at the iterations of the optimizer; in validation at those of the
    last training step. The step is a variable of the model, so that it is part of a
    compiled step, and so that a saved model goes on where it stopped.
    """

    _schedule_step = None
    _handed_step = None

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
