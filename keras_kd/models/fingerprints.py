"""What tells one teacher, one data set, one cache from another."""

import hashlib
import json

import keras
import numpy as np
from keras import tree

import keras_kd
from keras_kd.models.former_names import former_name

# What says how a model is trained or how its file is read, not what it answers.
_WITHOUT_EFFECT = ("compile_config", "build_config", "build_input_shape", "trainable")
# Where a model's configuration names layers: theirs, and those they are connected with.
_HOLDS_NAMES = ("name", "keras_history", "input_layers", "output_layers")
# So many of the first examples show whether `augment` still does the same.
_SAMPLE = 16


def model_fingerprint(model):
    """SHA-256 of a model's architecture and of its weights' bytes.

    Keras numbers the names that it gives itself, so they differ between two processes that
    build the same model: names of layers and model do not count. Neither does whether it
    is compiled or trainable, nor where a SavedModel lies, nor the code of its own functions
    and layers, which shows in its answers alone.

    Args:
        model: A built `keras.Model`. One that has no `get_config` is told by the name of
            its class instead.

    Returns:
        dict of "architecture" and "weights", each a hexadecimal string.
    """
    config = _without_names(_architecture(model))
    constants = _constants_of(model)
    if constants:
        config = [_without(config, "filepath"), constants]
    return {"architecture": _sha256(config), "weights": weights_fingerprint(model)}


def weights_fingerprint(model):
    """SHA-256 of the weights' shapes, types and bytes, in their order."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        digest.update(f"{value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def teacher_id(teacher):
    """A word that tells one teacher's answers from another's.

    It is made of architecture and weights, and of the constants of a SavedModel. The names
    of layers do not count, and neither does the precision that a layer computes in: a
    teacher that was run under "mixed_bfloat16" is the same in float32.

    Args:
        teacher: A built `keras.Model`, of any kind.

    Returns:
        32 hexadecimal digits.
    """
    # A SavedModel's folder may lie elsewhere; its constants tell it.
    architecture = _without(_without_names(_architecture(teacher)), "dtype", "filepath")
    layers = teacher._flatten_layers()
    parts = [
        architecture,
        weights_fingerprint(teacher),
        # What a layer was adapted to, where that is no weight.
        [x.get_vocabulary() for x in layers if isinstance(x, keras.layers.IntegerLookup)],
        _constants_of(teacher),
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _without(config, *keys):
    if isinstance(config, dict):
        return {k: _without(x, *keys) for k, x in config.items() if k not in keys}
    return [_without(x, *keys) for x in config] if isinstance(config, list) else config


def _constants_of(model):
    """For each SavedModel in a model, digests of what its graph computes with."""
    layers = model._flatten_layers()
    return [_constants(x) for x in layers if isinstance(x, keras.layers.TFSMLayer)]


def _constants(layer):
    """Digests of what a SavedModel's graph computes with, in an order of their own."""
    endpoint = layer.call_endpoint_fn
    parts = []
    for function in getattr(endpoint, "concrete_functions", [endpoint]):
        # Those from outside the graph; variables are among the weights.
        captured = [x for x in function.captured_inputs if x.dtype.name != "resource"]
        parts += [x.numpy().tobytes() for x in captured]
        graph = function.graph.as_graph_def()
        inner = [node for x in graph.library.function for node in x.node_def]
        for node in [*graph.node, *inner]:
            value = node.attr["value"].tensor if node.op == "Const" else None
            data = value.SerializeToString(deterministic=True) if value else b""
            parts.append(node.op.encode() + data)
    return sorted(hashlib.sha256(x).hexdigest() for x in parts)


def _sha256(config):
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _without_names(config, numbers=None, key=None):
    """The configuration with layers' names as numbers, in order, for each model anew."""
    if isinstance(config, dict):
        if "DTypePolicy" in str(config.get("class_name")):
            # Its name says what it does.
            return config
        if numbers is None or "layers" in config:
            numbers = {}
        # Several inputs or outputs may be a dict, by names that are their own.
        within = key if key in ("input_layers", "output_layers") else None
        return {k: _without_names(x, numbers, within or k) for k, x in config.items()}
    if isinstance(config, list):
        return [_without_names(x, numbers, key) for x in config]
    if isinstance(config, str) and key in _HOLDS_NAMES:
        return numbers.setdefault(config, f"name {len(numbers)}")
    return config


def _architecture(teacher):
    try:
        config = keras.saving.serialize_keras_object(teacher)
    # Keras's words for a model without a configuration.
    except (NotImplementedError, TypeError):
        module = former_name(type(teacher).__module__)
        config = {"class": f"{module}.{type(teacher).__qualname__}"}
    return _with_effect(config)


def _with_effect(config):
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            # Python does not write a function's bytes the same way each time.
            return "a lambda"
        return {
            key: former_name(value) if key == "module" else _with_effect(value)
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
        "teacher": model_fingerprint(teacher),
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


def former_settings(settings, teacher):
    """What `cache_settings` gave in earlier versions, where names of layers counted."""
    architecture = _sha256(_architecture(teacher))
    return settings | {"teacher": settings["teacher"] | {"architecture": architecture}}


def _augment_fingerprint(augment, first_batch, views, seed):
    # The cache's alone; a chain is told by its models on every backend.
    import tensorflow as tf

    sample = tree.map_structure(lambda array: tf.constant(array[:_SAMPLE]), first_batch)
    count = len(tree.flatten(sample)[0])
    fingerprint = ExamplesFingerprint()
    for view in range(views):
        numbers = tf.fill([count], tf.constant(view, tf.int64))
        seen = augment(sample, tf.range(count, dtype=tf.int64), numbers, seed)
        fingerprint.update([array.numpy() for array in tree.flatten(seen)])
    return fingerprint.result()["data"]
