"""What is known of a model before it runs: symbolic inputs and outputs, and names.

Layers and subclassed models may have attributes of these names that are their own, so what
counts is what kind of model it is.
"""

import keras


def symbolic_inputs(model):
    """`keras.KerasTensor`s, a list in Keras's order; [] where a model does not know them.

    Functional models know them, and a `keras.Sequential` that is built. Subclassed models
    and layers do not, whatever attributes they have.
    """
    return _tensors(model, "inputs")


def symbolic_outputs(model):
    """The same of a model's outputs."""
    return _tensors(model, "outputs")


def input_structure(model):
    """Symbolic inputs in the structure that a model takes them in; None if not known."""
    inputs = symbolic_inputs(model)
    # A keras.Sequential has one, and may have no `input`.
    return getattr(model, "input", inputs[0]) if inputs else None


def output_structure(model):
    """Symbolic outputs in the structure that a model gives them in; None if not known."""
    outputs = symbolic_outputs(model)
    return getattr(model, "output", outputs[0]) if outputs else None


def input_names(model):
    """The names by which a model takes a dict of inputs, in its own order, a tuple.

    The keys where it is made for a dict, else the names of its `keras.Input`s; () where it
    knows none.
    """
    structure = input_structure(model)
    if isinstance(structure, dict):
        # In Keras's order, which sorts.
        return tuple(path[0] for path, _ in keras.tree.flatten_with_path(structure))
    return tuple(x.name for x in symbolic_inputs(model))


def in_another_order(model, other):
    """Whether two models have inputs of the same names in another order.

    Of a dict Keras gives each model what it names; of a list, what comes at its place.
    """
    names, others = input_names(model), input_names(other)
    return names != others and sorted(names) == sorted(others)


def input_shapes(model, like=None):
    """Shapes of a model's inputs, a list; [] where they are not known.

    Args:
        like: Another model, in whose order they are if it has inputs of the same names.
    """
    shapes = [tuple(x.shape) for x in symbolic_inputs(model)]
    if like is None or not in_another_order(model, like):
        return shapes
    by_name = dict(zip(input_names(model), shapes, strict=True))
    return [by_name[name] for name in input_names(like)]


def output_names(model):
    """The names that Keras has for a model's outputs, a tuple; () where it has none."""
    # A subclassed model may say them, as Keras's `compile` takes them.
    names = getattr(model, "output_names", None)
    is_list = isinstance(names, (list, tuple))
    return tuple(names) if is_list and all(isinstance(x, str) for x in names) else ()


def _tensors(model, attribute):
    if not isinstance(model, keras.Model):
        return []
    # keras.Function is what a Functional model is and a subclassed one is not.
    if not isinstance(model, (keras.Function, keras.Sequential)):
        return []
    return list(getattr(model, attribute, None) or [])
