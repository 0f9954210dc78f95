"""The recipe of a call: valid, and what was decided."""

import pytest

from keras_kd.distillation.plan import Plan
from keras_kd.distillation.written import at_lower_rate, recipe_of

PLAN = Plan(32, views=2, stored=True, epochs=10, epochs_alone=5, minutes=1.0)
MODEL = {"family": "separable_cnn", "width": 8}


def made(task="multiclass", labels=True, plan=PLAN):
    return recipe_of(
        {"path": "photos", "image_size": [28, 56]},
        task,
        MODEL,
        plan,
        temperature=2.5,
        labels=labels,
        baseline=labels,
        seed=3,
        steps=40,
        image_size=(28, 56),
        teacher="teacher.keras",
        teacher_scale="imagenet",
    )


def test_a_student_and_the_same_one_alone():
    recipe = made()
    student, alone = recipe.stage
    assert (student.epochs, alone.epochs) == (10, 5)
    assert student.model == alone.model and student.model.width == 8
    assert [x.name for x in student.losses] == ["kd"] and not alone.losses
    assert student.losses[0].model_extra["temperature"] == 2.5
    assert (recipe.seed, recipe.batch_size, recipe.teacher_scale) == (3, 32, "imagenet")
    # A shift of 1.5 of 28 pixels, of the shorter side.
    views, deform = recipe.views_of(student)
    assert (views, deform.shift, deform.elastic_alpha) == (2, 1.5, 0.0)


@pytest.mark.parametrize("index, steps", [(0, 400), (1, 200)])
def test_the_rate_rises_and_falls_over_its_own_steps(index, steps):
    rate = made().stage[index].optimizer.make().learning_rate
    schedule = made().stage[index].optimizer.model_extra["learning_rate"]
    assert schedule["warmup_steps"] + schedule["decay_steps"] == steps
    assert float(made().stage[index].optimizer.make().learning_rate) == 0.0 == float(rate)


@pytest.mark.parametrize(
    "task, loss", [("binary", "kd"), ("multilabel", "kd"), ("regression", "logit_mse")]
)
def test_each_task_has_its_loss(task, loss):
    stage = made(task).stage[0]
    assert ([x.name for x in stage.losses], stage.monitor) == ([loss], "val_loss")


def test_without_labels_there_is_nothing_but_the_teacher():
    recipe = made(labels=False)
    (stage,) = recipe.stage
    # Nor anything that counts right answers in training.
    assert (stage.student_loss_weight, stage.monitor) == (0.0, "val_loss")


def test_a_lower_rate_is_all_that_changes():
    recipe = made()
    lower = at_lower_rate(recipe, 0.25)
    rates = [
        x.optimizer.model_extra["learning_rate"]["warmup_target"]
        for x in (*recipe.stage, *lower.stage)
    ]
    assert rates == pytest.approx([0.003, 0.003, 0.00075, 0.00075])
    again = at_lower_rate(lower, 4.0)
    assert again == recipe
