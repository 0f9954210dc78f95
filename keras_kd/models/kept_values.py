"""A model whose step failed keeps its weights, on JAX, too."""

import contextlib

import keras


@contextlib.contextmanager
def values_kept(model):
    """Puts back what Keras takes out of a model's variables before a step that then fails.

    On JAX it hands a step the values and empties the variables meanwhile. An error in the
    first step, such as inputs of another shape, would leave none behind.

    Args:
        model: A `keras.Model`, compiled.
    """
    before = []
    if keras.backend.backend() == "jax":
        variables = [*model.variables, *getattr(model.optimizer, "variables", ())]
        before = [(x, x.value) for x in variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            # A step that ran has taken the memory of what it was given.
            if variable._value is None and not value.is_deleted():
                variable.assign(value)
        raise
