"""What Keras's loop calls on JAX for examples on the device: several steps in one call.

Keras calls each step from Python, and copies its batch from the host. Here the row numbers
of several batches are copied, and one compiled call gathers and trains on each in turn.
"""

import collections

import keras
import numpy as np

# More than on TensorFlow: what is copied for each is a few numbers.
_MOST_AT_A_TIME = 32


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
        group = self._next_rows(iterator)
        rows = np.stack(group)
        arrays = self._model._on_device.arrays
        state, logs, is_done = self._train(state, arrays, rows)
        logs, is_done = keras.tree.map_structure(np.asarray, (logs, is_done))
        count = int(is_done.sum())
        self._waiting.extendleft(reversed(group[count:]))
        self._model._epoch.answers.extend(
            keras.tree.map_structure(lambda x, i=i: x[i], logs) for i in range(count)
        )
        return state

    def _next_rows(self, iterator):
        """Row numbers of batches of one size: a whole group of them, or one."""
        most = self._model._epoch.group_size(_MOST_AT_A_TIME)
        while len(self._waiting) < most:
            rows = next(iterator, None)
            if rows is None:
                break
            self._waiting.append(np.asarray(rows))
        if not self._waiting:
            raise StopIteration
        sizes = {len(rows) for rows in self._waiting}
        # A group of another length would be compiled anew.
        is_whole = len(self._waiting) >= _MOST_AT_A_TIME and len(sizes) == 1
        taken = _MOST_AT_A_TIME if is_whole else 1
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
