"""Copies of models: what Keras saves of one, loaded again, and compared with it.

A model is more than its configuration and its weights: a Normalization layer's statistics
are computed when its weights are loaded, a lookup layer's vocabulary is no weight, and a
layer frozen by hand is not frozen in its configuration. A `.keras` file holds the first
two. So a copy is made as by saving and loading, and refused where it is not the model.
"""

import contextlib
import json
import random
import tempfile
import types
from pathlib import Path

import keras
from keras import ops

from keras_kd.models import sameness

_MIXED = ("mixed_float16", "mixed_bfloat16")


def copy_model(model, in_float32=False):
    """A model of its own that is the same to the last bit; not compiled.

    Weights, other state (statistics, vocabularies, seeds), names, dtype policies and
    what is frozen are those of `model`, and so are its answers to probe inputs. Lambdas,
    functions and classes that are not registered with Keras are taken from the model
    itself. Nothing is drawn from a random state, and `model` stays as it is.

    Args:
        model: A built `keras.Model`.
        in_float32: Whether dtype policies of mixed precision become float32.

    Returns:
        A `keras.Model` of no `tf.distribute` strategy.

    Raises:
        ValueError: The model is not built, Keras cannot save and load it, for instance
            because it has no `get_config`, or what is loaded is another model.
    """
    _check_built(model)
    with _saved(model, in_float32) as (folder, custom_objects):
        copy = _loaded(model, in_float32, lambda: _load(folder, custom_objects))
    _make_alike(copy, model, in_float32)
    sameness.check_state(copy, model, in_float32)
    if not in_float32:
        sameness.check_answers(copy, model)
    elif sameness.answers_differ(copy, model, rounded=True):
        # Mixed precision may round that much: its own copy tells what else it may be.
        copy_model(model)
    return copy


def untrained_copy(model):
    """A model of the same kind, with new random weights where the model learns.

    What it has not learned it keeps: frozen layers, and layers that have nothing to train,
    such as an adapted Normalization or a lookup layer with its vocabulary. Only a
    BatchNormalization that is not frozen starts anew in any case.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `keras.Model`, not compiled, whose new weights come from Keras's random state.

    Raises:
        ValueError: As `copy_model`; or all of the model is frozen.
    """
    if _check_built(model).variables and not model.trainable_variables:
        raise ValueError(
            f"All layers of {model.name!r} are frozen, so a model like it would keep all "
            "of its weights. Set `trainable` to True, but for the layers that are meant "
            "to stay as they are."
        )
    copy = copy_model(model)
    with _saved(model) as (folder, custom_objects):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["compile_config"] = None

        def make():
            return keras.saving.deserialize_keras_object(
                config, custom_objects, safe_mode=False
            )

        new = _loaded(model, False, make, draws=True)
    kept = _not_learned(copy)
    for layer in copy._flatten_layers():
        kept -= {id(x.state) for x in layer._seed_generators}
    for variable, other in sameness.variable_pairs(copy, new):
        if id(variable) not in kept:
            variable.assign(_own(other))
    return copy


def _check_built(model):
    if not model.built:
        raise ValueError(
            "A model is copied with its weights. Call it on a batch first. Received: the "
            f"unbuilt model {model.name!r}."
        )
    return model


@contextlib.contextmanager
def _saved(model, in_float32=False):
    """Yields (folder, custom_objects) of the model, saved as Keras saves it."""
    with tempfile.TemporaryDirectory(prefix="keras_kd_") as folder:
        folder = Path(folder, "model")
        with _named_functions(model) as functions, _uncompiled(model):
            try:
                keras.saving.save_model(model, folder, zipped=False)
            except Exception as error:  # Keras raises many kinds.
                raise _not_copied(model, "saved", error) from error
        path = folder / "config.json"
        if in_float32:
            config = _policies_in_float32(json.loads(path.read_text(encoding="utf-8")))
            path.write_text(json.dumps(config), encoding="utf-8")
        yield folder, _classes(model) | functions


def _load(folder, custom_objects):
    # The code in this file is the model's own, and is in this process already.
    return keras.saving.load_model(folder, custom_objects, compile=False, safe_mode=False)


