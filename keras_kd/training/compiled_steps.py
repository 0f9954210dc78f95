"""What Keras's loop calls: steps that are compiled, several at once, and traced once.

A group of batches is trained on in one call, with an answer for each of them; on JAX where
the examples lie on the device. And TensorFlow traces a function twice in which variables
are made, as Keras makes those of the optimizer and of metrics in the first step: made
before, training begins in half the time.
"""

import collections
import contextlib
import functools

import keras
import numpy as np
from keras import tree

from keras_kd.distribution.distribute import without_optionals


class Epoch(keras.callbacks.Callback):
    """What a `fit` knows of its epoch, so that no group of batches goes beyond its end.

    Args:
        most: How many batches a group may have. Where it is 1, Keras need not know this
            callback.

    Attributes:
        answers: The logs of batches that were trained on and not yet asked for.
        newly_read: How many batches the last logs are of, that no logs before were of.
    """

    def __init__(self, most):
        super().__init__()
        self.most, self.newly_read = most, 1
        self.answers = collections.deque()
        self._asked_for = self._read_at = 0

    def on_epoch_begin(self, epoch, logs=None):
        # There are some left where a callback has stopped the training.
        self.answers.clear()
        self._asked_for = self._read_at = 0

    @property
    def _is_stopped(self):
        # On JAX a look at `model` would have the weights of this moment put into it.
        return self._model.stop_training

    def ask(self):
        """Notes that Keras's loop asks for the next batch; gives its number, from 1."""
        self._asked_for += 1
        return self._asked_for

    def group_size(self):
        """How many batches may be trained on now, with the one that is asked for."""
        if self.most == 1 or self._is_stopped:
            return 1
        steps = self.params["steps"]
        left = self.most if steps is None else steps - self._asked_for + 1
        return max(1, min(self.most, left))

    def reads(self):
        """Whether the metrics are to be read after the batch that is asked for."""
        if self.most == 1:
            return True
        steps = self.params["steps"]
        last = steps is None or self._asked_for >= steps or self._is_stopped
        if not last and self._asked_for % self.most != 1:
            return False
        self.newly_read = self._asked_for - self._read_at
        self._read_at = self._asked_for
        return True


class Groups:
    """What Keras's loop calls for each batch, which trains on several in some calls.

    In `fit` the first call of a group trains on all of it, and the others give its logs.
    Anywhere else it is Keras's own function.

    Args:
        model: Whose `_epoch` is an `Epoch` while `fit` may group batches, else None.
        step_function: Of a batch; gives logs.
        one_at_a_time: Keras's function of the same step.
    """

    def __init__(self, model, step_function, one_at_a_time):
        import tensorflow as tf

        self._model, self._one_at_a_time = model, one_at_a_time
        # As Keras compiles its step.
        as_it_is = tf.autograph.experimental.do_not_convert
        self._step = tf.function(
            as_it_is(step_function), reduce_retracing=True, jit_compile=model.jit_compile
        )
        # TensorFlow counts the tracings of all models' functions of one code together, and
        # would warn; a partial has none.
        train = functools.partial(self._train)
        self._group = tf.function(train, reduce_retracing=True, autograph=False)

    def __call__(self, iterator):
        import tensorflow as tf

        epoch = self._model._epoch
        if epoch is None or not isinstance(iterator, tf.data.Iterator):
            return self._one_at_a_time(iterator)
        epoch.ask()
        if not epoch.answers:
            examples = self._model._on_device
            size = tf.constant(epoch.group_size())
            stacked, count = self._group(iterator, size, examples and examples.arrays)
            if int(count) == 0:
                raise StopIteration
            epoch.answers.extend(_unstacked(stacked, int(count)))
        return epoch.answers.popleft()

    def _train(self, iterator, most, arrays):
        """The logs of up to `most` batches, stacked, and the number of batches.

        Args:
            arrays: Of which the iterator gives the numbers of rows; None: it gives batches.
        """
        import tensorflow as tf

        def next_batch(count, logs):
            goes_on = count < most
            if isinstance(logs, dict) and "loss" in logs:
                # Who looks out for a bad loss finds the model as it was at that batch.
                goes_on &= tf.reduce_all(tf.math.is_finite(logs["loss"]))
            # If there is an error in the data, the step before it is a whole one.
            with tf.control_dependencies(tree.flatten(logs)):
                return tf.cond(
                    goes_on,
                    iterator.get_next_as_optional,
                    lambda: tf.experimental.Optional.empty(iterator.element_spec),
                )

        def step(count, batch, found):
            data = batch.get_value()
            data = data if arrays is None else self._model._on_device.batch(data, arrays)
            logs = self._step(without_optionals(data))
            leaves = zip(found, tree.flatten(logs), strict=True)
            found = [array.write(count, leaf) for array, leaf in leaves]
            return count + 1, next_batch(count + 1, logs), found

        examples = self._model._on_device
        spec = examples.element_spec if examples else iterator.element_spec
        first = self._step.get_concrete_function(without_optionals(spec))
        logs = first.structured_outputs
        empty = [
            tf.TensorArray(x.dtype, size=0, dynamic_size=True, element_shape=x.shape)
            for x in tree.flatten(logs)
        ]
        # No step outside of the condition: Keras's own, where the data have come to their
        # end, counts one more step of the optimizer.
        count, _, found = tf.while_loop(
            lambda count, batch, found: batch.has_value(),
            step,
            (tf.constant(0), iterator.get_next_as_optional(), empty),
        )
        return tree.pack_sequence_as(logs, [x.stack() for x in found]), count


