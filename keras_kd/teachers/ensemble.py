"""Several models as one teacher: the mean of what they answer.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015."""

import math
import warnings

import keras
from keras import ops

from keras_kd.losses.arguments import check_positive, is_finite_number
from keras_kd.losses.ops import log_probabilities, log_softmax
from keras_kd.losses.schedules import plain
from keras_kd.models.sharing import serialize_apart, share_weights, shared_layers
from keras_kd.models.symbolic import input_structure
from keras_kd.tasks.heads import alone
from keras_kd.tasks.kinds import outputs_kind
from keras_kd.teachers.members import check_each, check_same, inputs_for

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

    Attributes:
        models: A list of them.

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
        inputs = input_structure(models[0])
        super().__init__(inputs, mean(inputs), name=name)
        self._mean = mean

    @property
    def models(self):
        """The models, a list."""
        return list(self._mean.models)

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
        inputs = inputs_for(model, self.models[0], inputs)
        outputs = alone(model(inputs, training=False))
        logits = log_probabilities(outputs) if kind == "probabilities" else outputs
        return log_softmax(logits, self.temperature)

    def get_config(self):
        return {
            "models": list(map(serialize_apart, self.models)),
            **shared_layers(dict(enumerate(self.models))),
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
    share_weights(dict(enumerate(models)), config)
    kept = {k: x for k, x in config.items() if k != "shared_layers"}
    return kept | {"models": models}


def _check_models(models):
    """`models` as a list, if they can be averaged; else a ValueError."""
    if not isinstance(models, (list, tuple)):
        raise ValueError(
            f"`models` must be a list of at least one keras.Model. Received: {models!r}."
        )
    check_each(models)
    check_same("outputs", [tuple(model.outputs[0].shape) for model in models])
    return list(models)


def _check_weights(weights, count):
    """`weights` as a list of `count` floats; else a ValueError."""
    given, weights = weights, plain(weights)
    if weights is None:
        weights = [1.0] * count
    is_list = isinstance(weights, (list, tuple)) and len(weights) == count
    if not is_list or not all(map(_is_weight, weights)) or sum(weights) == 0:
        raise ValueError(
            f"`weights` must hold one finite number >= 0 for each of the {count} models, "
            f"and not all zeros. Received: weights={given!r}."
        )
    return [float(plain(x)) for x in weights]


def _is_weight(value):
    return is_finite_number(value) and plain(value) >= 0


def _resolve_kinds(outputs, models):
    """What each model gives, "logits" or "probabilities"; looks where it is not said."""
    outputs = plain(outputs)
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
