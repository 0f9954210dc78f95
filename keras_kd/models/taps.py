"""A model's named intermediate outputs, taken in its one forward pass."""

import contextlib
import difflib

import keras
from keras import tree

from keras_kd.models.given_outputs import GivenOutputs
from keras_kd.models.symbolic import symbolic_outputs


class Taps:
    """Takes the outputs of named layers while a model runs.

    It works for Functional, Sequential and subclassed models alike, and for a layer inside
    a nested model ("backbone/block3"), because it listens to the layers themselves instead
    of cutting a new model out of the old one. So the model runs once, as it is.

    Args:
        model: A built `keras.Model`.
        names: A set of names as `find_tap` takes them. None, which stands for the model's
            own output, is skipped.

    Raises:
        ValueError: A name is no layer of the model; lists near ones.
    """

    def __init__(self, model, names):
        self._model = model
        self._taps = {x: find_tap(model, x) for x in sorted(names - {None})}
        self.names = tuple(self._taps)

    def call(self, inputs, training, **kwargs):
        """Runs the model once.

        Args:
            inputs: As the model takes them.
            training: Whether in training mode.
            **kwargs: Passed to the model.

        Returns:
            `(outputs, taps)`: the model's outputs, and a dict of name to that layer's
            output, or to the one of its outputs that the name says.

        Raises:
            ValueError: A tapped layer ran more than once, or not at all, or gave no output
                of that number.
        """
        layers = {id(layer): layer for layer, _ in self._taps.values()}
        with listening(layers.values()) as heard:
            outputs = self._model(inputs, training=training, **kwargs)
        taken = {key: [outs for layer, outs in heard if id(layer) == key] for key in layers}
        for name, (layer, _) in self._taps.items():
            times = len(taken[id(layer)])
            if times != 1:
                raise ValueError(
                    f"The tapped layer {name!r} of {self._model.name!r} ran {times} "
                    "times in one forward pass; a tap needs a layer that runs exactly "
                    "once. Tap a layer after it instead, or name a shared layer's users."
                )
        return outputs, {
            name: self._part(name, *taken[id(layer)], number)
            for name, (layer, number) in self._taps.items()
        }

    def _part(self, name, outputs, number):
        flat = tree.flatten(outputs)
        if number is not None and number >= len(flat):
            raise _no_such_output(self._model, name, len(flat))
        return outputs if number is None else flat[number]


@contextlib.contextmanager
def listening(layers):
    """Yields a list that each call of one of the layers puts (layer, outputs) into."""
    heard, names = [], []
    try:
        for layer in layers:
            # A quantised layer is not called by its `call`.
            is_quantized = layer.dtype_policy.quantization_mode is not None
            name = "quantized_call" if is_quantized else "call"
            names.append((layer, name))
            setattr(layer, name, _listen(layer, getattr(layer, name), heard))
        yield heard
    finally:
        for layer, name in names:
            # The instance's own hides the class's; without it all is as before.
            layer.__dict__.pop(name, None)


def _listen(layer, call, heard):
    def call_and_keep(*args, **kwargs):
        outputs = call(*args, **kwargs)
        heard.append((layer, outputs))
        return outputs

    return call_and_keep


def find_tap(model, name):
    """The layer that a tap names, and which of its outputs.

    Args:
        model: A `keras.Model`.
        name: As `find_layer` takes it; of a layer that gives several outputs, ":" and the
            number of one of them may follow, as Keras gives them, from 0 on: "lstm:1" is
            an LSTM's first state, "attention:1" the scores of a MultiHeadAttention.

    Returns:
        `(layer, number)`; the number is None where the name has none.

    Raises:
        ValueError: There is no such layer; or it is known to have fewer outputs.
    """
    if isinstance(model, GivenOutputs):
        # Its layers are known by what the data carry of them.
        return model, None
    layer_name, colon, number = str(name).rpartition(":")
    # Who has a colon in a layer's name means that layer.
    is_numbered = colon and number.isascii() and number.isdigit()
    if not is_numbered or name in dict(_named_layers(model)):
        return find_layer(model, name), None
    layer, number = find_layer(model, layer_name), int(number)
    known = layer_outputs(layer)
    if known is not None and number >= len(known):
        raise _no_such_output(model, name, len(known))
    return layer, number


def layer_outputs(layer):
    """A layer's symbolic outputs, a list in Keras's order; None if not known."""
    known = symbolic_outputs(layer)
    if not known:
        # Keras has no such attribute where it was called never, or twice.
        known = tree.flatten(getattr(layer, "output", None))
    is_known = bool(known) and all(isinstance(x, keras.KerasTensor) for x in known)
    return known if is_known else None


