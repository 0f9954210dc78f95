"""Transformed teacher matching: the teacher is softened by a power, the student not.

Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024.
"""

import keras
from keras import ops

from keras_kd.losses.arguments import check_choice, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.ops import kl_divergence, log_softmax


def ttm(teacher_logits, student_logits, *, exponent=0.1, weighted=False):
    """Divergence from the teacher's transformed output, one value per example.

    With p = softmax(teacher), q = softmax(student), and the teacher's power transform
    P_c = p_c**exponent / power_sum, where power_sum = sum_c p_c**exponent:

        weighted=False (TTM):   loss_i = KL(P || q)
        weighted=True (WTTM):   loss_i = power_sum * KL(P || q)

    P is softmax(teacher / T) of T = 1 / exponent. Unlike soft targets, the student is not
    softened, and there is no factor T**2.

    Args:
        teacher_logits: (batch, ..., num_classes), raw, no softmax.
        student_logits: The same shape.
        exponent: gamma of the paper, > 0; below 1 it softens, 1 changes nothing.
        weighted: Whether smoother teacher outputs count more, by their power sum, which for
            exponents below 1 is between 1 and num_classes**(1 - exponent).

    Returns:
        (batch, ...), float32 (float64 for float64 logits).

    Reference:
        [Zheng and Yang, 2024](https://arxiv.org/abs/2402.11148)
    """
    powers = exponent * log_softmax(teacher_logits)
    divergence = kl_divergence(log_softmax(powers), log_softmax(student_logits))
    if not weighted:
        return divergence
    return ops.exp(ops.logsumexp(powers, axis=-1)) * divergence


@keras.saving.register_keras_serializable(package="keras_kd")
class TTM(PerExampleLoss):
    """Transformed teacher matching of Zheng and Yang 2024; identifier `"ttm"`.

        loss_i = KL(p_i**exponent / power_sum_i || softmax(student_i))
        power_sum_i = sum_c p_ic**exponent, with p_i = softmax(teacher_i)

    With `weighted=True`, the paper's WTTM, loss_i is multiplied by power_sum_i. Either is
    zero where the student is as soft as the transformed teacher, so not where it agrees
    with the teacher, unless the exponent is 1.

    Values are those of the authors' repository, zkxufo/TTM (distiller_zoo/ttm.py and
    wttm.py). Its example of TTM trains with 45 times this loss, at this exponent: see the
    Distiller's `distillation_loss_weights`.

    Args:
        exponent: > 0, one over a temperature for the teacher alone. Defaults to 0.1, of the
            repository's example of TTM; its example of WTTM has 0.2. Its `--ttm_l` left
            out is 1.
        weighted: False (default) for TTM, True for WTTM.
        taps: As `SoftTargets` takes them.

    Raises:
        ValueError: `exponent` is not a finite number > 0, `weighted` is not True or False,
            or `taps` is not one pair. In use: there is one class alone.

    Example:

    >>> loss = TTM(exponent=0.5)
    >>> float(loss.compute_loss([[4.0, 0.0]], [[2.0, 0.0]]))
    0.0

    Reference:
        [Zheng and Yang, 2024](https://arxiv.org/abs/2402.11148)
    """

    on_logits = True
    activations = ("softmax",)
    least_classes = 2
    shift_invariant = True

    def __init__(self, exponent=0.1, weighted=False, taps=None):
        super().__init__(taps)
        self.exponent = check_positive("exponent", exponent)
        self.weighted = check_choice("weighted", weighted, (True, False))
        self.zero_at_agreement = self.smallest_at_agreement = self.exponent == 1.0

    def call(self, teacher_outputs, student_outputs, y_true):
        return ttm(
            teacher_outputs,
            student_outputs,
            exponent=self.exponent,
            weighted=self.weighted,
        )
