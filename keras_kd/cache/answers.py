"""A teacher's answers to batches of examples, as the arrays that are kept of them."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd.models.fingerprints import teacher_id
from keras_kd.models.taps import Taps
from keras_kd.tasks.task import sum_to_one
from keras_kd.teachers.function import FunctionTeacher
from keras_kd.training.batch import TopK, encode

# Log-probability of a dropped class: no mass in float32 at temperatures up to 100, and
# still a number in float16.
DROPPED = -1e4
# By so much of the largest the answers to the same may differ.
_SAME_ANSWER = 0.01


class TeacherAnswers:
    """Runs a teacher on batches of examples, in inference mode.

    Args:
        teacher: A built `keras.Model`.
        names: Of the layers to tap, a set; None is the teacher's own outputs.
        dtype: "float16" or "float32", of what is kept.
        top_k: How many classes of each row of the own outputs are kept; None for all.
        rest: "even" or "drop": what becomes of the other classes' mass.
        augment: `augment(inputs, indices, view, seed)`, or None.
        seed: Integer, for `augment`.
        first_batch: Inputs (batch, ...), NumPy arrays, that show the outputs' shapes.
        apart: Whether these are not the student's inputs.

    Attributes:
        outputs: list of dicts with "name", "shape" (without the batch axis) and "dtype" of
            each array that is kept.

    Raises:
        ValueError: A name is no layer, the outputs cannot be kept in this way, or the
            teacher answers the first examples differently each time, or in other company.
    """

    def __init__(
        self,
        teacher,
        names,
        *,
        dtype,
        top_k,
        rest,
        augment,
        seed,
        first_batch,
        apart=False,
    ):
        self._teacher, self._id, self._apart = teacher, teacher_id(teacher), apart
        taps = Taps(teacher, names)
        wanted = ["own"] * (None in names) + ["taps"] * bool(names - {None})

        def taught(inputs):
            own, tapped = taps.call(inputs, training=False)
            parts = {"own": own, "taps": tapped}
            return {part: parts[part] for part in wanted}

        asked = _compiled(taught, teacher)

        def answer(inputs, indices, views):
            if augment is not None:
                inputs = augment(inputs, indices, views, seed)
            return asked(inputs)

        # What a function raises is its own where no graph is around it.
        in_graph = _on_tensorflow() and not isinstance(teacher, FunctionTeacher)
        self._answer = tf.function(answer, reduce_retracing=True) if in_graph else answer
        self._structure = self._run(first_batch, first=0, view=0)
        self._kept = []
        for path, values in tree.flatten_with_path(self._structure):
            name = "/".join(map(str, path if path[0] == "own" else path[1:]))
            k = top_k if path[0] == "own" else None
            self._kept.append(_how_to_keep(name, values, dtype, k, rest))
        arrays = self(first_batch, first=0, view=0)
        self._check_repeatable(first_batch)
        names = [x for kept in self._kept for x in kept.array_names()]
        self.outputs = [
            {"name": name, "shape": list(array.shape[1:]), "dtype": array.dtype.name}
            for name, array in zip(names, arrays, strict=True)
        ]

    def __call__(self, inputs, first, view):
        """The answers to one batch.

        Args:
            inputs: (batch, ...), NumPy arrays.
            first: Number of the batch's first example in the data set.
            view: Number of the view.

        Returns:
            list of arrays (batch, ...), one for each of `outputs`.

        Raises:
            ValueError: An answer is NaN or infinite, or too large for float16; it names
                the example.
        """
        answers = tree.flatten(self._run(inputs, first, view))
        arrays = []
        for kept, values in zip(self._kept, answers, strict=True):
            values = tf.cast(values, tf.float32)
            _check_finite(values.numpy(), f"{kept.name!r} is NaN or infinite", first, view)
            for array in kept.arrays(values):
                problem = (
                    f"{kept.name!r} is too large for float16 (above 65504); say "
                    "dtype='float32'"
                )
                _check_finite(array, problem, first, view)
                arrays.append(array)
        return arrays

    def to_batch(self, arrays):
        """Arrays or tensors in the order of `outputs`, as `batch.pack` takes them."""
        arrays = iter(arrays)
        parts = [kept.restored(arrays) for kept in self._kept]
        structure = tree.pack_sequence_as(self._structure, parts)
        taps = structure.get("taps", {})
        return encode(structure.get("own"), taps, of=self._id, apart=self._apart)

    def check_teacher(self):
        """Refuses a teacher whose weights are others than at first; a ValueError."""
        if teacher_id(self._teacher) != self._id:
            raise ValueError(
                f"`teacher` {self._teacher.name!r} changed its weights while it answered, "
                "so it is not the one that answered. Is a layer called with training=True?"
            )

    def _run(self, inputs, first, view):
        count = len(tree.flatten(inputs)[0])
        indices = tf.range(first, first + count, dtype=tf.int64)
        views = tf.fill([count], tf.constant(view, tf.int64))
        return self._answer(tree.map_structure(tf.constant, inputs), indices, views)

    def _check_repeatable(self, first_batch):
        """Refuses a teacher whose answer to an example hangs on chance, or on others."""
        if self._differs(self._run(first_batch, first=0, view=0), slice(None)):
            raise ValueError(
                f"`teacher` {self._teacher.name!r} answers the first examples differently "
                "when asked again, so no answer can be kept. Is a layer, Dropout for one, "
                "called with training=True?"
            )
        count = len(tree.flatten(first_batch)[0])
        # Of the same size, as a teacher may take no other.
        repeated = tree.map_structure(lambda x: np.repeat(x[:1], count, 0), first_batch)
        zeros = tf.zeros([count], tf.int64)
        inputs = tree.map_structure(tf.constant, repeated)
        if self._differs(self._answer(inputs, zeros, zeros), slice(1)):
            raise ValueError(
                f"`teacher` {self._teacher.name!r} answers an example differently beside "
                "other examples, so no answer can be kept. Is a layer, BatchNormalization "
                "for one, called with training=True?"
            )

    def _differs(self, answers, rows):
        """Whether rows of the answers to the first batch are others now."""
        for before, now in zip(*map(tree.flatten, (self._structure, answers)), strict=True):
            before, now = (tf.cast(x, tf.float32).numpy() for x in (before, now))
            size = np.abs(before).max(initial=0)
            if np.abs(before[rows] - now[rows]).max(initial=0) > _SAME_ANSWER * size:
                return True
        return False


def _on_tensorflow():
    return keras.backend.backend() == "tensorflow"


def _compiled(taught, teacher):
    """A function of TensorFlow's tensors that asks the teacher on Keras's own backend."""
    if _on_tensorflow():
        return taught
    if keras.backend.backend() == "jax" and not isinstance(teacher, FunctionTeacher):
        import jax

        taught = jax.jit(taught)

    def ask(inputs):
        answers = taught(tree.map_structure(_as_kerass, inputs))
        return tree.map_structure(_as_tensorflows, answers)

    return ask


def _as_kerass(tensor):
    return keras.ops.convert_to_tensor(tensor.numpy())


def _as_tensorflows(tensor):
    return tf.constant(keras.ops.convert_to_numpy(tensor))


@dataclasses.dataclass(frozen=True)
class _Kept:
    """How one tensor of a teacher's answers is kept: as it is, or its top k classes."""

    name: str
    dtype: str
    num_classes: int | None = None
    top_k: int | None = None
    rest: str = "even"

    def array_names(self):
        if self.top_k is None:
            return [self.name]
        return [f"{self.name}: log-probabilities", f"{self.name}: classes"]

    def arrays(self, values):
        """NumPy arrays of a float32 tensor."""
        if self.top_k is None:
            return [_rounded(values.numpy(), self.dtype)]
        k = self.top_k
        log_probs = tf.nn.log_softmax(values)
        # Of those that are equal the first.
        kept, classes = tf.math.top_k(log_probs, k=k)
        others = tf.fill(tf.shape(kept[..., :1]), DROPPED)
        if self.rest == "even":
            mass = _log_mass_below(log_probs, kept)
            others = mass - math.log(self.num_classes - k)
        # Below this a class has no mass; float16 would make it infinite.
        kept = tf.maximum(tf.concat([kept, others], axis=-1), DROPPED).numpy()
        return [
            _rounded(kept, self.dtype),
            classes.numpy().astype(np.min_scalar_type(self.num_classes - 1)),
        ]

    def restored(self, arrays):
        """Takes this tensor's arrays from an iterator."""
        if self.top_k is None:
            return next(arrays)
        return TopK(next(arrays), next(arrays), self.num_classes)


