"""Dense guidance: every earlier model of a chain teaches each student.

Son, Na, Choi, Hwang, "Densely Guided Knowledge Distillation using Multiple Teacher
Assistants", 2021.
"""

import copy
import dataclasses
import re

import keras
import numpy as np
from keras import ops

from keras_kd import losses, teachers
from keras_kd.losses.base import as_distillation_loss
from keras_kd.losses.layer_pairs import LayerPair
from keras_kd.losses.schedules import value_at
from keras_kd.training.checks import check_weights

# Steps after which the draws repeat: a prime, so that epochs do not fall in with them.
PERIOD = 10_007


def dense_stage(stage, models, drop_rate=0.0, seed=0):
    """A stage under one teacher as the same stage under several.

        total = student_loss_weight * student_loss
              + (1 - student_loss_weight) * sum_k b_k * sum(w_i * distillation_loss_ik)

    where k runs over the teachers, and b_k is 0 in the steps in which teacher k is dropped,
    else 1.

    Args:
        stage: A `keras_kd.Stage` with distillation losses.
        models: dict of name to teaching `keras.Model`; in the taps the name's number is
            added, so that any names will do.
        drop_rate: The probability, in [0, 1), that a teacher is dropped from a step.
        seed: Integer or a list of them, of the draws.

    Returns:
        `(stage, teacher)`: a new stage, and the `teachers.Several` that its losses tap.

    Raises:
        ValueError: The models are no teachers together, or a loss has its layers already.
    """
    given = stage.distillation_losses
    given = list(given) if isinstance(given, (list, tuple)) else [given]
    weights = check_weights(stage.distillation_loss_weights, count=len(given))
    teacher = teachers.Several(
        {
            f"{re.sub('[^A-Za-z0-9.-]', '_', name)}_{k}": model
            for k, (name, model) in enumerate(models.items())
        }
    )
    terms = [
        (_of_teacher(loss, path), _dropping(weight, k, len(models), drop_rate, seed))
        for k, path in enumerate(teacher.taps.values())
        for loss, weight in zip(given, weights, strict=True)
    ]
    stage = dataclasses.replace(
        stage,
        distillation_losses=[loss for loss, _ in terms],
        distillation_loss_weights=[weight for _, weight in terms],
    )
    return stage, teacher


def _of_teacher(loss, path):
    """A copy of the loss that taps, in the model at `path`, what it tapped before."""
    loss = copy.copy(as_distillation_loss(losses.get(loss)))
    if loss.layers:
        raise ValueError(
            f"{loss!r} has made its layers already, for one teacher. Give a new one."
        )
    pairs = loss.taps or ((None, None),)
    loss.taps = tuple(
        LayerPair(path if teacher is None else f"{path}/{teacher}", student)
        for teacher, student in pairs
    )
    return loss


def _dropping(weight, teacher, count, drop_rate, seed):
    if drop_rate == 0 or count == 1 or weight == 0:
        return weight
    return Survival(weight, teacher, count, drop_rate, seed)


@keras.saving.register_keras_serializable(package="keras_kd")
class Survival(keras.optimizers.schedules.LearningRateSchedule):
    """The weight of one teacher's loss, 0 in the steps in which the teacher is dropped.

    Each teacher is dropped from a step with the same probability, whatever becomes of the
    others; a step that would drop all keeps one of them, any with the same probability.
    The draws are a table, so they are the same in a graph and on any backend; it repeats
    after 10,007 steps.

    Args:
        weight: In the other steps: a number, or a schedule.
        teacher: Which of them, from 0.
        count: How many there are.
        drop_rate: The probability, in [0, 1).
        seed: Integer or a list of them; teachers of one student have the same.
    """

    def __init__(self, weight, teacher, count, drop_rate, seed):
        self.weight = weight
        self.teacher, self.count = teacher, count
        self.drop_rate, self.seed = drop_rate, seed
        rng = np.random.default_rng(seed)
        stays = rng.random((PERIOD, count)) >= drop_rate
        spared = rng.integers(count, size=PERIOD)
        (empty,) = np.nonzero(~stays.any(axis=1))
        stays[empty, spared[empty]] = True
        self._stays = stays[:, teacher].astype("float32")

    def __call__(self, step):
        stays = ops.take(self._stays, ops.mod(step, PERIOD), axis=0)
        return stays * value_at(self.weight, step)

    def get_config(self):
        return {
            "weight": keras.saving.serialize_keras_object(self.weight),
            "teacher": self.teacher,
            "count": self.count,
            "drop_rate": self.drop_rate,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        weight = keras.saving.deserialize_keras_object(config["weight"])
        return cls(**(config | {"weight": weight}))
