"""Objects and functions as JSON values: the same each time, and others for others."""

import functools
import hashlib
import re
import sys
import types

import keras
import numpy as np

from keras_kd.models.fingerprints import model_fingerprint
from keras_kd.models.former_names import former_name
from keras_kd.runs.manifest import ATTRIBUTES, CODE, UNKNOWN

# Code that a library's version tells.
_LIBRARIES = ("keras", "keras_kd", "tensorflow", "numpy", "jax", "jaxlib")
# Objects within objects, so far and no farther.
_DEPTH = 5
# What Keras's base classes keep of an object for themselves, or number anew each time.
_BASES = (
    keras.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
)


def described(value, depth=0):
    """A value as JSON: numbers and strings as they are, objects as Keras writes them.

    A function is told by its code, its defaults and what it captured; an object of a class
    that is none of a library's by its attributes, too, and by the code of its class.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [described(x, depth) for x in value]
    if isinstance(value, dict):
        # Keras numbers the names that it gives.
        return {str(k): described(x, depth) for k, x in value.items() if k != "name"}
    if isinstance(value, types.FunctionType):
        return _function(value, depth)
    if isinstance(value, keras.Model):
        return {"class": _name_of(type(value)), CODE: model_fingerprint(value)}
    parts = _parts(value)
    if parts is None and depth <= _DEPTH:
        return _object(value, depth)
    said = described(parts, depth + 1)
    unknown = {} if parts is not None and tells_all(said) else {UNKNOWN: True}
    return {"class": _name_of(type(value)), CODE: _digest(said)} | unknown


def _parts(value):
    """A list of what makes an object of Python's own classes, or None."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType, np.ufunc)):
        return [_name_of(value)]
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value).tolist()
    return None


def tells_all(description):
    """Whether nothing in a description is `UNKNOWN`."""
    if isinstance(description, dict):
        return UNKNOWN not in description and all(map(tells_all, description.values()))
    return not isinstance(description, list) or all(map(tells_all, description))


def is_of_a_library(thing):
    """Whether a class or function is Keras's, ours, Python's or the like."""
    package = str(getattr(thing, "__module__", "")).split(".")[0]
    return package in _LIBRARIES or (
        package in sys.stdlib_module_names and package != "__main__"
    )


def _function(function, depth):
    name = f"{former_name(function.__module__)}.{function.__qualname__}"
    if is_of_a_library(function):
        # What it captured is told by nothing else.
        said = _captured(function, depth)
        return {"function": name} | ({CODE: _digest(said)} if said else {})
    code = _code(function.__code__)
    captured = [_captured(function, depth), _globals(function, depth)]
    captured += described([function.__defaults__, function.__kwdefaults__], depth + 1)
    unknown = {} if tells_all(captured) else {UNKNOWN: True}
    return {"function": name, CODE: _digest([code, captured])} | unknown


def _captured(function, depth):
    cells = function.__closure__ or ()
    found = []
    for cell in cells:
        try:
            content = cell.cell_contents
        except ValueError:  # Not assigned yet.
            continue
        if content is not function:
            found.append(described(content, depth + 1))
    return found


def _globals(function, depth):
    """What the code names of its own module: numbers, and functions of the user's."""
    found = {}
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if value is function or isinstance(value, (types.ModuleType, type)):
            continue
        if isinstance(value, (bool, int, float, str, tuple, list, dict, np.ndarray)):
            found[name] = described(value, depth + 1)
        elif isinstance(value, (types.FunctionType, functools.partial)):
            found[name] = described(value, depth + 1)
    return found


def _names(code):
    inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return sorted({*code.co_names, *(name for x in inner for name in _names(x))})


