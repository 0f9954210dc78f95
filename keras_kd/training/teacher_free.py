"""Teacher-free distillation: a virtual teacher, made of the label alone.

Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label Smoothing
Regularization", 2020.
"""

import warnings

import keras
from keras import ops
from keras.src.backend import get_keras_mask, set_keras_mask

from keras_kd.losses.arguments import (
    check_choice,
    check_integer,
    check_not_negative,
    check_positive,
)
from keras_kd.losses.ops import (
    at_label,
    at_least_float32,
    kl_divergence,
    label_mask,
    log_probabilities,
    log_softmax,
    where_labelled,
)
from keras_kd.losses.shapes import check_two_classes
from keras_kd.losses.weights import labels_without_left_out, without_left_out


@keras.saving.register_keras_serializable(package="keras_kd")
class TeacherFreeLoss(keras.losses.Loss):
    """Tf-KD_reg of Yuan et al. 2020: labels, and a teacher that is 99 % sure of them.

        loss_i = -(1 - alpha) * log q_iy
               + alpha * multiplier * mean_c p_ic * (log p_ic - log q_ic)
        p_i = softmax(u_i / T), u_iy = correct_prob, u_ic = (1 - correct_prob) / (K - 1)

    with q = softmax(y_pred) of K classes and y the label. No model teaches, so it goes into
    any `compile(loss=...)`. (The paper's other half, self-training, is a
    `DistillationChain` whose stages have the teacher's architecture.)

    Values are those of the authors' repository, yuanli2333/Teacher-free-Knowledge-
    Distillation (my_loss_function.py), which takes the mean over the classes where a
    divergence is their sum, softens the virtual teacher's probabilities as if they were
    logits, and leaves the student unsoftened.

    Args:
        alpha: Weight of the virtual teacher, from 0 to 1.
        temperature: T > 0, of the virtual teacher.
        correct_prob: Its probability of the label, less than 1 and more than 0.
        multiplier: Of the divergence, > 0; the number of classes makes it the sum over
            them. The defaults, 0.1, 20.0, 0.99 and 100.0, are the repository's for ResNet18
            on CIFAR-100; its others have multiplier 1.0 for the most part.
        from_logits: Whether the model gives logits, not probabilities, as Keras's own
            cross-entropies ask. Defaults to True.
        reduction, name: As `keras.losses.Loss` takes them.
        ignore_class: An integer label of which there is no loss, as
            `keras.losses.SparseCategoricalCrossentropy` takes it. Defaults to None.

    Raises:
        ValueError: A number is out of range. In use: there is one class alone, or labels of
            another shape.

    Example:

    >>> loss = TeacherFreeLoss(alpha=1.0, multiplier=2.0, temperature=1.0, correct_prob=0.5)
    >>> float(loss([1], [[0.0, 0.0]]))
    0.0

    Reference:
        [Yuan et al., 2020](https://arxiv.org/abs/1909.11723), section 5.2.
    """

    def __init__(
        self,
        alpha=0.1,
        temperature=20.0,
        correct_prob=0.99,
        multiplier=100.0,
        reduction="sum_over_batch_size",
        name="teacher_free_loss",
        from_logits=True,
        ignore_class=None,
    ):
        super().__init__(name=name, reduction=reduction)
        self.alpha = check_not_negative("alpha", alpha)
        self.temperature = check_positive("temperature", temperature)
        self.correct_prob = check_positive("correct_prob", correct_prob)
        self.multiplier = check_positive("multiplier", multiplier)
        self.from_logits = check_choice("from_logits", from_logits, (True, False))
        self.ignore_class = ignore_class
        if ignore_class is not None:
            self.ignore_class = check_integer("ignore_class", ignore_class)
        if self.alpha > 1 or self.correct_prob >= 1:
            raise ValueError(
                "`alpha` must be at most 1, and `correct_prob` less than 1. "
                f"Received: alpha={alpha!r}, correct_prob={correct_prob!r}."
            )

    def call(self, y_true, y_pred):
        """One value per example, (batch, ...).

        Args:
            y_true: (batch, ...), integer labels; one-hot labels are taken, too.
            y_pred: (batch, ..., num_classes), raw, no softmax, where `from_logits`; two
                classes or more.
        """
        if self.from_logits and hasattr(y_pred, "_keras_logits"):
            # Keras marks what its softmax gives, and its own losses look for it.
            warnings.warn(
                "TeacherFreeLoss takes logits and was given what a softmax gives. Give "
                "it from_logits=False, or leave the softmax out.",
                stacklevel=2,
            )
        kept = self._kept(y_true, y_pred)
        logits = at_least_float32(y_pred)
        if kept is not None:
            weights = ops.cast(kept, "float32")
            y_true = labels_without_left_out(weights, y_true, logits)
            (logits,) = without_left_out(weights, logits)
        logits = logits if self.from_logits else log_probabilities(logits)
        check_two_classes("TeacherFreeLoss", logits.shape)
        num_classes = logits.shape[-1]
        mask = label_mask(y_true, logits)
        others = (1 - self.correct_prob) / (num_classes - 1)
        virtual = ops.where(mask, self.correct_prob, others)
        teacher = log_softmax(ops.cast(virtual, logits.dtype), self.temperature)
        student = log_softmax(logits)
        divergence = kl_divergence(teacher, student) / num_classes
        hard = -at_label(mask, student)
        value = (1 - self.alpha) * hard + self.alpha * self.multiplier * divergence
        value = where_labelled(mask, value)
        if kept is not None:
            # From where Keras's reduction takes it.
            set_keras_mask(value, mask=kept)
        return value

    def _kept(self, y_true, y_pred):
        """Which examples or positions have a loss, bool (batch, ...); None for all."""
        kept, shape = get_keras_mask(y_pred), ops.shape(y_pred)[:-1]
        if self.ignore_class is None:
            return kept
        labels = ops.reshape(ops.convert_to_tensor(y_true), shape)
        has_label = ops.not_equal(labels, ops.cast(self.ignore_class, labels.dtype))
        return has_label if kept is None else ops.logical_and(kept, has_label)

    def get_config(self):
        return super().get_config() | {
            "alpha": self.alpha,
            "temperature": self.temperature,
            "correct_prob": self.correct_prob,
            "multiplier": self.multiplier,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }
