"""Any function as a teacher: of scikit-learn, of ONNX, of PyTorch, behind an API."""

import logging
import time

import keras
import numpy as np
from keras import ops, tree

from keras_kd.losses.arguments import check_choice, check_integer
from keras_kd.losses.ops import log_odds, log_probabilities
from keras_kd.models.given_outputs import LIVE, WithoutWeights
from keras_kd.tasks.task import ROUNDING, sum_to_one

logger = logging.getLogger(__name__)

KINDS = ("logits", "probabilities")


def from_function(
    function, *, name, version, outputs="logits", output_shape=None, retries=3
):
    """A teacher from a function of NumPy arrays.

    With `keras_kd.cache_teacher` it is asked once about each example, on any backend that
    has it; live it is asked in each step, on TensorFlow. Nothing is known of its layers, so
    none can be tapped, and no file holds it: save a Distiller with `include_teacher=False`
    and load it with `keras_kd.load_distiller` and this teacher.

    Args:
        function: Takes a batch of the student's inputs, a NumPy array (batch, ...) or a
            dict or list of them, and gives an array (batch, ..., num_classes), or (batch,)
            of one number each. It must answer an example alike whenever it is asked, and
            whatever it stands beside.
        name, version: What tells this function's answers from another's, strings: a cache
            is of both, and of the answers to its first examples. Say another version when
            the function changes.
        outputs: "logits" or "probabilities", what it gives; the teacher's outputs are
            logits. The numbers of a regression are as "logits".
        output_shape: Of one example's outputs, such as (10,). By default the function is
            asked about zeros, where the shape must be known before it runs.
        retries: How often it is asked again where it fails, with a second's pause, then
            two, then four. What a cache has kept stays, and the next call goes on.

    Returns:
        A `keras.Model` without weights.

    Raises:
        ValueError: An argument is of the wrong kind. In use: the function gives no numbers,
            or not one row for each example.

    Example:

    ```python
    forest = RandomForestClassifier().fit(x, y)
    teacher = kd.teachers.from_function(
        forest.predict_proba, name="forest", version="1", outputs="probabilities"
    )
    train_ds = kd.cache_teacher(teacher, (x, y))
    ```
    """
    if not callable(function):
        raise ValueError(f"`function` must be callable. Received: {function!r}.")
    for argument, value in (("name", name), ("version", version)):
        if not isinstance(value, str) or not value:
            raise ValueError(
                f"`{argument}` must be a string that tells the function from others. "
                f"Received: {argument}={value!r}."
            )
    check_choice("outputs", outputs, KINDS)
    retries = check_integer("retries", retries, least=0)
    if output_shape is not None:
        output_shape = tuple(check_integer("output_shape", x, 1) for x in output_shape)
    return FunctionTeacher(function, name, version, outputs, output_shape, retries)


class FunctionTeacher(WithoutWeights):
    """What `from_function` gives; takes its arguments, all checked."""

    def __init__(self, function, name, version, outputs, output_shape, retries):
        # What a layer may not be called.
        super().__init__(name="".join(x if x.isalnum() else "_" for x in name))
        self._said = {"function": name, "version": version, "outputs": outputs}
        self._function, self._retries = function, retries
        self._shape = output_shape

    def call(self, inputs, training=None):
        values = self._ask(inputs)
        if self._said["outputs"] == "logits":
            return values
        is_one = values.shape[-1] == 1
        return log_odds(values) if is_one else log_probabilities(values)

    def get_config(self):
        return dict(self._said)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        raise ValueError(
            f"The teacher is the function {config.get('function')!r}, which no file holds. "
            "Save the Distiller with include_teacher=False, and load it with "
            "keras_kd.load_distiller and the teacher that from_function makes."
        )

    def _ask(self, inputs):
        flat = tree.flatten(inputs)
        if keras.backend.backend() != "tensorflow":
            return self._ask_now(inputs, flat)
        import tensorflow as tf

        if all(hasattr(x, "numpy") for x in flat):
            return self._ask_now(inputs, flat)

        def ask(*arrays):
            return self._answer(tree.pack_sequence_as(inputs, list(arrays)))

        if self._shape is None:
            self._shape = self._ask_about_zeros(inputs, flat)
        values = tf.numpy_function(ask, flat, tf.float32, stateful=False)
        values.set_shape((flat[0].shape[0], *self._shape))
        return values

    def _ask_now(self, inputs, flat):
        try:
            arrays = [ops.convert_to_numpy(x) for x in flat]
        except Exception as error:  # A backend's own kinds for what is traced.
            raise ValueError(LIVE.format(self.name)) from error
        return ops.convert_to_tensor(self._answer(tree.pack_sequence_as(inputs, arrays)))

    def _ask_about_zeros(self, inputs, flat):
        sizes = [tuple(x.shape)[1:] for x in flat]
        if any(None in size for size in sizes):
            raise ValueError(
                f"What the teacher {self.name!r} gives must be known before it runs, and "
                f"its inputs have free sizes: {sizes}. Say output_shape=(...) to "
                "keras_kd.teachers.from_function, that of one example's outputs."
            )
        zeros = [
            np.zeros((1, *size), keras.backend.standardize_dtype(x.dtype))
            for x, size in zip(flat, sizes, strict=True)
        ]
        return self._answer(tree.pack_sequence_as(inputs, zeros)).shape[1:]

    def _answer(self, inputs):
        """The function's answer, float32 (batch, ..., size)."""
        count = len(tree.flatten(inputs)[0])
        for attempt in range(self._retries + 1):
            try:
                given = self._function(inputs)
                break
            except Exception as error:  # Whatever it raises, it may be over next time.
                if attempt == self._retries:
                    raise
                seconds = 2**attempt
                logger.warning(
                    "%s failed (%s: %s) and is asked again in %d s, %d of %d times.",
                    self._said["function"],
                    type(error).__name__,
                    error,
                    seconds,
                    attempt + 1,
                    self._retries,
                )
                time.sleep(seconds)
        values = np.asarray(given)
        values = values[:, None] if values.ndim == 1 else values
        is_right = values.dtype.kind in "biuf" and values.ndim > 1 and len(values) == count
        if not is_right or self._shape not in (None, values.shape[1:]):
            of = "" if self._shape is None else f" of shape {self._shape}"
            raise ValueError(
                f"The function {self._said['function']!r} must give an array of numbers, a "
                f"row{of} for each of the {count} examples. Received: {values.dtype} of "
                f"shape {values.shape}."
            )
        values = values.astype("float32")
        if not np.isfinite(values).all():
            raise ValueError(
                f"The function {self._said['function']!r} answers with NaN or infinite "
                "numbers."
            )
        if self._said["outputs"] == "probabilities":
            self._check_probabilities(values)
        return values

    def _check_probabilities(self, values):
        good = (values >= 0) & (values <= 1 + ROUNDING)
        if values.shape[-1] > 1:
            good = sum_to_one(values)
        if not good.all():
            raise ValueError(
                f"The function {self._said['function']!r} must give probabilities of "
                "classes that sum to 1, as outputs='probabilities' says; of labels of "
                "their own let it give logits, log p - log(1 - p). Received: a row that "
                f"sums to {values.sum(axis=-1).flat[0]:.4g}."
            )
