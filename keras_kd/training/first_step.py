"""The variables of a first step, made before TensorFlow traces it.

TensorFlow traces a function twice in which variables are made, and Keras makes those of the
optimizer and of metrics in the first step. Made before, training begins in half the time.
"""

import contextlib

import keras
from keras import tree

from keras_kd.distribution.distribute import without_optionals


def with_variables_before(function, model):
    """`function` of a data iterator, before whose first call the variables are made.

    Args:
        function: What Keras's loop calls, for each batch.
        model: Has `metrics_see(y)`, the labels and outputs that compiled metrics get.
    """
    is_first = True

    def call(iterator):
        nonlocal is_first
        if is_first:
            is_first = False
            # What is wrong with them, or with the data, the step itself says.
            with contextlib.suppress(Exception):
                _make_variables(model, iterator.element_spec)
        return function(iterator)

    return call


def _make_variables(model, batch):
    """Where they are not known before, the step makes them."""
    if not all(layer.built for layer in model._flatten_layers()):
        return
    if not model.optimizer.built and model.trainable_variables:
        model.optimizer.build(model.trainable_variables)
    _, y, _ = keras.utils.unpack_x_y_sample_weight(without_optionals(batch))
    y, y_pred = model.metrics_see(y)
    if any(x is None for x in tree.flatten([y, y_pred])):
        return
    tree.assert_same_structure(y, y_pred)
    metrics, losses = model._compile_metrics, model._compile_loss
    if metrics is not None and not metrics.built:
        metrics.build(y, y_pred)
    # Of several outputs, each loss has a metric.
    if losses is not None and not losses.built and tree.is_nested(y_pred):
        losses.build(y, y_pred)


def outputs_of(model):
    """A model's outputs, symbolic, in their structure; None where they are not known."""
    outputs = getattr(model, "outputs", None) or [None]
    # A keras.Sequential has one, and no `output`.
    return getattr(model, "output", outputs[0])
