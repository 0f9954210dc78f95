"""The family that a model's layers are of, whatever their names."""

import dataclasses

from keras import layers

from keras_kd.models.symbolic import symbolic_outputs
from keras_kd.students.families import FAMILIES, WIDEST, build
from keras_kd.students.largest import costs

# What a layer's configuration says of its width, and of what it computes.
_WIDTHS = ("filters", "units", "output_dim")
_FUNCTION = (
    "filters units input_dim output_dim kernel_size pool_size size cropping strides "
    "padding data_format dilation_rate groups depth_multiplier activation use_bias "
    "max_value"
).split()


@dataclasses.dataclass(frozen=True)
class Known:
    """A family in the shapes of a model; `build` makes others of it.

    Attributes:
        family: A key of `keras_kd.students.families.FAMILIES`.
        input_shape, output_shape: Without the batch.
    """

    family: str
    input_shape: tuple
    output_shape: tuple

    def build(self, width):
        return build(self.family, self.input_shape, self.output_shape, width)


def family_of(model):
    """The family and the width of a model.

    Args:
        model: A built `keras.Model`.

    Returns:
        `(Known, width)`; None where it is of none. Of none are tables with categories,
        which the layers do not show, and what is rounded, as MobileNetV3 is.
    """
    if not symbolic_outputs(model) or len(model.inputs) != 1 or len(model.outputs) != 1:
        return None
    functions = _functions(model)
    widths = [config[x] for _, config, _ in functions for x in _WIDTHS if x in config]
    if not widths or widths[0] > WIDEST:
        return None
    shapes = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    parameters = sum(x.count_params() for x in _own(model))
    for name, family in FAMILIES.items():
        known = Known(name, *shapes)
        if family.proportional and _is(known, widths[0], parameters, functions):
            return known, widths[0]
    return None


def _is(known, width, parameters, functions):
    try:
        count = costs(known.family, known.build, lambda x: x.count_params())
    except ValueError:  # Not of these shapes.
        return False
    # Before it is built, as another kind of model may be narrow where this one grows.
    return count(width) == parameters and _functions(known.build(width)) == functions


def _own(model):
    """A model's layers, without what gives values their size."""
    found = [x for x in model.layers if not isinstance(x, layers.InputLayer)]
    return found[:-1] if found and isinstance(found[-1], layers.Rescaling) else found


def _functions(model):
    """Of each layer the class, what it computes, and the shapes of its weights."""
    found = []
    for layer in _own(model):
        if not isinstance(layer, layers.Dropout):
            config = layer.get_config()
            kept = {key: config[key] for key in _FUNCTION if key in config}
            found.append((type(layer), kept, [tuple(x.shape) for x in layer.weights]))
    return found
