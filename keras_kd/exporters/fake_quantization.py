"""Training with the rounding of an int8 file in the forward pass.

Kernels are rounded to int8 symmetrically, each output channel with a scale of its own;
what a layer takes in, and the model's outputs, to the 256 steps between the lowest and
the highest value that calibration, and training since, has met. That is how LiteRT
computes; the export calibrates anew, with the weights that came of it. The gradient goes
straight through the rounding, and is zero where a value is cut off at the end of its range
(Jacob et al., 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", https://arxiv.org/abs/1712.05877, whose ranges are
moving averages of the batches' ends: more is cut off than in a file that is calibrated by
the ends themselves).
"""

import keras
from keras import layers, ops

from keras_kd.exporters import examples
from keras_kd.models.copies import copy_model
from keras_kd.models.symbolic import symbolic_outputs
from keras_kd.training.precision import in_float32

_WITH_KERNELS = (
    layers.Dense,
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
)
# They add up, so what they take in must be rounded; they have no kernels.
_WITHOUT_KERNELS = (layers.AveragePooling2D, layers.GlobalAveragePooling2D)
# They choose or move values: what was rounded stays as it is.
_AS_THEY_ARE = (
    layers.Activation,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.InputLayer,
    layers.MaxPooling2D,
    layers.Permute,
    layers.ReLU,
    layers.Reshape,
    layers.Softmax,
    layers.ZeroPadding2D,
)


def quantization_aware(model, calibration):
    """A copy of a model that computes as its int8 file will, and can be trained so.

    Train it as the student of a `Distiller`, under the float model's teacher or the float
    model itself, for a few epochs at a small learning rate. Then export it: `export` takes
    the fake quantisation out, and the trained weights into the int8 file.

    Args:
        model: A built `keras.Model`, Sequential or functional, trained. Its weights are
            copied, and it stays as it is.
        calibration: Real training inputs (n, ...), in any form that `export` takes; some
            hundreds, the same as `export` is given, so that both find the same ranges.

    Returns:
        A `keras.Model` with layers of the same names, in float32.

    Raises:
        ValueError: The model is not built; it has a layer of which it is not known how an
            int8 file computes it, such as BatchNormalization, which the file holds folded
            into a convolution; or the calibration's shape is not the model's.

    Example:

    ```python
    student = kd.quantization_aware(student, train_images[:500])
    distiller = kd.Distiller(teacher, student, "kd")
    distiller.compile(keras.optimizers.Adam(1e-4), loss)
    distiller.fit(train_ds, epochs=3)
    kd.export(distiller, "student.tflite", "litert", quantization="int8",
              calibration=train_images[:500], examples=(test_images, test_labels))
    ```
    """
    # In float32 it is a copy already.
    single = in_float32(_check(model))
    single = copy_model(single) if single is model else single
    last = {x._keras_history.operation.name for x in single.outputs}

    def wrapped(layer):
        if isinstance(layer, _AS_THEY_ARE):
            return layer
        return FakeQuantized(layer, layer.name in last, name=layer.name)

    aware = keras.models.clone_model(single, clone_function=wrapped)
    _calibrate(aware, calibration)
    return aware


def without_fake_quantization(model):
    """The plain model of a quantisation-aware one, with a copy of its weights.

    Args:
        model: A `keras.Model`.

    Returns:
        `model` itself where nothing in it is quantised.
    """
    if not any(isinstance(layer, FakeQuantized) for layer in model.layers):
        return model
    return keras.models.clone_model(copy_model(model), clone_function=_inner)


def int8_kernel(kernel, channel_axes=1):
    """A kernel rounded to int8, symmetrically, each output channel for itself.

    Args:
        kernel: (..., channels).
        channel_axes: How many of the last axes number the output channels.

    Returns:
        (..., channels): each a whole number from -127 to 127, times its channel's largest
        weight, times 1 / 127. The gradient is as if nothing had been rounded.
    """
    shape = kernel.shape
    channels = 1
    for size in shape[len(shape) - channel_axes :]:
        channels *= size
    flat = ops.reshape(kernel, (-1, channels))
    # A channel of zeros has no scale.
    highest = ops.maximum(ops.max(ops.abs(flat), axis=0), keras.config.epsilon())
    rounded = keras.quantizers.fake_quant_with_min_max_vars(
        flat, -highest, highest, narrow_range=True, axis=-1
    )
    return kernel + ops.stop_gradient(ops.reshape(rounded, shape) - kernel)