def _loaded(model, in_float32, load, draws=False):
    """What `load` gives under the global dtype policy that the model's layers had."""
    policies = ["float32"] if in_float32 else _policies(model)
    before = keras.config.dtype_policy()
    numbers = random.getstate()
    try:
        # Layers that a layer makes by itself have it; of a model of several there are few.
        for policy in dict.fromkeys(policies):
            keras.config.set_dtype_policy(_global_policy(policy, before))
            try:
                copy = load()
            except Exception as error:
                raise _not_copied(model, "loaded", error) from error
            if in_float32 or _policies(copy) == _policies(model):
                break
    finally:
        keras.config.set_dtype_policy(before)
        if not draws:
            random.setstate(numbers)
    if getattr(copy, "_distribute_strategy", None) is not None:
        raise ValueError(
            f"{model.name!r} is copied as a model of no tf.distribute strategy, which "
            "cannot be in the scope of one. Call this outside `strategy.scope()`."
        )
    return copy


def _policies(model):
    return [x.dtype_policy.name for x in model._flatten_layers()]


def _global_policy(name, before):
    try:
        return keras.dtype_policies.get(name)
    except ValueError:  # A map's, which has no name of its own.
        return before


def _not_copied(model, done, error):
    lines = [x for x in str(error).splitlines() if x.strip()] or [type(error).__name__]
    return ValueError(
        f"{model.name!r} cannot be copied, because Keras could not have it {done}. A model "
        "that is its own class needs a `get_config` with all arguments of its "
        f"constructor. Keras says: {lines[0][:300]}"
    )


@contextlib.contextmanager
def _uncompiled(model):
    """Leaves out the optimizer's configuration and losses of any kind."""
    compiled = model.compiled
    model.compiled = False
    try:
        yield
    finally:
        model.compiled = compiled


@contextlib.contextmanager
def _named_functions(model):
    """Yields a dict of the functions in a model, each under a name that it has meanwhile.

    Keras saves a function by its name, which another may have, and a lambda as code,
    without the names of its module.
    """
    functions = {}
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, types.FunctionType) and _is_own(value):
                functions[id(value)] = value
    named = {f"keras_kd_function_{i}": x for i, x in enumerate(functions.values())}
    before = [x.__name__ for x in named.values()]
    try:
        for name, function in named.items():
            function.__name__ = name
        yield named
    finally:
        for function, name in zip(named.values(), before, strict=True):
            function.__name__ = name


def _classes(model):
    """The classes of layers and of what they hold, by the names that Keras saves."""
    classes = {}
    for layer in model._flatten_layers():
        for value in (layer, *vars(layer).values()):
            kind = type(value)
            if hasattr(kind, "from_config") and _is_own(kind):
                classes[keras.saving.get_registered_name(kind)] = kind
    return classes


def _is_own(value):
    """Whether a class or function is neither Keras's nor registered with it."""
    if str(value.__module__).partition(".")[0] == "keras":
        return False
    name = keras.saving.get_registered_name(value)
    return keras.saving.get_registered_object(name) is not value


def _policies_in_float32(value, key=None):
    if isinstance(value, dict):
        if list(value) == ["name"] and value["name"] in _MIXED:
            return {"name": "float32"}
        return {k: _policies_in_float32(x, k) for k, x in value.items()}
    if isinstance(value, list):
        return [_policies_in_float32(x, key) for x in value]
    return "float32" if key != "name" and value in _MIXED else value


def _make_alike(copy, model, in_float32):
    """Sets what no file of Keras's holds, or not of every layer."""
    for layer, other in sameness.layer_pairs(copy, model):
        # Of a layer that another makes it is a number that counts all of them.
        if layer.name != other.name:
            layer.name = other.name
        if not in_float32 and layer.dtype_policy.name != other.dtype_policy.name:
            layer.dtype_policy = other.dtype_policy
        if layer.trainable != other.trainable:
            layer.trainable = other.trainable
        generators = layer._seed_generators, other._seed_generators
        for seeds, others in zip(*generators, strict=False):
            seeds.state.assign(_own(others.state))
    for variable, other in sameness.variable_pairs(copy, model):
        if variable.trainable != other.trainable:
            variable.trainable = other.trainable


def _own(variable):
    """A variable's value, that no other holds: on JAX a step deletes what it is given."""
    return ops.copy(ops.convert_to_tensor(variable))


def _not_learned(layer):
    """Ids of the variables inside a layer that are state of it, and not learned."""
    if not layer.trainable:
        return {id(x) for x in layer.variables}
    if isinstance(layer, keras.layers.BatchNormalization):
        return set()
    inside = {id(x) for inner in layer._layers for x in inner.variables}
    kept = set()
    for inner in layer._layers:
        kept |= _not_learned(inner)
    if not layer.trainable_variables:
        kept |= {id(x) for x in layer.variables} - inside
    return kept
