"""Several batches at a time, unless somebody looks at each."""

import keras

from keras_kd.distribute import Distributed

# Batches that TensorFlow trains on before Python has a look; more gained little.
_STEPS_PER_EXECUTION = 8
_BATCH_HOOKS = [f"on_{x}batch_{y}" for x in ("", "train_") for y in ("begin", "end")]


def choose_steps_per_execution(callbacks):
    """How many batches to train on at a time; 1 where somebody looks at each.

    Args:
        callbacks: As `fit` takes them. Keras's own and `keras_kd`'s do not mind if their
            hooks are called once for several batches.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if not isinstance(callbacks, (list, tuple)):
        callbacks = [callbacks]
    return 1 if any(map(_looks_at_batches, callbacks)) else _STEPS_PER_EXECUTION


def _looks_at_batches(callback):
    own = [
        cls
        for cls in type(callback).__mro__
        if cls.__module__.split(".")[0] not in ("keras", __package__, "builtins")
    ]
    # A keras.callbacks.LambdaCallback has its hooks in the instance.
    holders = [vars(callback) if callback is not None else {}, *map(vars, own)]
    return any(hook in holder for hook in _BATCH_HOOKS for holder in holders)


class SeveralSteps(Distributed):
    """Chooses `steps_per_execution` for each `fit`, where `compile` was not told it."""

    _chooses_steps = False

    def compile(self, *args, steps_per_execution=None, **kwargs):
        self._chooses_steps = steps_per_execution is None
        given = 1 if self._chooses_steps else steps_per_execution
        super().compile(*args, steps_per_execution=given, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self._chooses_steps:
            del config["steps_per_execution"]
        return config

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
        if self._chooses_steps:
            self._choose_steps(callbacks)
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)

    def _choose_steps(self, callbacks):
        steps = choose_steps_per_execution(callbacks)
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            # They hold the number that was true when they were traced.
            self.train_function = self.test_function = self.predict_function = None
