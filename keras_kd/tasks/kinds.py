"""Logits or probabilities: what a model's outputs are, as its own answers show."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_kd.losses.ops import log_odds, log_probabilities
from keras_kd.losses.schedules import plain
from keras_kd.models.given_outputs import asks_a_function
from keras_kd.models.probe import (
    any_weights,
    low_biases,
    other_biases,
    probe_inputs,
    probe_like,
)
from keras_kd.models.taps import Taps
from keras_kd.tasks.find import (
    across_units,
    check_ending,
    last_activation,
    own_units,
    says_logits,
)

KINDS = ("logits", "probabilities")

# How far a row may be from summing to 1: of a softmax in float32, and in 16 bits.
_ROUNDING, _ROUNDING_16 = 1e-3, 0.02
_EXAMPLES = 8


class OutputKinds:
    """What those of a model's outputs are that losses read as logits.

    They are probabilities where the model answers inputs of no meaning with numbers >= 0
    that sum to 1 over the last axis, whatever its last layer is. The model is asked as
    soon as its inputs are known: when the Distiller is made, or in the first step. Outputs
    of which each is a yes or no of its own (`need`, "sigmoid") are probabilities where the
    last layer is a sigmoid; and, where it does not say, where all are in [0, 1].

    Args:
        role: "teacher" or "student", the argument that messages name.
        model: A `keras.Model`.
        said: What the user says of the outputs, as `check_said` returns it.
        other: A model that takes the same inputs, in case its own are not known.

    Attributes:
        found: dict of a tapped layer's name, or None for the model's own outputs, to a
            kind, or to a list of one for each tensor where they differ.
        shows_negative: dict of the same names to a list of whether each tensor had a
            negative number.
    """

    def __init__(self, role, model, said=None, other=None):
        self.found = dict(said or {})
        self.shows_negative = {}
        self._role, self._model, self._other = role, model, other
        self._said = set(self.found)
        self._compared, self._open, self._sigmoids = set(), {}, set()

    def need(self, names, compared=True, activation="softmax"):
        """Has names to be looked at.

        Args:
            names: Of tapped layers; None is the model's own outputs.
            compared: Whether a loss reads them as logits.
            activation: "softmax" or "sigmoid", what makes probabilities of them; or None.
        """
        self._open |= dict.fromkeys(names)
        self._compared |= set(names if compared else ())
        if activation == "sigmoid":
            self._sigmoids |= set(names)

    def change(self, activation, names=(None,), units=None):
        """Has outputs looked at anew, as those of another activation.

        Args:
            activation: Of the student's.
            names: Of tapped layers; None is the model's own outputs.
            units: How many units the student's own outputs have, where it is known.
        """
        self._sigmoids -= set(names)
        for name in set(names) - self._said:
            self.found.pop(name, None)
        activation = across_units(activation, own_units(self._model), units)
        self.need(names, bool(self._compared & set(names)), activation)

    def is_open(self):
        """Whether something is not known yet."""
        return bool(self._open)

    def is_said(self, name):
        """Whether the user says what an output is."""
        return name in self._said

    def look(self, stacklevel=2):
        """Asks the model, where its inputs are known before it runs.

        Raises:
            ValueError: The outputs are not the probabilities that they are said to be.
        """
        inputs = probe_inputs(self._model, _EXAMPLES)
        if inputs is None and self._other is not None:
            inputs = probe_inputs(self._other, _EXAMPLES)
        if inputs is not None and all(x.built for x in self._model._flatten_layers()):
            self._look(inputs, stacklevel + 1)

    def look_in_step(self, x):
        """Asks the model in its first step, be it traced, about what is still open.

        Args:
            x: The model's inputs, tensors; their shapes and types alone are read.

        Raises:
            ValueError: As `look`.
        """
        self._look(probe_like(x, _EXAMPLES), stacklevel=2)
        self._settle()

    def check_ending(self, activation, task, units=None):
        """As `find.check_ending`, unless the user says what the outputs are."""
        activation = across_units(activation, own_units(self._model), units)
        if not self.is_said(None):
            check_ending(self._role, self._model, activation, task)

    def as_logits(self, name, outputs):
        """Outputs as a loss on logits takes them: of probabilities their logarithm."""
        if name not in self.found:
            self._settle()
        kinds = self.found[name]
        flat = tree.flatten(outputs)
        kinds = [kinds] * len(flat) if isinstance(kinds, str) else kinds
        to_logits = log_odds if name in self._sigmoids else log_probabilities
        logits = [
            to_logits(x) if kind == "probabilities" else x
            for x, kind in zip(flat, kinds, strict=True)
        ]
        return tree.pack_sequence_as(outputs, logits)

    def to_config(self):
        """What was said and found of what is compared: None, a kind or a list of pairs."""
        known = {
            name: kind
            for name, kind in self.found.items()
            if name in self._compared | self._said
        }
        if set(known) <= {None} and isinstance(known.get(None, ""), str):
            return known.get(None)
        return [[name, kind] for name, kind in known.items()]

    def _look(self, inputs, stacklevel):
        if not self._open or inputs is None:
            return
        answers = _answers(self._model, set(self._open), inputs, self._sigmoids)
        if answers is None:
            return
        for name in (self._sigmoids & answers.keys()) - self._said:
            # The last layer says it, where it is one that Keras knows.
            activation = last_activation(self._model, name)
            if activation is not None:
                is_sigmoid = activation == "sigmoid"
                answers[name] = [(is_sigmoid, negative) for _, negative in answers[name]]
        for name, tensors in answers.items():
            kinds = ["probabilities" if good else "logits" for good, _ in tensors]
            self.shows_negative[name] = [negative for _, negative in tensors]
            if name in self._said:
                self._check_said(name, kinds)
            else:
                same = len(set(kinds)) == 1
                self.found[name] = kinds[0] if same else kinds
                self._say(name, stacklevel + 1)
            del self._open[name]

    def _settle(self):
        """Decides by the last layer where the model could not be asked."""
        for name in self._open:
            if name in self._said or name in self.found:
                continue
            wanted = "sigmoid" if name in self._sigmoids else "softmax"
            is_it = last_activation(self._model, name) == wanted
            self.found[name] = "probabilities" if is_it else "logits"
            self._say(name, stacklevel=4)
            is_clear = is_it or says_logits(self._model, name)
            if name in self._compared and not is_clear:
                warnings.warn(
                    f"Whether the outputs of `{self._role}` {self._model.name!r} are "
                    "logits could not be seen, and they are taken as such. Say "
                    f"{self._how_to_say(name, 'logits')} to silence this, or "
                    f"{self._how_to_say(name, 'probabilities')} if it is wrong.",
                    stacklevel=4,
                )
        self._open = {}

    def _say(self, name, stacklevel):
        # That one ends in sigmoids the task has said.
        is_said = name not in self._compared or name in self._sigmoids
        if is_said or "probabilities" not in self.found[name]:
            return
        where = "" if name is None else f" at {name!r}"
        warnings.warn(
            f"`{self._role}` {self._model.name!r} ends in a softmax{where}, so its outputs "
            "are taken as probabilities p and compared as log(p). Say "
            f"{self._how_to_say(name, 'probabilities')} to silence this, or "
            f"{self._how_to_say(name, 'logits')} if it is wrong.",
            stacklevel=stacklevel + 1,
        )

    def _check_said(self, name, kinds):
        said = self.found[name]
        said = [said] * len(kinds) if isinstance(said, str) else said
        if any(a == "probabilities" != b for a, b in zip(said, kinds, strict=False)):
            where = "" if name is None else f" at {name!r}"
            raise ValueError(
                f"The outputs of `{self._role}` {self._model.name!r}{where} are no "
                "probabilities, as which they are taken: on inputs of its shape they are "
                "negative, or do not sum to 1 over the last axis. Received: "
                f"{self._how_to_say(name, 'probabilities')}."
            )

    def _how_to_say(self, name, kind):
        value = repr(kind) if name is None else f"{{{name!r}: {kind!r}}}"
        return f"{self._role}_outputs={value}"


def check_said(argument, value):
    """What a user says of a model's outputs, as a dict of name to kind.

    Args:
        argument: For the message.
        value: None, or a kind of the model's own outputs; or a dict of tapped layer (None
            is the model's own outputs) to kind, which `OutputKinds.to_config` writes as a
            list of pairs.

    Raises:
        ValueError: It is none of these.
    """
    given, value = value, plain(value)
    if value is None:
        return {}
    try:
        said = {None: value} if isinstance(value, str) else dict(value)
        kinds = [kind for x in said.values() for kind in tree.flatten(x)]
        names = [name for name in said if name is not None]
    except (TypeError, ValueError):
        kinds, names = [], [value]
    is_kind = [isinstance(kind, str) and kind in KINDS for kind in kinds]
    if not all(is_kind) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`{argument}` must be None or one of 'logits', 'probabilities', or a dict of "
            f"tapped layer to one of these. Received: {argument}={given!r}."
        )
    return said


def outputs_kind(model, activation="softmax"):
    """The kind of a model's one output, as its answers show, or else its last layer.

    Args:
        model: A `keras.Model` with symbolic inputs.
        activation: As `OutputKinds.need` takes it; of values it is "logits".
    """
    if activation is None:
        return "logits"
    kinds = OutputKinds("model", model)
    kinds.need([None], compared=False, activation=activation)
    kinds.look()
    kinds._settle()
    return kinds.found[None]


def _answers(model, names, inputs, sigmoids=()):
    """How a model answers: name to (are probabilities, has negative) of each tensor.

    None where it cannot run on such inputs, or answers with NaN. `sigmoids` are the names
    of outputs of which each is a yes or no of its own.
    """
    if asks_a_function(model):
        # A function is not asked about what has no meaning.
        return None
    for are_made_up in (False, True):
        # In a graph that makes the model's variables they have no values yet.
        weights = any_weights(model) if are_made_up else ()
        try:
            values = again = _run(model, names, inputs, weights)
            may_be = any(map(_may_be_sigmoids, tree.flatten(values)))
            if not are_made_up and may_be:
                # Two of 1/2 sum to 1 as a softmax does, but not with other biases.
                again = _run(model, names, inputs, other_biases(model))
            if not are_made_up and set(sigmoids) & names:
                # Small logits may all be in [0, 1], but not with biases far below.
                again = _run(model, names, inputs, low_biases(model))
        except Exception:  # Whatever a model raises about inputs that are no data.
            continue
        if all(np.isfinite(x).all() for x in tree.flatten([values, again])):
            rounding = _rounding(model)
            return {
                name: [
                    (
                        _are(x, rounding, name in sigmoids)
                        and _are(y, rounding, name in sigmoids),
                        bool((x < 0).any()),
                    )
                    for x, y in zip(
                        tree.flatten(values[name]), tree.flatten(again[name]), strict=True
                    )
                ]
                for name in names
            }
    return None


def _rounding(model):
    """How far a row of the model's softmax may be from summing to 1."""
    layers = model._flatten_layers()
    # A SavedModel does not tell in what its layers compute.
    unknown = any(isinstance(x, keras.layers.TFSMLayer) for x in layers)
    of_16_bits = any(x.compute_dtype in ("float16", "bfloat16") for x in layers)
    return _ROUNDING_16 if unknown or of_16_bits else _ROUNDING


