"""Soft targets: the student matches the teacher's softened probabilities.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

import copy

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import (
    bernoulli_cross_entropy,
    bernoulli_kl,
    cross_entropy,
    kl_divergence,
    log_sigmoids,
    log_softmax,
)

FORMS = ("kl", "cross_entropy")
ACTIVATIONS = ("softmax", "sigmoid")


def soft_targets(
    teacher_logits, student_logits, *, temperature=4.0, form="kl", activation="softmax"
):
    """Divergence between softened outputs, one value per example.

    With p = softmax(teacher / T) and q = softmax(student / T):

        form="kl":             loss_i = T**2 * sum_c p_c * (log p_c - log q_c)
        form="cross_entropy":  loss_i = -T**2 * sum_c p_c * log q_c

    The two differ by T**2 times the teacher's entropy, in which the student has no part:
    their gradient with respect to the student is the same. T**2 keeps that gradient's
    size about the same at every temperature (section 2.1 of the paper).

    With activation="sigmoid" each output k is a yes or no of its own, and with
    p_k = sigmoid(teacher_k / T) and q_k = sigmoid(student_k / T):

        form="kl":             loss_i = T**2 * mean_k KL(Bernoulli(p_k) || Bernoulli(q_k))
        form="cross_entropy":  loss_i = -T**2 * mean_k(p_k log q_k + (1 - p_k) log(1 - q_k))

    The mean over the outputs is that of Keras's `BinaryCrossentropy`, beside which it
    stands.

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax.
        student_logits: The same shape.
        temperature: T > 0. 4.0 is the value of the published MNIST experiment.
        form: "kl", zero where teacher and student agree and never negative, or
            "cross_entropy", the published experiment's.
        activation: "softmax", one of the classes; "sigmoid", each output by itself.

    Returns:
        (batch, ...), float32 (float64 for float64 logits).

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), equation 1.
    """
    log_probs, kl, entropy = log_softmax, kl_divergence, cross_entropy
    if activation == "sigmoid":
        log_probs, kl, entropy = log_sigmoids, bernoulli_kl, bernoulli_cross_entropy
    teacher = log_probs(teacher_logits, temperature)
    student = log_probs(student_logits, temperature)
    value = entropy(teacher, student) if form == "cross_entropy" else kl(teacher, student)
    if activation == "sigmoid":
        value = ops.mean(value, axis=-1)
    return temperature**2 * value


@keras.saving.register_keras_serializable(package="keras_kd")
class SoftTargets(PerExampleLoss):
    """Soft targets of Hinton et al. 2015; identifier `"kd"`.

        loss_i = T**2 * KL(softmax(teacher_i / T) || softmax(student_i / T))

    Args:
        temperature: T > 0; higher shows more of how the teacher ranks wrong classes.
            Defaults to 4.0, the published MNIST experiment's.
        form: "kl" (default) or "cross_entropy", the published experiment's: the same
            gradient, a value that is larger by T**2 times the teacher's entropy.
        taps: A pair of layer names, the teacher's first, whose outputs are the logits to
            compare, for models with several outputs. Defaults to the models' own outputs.
        activation: "softmax", where one class is right; "sigmoid", where each output is a
            yes or no of its own: of one unit, of several labels, of pixels. Defaults to
            None: what the Distiller's task says, and "softmax" by itself.

    Raises:
        ValueError: `temperature` is not a finite number > 0, `form` or `activation` is
            unknown, or `taps` is not one pair. In use: a softmax of one class alone.

    Example:

    >>> loss = SoftTargets(temperature=4.0)
    >>> float(loss.compute_loss([[3.0, 1.0]], [[3.0, 1.0]]))
    0.0

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    on_logits = True
    activations = ACTIVATIONS

    def __init__(self, temperature=4.0, form="kl", taps=None, activation=None):
        super().__init__(taps)
        self.temperature = check_positive("temperature", temperature)
        self.form = check_choice("form", form, FORMS)
        self.zero_at_agreement = form == "kl"
        self._settle(check_choice("activation", activation, (None, *ACTIVATIONS)))

    def call(self, teacher_outputs, student_outputs, y_true):
        return soft_targets(
            teacher_outputs,
            student_outputs,
            temperature=self.temperature,
            form=self.form,
            activation=self.activation or "softmax",
        )

    def get_config(self):
        config = super().get_config()
        if self.activation is None:
            # As earlier versions wrote it, whose runs go on.
            del config["activation"]
        return config

    def for_activation(self, activation):
        if self.activation is not None:
            return self
        chosen = copy.copy(self)
        chosen._settle(activation)
        return chosen

    def _settle(self, activation):
        self.activation = activation
        # A softmax of one unit is 1 whatever it answers; a sigmoid is not.
        self.shift_invariant = activation != "sigmoid"
        self.least_classes = 1 if activation == "sigmoid" else 2
