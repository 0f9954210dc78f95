"""Several models as one teacher: the mean of what they answer.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015."""

import math
import warnings

import keras
from keras import ops

from keras_kd.losses.arguments import check_positive, is_finite_number
from keras_kd.losses.ops import (
    at_least_float32,
    log_odds,
    log_probabilities,
    log_sigmoids,
    log_softmax,
)
from keras_kd.losses.schedules import plain
from keras_kd.models.sharing import serialize_apart, share_weights, shared_layers
from keras_kd.models.symbolic import input_structure
from keras_kd.tasks.find import ACTIVATIONS, SaysItsTask, find_task
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

    Where each output is a yes or no of its own its sigmoids are averaged,

        output = T * (log sum_k w_k * sigmoid(z_k / T) - log sum_k w_k * sigmoid(-z_k / T))

    and of a regression the values.

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
        task: "multiclass", "binary", "multilabel" or "regression": what the outputs mean.
            Defaults to None: what the first model's last activation and units show;
            several units without an activation are "multiclass".

    Raises:
        ValueError: An argument is of the wrong kind or out of range, the models' inputs or
            outputs differ, or nothing shows the task, as of one unit without an activation.

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
        self,
        models,
        weights=None,
        temperature=4.0,
        outputs=None,
        name="ensemble",
        task=None,
    ):
        models = _check_models(models)
        task = _resolve_task(task, models[0])
        mean = MeanOfProbabilities(
            models,
            weights=_check_weights(weights, count=len(models)),
            temperature=check_positive("temperature", temperature),
            outputs=_resolve_kinds(outputs, models, ACTIVATIONS[task]),
            task=task,
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
class MeanOfProbabilities(SaysItsTask):
    """What an `Ensemble` computes; takes its arguments, all given and checked.

    It holds the models because a Functional model's own layers need different names.
    """

    def __init__(
        self, models, weights, temperature, outputs, name="mean", task="multiclass"
    ):
        # Each model casts its inputs as its own policy says.
        super().__init__(name=name, autocast=False)
        self.models = models
        self.model_weights = weights
        self.temperature = temperature
        self.outputs = outputs
        self.task = task

    def call(self, inputs):
        members = zip(self.models, self.model_weights, self.outputs, strict=True)
        total = sum(self.model_weights)
        shares, answers = zip(
            *(
                (weight / total, self._answers(model, inputs, kind))
                for model, weight, kind in members
                if weight > 0
            ),
            strict=True,
        )
        if ACTIVATIONS[self.task] is None:
            return sum(x * y for x, y in zip(shares, answers, strict=True))
        if ACTIVATIONS[self.task] == "softmax":
            return self.temperature * _log_mean(shares, answers)
        yes, no = (_log_mean(shares, x) for x in zip(*answers, strict=True))
        return self.temperature * (yes - no)

    def _answers(self, model, inputs, kind):
        """Values; or log-probabilities, softened; of a yes or no two of them."""
        inputs = inputs_for(model, self.models[0], inputs)
        outputs = alone(model(inputs, training=False))
        activation = ACTIVATIONS[self.task]
        if activation is None:
            return at_least_float32(outputs)
        if kind == "probabilities":
            as_logits = log_odds if activation == "sigmoid" else log_probabilities
            outputs = as_logits(outputs)
        log_probs = log_sigmoids if activation == "sigmoid" else log_softmax
        return log_probs(outputs, self.temperature)

    def get_config(self):
        return {
            "models": list(map(serialize_apart, self.models)),
            **shared_layers(dict(enumerate(self.models))),
            "weights": list(self.model_weights),
            "temperature": self.temperature,
            "outputs": list(self.outputs),
            "name": self.name,
            # As earlier versions wrote it, which knew one task.
            **({} if self.task == "multiclass" else {"task": self.task}),
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


def _log_mean(shares, log_probs):
    shared = [math.log(x) + y for x, y in zip(shares, log_probs, strict=True)]
    return ops.logsumexp(ops.stack(shared), axis=0)


def _resolve_task(said, model):
    """The task, said or shown; a ValueError where nothing shows it."""
    task, _ = find_task(model, said=said)
    if task is None:
        raise ValueError(
            "`task` must be said of models of one unit without an activation, a yes or no "
            f"or a value. Received: task=None, and {model.name!r} of outputs "
            f"{tuple(model.outputs[0].shape)}."
        )
    return task


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


def _resolve_kinds(outputs, models, activation):
    """What each model gives, "logits" or "probabilities"; looks where it is not said."""
    outputs = plain(outputs)
    kinds = outputs if isinstance(outputs, (list, tuple)) else [outputs] * len(models)
    if len(kinds) != len(models) or not all(x is None or x in _KINDS for x in kinds):
        raise ValueError(
            "`outputs` must be None, 'logits', 'probabilities', or a list of one for each "
            f"of the {len(models)} models. Received: outputs={outputs!r}."
        )
    found = [
        kind or outputs_kind(model, activation)
        for kind, model in zip(kinds, models, strict=True)
    ]
    soft = [
        model.name
        for kind, said, model in zip(found, kinds, models, strict=True)
        if kind == "probabilities" and said is None
    ]
    # Of sigmoids the task has said it.
    if soft and activation == "softmax":
        warnings.warn(
            f"`models` {', '.join(map(repr, soft))} end in a {activation}, so their "
            "outputs are taken as probabilities p and averaged as they are. Say "
            "outputs='probabilities' to silence this, or outputs='logits' if it is wrong.",
            stacklevel=3,
        )
    return found
