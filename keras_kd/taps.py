"""A model's named intermediate outputs, taken in its one forward pass."""

import difflib

import keras


class Taps:
    """Takes the outputs of named layers while a model runs.

    It works for Functional, Sequential and subclassed models alike, and for a layer inside
    a nested model ("backbone/block3"), because it listens to the layers themselves instead
    of cutting a new model out of the old one. So the model runs once, as it is.

    Args:
        model: A built `keras.Model`.
        names: A set of layer names, or paths of names joined by "/" for layers inside
            nested models. None, which stands for the model's own output, is skipped.

    Raises:
        ValueError: A name is no layer of the model; lists near ones.
    """

    def __init__(self, model, names):
        self._model = model
        self._layers = {x: find_layer(model, x) for x in sorted(names - {None})}
        self.names = tuple(self._layers)

    def call(self, inputs, training, **kwargs):
        """Runs the model once.

        Args:
            inputs: As the model takes them.
            training: Whether in training mode.
            **kwargs: Passed to the model.

        Returns:
            `(outputs, taps)`: the model's outputs, and a dict of name to that layer's
            output.

        Raises:
            ValueError: A tapped layer ran more than once, or not at all.
        """
        taken = {name: [] for name in self._layers}
        try:
            for name, layer in self._layers.items():
                layer.call = _listen(layer.call, taken[name])
            outputs = self._model(inputs, training=training, **kwargs)
        finally:
            for layer in self._layers.values():
                # The instance's own `call` hides the class's; without it all is as before.
                layer.__dict__.pop("call", None)
        for name, outs in taken.items():
            if len(outs) != 1:
                raise ValueError(
                    f"The tapped layer {name!r} of {self._model.name!r} ran {len(outs)} "
                    "times in one forward pass; a tap needs a layer that runs exactly "
                    "once. Tap a layer after it instead, or name a shared layer's users."
                )
        return outputs, {name: outs[0] for name, outs in taken.items()}


def _listen(call, taken):
    def call_and_keep(*args, **kwargs):
        outputs = call(*args, **kwargs)
        taken.append(outputs)
        return outputs

    return call_and_keep


def find_layer(model, name):
    """The layer of a model by name, or by path ("backbone/block3") in nested models.

    Raises:
        ValueError: There is none; lists near names.
    """
    layers = dict(_named_layers(model))
    if name not in layers:
        near = difflib.get_close_matches(str(name), layers, n=3, cutoff=0.5)
        hint = f"Near names: {', '.join(map(repr, near))}. " if near else ""
        raise ValueError(
            f"There is no layer {name!r} in {model.name!r}. {hint}"
            f"Its layers: {', '.join(layers)}."
        )
    return layers[name]


def _named_layers(layer, prefix=""):
    """Yields (path, layer) of every layer inside; outer ones first."""
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    for child in inner:
        path = f"{prefix}{child.name}"
        yield path, child
        yield from _named_layers(child, f"{path}/")
