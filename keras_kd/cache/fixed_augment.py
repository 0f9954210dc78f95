"""A user's `augment`, traced once, after a look whether it makes the same of the same."""

import numpy as np
import tensorflow as tf
from keras import tree

# So many of the first examples are looked at, and so often.
_SAMPLE = 16
_CALLS = 12
# How far values may be apart, in units of the example's largest: one kernel's own
# rounding, and that of another kernel or another batch, which may move single pixels.
_SAME_CALL, _OTHER_CALL = 1e-5, 1e-3


def fix_augment(augment, first_batch, views, seed):
    """`augment` as teacher and student both run it: the same graph, made now.

    A function that reads what changes, the value of a global name for one, is fixed as it
    is now.

    Args:
        augment: `augment(inputs, indices, view, seed)`, as `cache_teacher` takes it.
        first_batch: x of the first examples, NumPy arrays.
        views: How many views there are.
        seed: Integer.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: Its result hangs on more than its arguments, or a view of an example on
            other examples, or it leaves examples out.
    """
    specs = tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), first_batch
    )
    numbers = tf.TensorSpec([None], tf.int64)

    @tf.function(input_signature=[specs, numbers, numbers])
    def traced(inputs, indices, view):
        return augment(inputs, indices, view, seed)

    def fixed(inputs, indices, view, seed):
        inputs = tree.map_structure(
            lambda x, spec: tf.ensure_shape(x, spec.shape), inputs, specs
        )
        count = indices.shape[0]
        return tree.map_structure(
            lambda x: tf.ensure_shape(x, (count, *x.shape[1:])) if x.shape.rank else x,
            traced(inputs, indices, view),
        )

    sample = tree.map_structure(lambda array: array[:_SAMPLE], first_batch)
    for view in sorted({0, views // 2, views - 1}):
        look = _Look(augment, traced, sample, view, views, seed)
        look.at_calls_again()
        look.at_other_batches()
    variables = traced.get_concrete_function().variables
    if variables:
        raise ValueError(
            "`augment` must read nothing that may change after the teacher saw the views. "
            f"Received: {_name(augment)}, which reads the variables "
            f"{', '.join(v.name for v in variables)}. Give it their values."
        )
    return fixed


class _Look:
    """Compares what `augment` makes of the first examples, called in several ways."""

    def __init__(self, augment, traced, sample, view, views, seed):
        self._augment, self._traced, self._seed = augment, traced, seed
        self._sample = sample
        self._count = len(tree.flatten(sample)[0])
        self._rows = np.arange(self._count)
        self._view = np.full(self._count, view)
        self._mixed = np.where(self._rows % 2, self._view, self._rows % views)
        self._seen = self._call(self._traced, self._rows, self._view)
        wrong = [x.shape for x in self._seen if x.shape[:1] != (self._count,)]
        if wrong:
            raise ValueError(
                f"`augment` must give one view of each example. Received: {_name(augment)},"
                f" which makes an array of shape {wrong[0]} of {self._count} examples."
            )

    def at_calls_again(self):
        """Refuses what draws at random, in TensorFlow, Keras, NumPy or Python."""
        eager = self._call(self._run, self._rows, self._view)
        for _ in range(_CALLS):
            again = self._call(self._traced, self._rows, self._view)
            self._assert_pure(_differ(self._seen, again, _SAME_CALL))
        for _ in range(_CALLS // 3):
            again = self._call(self._run, self._rows, self._view)
            self._assert_pure(_differ(eager, again, _SAME_CALL))
        self._assert_pure(_differ(self._seen, eager, _OTHER_CALL))

    def at_other_batches(self):
        """Refuses what makes one example's view of others, or of its place among them."""
        first = np.zeros(self._count, int)
        for rows in (self._rows[::-1], self._rows[: (self._count + 1) // 2], first, [0]):
            found = self._call(self._traced, rows, self._view[: len(rows)])
            self._assert_apart(_differ([x[rows] for x in self._seen], found, _OTHER_CALL))
        found = self._call(self._traced, self._rows, self._mixed)
        same = self._mixed == self._view
        seen = [x[same] for x in self._seen]
        self._assert_apart(_differ(seen, [x[same] for x in found], _OTHER_CALL))

    def _run(self, inputs, indices, view):
        return self._augment(inputs, indices, view, self._seed)

    def _call(self, function, rows, view):
        inputs = tree.map_structure(lambda x: tf.constant(x[rows]), self._sample)
        numbers = (tf.constant(x, tf.int64) for x in (self._rows[rows], view))
        return [x.numpy() for x in tree.flatten(function(inputs, *numbers))]

    def _assert_pure(self, differ):
        if differ:
            raise ValueError(
                "`augment` must be a function of its arguments alone, so that the student "
                f"sees what the teacher saw. Received: {_name(self._augment)}, which makes "
                "something else of the first examples when called again. Draw numbers from "
                "`indices`, `view` and `seed`, with tf.random.stateless_uniform for one; "
                "those of keras_kd.augment do."
            )

    def _assert_apart(self, differ):
        if differ:
            raise ValueError(
                "`augment` must make the view of an example of that one alone, of its row "
                "of `indices` and of `view`, so that the student sees what the teacher saw "
                f"in another batch. Received: {_name(self._augment)}, which makes "
                "something else of an example beside others."
            )


def _name(augment):
    return getattr(augment, "__qualname__", None) or repr(augment)


def _differ(seen, found, tolerance):
    """Whether an example of two lists of arrays (examples, ...) differs."""
    if [x.shape for x in seen] != [x.shape for x in found]:
        return True
    return any(_rows_differ(a, b, tolerance) for a, b in zip(seen, found, strict=True))


def _rows_differ(first, second, tolerance):
    """Whether rows of two arrays are apart, on average, by so much of the largest value.

    NaN is the same as NaN.
    """
    first, second = (np.float64(x).reshape(len(x), -1) for x in (first, second))
    if not first.size:
        return False
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    apart = np.where(same, 0.0, np.abs(first - second)).mean(axis=1)
    size = np.abs(np.where(np.isfinite(first), first, 0.0)).max(axis=1)
    return not (apart <= tolerance * size).all()