@keras.saving.register_keras_serializable(package="keras_kd")
class Int8Range(layers.Layer):
    """Rounds values to 256 steps of a range that has zero among its steps.

    While `observes` is set, which works outside compiled functions alone, values pass as
    they are and widen the range. In training they widen it, too.
    """

    observes = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lowest = self._bound("lowest", 0.0)
        self.highest = self._bound("highest", keras.config.epsilon())

    def _bound(self, name, value):
        start = keras.initializers.Constant(value)
        return self.add_weight(shape=(), initializer=start, trainable=False, name=name)

    def call(self, inputs, training=None):
        if self.observes or training:
            self.lowest.assign(ops.minimum(self.lowest, ops.min(inputs)))
            self.highest.assign(ops.maximum(self.highest, ops.max(inputs)))
        if self.observes:
            return inputs
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, ops.convert_to_tensor(self.lowest), ops.convert_to_tensor(self.highest)
        )


@keras.saving.register_keras_serializable(package="keras_kd")
class FakeQuantized(layers.Wrapper):
    """A layer that computes on rounded inputs with rounded kernels.

    Args:
        layer: A layer of a kind that `quantization_aware` takes.
        rounds_outputs: Whether its outputs are rounded, too: those of the model's last
            layer.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, layer, rounds_outputs=False, **kwargs):
        super().__init__(layer, **kwargs)
        self.rounds_outputs = rounds_outputs
        self.inputs_range = Int8Range(name="inputs_range")
        if isinstance(layer, layers.SeparableConv2D):
            self.between_range = Int8Range(name="between_range")
        if rounds_outputs:
            self.outputs_range = Int8Range(name="outputs_range")

    def call(self, inputs, training=None):
        x = self.inputs_range(inputs, training=training)
        if isinstance(self.layer, layers.SeparableConv2D):
            x = self._separable(x, training)
        else:
            x = self._stateless(x)
        return self.outputs_range(x, training=training) if self.rounds_outputs else x

    def _kernel(self, kernel, channel_axes=1):
        # LiteRT calibrates the float model.
        if self.inputs_range.observes:
            return ops.convert_to_tensor(kernel)
        return int8_kernel(kernel, channel_axes)

    def _stateless(self, x):
        """The layer's own pass, with other kernels than it has."""
        # In a depthwise kernel (height, width, channels, multiplier) two axes number them.
        axes = 2 if isinstance(self.layer, layers.DepthwiseConv2D) else 1

        def rounded(variables):
            # A bias is kept in 32 bits.
            return [self._kernel(v, axes) if len(v.shape) > 1 else v for v in variables]

        outputs, _ = self.layer.stateless_call(
            rounded(self.layer.trainable_variables),
            rounded(self.layer.non_trainable_variables),
            x,
        )
        return outputs

    def _separable(self, x, training):
        """The two convolutions by themselves: what is between them is int8 as well."""
        layer = self.layer
        x = ops.depthwise_conv(
            x,
            self._kernel(layer.depthwise_kernel, 2),
            layer.strides,
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
        )
        x = self.between_range(x, training=training)
        kernel = self._kernel(layer.pointwise_kernel)
        x = ops.conv(x, kernel, data_format=layer.data_format)
        if layer.use_bias:
            first = layer.data_format == "channels_first"
            x += ops.reshape(layer.bias, (1, -1, 1, 1) if first else (1, 1, 1, -1))
        return layer.activation(x)

    def get_config(self):
        return {**super().get_config(), "rounds_outputs": self.rounds_outputs}


def _inner(layer):
    return layer.layer if isinstance(layer, FakeQuantized) else layer


def _check(model):
    """The model, if all its layers are known here."""
    if not symbolic_outputs(model):
        raise ValueError(
            "`model` must be a built keras.Model, Sequential or functional. Received: "
            f"{getattr(model, 'name', model)!r} of type {type(model).__name__}."
        )
    known = _WITH_KERNELS + _WITHOUT_KERNELS + _AS_THEY_ARE
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: the model {model.name!r} with "
            f"{len(model.inputs)}."
        )
    for layer in model.layers:
        # Not of a class derived from one of these, which may compute something else.
        if type(layer) not in known:
            raise ValueError(
                f"`model` has the layer {layer.name!r} of type {type(layer).__name__}, of "
                "which it is not known how an int8 file computes it. Known: "
                f"{', '.join(sorted(x.__name__ for x in known))}."
            )
    return model


def _calibrate(model, calibration):
    ranges = [x for x in model._flatten_layers() if isinstance(x, Int8Range)]
    first, batches = examples.first_and_all(calibration, "calibration")
    if first.shape[1:] != tuple(model.inputs[0].shape[1:]):
        raise ValueError(
            "`calibration` must be inputs of the model's shape, "
            f"{tuple(model.inputs[0].shape[1:])}. Received: {first.shape[1:]}."
        )
    for x in ranges:
        x.observes = True
    for inputs, _ in batches:
        model(examples.in_structure(model, inputs), training=False)
    for x in ranges:
        x.observes = False
