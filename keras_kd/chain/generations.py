"""Born-again networks: generations of one architecture, each taught by the one before.

Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", 2018.
"""

import copy
import dataclasses
from pathlib import Path

import keras

from keras_kd.chain.chain import DistillationChain
from keras_kd.chain.result import Measuring
from keras_kd.chain.stage import Stage
from keras_kd.losses import SoftTargets
from keras_kd.losses.arguments import check_integer
from keras_kd.models.copies import untrained_copy
from keras_kd.models.given_outputs import asks_a_function
from keras_kd.teachers import Ensemble


def born_again(teacher, generations, epochs, distillation_losses=None, **stage_arguments):
    """A chain of students that have the teacher's architecture, and their ensemble.

    The result of its `fit` holds, behind the generations, "ensemble": the mean of their
    probabilities, as the paper's BANE; the given teacher is not in it.

    Args:
        teacher: A trained `keras.Model`. Students are copies of it with fresh weights,
            from Keras's global random state, where it learns. What it has not learned they
            keep: what its layers have adapted to data (the statistics of a
            Normalization, the vocabulary of a lookup layer), and the weights of frozen
            layers (`trainable=False`), which stay frozen. The moving statistics of a
            BatchNormalization that is not frozen start anew.
        generations: How many, 1 or more; the paper has up to 3 for images.
        epochs: Of each.
        distillation_losses: As `Stage` takes them. Defaults to soft targets at temperature
            1.0, the paper's.
        **stage_arguments: Others of `Stage`; each generation has an optimizer and losses
            of its own, made like the given ones.

    Returns:
        A `DistillationChain`.

    Raises:
        ValueError: `generations` is not an integer >= 1, `teacher` is no model or asks a
            function, is frozen as a whole or
            cannot be copied (see `keras_kd.models.copies.untrained_copy`), or as `Stage`.

    Example:

    ```python
    result = born_again(teacher, generations=3, epochs=12).fit(train_ds, val_ds)
    print(result.table())
    ```

    Reference:
        [Furlanello et al., 2018](https://arxiv.org/abs/1805.04770), sections 3.1 and 3.2.
    """
    generations = check_integer("generations", generations, 1)
    if not isinstance(teacher, keras.Model) or asks_a_function(teacher):
        raise ValueError(
            "`teacher` must be a keras.Model, whose architecture the generations have. A "
            "function, and outputs of which the model is not at hand, have none: build a "
            "DistillationChain with a Stage for each generation, of models of your own. "
            f"Received: {teacher!r}."
        )
    if distillation_losses is None:
        distillation_losses = SoftTargets(temperature=1.0)
    stages = [
        Stage(
            f"generation_{number}",
            untrained_copy(teacher),
            epochs,
            copy.deepcopy(distillation_losses),
            **stage_arguments | {"optimizer": _fresh(stage_arguments.get("optimizer"))},
        )
        for number in range(1, generations + 1)
    ]
    return _Generations(teacher, stages)


def _fresh(optimizer):
    if optimizer is None:
        return "adam"
    return (
        optimizer
        if isinstance(optimizer, str)
        else keras.optimizers.get(keras.optimizers.serialize(optimizer))
    )


class _Generations(DistillationChain):
    """A chain whose result has the ensemble of its students as the last model."""

    def fit(self, train_data, validation_data, run_dir=None, *args, **kwargs):
        result = super().fit(train_data, validation_data, run_dir, *args, **kwargs)
        # As they ship: in float32, of no strategy.
        models = [result.students[stage.name] for stage in self.stages]
        # Probabilities are averaged as they are served, unsoftened.
        how = self.stages[-1].measured_as(self.teacher)
        ensemble = Ensemble(models, temperature=1.0, task=how["task"])
        folder = None if run_dir is None else Path(run_dir)
        test_data = kwargs.get("test_data")
        test_data = validation_data if test_data is None else test_data
        measuring = Measuring(test_data, {"ensemble": how}, folder)
        row = measuring.measure(ensemble, "ensemble", "generations")
        result = dataclasses.replace(
            result,
            students=result.students | {"ensemble": ensemble},
            models=[*result.models, row],
        )
        if folder:
            result.write(folder)
        return result
