"""Several batches in one compiled call, where nobody can see that it is one."""

import keras
from keras import tree

from keras_kd.distribution.distribute import Distributed
from keras_kd.distribution.on_device import check_limit, on_device
from keras_kd.distribution.workers import strategy_of
from keras_kd.models.kept_values import values_kept
from keras_kd.models.symbolic import output_structure
from keras_kd.training.compiled_steps import (
    Epoch,
    Groups,
    JaxGroups,
    with_variables_before,
)

# Batches that are trained on before Python has a look: on TensorFlow more gained little; on
# JAX what is copied for each is a few numbers.
MOST_AT_A_TIME, _MOST_ON_JAX = 8, 32
_BATCH_HOOKS = [f"on_{x}batch_{y}" for x in ("", "train_") for y in ("begin", "end")]


def _saves_in_an_epoch(callback):
    return callback.save_freq != "epoch"


def _writes_in_an_epoch(callback):
    each_epoch = callback.update_freq == "epoch"
    # What Keras makes of `profile_batch`.
    profiles = getattr(callback, "_should_trace", True)
    return profiles or not each_epoch or callback.write_steps_per_second


# Of each class with hooks of a batch, whether they take more than they are called with.
# Classes of ours say it themselves, in `looks_at_batches`.
_KERAS = {
    keras.callbacks.Callback: lambda callback: False,
    keras.callbacks.ProgbarLogger: lambda callback: False,
    keras.callbacks.TerminateOnNaN: lambda callback: False,
    keras.callbacks.ModelCheckpoint: _saves_in_an_epoch,
    keras.callbacks.BackupAndRestore: _saves_in_an_epoch,
    keras.callbacks.TensorBoard: _writes_in_an_epoch,
}
# Of those, whose hooks make something of each batch's metrics.
_TAKE_METRICS = (keras.callbacks.TerminateOnNaN, keras.callbacks.TensorBoard)


def batches_at_a_time(callbacks, metrics_of_each=True):
    """How many batches `fit` may train on in one call; 1 where somebody looks at each.

    Args:
        callbacks: As `fit` takes them. Keras's own and `keras_kd`'s do not look, unless
            told to do something within an epoch; any other with a hook of a batch does.
        metrics_of_each: Whether the metrics of each batch are known.
    """
    for callback in _flat(callbacks):
        takes_metrics = not metrics_of_each and isinstance(callback, _TAKE_METRICS)
        if takes_metrics or _looks_at_batches(callback):
            return 1
    return MOST_AT_A_TIME


def _flat(callbacks):
    return tree.flatten(callbacks) if callbacks else []


def _looks_at_batches(callback):
    # A keras.callbacks.LambdaCallback has its hooks in the instance.
    if any(hook in getattr(callback, "__dict__", {}) for hook in _BATCH_HOOKS):
        return True
    for hook in _BATCH_HOOKS:
        owner = next((x for x in type(callback).__mro__ if hook in vars(x)), None)
        if owner in _KERAS:
            looks = _KERAS[owner](callback)
        else:
            # What another class has said, it has said of its own hooks.
            known = owner is not None and "looks_at_batches" in vars(owner)
            looks = not known or callback.looks_at_batches
        if looks:
            return True
    return False


