"""How the checks of a loss call it, and what they say of it."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_kd.losses.ops import at_least_float32

OUTPUTS = ("teacher_outputs", "student_outputs")


def rows(batch, index):
    return tree.map_structure(lambda x: x[index], batch)


def large(batch):
    outputs = {name: batch[name] for name in OUTPUTS}
    return batch | tree.map_structure(lambda x: x * 1e4 / np.max(np.abs(x)), outputs)


def tensors(batch, dtype="float32"):
    """The arrays as tensors, floats cast to `dtype`; as they are where it is None."""
    made = tree.map_structure(ops.convert_to_tensor, batch)
    if dtype is None:
        return made
    floats = keras.backend.is_float_dtype
    return tree.map_structure(lambda x: ops.cast(x, dtype) if floats(x.dtype) else x, made)


def compute(loss, batch, dtype="float32", training=True):
    with warnings.catch_warnings():
        # That a foreign loss ignores weights is said by the checks themselves.
        warnings.filterwarnings("ignore", ".*ignores sample_weight", UserWarning)
        with _same_state(loss):
            arguments = tensors(batch, dtype) | loss.mode(training)
            return ops.convert_to_tensor(loss.compute_loss(**arguments))


@contextlib.contextmanager
def _same_state(loss):
    """Puts a declared state back: the checks compare values that start from the same."""
    layers = loss.layers if loss.has_state else ()
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    # JAX's arrays never change, and a copy would belong to the function that is traced.
    is_jax = keras.backend.backend() == "jax"
    before = [ops.convert_to_tensor(v) if is_jax else ops.copy(v) for v in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def value_of(loss, batch, dtype="float32"):
    return float(ops.convert_to_numpy(at_least_float32(compute(loss, batch, dtype))))


def gradient_of(loss, batch, dtype="float32"):
    """Gradient with respect to the student's outputs, a list of arrays."""
    batch = tensors(batch, dtype)
    student = batch["student_outputs"]

    def value(student):
        return compute(loss, batch | {"student_outputs": student}, None)

    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(_without_state(value))(student)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(student)
            result = value(student)
        gradient = tape.gradient(result, student, unconnected_gradients="zero")
    return [ops.convert_to_numpy(x) for x in tree.flatten(gradient)]


def _without_state(function):
    """The function, which leaves the moments of a loss's batch normalisations as they are.

    JAX must not see a variable change.
    """

    def stateless(x):
        with keras.StatelessScope():
            return function(x)

    return stateless


def compiled_ways(function, batch):
    """A function of tensors like a batch's, in each way that the backend compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return {"jax.jit": jax.jit(_without_state(function))}
    import tensorflow as tf

    def spec(x):
        return tf.TensorSpec((None, *x.shape[1:]), x.dtype)

    def graph(function, **options):
        # Called without its signature, TensorFlow would warn of retracing.
        compiled = tf.function(function, autograph=False, **options)
        return compiled.get_concrete_function(tree.map_structure(spec, tensors(batch)))

    traced = graph(function)
    # XLA compiles what was traced.
    return {"tf.function": traced, "jit_compile=True": graph(traced, jit_compile=True)}


def raised(error):
    return f"{type(error).__name__} is raised: {error}"


def expect(holds, seen, expected):
    if not holds:
        raise AssertionError(f"{seen}. Expected: {expected}.")


def expect_equal(value, other, what, than):
    # Rounding of float32 makes less of a difference; a wrong value far more.
    is_equal = abs(value - other) <= 1e-4 * max(abs(value), abs(other)) + 1e-7
    expect(is_equal, f"{value:.6g} ({what}) and {other:.6g} ({than})", "the same value")


def expect_finite(values, what):
    values = ops.convert_to_numpy(ops.cast(values, "float32"))
    expect(np.all(np.isfinite(values)), f"{values} for {what}", "finite values")


def expect_refused(loss, batch, words):
    shapes = {name: tree.flatten(x)[0].shape for name, x in batch.items()}
    try:
        seen = f"the value {value_of(loss, batch):.6g}"
    except Exception as error:  # Of the backend: any.
        seen = raised(error)
        if isinstance(error, ValueError) and all(word in str(error) for word in words):
            return
    expected = f"a ValueError that says {' and '.join(map(repr, words))}"
    expect(False, f"{seen} for inputs of shapes {shapes}", expected)


def expect_shapes_refused(loss, batch):
    shapes = [str(tree.flatten(batch[name])[0].shape) for name in OUTPUTS]
    if shapes[0] != shapes[1]:
        expect_refused(loss, batch, ["student_outputs", *shapes])
