"""Soft targets: the student matches the teacher's softened probabilities.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

import keras

from keras_kd.losses.arguments import check_choice, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import cross_entropy, kl_divergence, log_softmax

FORMS = ("kl", "cross_entropy")


def soft_targets(teacher_logits, student_logits, *, temperature=4.0, form="kl"):
    """Divergence between softened outputs, one value per example.

    With p = softmax(teacher / T) and q = softmax(student / T):

        form="kl":             loss_i = T**2 * sum_c p_c * (log p_c - log q_c)
        form="cross_entropy":  loss_i = -T**2 * sum_c p_c * log q_c

    The two differ by T**2 times the teacher's entropy, in which the student has no part:
    their gradient with respect to the student is the same. T**2 keeps that gradient's
    size about the same at every temperature (section 2.1 of the paper).

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax.
        student_logits: The same shape.
        temperature: T > 0. 4.0 is the value of the published MNIST experiment.
        form: "kl", zero where teacher and student agree and never negative, or
            "cross_entropy", the published experiment's.

    Returns:
        (batch, ...), float32 (float64 for float64 logits).

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), equation 1.
    """
    teacher_log_probs = log_softmax(teacher_logits, temperature)
    student_log_probs = log_softmax(student_logits, temperature)
    if form == "cross_entropy":
        return temperature**2 * cross_entropy(teacher_log_probs, student_log_probs)
    return temperature**2 * kl_divergence(teacher_log_probs, student_log_probs)


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

    Raises:
        ValueError: `temperature` is not a finite number > 0, `form` is unknown, or `taps`
            is not one pair. In use: there is one class alone.

    Example:

    >>> loss = SoftTargets(temperature=4.0)
    >>> float(loss.compute_loss([[3.0, 1.0]], [[3.0, 1.0]]))
    0.0

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    on_logits = True
    least_classes = 2
    shift_invariant = True

    def __init__(self, temperature=4.0, form="kl", taps=None):
        super().__init__(taps)
        self.temperature = check_positive("temperature", temperature)
        self.form = check_choice("form", form, FORMS)
        self.zero_at_agreement = form == "kl"

    def call(self, teacher_outputs, student_outputs, y_true):
        return soft_targets(
            teacher_outputs,
            student_outputs,
            temperature=self.temperature,
            form=self.form,
        )
