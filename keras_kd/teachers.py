"""Teachers of other kinds, each seen as one keras.Model: several models, a SavedModel.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

import math
import numbers
import re
import warnings

import keras
from keras import ops, tree

from keras_kd.kinds import log_probabilities, outputs_kind
from keras_kd.losses.arguments import check_positive
from keras_kd.losses.ops import log_softmax

_KINDS = ("logits", "probabilities")


@keras.saving.register_keras_serializable(package="keras_kd")
class Ensemble(keras.Model):
    """Several trained models as one teacher: the mean of their softened probabilities.

        output = T * log(sum_k w_k * softmax(logits_k / T))

    so that softmax(output / T) is that mean. It is taken in log space, and the output is
    logits whatever the models end in: a Distiller's `teacher_outputs` stays "logits".
    The models run in inference mode. A model of weight zero does not run.

    Args:
        models: `keras.Model`s with symbolic inputs (Functional, Sequential, another
            Ensemble) that take the same inputs (batch, ...) and give one output of the
            same shape, (batch, ..., num_classes).
        weights: One number >= 0 per model; they are divided by their sum. Defaults to
            equal weights.
        temperature: T > 0. Give the loss the same: at another temperature the soft
            targets are no longer exactly the mean. Defaults to 4.0, the default of
            `keras_kd.losses.SoftTargets`.
        outputs: "logits" or "probabilities", which is what all models give, or a list of
            one per model. By default logits, unless a model ends in a softmax; that is
            then said in a warning.
        name: Defaults to "ensemble".

    Raises:
        ValueError: An argument is of the wrong kind or out of range, or the models'
            inputs or outputs differ.

    Example:

    ```python
    teacher = keras_kd.teachers.Ensemble([first, second], weights=[2, 1], temperature=4.0)
    distiller = keras_kd.Distiller(teacher, student, SoftTargets(temperature=4.0))
    ```

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), section 1: soft targets
        of an ensemble are the "arithmetic or geometric mean" of its members'
        distributions; this is the arithmetic one.
    """

    def __init__(
        self, models, weights=None, temperature=4.0, outputs=None, name="ensemble"
    ):
        models = _check_models(models)
        mean = MeanOfProbabilities(
            models,
            weights=_check_weights(weights, count=len(models)),
            temperature=check_positive("temperature", temperature),
            outputs=_resolve_kinds(outputs, models),
        )
        inputs = _symbolic_input(models[0])
        super().__init__(inputs, mean(inputs), name=name)
        self._mean = mean

    def get_config(self):
        return self._mean.get_config() | {"name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**_with_models(config, custom_objects))


@keras.saving.register_keras_serializable(package="keras_kd")
class MeanOfProbabilities(keras.layers.Layer):
    """What an `Ensemble` computes; takes its arguments, all given and checked.

    It holds the models because a Functional model's own layers need different names.
    """

    def __init__(self, models, weights, temperature, outputs, name="mean"):
        # Each model casts its inputs as its own policy says.
        super().__init__(name=name, autocast=False)
        self.models = models
        self.model_weights = weights
        self.temperature = temperature
        self.outputs = outputs

    def call(self, inputs):
        members = zip(self.models, self.model_weights, self.outputs, strict=True)
        total = sum(self.model_weights)
        log_probs = [
            math.log(weight / total) + self._log_probs(model, inputs, kind)
            for model, weight, kind in members
            if weight > 0
        ]
        return self.temperature * ops.logsumexp(ops.stack(log_probs), axis=0)

    def _log_probs(self, model, inputs, kind):
        outputs = model(inputs, training=False)
        logits = log_probabilities(outputs) if kind == "probabilities" else outputs
        return log_softmax(logits, self.temperature)

    def get_config(self):
        return {
            "models": [keras.saving.serialize_keras_object(x) for x in self.models],
            "weights": list(self.model_weights),
            "temperature": self.temperature,
            "outputs": list(self.outputs),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**_with_models(config, custom_objects))


def _with_models(config, custom_objects):
    models = [
        keras.saving.deserialize_keras_object(x, custom_objects) for x in config["models"]
    ]
    return config | {"models": models}


def _check_models(models):
    """`models` as a list, if they can be averaged; else a ValueError."""
    if not isinstance(models, (list, tuple)):
        raise ValueError(
            f"`models` must be a list of at least one keras.Model. Received: {models!r}."
        )
    _check_each(models)
    _check_same("outputs", (model.outputs[0] for model in models))
    return list(models)


def _check_each(models):
    """Refuses models that cannot run side by side."""
    if not models:
        raise ValueError(
            f"`models` must be a list of at least one keras.Model. Received: {models!r}."
        )
    for i, model in enumerate(models):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"`models[{i}]` must be a keras.Model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
        if not getattr(model, "inputs", None):
            raise ValueError(
                f"`models[{i}]` must have symbolic inputs. Received: {model.name!r}, which "
                "is unbuilt or subclassed. Wrap it: inputs = keras.Input(shape); "
                "keras.Model(inputs, model(inputs))."
            )
        if len(model.outputs) != 1 or len(model.outputs[0].shape) < 2:
            raise ValueError(
                f"`models[{i}]` must have one output of shape (batch, ..., num_classes). "
                f"Received: {model.name!r} with {[tuple(x.shape) for x in model.outputs]}."
            )
    _check_same("inputs", map(_symbolic_input, models))


def _check_same(what, structures):
    received = [tree.map_structure(lambda x: tuple(x.shape), s) for s in structures]
    if any(shapes != received[0] for shapes in received):
        raise ValueError(
            f"`models` must have {what} of the same shapes. Received: "
            f"{', '.join(map(str, received))}."
        )


def _symbolic_input(model):
    # A Sequential model that was not called has `inputs` alone; others may take a dict.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _check_weights(weights, count):
    """`weights` as a list of `count` floats; else a ValueError."""
    if weights is None:
        weights = [1.0] * count
    is_list = isinstance(weights, (list, tuple)) and len(weights) == count
    if not is_list or not all(map(_is_weight, weights)) or sum(weights) == 0:
        raise ValueError(
            f"`weights` must hold one finite number >= 0 for each of the {count} models, "
            f"and not all zeros. Received: weights={weights!r}."
        )
    return list(map(float, weights))


def _is_weight(value):
    return isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0


def _resolve_kinds(outputs, models):
    """What each model gives, "logits" or "probabilities"; looks where it is not said."""
    kinds = outputs if isinstance(outputs, (list, tuple)) else [outputs] * len(models)
    if len(kinds) != len(models) or not all(x is None or x in _KINDS for x in kinds):
        raise ValueError(
            "`outputs` must be None, 'logits', 'probabilities', or a list of one for each "
            f"of the {len(models)} models. Received: outputs={outputs!r}."
        )
    found = [kind or outputs_kind(model) for kind, model in zip(kinds, models, strict=True)]
    soft = [
        model.name
        for kind, said, model in zip(found, kinds, models, strict=True)
        if kind == "probabilities" and said is None
    ]
    if soft:
        warnings.warn(
            f"`models` {', '.join(map(repr, soft))} end in a softmax, so their outputs are "
            "taken as probabilities p and averaged as they are. Say "
            "outputs='probabilities' to silence this, or outputs='logits' if it is wrong.",
            stacklevel=3,
        )
    return found


@keras.saving.register_keras_serializable(package="keras_kd")
class Several(keras.Model):
    """Several trained models as one teacher, each to be compared by losses of its own.

    Its outputs are a list of theirs, of one model its own. A loss taps one of the models by
    the path in `taps`, and a layer inside that model by what follows:
    "first/resnet/block3". The models run in inference mode.

    Args:
        models: dict of name to `keras.Model`, with symbolic inputs and one output each;
            they take the same inputs, and may give outputs of another shape.
        name: Defaults to "several".

    Attributes:
        taps: dict of the same names to the path of each model.

    Raises:
        ValueError: An argument is of the wrong kind, or the models' inputs differ.

    Example:

    ```python
    teacher = keras_kd.teachers.Several({"a": first, "b": second})
    losses = [SoftTargets(4.0, taps=(path, None)) for path in teacher.taps.values()]
    distiller = keras_kd.Distiller(teacher, student, losses)
    ```
    """

    def __init__(self, models, name="several"):
        if not isinstance(models, dict):
            raise ValueError(f"`models` must be a dict of models. Received: {models!r}.")
        wrong = [key for key in models if not re.fullmatch("[A-Za-z0-9_.-]+", str(key))]
        if wrong:
            raise ValueError(
                "The names of `models` are names of layers, of letters, digits and _.- "
                f"alone. Received: {wrong[0]!r}."
            )
        _check_each(list(models.values()))
        inputs = _symbolic_input(next(iter(models.values())))
        members = [Member(model, name=key) for key, model in models.items()]
        super().__init__(inputs, [member(inputs) for member in members], name=name)
        self.taps = {key: f"{key}/{model.name}" for key, model in models.items()}

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        models = {key: serialize(self.get_layer(key).model) for key in self.taps}
        return {"models": models, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = {
            key: keras.saving.deserialize_keras_object(x, custom_objects)
            for key, x in config["models"].items()
        }
        return cls(models, name=config["name"])


@keras.saving.register_keras_serializable(package="keras_kd")
class Member(keras.layers.Layer):
    """One model of a `Several`, under a name that the others do not have."""

    def __init__(self, model, name):
        # The model casts its inputs as its own policy says.
        super().__init__(name=name, autocast=False)
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=False)


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
            outputs is meant.
        NotImplementedError: Keras runs on another backend than TensorFlow.
    """
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