def _code(code):
    """What a code object does, without where it stands."""
    constants = [
        _code(x) if isinstance(x, types.CodeType) else _constant(x) for x in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _constant(value):
    # A set's order is another in each process.
    is_set = isinstance(value, frozenset)
    return sorted(map(repr, value)) if is_set else f"{type(value).__name__} {value!r}"


def _object(value, depth):
    is_library = is_of_a_library(type(value))
    try:
        config = keras.saving.serialize_keras_object(value)
        found = {"class": config["class_name"], **described(config["config"], depth + 1)}
        found, own = _without_lambdas(found), {}
    except (TypeError, KeyError, ValueError, NotImplementedError):
        found = {"class": _name_of(type(value))}
        own = _unwritten(value, depth) if is_library else {}
    if isinstance(value, keras.optimizers.Optimizer):
        own |= _without_decay(value)
    own |= _functions_in(value, depth) if is_library else _own(value, depth)
    return found | own


def _unwritten(value, depth):
    """What tells an object of a library in which Keras cannot write down something."""
    if not isinstance(value, _BASES):
        return {UNKNOWN: True}
    attributes = _attributes(value)
    if isinstance(value, keras.optimizers.Optimizer):
        # A schedule is kept there.
        attributes["_learning_rate"] = value._learning_rate
    return {ATTRIBUTES: {k: described(x, depth + 1) for k, x in attributes.items()}}


def _own(value, depth):
    """Code and attributes of an object whose class is the user's."""
    functions = [
        x
        for cls in type(value).__mro__
        if not is_of_a_library(cls)
        for _, x in sorted(vars(cls).items())
    ]
    code = [
        described(x, depth + 1)
        for x in map(_plain_function, functions)
        if isinstance(x, types.FunctionType)
    ]
    attributes = {k: described(x, depth + 1) for k, x in _attributes(value).items()}
    found = {CODE: _digest(code)}
    return found | ({ATTRIBUTES: attributes} if attributes else {})


def _attributes(value):
    """Those of an object that its user gave it."""
    found = dict(getattr(value, "__dict__", {}))
    # Of Keras's base classes, which number names and keep state of their own.
    if isinstance(value, _BASES):
        found = {k: x for k, x in found.items() if not k.startswith("_")}
        found = {k: x for k, x in found.items() if k not in ("built", "dtype_policy")}
    found.pop("name", None)
    return {k: x for k, x in found.items() if not _is_state(x)}


def _is_state(value):
    """What training changes, and what belongs to the process."""
    kinds = (keras.Variable, keras.KerasTensor, keras.random.SeedGenerator, keras.Layer)
    is_array = hasattr(value, "dtype") and not isinstance(value, (np.ndarray, np.generic))
    return isinstance(value, kinds) or is_array or "Tracker" in type(value).__name__


def _functions_in(value, depth):
    """The code of functions that an object of a library was given."""
    functions = (types.FunctionType, functools.partial, types.MethodType)
    given = {
        name: described(x, depth + 1)
        for name, x in sorted(getattr(value, "__dict__", {}).items())
        if isinstance(x, functions) and not is_of_a_library(x)
    }
    return {CODE: _digest(given)} if given else {}


def _without_lambdas(config):
    # Python does not write a function's bytes the same way each time.
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            return "a lambda"
        return {key: _without_lambdas(x) for key, x in config.items()}
    return list(map(_without_lambdas, config)) if isinstance(config, list) else config


def _without_decay(optimizer):
    """Which weights do not decay: what the configuration leaves out."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return {ATTRIBUTES: {"without_decay": str(pattern.pattern)}} if pattern else {}


def _plain_function(value):
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    return value.fget if isinstance(value, property) else value


def _name_of(value):
    name = getattr(value, "__qualname__", getattr(value, "__name__", repr(value)))
    module = former_name(getattr(value, "__module__", ""))
    if isinstance(value, types.ModuleType):
        name = former_name(name)
    # An address in memory is another one each time.
    return re.sub(r" at 0x[0-9a-f]+", "", f"{module}.{name}")


def _digest(value):
    return _sha256(repr(value).encode())


def _sha256(content):
    return hashlib.sha256(content).hexdigest()