def _log_mass_below(log_probs, kept):
    """Logarithm of what all but the largest sum up to, (..., 1), without a sort.

    Args:
        log_probs: (..., classes).
        kept: (..., k), the largest of them, in order.
    """
    least = kept[..., -1:]
    below = tf.where(log_probs < least, log_probs, -math.inf)
    # As large as the least that is kept, and not kept.
    equal = tf.reduce_sum(tf.cast(log_probs == least, tf.float32), -1, keepdims=True)
    equal -= tf.reduce_sum(tf.cast(kept == least, tf.float32), -1, keepdims=True)
    parts = tf.concat([below, least + tf.math.log(equal)], axis=-1)
    return tf.reduce_logsumexp(parts, axis=-1, keepdims=True)


def _rounded(array, dtype):
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _how_to_keep(name, values, dtype, top_k, rest):
    """Decides by the answers to a first batch."""
    if not values.dtype.is_floating:
        raise ValueError(
            "Only outputs of floating-point numbers can be kept. "
            f"Received: {name!r} of dtype {values.dtype.name}."
        )
    values = tf.cast(values, tf.float32).numpy()
    # A scalar has no classes; float16 keeps it like any feature.
    are_probabilities = (
        values.ndim > 1
        and values.shape[-1] > 1
        and sum_to_one(values).all()
    )
    if top_k is None:
        # float16 makes 0 of a probability below 6e-8, which a temperature would bring back,
        # and 1 of one that is as near to 1.
        may_be = are_probabilities or bool(((values >= 0) & (values <= 1)).all())
        return _Kept(name, "float32" if may_be else dtype)
    if are_probabilities:
        raise ValueError(
            f"`top_k` takes a teacher that ends in logits, and its output {name!r} is "
            f"probabilities. Leave its softmax out. Received: top_k={top_k}."
        )
    num_classes = values.shape[-1] if values.ndim > 1 else 1
    if top_k >= num_classes:
        raise ValueError(
            f"`top_k` must be less than the number of classes, {num_classes} in the output "
            f"{name!r}. Received: top_k={top_k}."
        )
    return _Kept(name, dtype, num_classes, top_k, rest)


def _check_finite(array, problem, first, view):
    if np.isfinite(array).all():
        return
    rows = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    raise ValueError(
        f"`teacher` answered example {first + int(np.argmin(rows))} of the data set (view "
        f"{view}) with an output that cannot be kept: {problem}."
    )