def _no_such_output(model, name, count):
    layer_name = name.rpartition(":")[0]
    outputs = ", ".join(repr(f"{layer_name}:{k}") for k in range(count))
    return ValueError(
        f"The layer {layer_name!r} of {model.name!r} gives {count} "
        f"output{'s' * (count > 1)}: {outputs}. Received: {name!r}."
    )


def find_layer(model, name):
    """The layer of a model by name, or by path ("backbone/block3") in nested models.

    Raises:
        ValueError: There is none, and near names are listed; or there are several.
    """
    layers = {}
    for path, layer in _named_layers(model):
        layers.setdefault(path, {})[id(layer)] = layer
    if name not in layers:
        near = difflib.get_close_matches(str(name), layers, n=3, cutoff=0.5)
        hint = f"Near names: {', '.join(map(repr, near))}. " if near else ""
        raise ValueError(
            f"There is no layer {name!r} in {model.name!r}. {hint}"
            f"Its layers: {', '.join(layers)}."
        )
    found = list(layers[name].values())
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} layers of {model.name!r} go by {name!r}: "
            f"{', '.join(map(_described, found))}. Give each a name of its own, "
            "name=..., or tap another layer of the same output. Layers with names of their "
            f"own: {', '.join(x for x, same in layers.items() if len(same) == 1)}."
        )
    return found[0]


def _described(layer):
    """A layer's kind, and the shape that it gives where that is known."""
    try:
        shape = f" of output shape {tuple(layer.output.shape)}"
    except AttributeError:  # Keras's word for a layer without one symbolic output.
        shape = ""
    return f"a {type(layer).__name__}{shape}"


def _named_layers(layer, prefix=""):
    """Yields (path, layer) of every layer inside; outer ones first."""
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    for child in inner:
        path = f"{prefix}{child.name}"
        yield path, child
        yield from _named_layers(child, f"{path}/")


def outputs_made_of(model, name):
    """Which of a model's outputs a layer has a part in.

    Args:
        model: A built `keras.Model`.
        name: As `find_tap` takes it.

    Returns:
        A tuple of numbers, in the order of the flattened outputs; None where the model has
        no symbolic outputs.
    """
    outputs = symbolic_outputs(model)
    if not outputs:
        return None
    tap = find_tap(model, name)
    return tuple(k for k, tensor in enumerate(outputs) if _is_behind(tensor, *tap))


def _is_behind(tensor, layer, output):
    """Whether a symbolic tensor is made of a layer's output, be it in a nested model.

    Args:
        output: The number of the one that counts, or None for any of the layer's.
    """
    todo, seen = [tensor], set()
    while todo:
        tensor = todo.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        maker, number, place = tensor._keras_history
        inner = symbolic_outputs(maker)
        if maker is layer:
            if output in (None, place):
                return True
        elif inner:
            # A nested model: of its outputs, the one that this tensor is.
            todo.append(inner[place])
        elif isinstance(maker, keras.layers.Layer) and layer in maker._flatten_layers():
            return True
        todo += maker._inbound_nodes[number].input_tensors
    return False


def logits_layer(model):
    """The Dense layer that gives a model's logits, a softmax after it or not.

    Args:
        model: A Functional or Sequential model.

    Returns:
        `(path, features)`: the layer's name as `find_layer` takes it, and the path of the
        last hidden layer, whose output it receives.

    Raises:
        ValueError: There is no such layer, or no layer before it: the model is not of that
            kind, has several outputs, or is an ensemble, say.
    """
    layer, prefix, node = model, "", None
    while isinstance(layer, keras.Model) or _only_activates(layer):
        if isinstance(layer, keras.Model):
            prefix += f"{layer.name}/" if layer is not model else ""
            tensors = symbolic_outputs(layer)
        else:
            tensors = node.input_tensors
        if len(tensors) != 1:
            break
        layer, node = _made_by(tensors[0])
    if not isinstance(layer, keras.layers.Dense):
        raise ValueError(
            f"{model.name!r} must be a Functional or Sequential model whose output is that "
            f"of a Dense layer. Received: a {type(model).__name__} whose last layer is "
            f"{layer.name!r}, a {type(layer).__name__}."
        )
    before, _ = _made_by(node.input_tensors[0])
    if isinstance(before, keras.layers.InputLayer):
        raise ValueError(
            f"{model.name!r} must have a hidden layer beside its last one in the same "
            f"model. Received: {layer.name!r} takes the input."
        )
    return f"{prefix}{layer.name}", f"{prefix}{before.name}"


def _only_activates(layer):
    return isinstance(layer, (keras.layers.Activation, keras.layers.Softmax))


def _made_by(tensor):
    """The layer that a symbolic tensor is the output of, and that call of it."""
    layer, number, _ = tensor._keras_history
    return layer, layer._inbound_nodes[number]
