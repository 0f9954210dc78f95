"""What tells one teacher, one data set, one cache from another."""

import hashlib
import json

import keras
import numpy as np
import tensorflow as tf
from keras import tree

import keras_kd

# What says how a model is trained or how its file is read, not what it answers.
_WITHOUT_EFFECT = ("compile_config", "build_config", "build_input_shape", "trainable")
# So many of the first examples show whether `augment` still does the same.
_SAMPLE = 16


def teacher_fingerprint(teacher):
    """SHA-256 of a model's architecture and of its weights' bytes.

    Args:
        teacher: A built `keras.Model`. One that has no `get_config` is told by the name
            of its class instead.

    Returns:
        dict of "architecture" and "weights", each a hexadecimal string. The names of
        layers count; whether it is compiled or trainable does not, and neither does the
        code of its own functions and layers, which shows in its answers alone.
    """
    weights = hashlib.sha256()
    for variable in teacher.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        weights.update(f"{value.shape} {value.dtype}\n".encode())
        weights.update(np.ascontiguousarray(value).tobytes())
    architecture = json.dumps(_architecture(teacher), sort_keys=True)
    return {
        "architecture": hashlib.sha256(architecture.encode()).hexdigest(),
        "weights": weights.hexdigest(),
    }


def _architecture(teacher):
    try:
        config = keras.saving.serialize_keras_object(teacher)
    except NotImplementedError:  # Keras's word for a model without a configuration.
        config = {"class": f"{type(teacher).__module__}.{type(teacher).__qualname__}"}
    return _with_effect(config)


def _with_effect(config):
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            # Python does not write a function's bytes the same way each time.
            return "a lambda"
        return {
            key: _with_effect(value)
            for key, value in config.items()
            if key not in _WITHOUT_EFFECT
        }
    return list(map(_with_effect, config)) if isinstance(config, (list, tuple)) else config


class ExamplesFingerprint:
    """Fingerprint of a sequence of examples, batch by batch, whatever the batches' size."""

    def __init__(self):
        self.examples = 0
        self._in_order = hashlib.sha256()
        self._sum = 0

    def update(self, arrays):
        """Takes the next examples: a list of arrays, each (batch, ...)."""
        count = len(arrays[0])
        self.examples += count
        rows = [np.ascontiguousarray(array).reshape(count, -1) for array in arrays]
        for example in zip(*rows, strict=True):
            digest = hashlib.sha256()
            for part in example:
                digest.update(part)
            self._in_order.update(digest.digest())
            self._sum += int.from_bytes(digest.digest(), "big")

    def result(self):
        """dict of "examples" (their number), "data" and "data_in_any_order".

        The last is the same for the same examples in another order.
        """
        return {
            "examples": self.examples,
            "data": self._in_order.hexdigest(),
            "data_in_any_order": f"{self._sum % 2**256:064x}",
        }


def cache_settings(teacher, first_batch, outputs, augment, views, seed, **arguments):
    """What must be the same for a cache to be reused, as a dict of JSON values.

    Args:
        teacher: A `keras.Model`.
        first_batch: x of the first examples, NumPy arrays.
        outputs: As `TeacherAnswers.outputs` gives them.
        augment, views, seed: As `cache_teacher` takes them.
        **arguments: Its other arguments that make a difference.
    """
    return {
        "keras_kd": keras_kd.__version__,
        "teacher": teacher_fingerprint(teacher),
        "x": [
            {"shape": list(array.shape[1:]), "dtype": array.dtype.name}
            for array in tree.flatten(first_batch)
        ],
        **arguments,
        "views": views,
        "seed": seed,
        "augment": augment and _augment_fingerprint(augment, first_batch, views, seed),
        "outputs": outputs,
    }


def _augment_fingerprint(augment, first_batch, views, seed):
    sample = tree.map_structure(lambda array: tf.constant(array[:_SAMPLE]), first_batch)
    count = len(tree.flatten(sample)[0])
    fingerprint = ExamplesFingerprint()
    for view in range(views):
        numbers = tf.fill([count], tf.constant(view, tf.int64))
        seen = augment(sample, tf.range(count, dtype=tf.int64), numbers, seed)
        fingerprint.update([array.numpy() for array in tree.flatten(seen)])
    return fingerprint.result()["data"]
