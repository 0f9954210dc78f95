"""Parts of a Functional or Sequential model: up to a layer, and after it."""

import keras

from keras_kd.models.symbolic import input_structure


def up_to(model, path):
    """Models that make, one after the other, a layer's output of a model's inputs.

    Args:
        model: A built Functional or Sequential model, whose layers the parts share.
        path: A layer's name, or a path of them ("backbone/block3") into nested models, or
            None for the model's own output.

    Raises:
        ValueError: There is no such layer.
    """
    if path is None:
        return [model]
    name, _, inner = path.partition("/")
    output, inputs = _tensors_of(model, name)
    if not inner:
        given = input_structure(model)
        return [keras.Model(given, output, name=f"{model.name}_up_to_{name}")]
    before = keras.Model(input_structure(model), inputs, name=f"{model.name}_before_{name}")
    return [before, *up_to(model.get_layer(name), inner)]


def after(model, path):
    """Models that make, one after the other, a model's output of a layer's output.

    Takes what `up_to` takes.

    Raises:
        ValueError: There is no such layer, or the model's output needs more than its.
    """
    if path is None:
        return []
    name, _, inner = path.partition("/")
    output, _ = _tensors_of(model, name)
    inside = after(model.get_layer(name), inner) if inner else []
    if output is model.outputs[0]:
        return inside
    try:
        rest = keras.Model(output, model.outputs[0], name=f"{model.name}_after_{name}")
    except ValueError as error:
        raise ValueError(
            f"The output of {model.name!r} must be made of the output of its layer "
            f"{name!r} alone. Other paths lead around it."
        ) from error
    return [*inside, rest]


def _tensors_of(model, name):
    """The output of a layer inside this model, and its input."""
    todo, seen = list(model.outputs), set()
    while todo:
        tensor = todo.pop()
        operation, index, place = tensor._keras_history
        # Not the layer's own `output`: a nested model's is another tensor.
        node = operation._inbound_nodes[index]
        if name in (operation.name, f"{operation.name}:{place}"):
            return tensor, (node.input_tensors or [tensor])[0]
        todo += [x for x in node.input_tensors if id(x) not in seen]
        seen |= {id(x) for x in node.input_tensors}
    raise ValueError(f"The output of {model.name!r} is made without a layer {name!r}.")


def for_inputs(model, shape):
    """A model of the same layers for inputs of another height and width.

    Args:
        model: A Functional model of one input, as `after` makes them.
        shape: (None, ...) of the new inputs.

    Raises:
        ValueError: A layer has weights for the old height and width.
    """
    inputs = keras.Input(shape[1:], dtype=model.inputs[0].dtype)
    try:
        # Layers that are new tell whether their weights would have other shapes.
        new = keras.models.clone_model(model, input_tensors=inputs)
        for weight, other in zip(new.weights, model.weights, strict=True):
            if weight.shape != other.shape:
                raise ValueError(f"{weight.path}: {weight.shape}, not {other.shape}.")
        return keras.models.clone_model(
            model, input_tensors=inputs, clone_function=lambda layer: layer
        )
    except ValueError as error:
        raise ValueError(
            f"Layers take features of shape {model.inputs[0].shape}, and cannot take those "
            f"of shape {tuple(shape)}."
        ) from error
