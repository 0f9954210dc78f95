"""Logit standardization: soft targets of logits brought to mean 0 and deviation 1.

Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import at_least_float32, kl_divergence, log_softmax, norm
from keras_kd.losses.shapes import check_classes

# Of the authors' code: added to the standard deviation.
EPSILON = 1e-7


def logit_std(
    teacher_logits, student_logits, *, temperature=2.0, multiplier=None, unbiased=True
):
    """Soft targets of standardized logits, one value per example.

    With z(x) = (x - mean(x)) / (std(x) + 1e-7) over the classes of each example:

        loss_i = multiplier * KL(softmax(z(teacher_i) / T) || softmax(z(student_i) / T))

    It is zero where the student's logits are the teacher's times any positive number.

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax; three classes or
            more, as of two standardized logits the signs alone are left.
        student_logits: The same shape.
        temperature: T > 0.
        multiplier: A number > 0, or None for T**2.
        unbiased: Whether std divides by num_classes - 1, else by num_classes.

    Returns:
        (batch, ...), float32 (float64 for float64 logits).

    Raises:
        ValueError: There are fewer than three classes.

    Reference:
        [Sun et al., 2024](https://arxiv.org/abs/2403.01427), algorithm 1.
    """
    check_classes("logit_std", teacher_logits.shape, 3)
    log_probs = [
        log_softmax(_standardize(x, unbiased), temperature)
        for x in (teacher_logits, student_logits)
    ]
    multiplier = temperature**2 if multiplier is None else multiplier
    return multiplier * kl_divergence(*log_probs)


def _standardize(logits, unbiased):
    logits = at_least_float32(logits)
    deviation = logits - ops.mean(logits, axis=-1, keepdims=True)
    degrees_of_freedom = logits.shape[-1] - (1 if unbiased else 0)
    std = norm(deviation, axis=-1) / degrees_of_freedom**0.5
    return deviation / (std[..., None] + EPSILON)


@keras.saving.register_keras_serializable(package="keras_kd")
class LogitStd(PerExampleLoss):
    """Logit standardization of Sun et al. 2024; identifier `"logit_std"`.

        loss_i = T**2 * KL(softmax(z(teacher_i) / T) || softmax(z(student_i) / T))
        z(x) = (x - mean(x)) / (std(x) + 1e-7), over the classes of one example

    Values and defaults are those of the authors' repository,
    sunshangquan/logit-standardization-KD (mdistiller/distillers/KD.py), which trains with
    nine times this loss: give the Distiller `distillation_loss_weights`, or here
    `multiplier=36.0`. Its folder CTKD leaves out the 1e-7, its tiny-transformers take 1e-6,
    which matters for nearly constant logits alone.

    Args:
        temperature: T > 0. Defaults to 2.0.
        multiplier: What the divergence is multiplied by, > 0. Defaults to None, T**2.
        unbiased: True (default) for a std that divides by num_classes - 1, PyTorch's and
            so that of the authors' code; False for one that divides by num_classes.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: A number is not finite or not > 0, `unbiased` is not True or False, or
            `taps` is not one pair. In use: there are fewer than three classes.

    Example:

    >>> loss = LogitStd()
    >>> teacher, student = [[3.0, 1.0, -1.0]], [[30.0, 10.0, -10.0]]
    >>> round(float(loss.compute_loss(teacher, student)), 6)
    0.0

    Reference:
        [Sun et al., 2024](https://arxiv.org/abs/2403.01427)
    """

    on_logits = True
    activations = ("softmax",)
    # Of two, standardized, the signs alone are left.
    least_classes = 3
    shift_invariant = True

    def __init__(self, temperature=2.0, multiplier=None, unbiased=True, taps=None):
        super().__init__(taps)
        self.temperature = check_positive("temperature", temperature)
        self.multiplier = multiplier
        if multiplier is not None:
            self.multiplier = check_positive("multiplier", multiplier)
        self.unbiased = check_choice("unbiased", unbiased, (True, False))

    def call(self, teacher_outputs, student_outputs, y_true):
        return logit_std(
            teacher_outputs,
            student_outputs,
            temperature=self.temperature,
            multiplier=self.multiplier,
            unbiased=self.unbiased,
        )
