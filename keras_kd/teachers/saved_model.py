"""A TensorFlow SavedModel as a teacher."""

import keras


def from_saved_model(
    path, call_endpoint="serving_default", output=None, name="saved_model"
):
    """A teacher from a TensorFlow SavedModel, in the inference mode it was saved in.

    Nothing is known of its layers, so none can be tapped. Whether it ends in a softmax is
    seen from its answers; `teacher_outputs` says it to the Distiller beforehand.

    Keras's safe mode refuses SavedModels inside `.keras` files. So save a Distiller with
    `include_teacher=False`, and load it with `keras_kd.load_distiller` and this teacher.

    Args:
        path: Folder of the SavedModel, as `keras.Model.export` or `tf.saved_model.save`
            wrote it. Only one you trust: TensorFlow runs its graph as it is.
        call_endpoint: Name of a signature. Defaults to "serving_default", which both of
            the above write.
        output: Name of one of the signature's outputs. May be None where it has one.
        name: Defaults to "saved_model".

    Returns:
        A Functional `keras.Model` of the signature's input and output shapes, on the
        SavedModel's own variables. A signature of several inputs gives a model that takes
        a dict of them by name. It has no weights if they are constants of the graph.

    Raises:
        OSError: There is no SavedModel.
        ValueError: There is no such signature, or `output` does not say which of its
            outputs is meant, or Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras is on {keras.backend.backend()}, and a SavedModel teaches on "
            "TensorFlow alone. Let it answer in a process with KERAS_BACKEND=tensorflow, "
            "and give its answers to keras_kd.with_teacher_outputs. Received: "
            f"path={str(path)!r}."
        )
    layer = SavedModelSignature(
        str(path), call_endpoint, output, trainable=False, name=name
    )
    _, specs = layer.call_endpoint_fn.structured_input_signature
    inputs = {
        key: keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name=key)
        for key, spec in specs.items()
    }
    one_or_all = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return keras.Model(one_or_all, layer(inputs), name=name)


@keras.saving.register_keras_serializable(package="keras_kd")
class SavedModelSignature(keras.layers.TFSMLayer):
    """A signature of a SavedModel as a layer: a dict of tensors in, one of its outputs out.

    Its arguments are those of `from_saved_model`, and of `keras.layers.TFSMLayer`.
    """

    def __init__(self, filepath, call_endpoint, output=None, **kwargs):
        super().__init__(filepath, call_endpoint=call_endpoint, **kwargs)
        signatures = self._reloaded_obj.signatures
        if call_endpoint not in signatures:
            raise ValueError(
                f"`call_endpoint` must name a signature of {filepath}: "
                f"{', '.join(map(repr, signatures))}. Received: {call_endpoint!r}."
            )
        # TFSMLayer prefers another function of that name, which tells no shapes.
        self.call_endpoint_fn = signatures[call_endpoint]
        names = sorted(self.call_endpoint_fn.structured_outputs)
        if output is None and len(names) == 1:
            (output,) = names
        if output not in names:
            raise ValueError(
                f"`output` must name one of the outputs of {call_endpoint!r} in "
                f"{filepath}: {', '.join(map(repr, names))}. Received: output={output!r}."
            )
        self.output_key = output
        # A signature takes its own dtypes alone, whatever Keras's global policy is.
        self.autocast = False

    def call(self, inputs):
        return self.call_endpoint_fn(**inputs)[self.output_key]

    def get_config(self):
        return super().get_config() | {"output": self.output_key}

    @classmethod
    def from_config(cls, config, custom_objects=None, safe_mode=None):
        try:
            return super().from_config(config, custom_objects, safe_mode)
        except ValueError as error:
            raise ValueError(
                f"{error}\nA Distiller with this teacher is better saved with "
                "include_teacher=False, and loaded with keras_kd.load_distiller."
            ) from error