def _are(values, rounding, are_sigmoids):
    """Whether these are probabilities: each by itself, or of all classes."""
    if are_sigmoids:
        return bool(((values >= 0) & (values <= 1)).all())
    return (
        values.ndim > 1
        and values.shape[-1] > 1
        and bool((values >= 0).all())
        and bool((abs(values.sum(axis=-1) - 1) < rounding).all())
    )


def _may_be_sigmoids(values):
    is_pair = values.ndim > 1 and values.shape[-1] == 2
    return is_pair and bool((abs(values - 0.5) < 0.1).all())


def _run(model, names, inputs, weights):
    """The answers by name, as NumPy arrays; nothing of the model is changed.

    Args:
        weights: (variable, value) of those that have another value meanwhile.
    """
    taps = Taps(model, names)

    def call(inputs):
        own, tapped = taps.call(inputs, training=False)
        return {name: own if name is None else tapped[name] for name in names}

    with contextlib.ExitStack() as stack:
        # What it warns of it will warn of again where it is used.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_outside_of_graphs())
        stack.enter_context(keras.StatelessScope(list(weights)))
        answers = _Apart(call)(tree.map_structure(_of_all_sizes, inputs))
        return tree.map_structure(_as_numpy, answers)


def _as_numpy(tensor):
    # NumPy does not know every type of Keras.
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")


def _of_all_sizes(inputs):
    """Numbers of rows from small ones to larger: few functions are the same for all."""
    if inputs.dtype.kind != "f":
        return inputs
    sizes = np.linspace(0.1, 1.0, len(inputs)).reshape(-1, *[1] * (inputs.ndim - 1))
    return (inputs * sizes).astype(inputs.dtype)


class _Apart(keras.layers.Layer):
    """Calls a model that is none of its layers: the model's losses of a step then stay."""

    def __init__(self, function):
        super().__init__(name="apart", autocast=False)
        self._function = function

    def call(self, inputs):
        return self._function(inputs)


@contextlib.contextmanager
def _outside_of_graphs():
    """Runs operations at once, also where a step is being traced."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            stack.enter_context(tf.init_scope())
        elif keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.ensure_compile_time_eval())
        yield
