"""The architectures of `keras.applications`, untrained, for any inputs and outputs."""

import difflib
import inspect
import warnings

import keras

# What the shapes say, and what a student is: of its first weights, to logits, from inputs
# as they are.
_GIVEN = {
    "weights": None,
    "include_top": True,
    "classifier_activation": None,
    "include_preprocessing": False,
}
_OF_SHAPES = ("input_shape", "input_tensor", "classes", "pooling", "name")


def names():
    """The architectures that `build` takes, as a list of strings."""
    found = vars(keras.applications).items()
    return sorted(name for name, value in found if inspect.isfunction(value))


def check(name, arguments):
    """Refuses what `build` does not take, of a name and a dict of its own arguments.

    Raises:
        ValueError: There is no such architecture, or it has no such argument, or the
            argument is said by the data.
    """
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`application` must be one of keras.applications: {', '.join(names())}. "
            f"Received: {name!r}.{hint}"
        )
    own = [x for x in _parameters(name) if x not in (*_GIVEN, *_OF_SHAPES)]
    for key in arguments:
        if key not in own:
            takes = f"Its own are {', '.join(own)}" if own else "It has none of its own"
            raise ValueError(
                f"`{key}` is no argument that {name} takes here. {takes}; a student has "
                "its first weights, the shapes of the data and linear outputs."
            )


def build(name, input_shape, output_shape, **arguments):
    """A freshly initialised model; `keras.utils.set_random_seed` fixes it.

    Args:
        name: One of `names()`, "MobileNetV3Small".
        input_shape: (height, width, channels).
        output_shape: (answers,).
        **arguments: Its own ones, `alpha` of the MobileNets for instance.

    Returns:
        A built `keras.Model` with linear outputs, without preprocessing of its own.

    Raises:
        ValueError: As `check`; or Keras refuses the shapes or an argument.
    """
    check(name, arguments)
    if len(output_shape) != 1:
        raise ValueError(
            f"`output_shape` of {name} must be (answers,), without the batch. Received: "
            f"{tuple(output_shape)}."
        )
    parameters = _parameters(name)
    given = {key: value for key, value in _GIVEN.items() if key in parameters}
    with warnings.catch_warnings():
        # Keras expects three channels or one; untrained, any number is as good.
        warnings.filterwarnings("ignore", message="This model usually expects")
        try:
            return getattr(keras.applications, name)(
                **given,
                input_shape=tuple(input_shape),
                classes=output_shape[0],
                **arguments,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"keras.applications.{name} does not take input_shape="
                f"{tuple(input_shape)} with {arguments or 'its defaults'}: {error}"
            ) from error


def _parameters(name):
    return inspect.signature(getattr(keras.applications, name)).parameters
