"""A loss of each identifier, for tests of all of them."""

import inspect

from keras_kd import losses

# What a loss is given for arguments that have no default, by the argument's name.
REQUIRED = {"num_examples": 64}


def get(name):
    """The loss of an identifier, with its defaults where it has them."""
    parameters = inspect.signature(losses.LOSSES[name]).parameters.values()
    needed = [x.name for x in parameters if x.default is x.empty]
    return losses.get(name, **{argument: REQUIRED[argument] for argument in needed})
