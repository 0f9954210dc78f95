"""What a model costs: parameters and multiply-accumulates (MACs)."""

import dataclasses

# Operations that multiply and accumulate; each MAC counts as two float operations.
_MULTIPLY_ACCUMULATE = ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")


@dataclasses.dataclass(frozen=True)
class Profile:
    """A model's cost at batch 1.

    Attributes:
        parameters: Number of weights, trainable or not.
        macs: Half of all float operations that TensorFlow's profiler counts in the
            forward graph, the measure of the published MNIST experiment. Biases,
            pooling and activations are in it, at half an operation each.
        pure_macs: The multiply-accumulates of matrix products and convolutions alone,
            as most papers count. Always at most `macs`.
    """

    parameters: int
    macs: int
    pure_macs: int


def profile(model):
    """Counts parameters and MACs of one forward pass at batch 1.

    Args:
        model: A built `keras.Model` whose input shapes are known but for the batch.

    Returns:
        A `Profile`.

    Raises:
        ValueError: The model is not built, or an input dimension is unknown.
    """
    # A subclassed model has none.
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be built, with known input shapes. "
            f"Received: the model {model.name!r} without inputs."
        )
    signature = [(1, *x.shape[1:]) for x in model.inputs]
    if any(None in shape for shape in signature):
        raise ValueError(
            "`model` must have fixed input shapes but for the batch. "
            f"Received: {[tuple(x.shape) for x in model.inputs]}."
        )
    operations = _float_operations(model, signature)
    pure = sum(operations.get(kind, 0) for kind in _MULTIPLY_ACCUMULATE)
    return Profile(
        parameters=model.count_params(),
        macs=sum(operations.values()) // 2,
        pure_macs=pure // 2,
    )


def _float_operations(model, shapes):
    """Float operations of the forward graph, as a dict of operation kind to count."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    specs = [
        tf.TensorSpec(shape, x.dtype)
        for shape, x in zip(shapes, model.inputs, strict=True)
    ]
    forward = tf.function(
        lambda *inputs: model(inputs[0] if len(inputs) == 1 else list(inputs))
    )
    # The profiler counts an operation only where all shapes in its graph are known.
    graph = convert_variables_to_constants_v2(forward.get_concrete_function(*specs)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    ).with_empty_output()
    by_kind = tf.compat.v1.profiler.profile(graph, cmd="op", options=options.build())
    counts = {}

    def add(node):
        for child in node.children:
            counts[child.name] = child.float_ops
            add(child)

    add(by_kind)
    return counts