class JaxGroups:
    """Trains on the batches of a group when the first of them is asked for.

    Its logs are those of each batch; the state is that after all of them. A step after one
    whose loss is no number changes nothing, and its batch is read again: who looks out for
    a bad loss finds the model as it was at that batch.

    Args:
        model: Has `_epoch`, a `compiled_steps.Epoch`, and `_on_device`, an
            `on_device.OnDevice`, while `fit` trains.
    """

    def __init__(self, model):
        import jax

        self._model, self._waiting = model, collections.deque()
        self._train = jax.jit(self._steps, donate_argnums=0)

    def __call__(self, state, iterator):
        epoch = self._model._epoch
        if epoch.ask() == 1:
            # There are some left where a callback has stopped the epoch before.
            self._waiting.clear()
        if not epoch.answers:
            state = self._train_on_group(state, iterator)
        return epoch.answers.popleft(), state

    def _train_on_group(self, state, iterator):
        import jax

        group = self._next_rows(iterator)
        # On an accelerator Keras has put them there already.
        rows = jax.numpy.stack(group)
        arrays = self._model._on_device.arrays
        state, logs, is_done = self._train(state, arrays, rows)
        logs, is_done = tree.map_structure(np.asarray, (logs, is_done))
        count = int(is_done.sum())
        self._waiting.extendleft(reversed(group[count:]))
        self._model._epoch.answers.extend(
            tree.map_structure(lambda x, i=i: x[i], logs) for i in range(count)
        )
        return state

    def _next_rows(self, iterator):
        """Row numbers of batches of one size: a whole group of them, or one."""
        epoch = self._model._epoch
        size = epoch.group_size()
        while len(self._waiting) < size:
            rows = next(iterator, None)
            if rows is None:
                break
            self._waiting.append(rows)
        if not self._waiting:
            raise StopIteration
        sizes = {len(rows) for rows in self._waiting}
        # A group of another length would be compiled anew.
        is_whole = len(self._waiting) >= epoch.most and len(sizes) == 1
        taken = epoch.most if is_whole else 1
        return [self._waiting.popleft() for _ in range(taken)]

    def _steps(self, state, arrays, rows):
        """The state after all batches; logs of each, and whether it was trained on."""
        import jax
        import jax.numpy as jnp

        def step(carried, numbers):
            state, goes_on = carried
            batch = self._model._on_device.batch(numbers, arrays)
            logs, after = self._model.train_step(state, batch)
            kept = jax.tree.map(
                lambda new, old: jnp.where(goes_on, new, old), after, state
            )
            is_finite = jnp.all(jnp.isfinite(logs["loss"])) if "loss" in logs else True
            return (kept, goes_on & is_finite), (logs, goes_on)

        (state, _), (logs, is_done) = jax.lax.scan(step, (state, jnp.array(True)), rows)
        return state, logs, is_done


def _unstacked(stacked, count):
    """The logs of each batch."""
    # Numbers of NumPy, of which Keras makes floats at once; others as Keras has them.
    stacked = tree.map_structure(lambda x: x.numpy() if x.ndim == 1 else x, stacked)
    return [tree.map_structure(lambda x, i=i: x[i], stacked) for i in range(count)]


def with_variables_before(function, model, spec=None):
    """`function` of a data iterator, before whose first call the variables are made.

    Args:
        function: What Keras's loop calls, for each batch.
        model: Has `metrics_see(y)` and `losses_see(y)`, the labels and outputs that
            compiled metrics and losses get.
        spec: Of a batch. Defaults to the iterator's.
    """
    is_first = True

    def call(iterator):
        nonlocal is_first
        if is_first:
            is_first = False
            # What is wrong with them, or with the data, the step itself says.
            with contextlib.suppress(Exception):
                _make_variables(model, spec or iterator.element_spec)
        return function(iterator)

    return call


def _make_variables(model, batch):
    """Where they are not known before, the step makes them."""
    if not all(layer.built for layer in model._flatten_layers()):
        return
    if not model.optimizer.built and model.trainable_variables:
        model.optimizer.build(model.trainable_variables)
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(without_optionals(batch))
    y, y_pred = model.metrics_see(labels)
    if any(x is None for x in tree.flatten([y, y_pred])):
        return
    tree.assert_same_structure(y, y_pred)
    metrics, losses = model._compile_metrics, model._compile_loss
    if metrics is not None and not metrics.built:
        metrics.build(y, y_pred)
    # Of several outputs, each loss has a metric.
    y, y_pred = model.losses_see(labels)
    if losses is not None and not losses.built and tree.is_nested(y_pred):
        losses.build(y, y_pred)
