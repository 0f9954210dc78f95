"""What a model costs: parameters, multiply-accumulates (MACs), and time."""

import contextlib
import dataclasses
import logging
import time

import keras
import numpy as np

from keras_kd.evaluation import elsewhere
from keras_kd.evaluation.operations import UnknownCount, count_operations
from keras_kd.losses.arguments import check_integer
from keras_kd.models.symbolic import input_structure, symbolic_inputs

logger = logging.getLogger("keras_kd")

# Passes before the timed ones: the first compiles, and some more fill caches.
_WARM_UP = 10


class UnknownShapes(ValueError):
    """A model's inputs have no fixed shapes."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """A model's cost at batch 1.

    Attributes:
        parameters: Number of weights, trainable or not.
        macs: Half of all float operations that TensorFlow's profiler counts in the
            forward graph, the measure of the published MNIST experiment. Biases,
            pooling and activations are in it, at half an operation each. A loop counts
            as often as it runs. None where it is unknown.
        pure_macs: The multiply-accumulates of matrix products and convolutions alone,
            as most papers count. A product that is written as a multiplication element by
            element and a sum is in `macs` alone. Always at most `macs`. None where it is
            unknown: the model computes something that cannot be counted, such as a
            Python function, or a loop whose steps depend on the inputs.
        unknown: Why a number is unknown, or None.
    """

    parameters: int
    macs: int | None
    pure_macs: int | None
    unknown: str | None = None


def profile(model):
    """Counts parameters and MACs of one forward pass at batch 1.

    On JAX and PyTorch a process on TensorFlow counts, so that the number is the same.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `Profile`. What cannot be counted is None in it, never 0; tables show it as
        "unknown", and the logger "keras_kd" says why: the shapes of the inputs are not
        known but for the batch, say.

    Raises:
        ValueError: The model is not built.
    """
    if not model.built:
        raise ValueError(
            "`model` must be built: call it on a batch first. "
            f"Received: the unbuilt model {model.name!r}."
        )
    parameters = model.count_params()
    try:
        count = _count(model, _input_shapes(model, batch_size=1))
    except (UnknownCount, UnknownShapes) as error:
        why = str(error).rstrip(".")
        reason = f"The multiply-accumulates of {model.name!r} are unknown: {why}."
        logger.warning(reason)
        return Profile(parameters, None, None, reason)
    if count.others is None:
        reason = (
            f"The MACs of {model.name!r} are unknown, but for those of products: not all "
            "shapes in it are known."
        )
        logger.warning(reason)
        return Profile(parameters, None, count.products, reason)
    return Profile(parameters, count.products + count.others // 2, count.products)


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long a model's forward pass takes.

    Attributes:
        batch_size: Examples a pass.
        repeats: How many passes were timed.
        median: Milliseconds; half of the passes took no longer.
        percentile_95: Milliseconds; 95 % of the passes took no longer.
    """

    batch_size: int
    repeats: int
    median: float
    percentile_95: float


def latency(model, batch_size=1, repeats=200):
    """Times one model; see `latencies`, which takes the same arguments.

    Returns:
        A `Latency`.
    """
    (measured,) = latencies([model], batch_size, repeats)
    return measured


def latencies(models, batch_size=1, repeats=200):
    """Times compiled forward passes on the CPU, several models in turn.

    On PyTorch, which Keras compiles nothing for, they are plain ones, and they are where
    Keras's own device is.

    In each round every model runs once, and each round begins with another one, so that
    what else the machine does meets all of them alike: on a noisy machine compare models
    of one call, not of two. The backend's own number of threads is left as it is.

    Args:
        models: list of built `keras.Model`s whose input shapes are known but for the batch.
            They run in inference mode, on inputs that stay the same: random numbers in
            [0, 1), zeros where a model takes integers.
        batch_size: Examples a pass. 1 is what a device sees that answers one at a time.
        repeats: Rounds that are timed, after ten that are not.

    Returns:
        list of `Latency`, in the order of `models`.

    Raises:
        ValueError: A model is not built or an input dimension unknown, or a number is no
            integer >= 1.
    """
    batch_size = check_integer("batch_size", batch_size, least=1)
    repeats = check_integer("repeats", repeats, least=1)
    on_cpu = keras.device("cpu:0")
    with contextlib.nullcontext() if keras.backend.backend() == "torch" else on_cpu:
        passes = [_ready_pass(model, batch_size) for model in models]
        milliseconds = np.zeros((len(passes), repeats))
        for number in range(_WARM_UP + repeats):
            for i in range(len(passes)):
                which = (i + number) % len(passes)
                start = time.perf_counter()
                passes[which]()
                elapsed = 1000 * (time.perf_counter() - start)
                if number >= _WARM_UP:
                    milliseconds[which, number - _WARM_UP] = elapsed
    return [
        Latency(batch_size, repeats, float(np.median(x)), float(np.percentile(x, 95)))
        for x in milliseconds
    ]


