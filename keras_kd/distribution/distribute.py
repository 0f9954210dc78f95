"""Training under a tf.distribute strategy, where Keras's own `fit` does not work."""

import keras
from keras import tree

from keras_kd.distribution.replicas import zero_if_empty
from keras_kd.distribution.workers import (
    Workers,
    check_no_strategy,
    gone_workers_told,
    say_if_seeds_differ,
    strategy_of,
)
from keras_kd.models.copies import copy_model

# They write files and do nothing for the training: the chief's are enough.
_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
)


def without_strategy(model):
    """The model as one on its own, its weights copied; itself where it is one already.

    What a model of several workers is asked, it asks all of them.

    Raises:
        ValueError: It cannot be copied, as `keras_kd.models.copies.copy_model` says.
    """
    return model if strategy_of(model) is None else copy_model(model)


class Distributed(keras.Model):
    """A model whose `fit` and `evaluate` work under every synchronous strategy.

    Keras 3.15 averages the first batch over the workers, to build the model by it, and
    each step's metrics along an axis that they do not have; both fail with several
    workers. Here the batch's shapes are those that the data say, and metrics are read from
    their variables, which TensorFlow sums over replicas. Only then, that is, once in
    `steps_per_execution` steps, or where `_epoch` says so, are they exchanged.

    Without a strategy everything is Keras's.

    Raises:
        ValueError: It is made, or trained, in the scope of a strategy where Keras is on
            another backend than TensorFlow.
    """

    # A `compiled_steps.Epoch` while `fit` need not have the metrics of each batch.
    _epoch = None

    def __init__(self, *args, **kwargs):
        check_no_strategy()
        super().__init__(*args, **kwargs)

    @property
    def metrics(self):
        """As Keras's, without what models within its layers were compiled with.

        Keras leaves these out where a model stands in a model. Of one that a layer holds,
        an ensemble's say, their "loss" would stand in the place of ours, and be 0.
        """
        held = [x for x in self._flatten_layers(False) if isinstance(x, keras.Model)]
        left_out = {id(metric) for model in held for metric in model._get_own_metrics()}
        return [x for x in super().metrics if id(x) not in left_out]

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
        check_no_strategy()
        strategy = strategy_of(self)
        if strategy_of(getattr(self, "student", self)) is not strategy:
            raise ValueError(
                "`student` must be made in the scope of the strategy that its "
                f"{type(self).__name__} is made in, or both in none."
            )
        if strategy is None:
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
            )
        self.check_replicas(strategy.num_replicas_in_sync)
        workers = Workers(strategy)
        say_if_seeds_differ(workers)
        if not workers.is_chief:
            verbose, callbacks = 0, _without_writers(callbacks)
        with gone_workers_told(workers):
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
            )

    def evaluate(self, *args, **kwargs):
        with gone_workers_told(Workers.of(self)):
            return super().evaluate(*args, **kwargs)

    def check_replicas(self, count):
        """Refuses what cannot be trained on so many replicas.

        Raises:
            ValueError: It cannot.
        """

    def averaged_variables(self):
        """Weights that each replica moves by its part of the batch: moving averages."""
        teacher = getattr(self, "teacher", None)
        unchanged = list(teacher.variables) if teacher else []
        for layer in self._flatten_layers():
            # Keras's BatchNormalization stands still, too, where it is frozen.
            unchanged += [] if layer.trainable else layer.variables
        left_out = [*unchanged, *self.metrics_variables, *self.trainable_variables]
        left_out = {id(x) for x in left_out}
        return [
            x
            for x in self.variables
            if id(x) not in left_out
            and x.aggregation == "none"
            and keras.backend.is_float_dtype(x.dtype)
        ]

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = strategy_of(self)
        if strategy is None:
            return super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        if iterator is not None:
            data_batch = _like_a_batch(iterator, strategy)
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _make_function(self, step_function, **of_backend):
        strategy = strategy_of(self)
        if strategy is None:
            return super()._make_function(step_function, **of_backend)
        averaged = []
        if step_function == self.train_step:
            averaged = self.averaged_variables()
        return _Steps(self, strategy, step_function, averaged)


