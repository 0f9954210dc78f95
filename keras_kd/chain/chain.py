"""Stages of distillation, each one's student the next one's teacher."""

import dataclasses
import difflib

from keras_kd.chain.carried import check_alone, is_given
from keras_kd.chain.dense import dense_stage
from keras_kd.chain.own_objects import own_objects, remember_training
from keras_kd.chain.run import run_chain
from keras_kd.chain.stage import named
from keras_kd.models.fingerprints import model_fingerprint
from keras_kd.models.given_outputs import GivenOutputs
from keras_kd.training.teacher_and_student import check_models


class DistillationChain:
    """Trains stages in order, each distilled student the next one's teacher.

    Teacher assistants between a large teacher and a small student are those of
    [Mirzadeh et al., 2020](https://arxiv.org/abs/1902.03393). Where all stages have the
    same architecture it is the self-training of
    [Yuan et al., 2020](https://arxiv.org/abs/1909.11723), and of born-again networks: see
    `keras_kd.born_again`.

    With `dense=True` every earlier distilled model and the given teacher teach each
    student, as in [Son et al., 2021](https://arxiv.org/abs/2009.08825). Each has its own
    copy of the stage's losses, and the terms are summed as in the authors' repository,
    wonchulSon/DGKD (whose `lamb` is 1 - student_loss_weight, 1 by default). In equation 7
    of the paper the labels' loss counts once for each of the n teachers, too: that is, but
    for a factor n, what `distillation_loss_weights` of 1 / n give. A loss that taps a layer
    of the teacher taps the layer of that name in each of them; a teacher that has none, or
    a loss that has its layers already, is refused.

    Args:
        teacher: The trained `keras.Model` that teaches the first stage. None where the
            first stage's data carry what a teacher said (`keras_kd.with_teacher_outputs`),
            or if no stage is taught by it.
        stages: A list of `Stage`.
        dense: Whether all earlier models teach, not the last one alone.
        drop_rate: The probability, in [0, 1), that a teacher is dropped from a training
            step: one less the paper's survival probability. Each is, or is not, whatever
            becomes of the others, but never all of them; what is left is not scaled up.
            (The repository drops a fixed number of teachers, 1 by default.) Needs `dense`.
        seed: Integer, of the dropping.

    Raises:
        ValueError: No stages, two of the same name or one called "teacher", one model
            in two places, a stage to be taught by a model that is not there before it, a
            student that does not fit its teacher, or an argument without effect.

    Example:

    ```python
    chain = DistillationChain(teacher, [
        Stage("ta", ta, epochs=12, distillation_losses="kd"),
        Stage("student", student, epochs=12, distillation_losses="kd"),
    ])
    result = chain.fit(train_ds, validation_data=val_ds, run_dir="runs/mine")
    print(result.table())
    ```
    """

    def __init__(self, teacher, stages, dense=False, drop_rate=0.0, seed=0):
        if not 0 <= drop_rate < 1 or (drop_rate and not dense):
            raise ValueError(
                "`drop_rate` must be at least 0 and less than 1, and goes with dense=True. "
                f"Received: drop_rate={drop_rate!r}, dense={dense!r}."
            )
        self.dense, self.drop_rate, self.seed = dense, drop_rate, seed
        self.teacher = teacher
        self.stages = list(stages)
        if not self.stages:
            raise ValueError("`stages` must hold at least one Stage. Received: none.")
        names = ["teacher"] + [stage.name for stage in self.stages]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "Each stage needs a name of its own, other than 'teacher'. "
                f"Received more than once: {', '.join(map(repr, repeated))}."
            )
        models = [id(teacher)] + [id(stage.student) for stage in self.stages]
        if len(set(models)) < len(models):
            raise ValueError(
                "One model stands in two places of the chain. Build one for each stage."
            )
        self._taught_by = self._find_teachers()

    def _find_teachers(self):
        """dict of each stage's name to a dict of name to model, of those that teach it."""
        models = {"teacher": GivenOutputs() if self.teacher is None else self.teacher}
        by_default, found = dict(models), {}
        for stage in self.stages:
            taught = stage.distillation_losses is not None
            found[stage.name] = self._choose_teachers(stage, models, by_default)
            check_alone(stage, found[stage.name])
            for teacher in found[stage.name].values():
                with named(stage):
                    check_models(teacher, stage.student)
            stage.take_defaults(next(iter(found[stage.name].values()), None))
            with named(stage):
                stage.check_loss()
            models[stage.name] = stage.student
            if taught or stage.epochs == 0:
                # Given outputs begin a chain; beside a given model they are not meant.
                is_first = is_given(by_default) and stage.epochs == 0
                before = by_default if self.dense and not is_first else {}
                by_default = before | {stage.name: stage.student}
        return found

    def _choose_teachers(self, stage, models, by_default):
        if stage.distillation_losses is None:
            return {}
        names = stage.taught_by
        if names is None:
            return dict(by_default)
        if self.dense:
            raise ValueError(
                f"Stage {stage.name!r}: `taught_by` has no effect with dense=True, in "
                "which all earlier models teach. Leave one of them out."
            )
        names = list(names) if isinstance(names, (list, tuple)) else [names]
        for name in names:
            if name not in models:
                near = difflib.get_close_matches(str(name), models, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"Stage {stage.name!r}: `taught_by` must name models before it "
                    f"({', '.join(models)}). Received: {name!r}.{hint}"
                )
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"Stage {stage.name!r}: `taught_by` must name one model or more, each "
                f"once. Received: taught_by={stage.taught_by!r}."
            )
        return {name: models[name] for name in names}

    def teachers_of(self, stage):
        """dict of name to model of those that teach a stage; empty: the labels alone."""
        return self._taught_by[stage.name]

    def as_taught(self, stage):
        """The stage with its losses as `fit` needs them, and its teacher, or None."""
        models = self.teachers_of(stage)
        number = [x.name for x in self.stages].index(stage.name)
        others = [x for x in self.stages if x.name != stage.name]
        stage = dataclasses.replace(stage, **own_objects(stage, others))
        remember_training(stage)
        if not models:
            return stage, None
        if (self.dense and not is_given(models)) or len(models) > 1:
            return dense_stage(stage, models, self.drop_rate, [self.seed, number])
        (teacher,) = models.values()
        return stage, teacher

    @property
    def first_teacher(self):
        """The teacher, or what stands for outputs that data carry; None: neither."""
        given = [x["teacher"] for x in self._taught_by.values() if is_given(x)]
        return given[0] if given else self.teacher

    def fit(
        self,
        train_data,
        validation_data,
        run_dir=None,
        verbose="auto",
        *,
        test_data=None,
        settings=None,
        callbacks=None,
        steps_per_epoch=None,
    ):
        """Trains every stage and measures every model.

        With a run folder all is kept that the chain needs to go on: called again with a
        chain built like the first, and its folder, in another process too, finished stages
        are compared with their checksums and skipped, and the interrupted one goes on after
        its last whole epoch, with its optimizer, random state and order of the data. On one
        machine the students are then bit for bit those of a chain that never stopped, if
        models and data are built anew, after `keras.utils.set_random_seed` with the same
        seed, and the data's order hangs on nothing but a seed. Behind a `cache` or
        `repeat`, and where what is read changes what comes, the epochs that were are read
        again. Each stage begins with random states of its own. What cannot be known is said
        in a warning, in the first run and when it is gone on with. (On a GPU also call
        `tf.config.experimental.enable_op_determinism()`.)

        Students (and the teacher) made in the scope of a `tf.distribute` strategy are
        trained under it. Then all its workers call this, each with the same chain, data and
        arguments; `run_dir` is one folder that all of them see, and worker 0 writes it.

        Ctrl-C stops it after the epoch, which is saved; a second one at once.

        Args:
            train_data: A `tf.data.Dataset` of batches; or a `keras.utils.PyDataset` or
                arrays, which are shuffled by the chain's seed, as `fit` does; or
                a function that takes a stage's teacher, None where there is none, and
                returns new ones, with what `cache_teacher` keeps of it. That of a stage
                with several teachers is a `keras_kd.teachers.Several`. Of data that
                `keras_kd.with_teacher_outputs` made, for a chain without a teacher, the
                later stages take the examples alone, and ask the model before them.
            validation_data: As `fit` takes it, but for generators, which cannot be gone
                through again: batches of (inputs, labels) or (inputs, labels,
                sample_weight), or arrays. For the metrics after each epoch, and for the
                epoch to stop at or restore, where a stage chooses one. None measures
                nothing after an epoch, and needs `test_data`.
            run_dir: A folder, new or of this chain's run, for a manifest, and for each
                model a file (`.keras`), its history (CSV, TensorBoard), what it answered
                (CSV) and its metrics; the table (Markdown, JSON); and the last distilled
                student as SavedModel.
            verbose: "auto" shows a bar on a terminal and else a line a stage; 0 nothing; 1
                and 2 as in Keras's `fit`.
            test_data: As `validation_data`, for the table, with class numbers or one-hot
                labels. Each example counts once, whatever its weight, as in Keras's
                `metrics`. Given outputs that they carry, too, have a line in the table.
                Defaults to `validation_data`, unless a stage chooses its epoch by these.
            settings: dict of JSON values that make the run what it is and that the chain
                cannot see, such as the batch size. Kept in the manifest; a folder whose
                settings differ is refused.
            callbacks: A list of `keras.callbacks.Callback`, for each stage in turn; or a
                function that takes a `Stage` and gives the list, of new ones for each. What
                they keep for themselves is in no checkpoint: where a run is gone on with, a
                warning says so.
            steps_per_epoch: Batches an epoch, at least 1, for training data that are
                repeated without end, or of which an epoch is a part; an epoch goes on where
                the one before ended. Defaults to all batches.

        Returns:
            A `ChainResult`.

        Raises:
            RunError: `run_dir` holds another run, or a damaged one. A `ValueError`, like
                `CheckpointError` for a damaged checkpoint.
            FileExistsError: `run_dir` holds something else.
            FloatingPointError: A loss became NaN or infinite; the message names term,
                epoch, batch, and the file of the last good student.
            WorkerError: Another worker is gone, or has failed. Start all of them again.
            KeyboardInterrupt: Ctrl-C was pressed; with a run folder, the epoch is saved.
            ValueError: Labels or shapes do not fit the models, or a stage chooses its epoch
                by the data of the table, or by none; models share what one stage would
                change in another; data can be gone through once alone; or, with a run
                folder, training data share a shuffle with those that are measured.
        """
        self._check_data(validation_data, test_data)
        test_data = validation_data if test_data is None else test_data
        return run_chain(
            self,
            train_data,
            validation_data,
            run_dir,
            verbose,
            test_data,
            settings,
            callbacks,
            steps_per_epoch,
        )

    def _check_data(self, validation_data, test_data):
        if validation_data is None and test_data is None:
            raise ValueError(
                "`validation_data` or `test_data` is needed, for the table. "
                "Received: None for both."
            )
        choosing = [stage.name for stage in self.stages if stage.chooses_epoch]
        if not choosing:
            return
        problem = None
        if validation_data is None:
            problem = "`validation_data` is needed. Received: validation_data=None"
        elif test_data is None:
            problem = "the table needs `test_data` of its own. Received: test_data=None"
        elif test_data is validation_data:
            problem = (
                "it must not be the `test_data` of the table. Received: the same for both"
            )
        if problem:
            raise ValueError(
                f"Stage {choosing[0]!r} chooses its epoch by `validation_data`, so "
                f"{problem}."
            )

    def describe(self):
        """What makes the chain what it is, a dict of JSON values, for a run's manifest."""
        teacher = self.teacher and model_fingerprint(self.teacher)
        is_there = self.first_teacher is not None
        return {
            "teacher": {"name": "teacher"} | (teacher or {}) if is_there else None,
            "dense": self.dense,
            "drop_rate": float(self.drop_rate),
            "seed": int(self.seed),
            "stages": [x.describe(list(self._taught_by[x.name])) for x in self.stages],
        }
