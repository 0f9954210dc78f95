"""Models that run side by side: what is refused of them, and what each is given."""

import keras
from keras import tree

from keras_kd.models.symbolic import (
    input_names,
    input_shapes,
    input_structure,
    symbolic_inputs,
)


def check_each(models):
    """Refuses models that cannot run side by side."""
    if not models:
        raise ValueError(
            f"`models` must be a list of at least one keras.Model. Received: {models!r}."
        )
    for i, model in enumerate(models):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"`models[{i}]` must be a keras.Model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
        if not symbolic_inputs(model):
            raise ValueError(
                f"`models[{i}]` must have symbolic inputs. Received: {model.name!r}, which "
                "is unbuilt or subclassed. Wrap it: inputs = keras.Input(shape); "
                "keras.Model(inputs, model(inputs))."
            )
        if len(model.outputs) != 1 or len(model.outputs[0].shape) < 2:
            raise ValueError(
                f"`models[{i}]` must have one output of shape (batch, ..., num_classes). "
                f"Received: {model.name!r} with {[tuple(x.shape) for x in model.outputs]}."
            )
    first = models[0]
    if all(_takes_by_name(model, first) for model in models):
        check_same("inputs", [input_shapes(model, like=first) for model in models])
    else:
        structures = map(input_structure, models)
        check_same("inputs", [tree.map_structure(_shape, x) for x in structures])


def check_same(what, shapes):
    """Refuses models of which one has other shapes than the first."""
    if any(other != shapes[0] for other in shapes):
        raise ValueError(
            f"`models` must have {what} of the same shapes. Received: "
            f"{', '.join(map(str, shapes))}."
        )


def inputs_for(model, first, inputs):
    """Inputs as the first model takes them, as another of the models takes them."""
    if model is first or not _takes_by_name(model, first):
        return inputs
    # Keras gives each model what a dict names.
    return dict(zip(input_names(first), tree.flatten(inputs), strict=True))


def _takes_by_name(model, first):
    """Whether inputs of several are called the same: in a dict or list, in any order."""
    names = input_names(first)
    return len(names) > 1 and sorted(input_names(model)) == sorted(names)


def _shape(tensor):
    return tuple(tensor.shape)