def _ready_pass(model, batch_size):
    """A function of nothing that runs the model on fixed inputs."""
    rng = np.random.default_rng(0)
    inputs = []
    for shape, x in zip(_input_shapes(model, batch_size), model.inputs, strict=True):
        dtype = keras.backend.standardize_dtype(x.dtype)
        is_float = keras.backend.is_float_dtype(dtype)
        values = rng.random(shape) if is_float else np.zeros(shape, dtype)
        inputs.append(keras.ops.convert_to_tensor(values, dtype))
    if keras.backend.backend() == "tensorflow":
        # Traced here, once: TensorFlow would warn of many models as of one of many traces.
        forward = _forward(model).get_concrete_function(*inputs)
        return lambda: forward(*inputs)
    inputs = keras.tree.pack_sequence_as(input_structure(model), inputs)
    on_backend = {"jax": _pass_on_jax, "torch": _pass_on_torch}
    return on_backend[keras.backend.backend()](model, inputs)


def _pass_on_jax(model, inputs):
    import jax

    variables = model.trainable_variables, model.non_trainable_variables
    # They may lie on an accelerator.
    values = [[x.value for x in y] for y in variables]
    weights = jax.device_put(values, jax.devices("cpu")[0])

    @jax.jit
    def forward(weights, inputs):
        outputs, _ = model.stateless_call(*weights, inputs, training=False)
        return outputs

    return lambda: jax.block_until_ready(forward(weights, inputs))


def _pass_on_torch(model, inputs):
    import torch

    forward = torch.no_grad()(model)
    return lambda: forward(inputs, training=False)


def _input_shapes(model, batch_size):
    """Shapes of the model's inputs, a list; a ValueError if one is not known."""
    # A subclassed model has none.
    if not model.built or not symbolic_inputs(model):
        raise UnknownShapes(
            "`model` must be built, with known input shapes. "
            f"Received: the model {model.name!r} without inputs."
        )
    shapes = [(batch_size, *x.shape[1:]) for x in model.inputs]
    if any(None in shape for shape in shapes):
        raise UnknownShapes(
            "`model` must have fixed input shapes but for the batch. "
            f"Received: {[tuple(x.shape) for x in model.inputs]}."
        )
    return shapes


def _forward(model):
    """The model's forward pass in inference mode, compiled; takes each input by itself."""
    import tensorflow as tf

    structure = input_structure(model)
    return tf.function(
        lambda *inputs: model(
            keras.tree.pack_sequence_as(structure, list(inputs)), training=False
        )
    )


def _count(model, shapes):
    is_here = keras.backend.backend() == "tensorflow"
    return (count_on_tensorflow if is_here else elsewhere.count)(model, shapes)


def count_on_tensorflow(model, shapes):
    """A `Count` of the forward graph.

    Args:
        model: A built `keras.Model` that knows its inputs.
        shapes: Of its inputs, with the batch, a list.

    Raises:
        UnknownCount: It cannot be counted.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    specs = [
        tf.TensorSpec(shape, x.dtype)
        for shape, x in zip(shapes, model.inputs, strict=True)
    ]
    try:
        concrete = _forward(model).get_concrete_function(*specs)
    except Exception as error:  # Whatever a layer raises.
        kind = type(error).__name__
        raise UnknownCount(f"on inputs of its shapes it raises {kind}") from error
    try:
        return count_operations(concrete.graph, concrete.outputs)
    except UnknownCount:
        # Functions of a SavedModel know their shapes only where they stand in the graph.
        frozen = convert_variables_to_constants_v2(concrete)
        with contextlib.suppress(UnknownCount):
            return count_operations(frozen.graph, frozen.outputs)
        raise