def _like_a_batch(iterator, strategy):
    """Shapes and dtypes of a Keras iterator's batches, in their structure.

    A batch of its own would begin a pass over the data, and so change their order.
    """
    import tensorflow as tf

    dataset = iterator.data_adapter.get_tf_dataset()
    if isinstance(dataset, tf.data.Dataset):
        return tree.map_structure(
            lambda x: x if isinstance(x, tf.TensorSpec) else None, dataset.element_spec
        )
    # Distributed by the user.
    batch = next(iter(dataset))
    return tree.map_structure(lambda x: strategy.experimental_local_results(x)[0], batch)


class _Steps:
    """What Keras's loop calls with its iterator: some steps, then the metrics."""

    def __init__(self, model, strategy, step_function, averaged):
        import tensorflow as tf

        self._model, self._strategy = model, strategy
        self._step_function, self._averaged = step_function, averaged
        self._trains = step_function == model.train_step
        self._names, self._logs, self._must_read = (), None, True
        self._step, self._results = (
            function if model.run_eagerly else tf.function(function, reduce_retracing=True)
            for function in (self._run, self._read)
        )

    def __call__(self, iterator):
        import tensorflow as tf

        for step in range(self._model.steps_per_execution):
            try:
                # Not within the step, of which some counts would run without a batch.
                data = next(iterator)
            except (tf.errors.OutOfRangeError, StopIteration):
                if step == 0:
                    raise
                break
            self._step(data)
        if self._is_read():
            self._logs = self._results()
        return self._logs

    def _is_read(self):
        epoch = self._model._epoch if self._trains else None
        if epoch is None:
            return True
        epoch.ask()
        return epoch.reads() or self._must_read

    def _run(self, data):
        self._strategy.run(self._on_replica, args=(without_optionals(data),))

    def _on_replica(self, data):
        import tensorflow as tf

        logs = self._step_function(data)
        # Known when the function is traced.
        self._names = tuple(logs)
        if self._averaged:
            _average(self._averaged, tf.shape(tree.flatten(data)[0])[0])

    def _read(self):
        results = self._model.get_metrics_result()
        # Keras reads the epoch's metrics itself only where these are all.
        self._must_read = set(self._names) != set(results)
        return {name: results[name] for name in self._names}


def without_optionals(data):
    """A batch, or its spec, with None for what Keras puts where there is nothing."""
    import tensorflow as tf

    optional = (tf.experimental.Optional, tf.OptionalSpec)
    return tree.map_structure(lambda x: None if isinstance(x, optional) else x, data)


def _average(variables, batch_size):
    """Makes the replicas' values of variables their mean again.

    A replica without an example does not count.
    """
    import tensorflow as tf

    values = [zero_if_empty(x.value, batch_size) for x in variables]
    replica = tf.distribute.get_replica_context()
    counts = tf.cast(batch_size > 0, "float32")
    *sums, count = replica.all_reduce("SUM", [*values, counts])
    for variable, total in zip(variables, sums, strict=True):
        variable.assign(total / tf.cast(count, total.dtype))


def _without_writers(callbacks):
    """Callbacks of a worker that is not the chief."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError(
            "`callbacks` must be a list where several workers train, so that those that "
            "write files run on one of them alone. Received: a CallbackList."
        )
    if not isinstance(callbacks, (list, tuple)):
        callbacks = [callbacks] if callbacks is not None else []
    kept = [x for x in callbacks if not isinstance(x, _WRITERS)]
    restores = keras.callbacks.BackupAndRestore
    return [_RestoreAlone(x) if isinstance(x, restores) else x for x in kept]


class _RestoreAlone(keras.callbacks.Callback):
    """`keras.callbacks.BackupAndRestore` where another worker writes the backup."""

    def __init__(self, callback):
        super().__init__()
        self._callback = callback

    def set_model(self, model):
        super().set_model(model)
        self._callback.set_model(model)

    def on_train_begin(self, logs=None):
        self._callback.on_train_begin(logs)
