"""The recipe of one call: what is decided, as a table that does it again."""

from keras_kd.recipes.recipe import AS_JSON, Recipe
from keras_kd.tasks.find import ACTIVATIONS

STUDENT, ALONE = "student", "student_alone"

# Of pixels of 28 in a row; others by their size.
_SHIFT, _SIZE = 1.5, 28
_RATE = 0.003


def recipe_of(
    dataset,
    task,
    model,
    plan,
    *,
    temperature,
    labels,
    baseline,
    seed,
    steps,
    image_size=None,
    **more,
):
    """The `Recipe` of a student, and of the same one on labels alone.

    Args:
        dataset: As a recipe has it, a dict or a name.
        task: Of the outputs.
        model: As a stage of a recipe has it.
        plan: A `keras_kd.distillation.plan.Plan`.
        temperature: Of the teacher's answers, where they are no values.
        labels: Whether the student learns from labels, too.
        baseline: Whether there is a student on labels alone.
        seed: The recipe's.
        steps: Of an epoch.
        image_size: (height, width) of images, where there are views.
        **more: What else a recipe holds, as it is.
    """
    stages = [
        _stage(STUDENT, model, task, plan.epochs, steps, labels)
        | {
            "losses": [_loss(task, temperature)],
            "student_loss_weight": 0.1 if labels else 0.0,
        }
    ]
    if baseline:
        alone = _stage(ALONE, model, task, plan.epochs_alone, steps, labels)
        stages.append(alone)
    table = {"dataset": dataset, "seed": seed, "batch_size": plan.batch_size, **more}
    if plan.views:
        table["augmentation"] = augmentation(image_size) | {
            "views": plan.views,
            "stored": plan.stored,
        }
    return Recipe.model_validate(table | {"stage": stages})


def at_lower_rate(recipe, factor):
    """A recipe of `recipe_of` at a learning rate that is lower by a factor."""
    table = recipe.model_dump(**AS_JSON, exclude_unset=True)
    for stage in table["stage"]:
        stage["optimizer"]["learning_rate"]["warmup_target"] *= factor
    return Recipe.model_validate(table)


def augmentation(image_size):
    """Mild changes that leave a photograph, a digit or a garment what it is."""
    shift = round(_SHIFT * min(image_size) / _SIZE, 1)
    return {
        "shift": shift,
        "rotation": 5.0,
        "scale": 0.1,
        "shear": 0.05,
        "elastic_alpha": 0.0,
    }


def _stage(name, model, task, epochs, steps, labels):
    total = max(epochs * steps, 2)
    warm_up = max(total // 20, 1)
    schedule = {
        "schedule": "CosineDecay",
        "initial_learning_rate": 0.0,
        "warmup_target": _RATE,
        "warmup_steps": warm_up,
        "decay_steps": total - warm_up,
    }
    # Which epoch is left in the end is said by validation.
    monitor = "val_accuracy" if task == "multiclass" and labels else "val_loss"
    return {
        "name": name,
        "model": model,
        "task": task,
        "epochs": epochs,
        "optimizer": {"name": "adamw", "learning_rate": schedule, "weight_decay": 0.01},
        "restore_best": True,
        "monitor": monitor,
    }


def _loss(task, temperature):
    if ACTIVATIONS[task] is None:
        return {"name": "logit_mse"}
    return {"name": "kd", "temperature": temperature}
