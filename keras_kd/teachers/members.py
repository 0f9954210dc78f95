"""Models that run side by side: what is refused of them, and their input."""

import keras
from keras import tree


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
        if not getattr(model, "inputs", None):
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
    check_same("inputs", map(symbolic_input, models))


def check_same(what, structures):
    received = [tree.map_structure(lambda x: tuple(x.shape), s) for s in structures]
    if any(shapes != received[0] for shapes in received):
        raise ValueError(
            f"`models` must have {what} of the same shapes. Received: "
            f"{', '.join(map(str, received))}."
        )


def symbolic_input(model):
    # A Sequential model that was not called has `inputs` alone; others may take a dict.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