class SeveralSteps(Distributed):
    """Trains on several batches in one compiled call, where `compile` was not told to.

    So on TensorFlow; and on JAX where the examples lie on the device.

    `steps_per_execution` stays 1: Keras's loop goes from batch to batch, and so do the
    progress bar, callbacks and metrics. On one device the first of a group of batches is
    answered when all are trained on, each with its own metrics; a group ends where the
    epoch or the data end, or where the loss is no number. Under a `tf.distribute` strategy
    each batch is trained on when it is asked for, and the metrics, which all replicas have
    a part of, are read once in a group.
    """

    _chooses_steps = False
    _device_bytes = None
    # `on_device.OnDevice` while `fit` trains on examples that lie there; and of which ones
    # a function is compiled, so that another `fit` on them begins at once.
    _on_device = _compiled_for = None

    def compile(self, *args, steps_per_execution=None, device_bytes=None, **kwargs):
        self._device_bytes = check_limit(device_bytes)
        self._compiled_for = None
        self._chooses_steps = steps_per_execution is None
        given = 1 if self._chooses_steps else steps_per_execution
        super().compile(*args, steps_per_execution=given, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self._chooses_steps:
            del config["steps_per_execution"]
        if config and self._device_bytes is not None:
            config["device_bytes"] = self._device_bytes
        return config

    @property
    def batches_in_logs(self):
        """How many batches the last logs of `fit` are of, that no logs before were of."""
        return self._epoch.newly_read if self._epoch else self.steps_per_execution

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        *args,
        **kwargs,
    ):
        if self._chooses_steps and self.steps_per_execution == 1 and _is_compiled(self):
            x = self._with_groups(x, callbacks, kwargs)
            if self._epoch is not None and self._epoch.most > 1:
                callbacks = [*_flat(callbacks), self._epoch]
        try:
            with values_kept(self):
                return super().fit(
                    x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
                )
        finally:
            self._epoch = None
            if self._on_device is not None:
                self._compiled_for = self._on_device.make, self.train_function
                self._on_device = self.train_function = None

    def _with_groups(self, x, callbacks, options):
        """Says how batches are grouped in `fit`; gives what it reads."""
        is_alone = strategy_of(self) is None
        epoch = Epoch(batches_at_a_time(callbacks, metrics_of_each=is_alone))
        # Keras maps class weights over the data.
        if epoch.most > 1 and is_alone and not options.get("class_weight"):
            self._on_device = on_device(x, self._device_bytes)
        is_jax = keras.backend.backend() == "jax"
        if self._on_device is not None:
            self.train_function = None
            x = self._on_device.rows
            epoch.most = _MOST_ON_JAX if is_jax else epoch.most
        if not is_jax or self._on_device is not None:
            self._epoch = epoch
        return x

    def evaluate(self, *args, **kwargs):
        with values_kept(self):
            return super().evaluate(*args, **kwargs)

    def _symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and self._on_device is not None:
            make = self._on_device.host_batch
            iterator = ((*x, map(make, rows)) for *x, rows in iterator)
        super()._symbolic_build(iterator, data_batch)

    def _make_function(self, step_function, **of_backend):
        function = super()._make_function(step_function, **of_backend)
        if _is_eager(self) or strategy_of(self) is not None:
            return function
        spec = None
        if step_function == self.train_step and self._chooses_steps:
            function = Groups(self, step_function, function)
            spec = self._on_device and self._on_device.element_spec
        return with_variables_before(function, self, spec)

    def make_train_function(self, force=False):
        make, function = self._compiled_for or (None, None)
        if force:
            self._compiled_for = None
        elif self._on_device is not None and self._on_device.make is make:
            self.train_function = function
            return
        super().make_train_function(force)
        if self._on_device is not None and keras.backend.backend() == "jax":
            self.train_function = JaxGroups(self)

    def metrics_see(self, y):
        """Labels and outputs as compiled metrics get them, None for what is not known."""
        return y, output_structure(self.student)

    def losses_see(self, y):
        """The same of compiled losses."""
        return self.metrics_see(y)


def _is_compiled(model):
    """Whether steps may be compiled by us: on TensorFlow, on JAX without a distribution."""
    if keras.backend.backend() == "jax":
        is_alone = keras.distribution.distribution() is None
        return is_alone and model.jit_compile and not model.run_eagerly
    return not _is_eager(model)


def _is_eager(model):
    """Whether steps are not compiled; they are not on other backends than TensorFlow's."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return model.run_eagerly or tf.config.functions_run_eagerly()
