"""Layers that several models share, in a file of all of them.

Keras writes the weights of a layer once, where it first comes, and makes a layer of its own
wherever it comes when the file is loaded. Here those that got no weights take them from the
one that did. The loaded models then have equal layers, and no longer the same ones.
"""

import collections
import functools
import tempfile

import keras


def serialize_apart(model):
    """As `keras.saving.serialize_keras_object`, without what ties a model to others."""
    config = keras.saving.serialize_keras_object(model)
    counts = collections.Counter(_shared_ids(config))
    return _untied(config, counts)


def shared_layers(models):
    """An entry of a configuration: where layers of several models are one and the same.

    Args:
        models: dict of name to `keras.Model`, or to None.

    Returns:
        dict of "shared_layers" to a list of groups, of one layer each, with [name of the
        model, number of the layer in it] for each place; {} where none is shared.
    """
    places = collections.defaultdict(list)
    for name, model in models.items():
        for number, layer in enumerate(_walk(model)):
            # An ensemble's input is that of its first model, and has nothing to load.
            if not isinstance(layer, keras.layers.InputLayer):
                places[id(layer)].append([name, number])
    groups = [group for group in places.values() if len(group) > 1]
    return {"shared_layers": groups} if groups else {}


def share_weights(models, config):
    """Has layers that a file holds no weights of take those of the layer that it does.

    Called on the models as their configuration made them, before Keras loads the weights.

    Args:
        models: dict of name to `keras.Model`.
        config: With the entry that `shared_layers` made of those that were saved.
    """
    layers = {name: list(_walk(model)) for name, model in models.items()}
    for group in config.get("shared_layers", ()):
        same = [layers[name][number] for name, number in group if name in layers]
        for layer in same:
            layer.load_own_variables = functools.partial(_load_variables, layer, same)
            layer.load_assets = functools.partial(_load_assets, layer, same)


def _walk(layer):
    """A layer and those inside, each as often as it comes; outer ones first."""
    if layer is not None:
        yield layer
        # A model of a graph is made again of its graph, not of what else it holds.
        has_graph = isinstance(layer, keras.Model) and isinstance(layer, keras.Function)
        for inner in layer.layers if has_graph else layer._layers:
            yield from _walk(inner)


def _load_variables(layer, same, store):
    # The instance's own hides the class's.
    del layer.load_own_variables
    if len(store.keys()) == 0:
        # Of a layer without variables it stays empty.
        store = {}
        _loaded_one(layer, same, "load_own_variables").save_own_variables(store)
    layer.load_own_variables(store)


def _load_assets(layer, same, folder):
    del layer.load_assets
    if folder is not None:
        layer.load_assets(folder)
        return
    with tempfile.TemporaryDirectory(prefix="keras_kd_") as folder:
        _loaded_one(layer, same, "load_assets").save_assets(folder)
        layer.load_assets(folder)


def _loaded_one(layer, same, method):
    """The first of the layers that have their weights, or the layer itself."""
    return next((x for x in same if method not in vars(x)), layer)


def _shared_ids(config):
    if isinstance(config, dict):
        if "shared_object_id" in config:
            yield config["shared_object_id"]
        for value in config.values():
            yield from _shared_ids(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _shared_ids(value)


def _untied(config, counts):
    """The configuration without marks of objects that it holds once.

    And without those of a Functional model's layers: where one was called before, Keras
    finds the wrong call of it again.
    """
    if isinstance(config, dict):
        key = "shared_object_id"
        is_tied = counts[config.get(key)] > 1 and "inbound_nodes" not in config
        kept = {k: x for k, x in config.items() if k != key or is_tied}
        return {k: _untied(x, counts) for k, x in kept.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_untied(x, counts) for x in config)
    return config
