"""Trains what a search tries: what no trial varies once, the rest in each trial."""

import contextlib
import gc
import time
from pathlib import Path

import keras

from keras_kd import data, files
from keras_kd.chain.passes import skip_epochs
from keras_kd.chain.stage_run import BEST, CHECKPOINT, StageRun
from keras_kd.distribution.served import serve
from keras_kd.recipes import data as recipe_data
from keras_kd.recipes.recipe import AS_JSON, make_chain
from keras_kd.recipes.run import TEACHER_OUTPUTS, give_data, teacher_of
from keras_kd.recipes.stage import StageRecipe
from keras_kd.tuning.recipe import TunedRecipe

# The run of the stages that no trial varies, in the folder of a search.
BEFORE = "before"


class Trials:
    """The stages of a recipe, and what a trial trains of them.

    Args:
        recipe: A `keras_kd.tuning.recipe.TunedRecipe`.
        teacher: Its teacher, loaded; or None.
        folder: Of the search.
        data_dir: TFDS's data folder; None for TFDS's default.
        announce: As `keras_kd.recipes.data.load` takes it.

    Raises:
        ValueError: A model does not fit another one, or a stage is searched that the judged
            one does not hang on.
    """

    def __init__(self, recipe, teacher, folder, data_dir=None, announce=print):
        self._recipe, self._teacher, self._folder = recipe, teacher, Path(folder)
        self._data_dir, self._announce = data_dir, announce
        self._parts = None
        if recipe.is_sized_by_data:
            self._read(teacher)
        chain = make_chain(recipe, teacher, self._parts)
        self._taught_by = {x.name: list(chain.teachers_of(x)) for x in chain.stages}
        self._varying, self._once = self._split()
        self._shown = chain.stages[0].student if teacher is None else teacher
        self._train_data = None

    def _read(self, shown):
        """Reads the training images, in the shape that a model takes."""
        like = recipe_data.takes(shown)
        self._parts = recipe_data.load(
            self._recipe, self._data_dir, self._announce, wanted=["train"], like=like
        )

    def _models_of(self, section):
        """Names of the models that a stage hangs on at once."""
        members = section.ensemble.models if section.ensemble else []
        return [*self._taught_by[section.name], *members]

    def _split(self):
        """Names of the stages that trials train, and of those that are trained once."""
        recipe = self._recipe
        needed, varying = {recipe.judged}, set()
        for section in reversed(recipe.stage):
            if section.name in needed:
                needed |= set(self._models_of(section))
        searched = {x.stage for x in recipe.dimensions}
        idle = sorted(searched - needed)
        if idle:
            raise ValueError(
                f"tune > space: stage {idle[0]!r} does not teach {recipe.judged!r}, by "
                "which the trials are compared, so it cannot be searched."
            )
        for section in recipe.stage:
            hangs_on = {section.name, *self._models_of(section)}
            if section.name in needed and hangs_on & (searched | varying):
                varying.add(section.name)
        return varying, needed - varying - {"teacher"}

    def prepare(self, verbose):
        """Reads the training images, and trains the stages that no trial varies.

        A process that does so already is waited for. The test images are not read.

        Args:
            verbose: As `keras_kd.recipes.run.run` takes it.
        """
        recipe = self._recipe
        if self._parts is None:
            self._read(self._shown)
        if self._parts.task is None:
            raise ValueError(
                "A search compares its trials by labels, and the data have none."
            )
        outputs = files.make(self._folder / TEACHER_OUTPUTS)
        self._train_data = recipe_data.TrainData(recipe, self._parts.train, outputs)
        if self._once:
            with _one_at_a_time(outputs):
                self._train_once(verbose)

    def _train_once(self, verbose):
        recipe = self._recipe.with_values({})
        stages = [x for x in recipe.stage if x.name in self._once]
        recipe = recipe.model_copy(update={"stage": stages})
        chain = make_chain(recipe, self._teacher, self._parts)
        give_data(recipe, chain, self._train_data, self._parts)
        keras.utils.set_random_seed(recipe.seed)
        # Its table is of the held-out images, too: the test images are not looked at.
        chain.fit(
            None,
            self._held_out(),
            self._folder / BEFORE,
            verbose,
            test_data=self._held_out(),
            settings={"recipe": recipe.model_dump(**AS_JSON)},
        )

    def _held_out(self):
        return data.batches(*self._parts.validation, batch_size=1000)

    def run(self, values, folder, epochs=None, past=None):
        """Trains a trial, or what is left of it.

        Args:
            values: dict of `Dimension.name` to value.
            folder: Of the trial.
            epochs: Of the judged stage, instead of its own.
            past: The folder of a trial to go on from, with the same values.

        Returns:
            dict of metric of the held-out images to its value when the training is over.

        Raises:
            FloatingPointError: A loss became NaN or infinite.
        """
        recipe = self._recipe_of(values, epochs)
        chain = make_chain(recipe, self._teacher, self._parts)
        give_data(recipe, chain, self._train_data, self._parts)
        keras.utils.set_random_seed(recipe.seed)
        to_fit = {}
        for stage in chain.stages:
            if stage.epochs:
                as_taught, teacher = chain.as_taught(stage)
                to_fit[stage.name] = as_taught.model_to_fit(teacher), teacher
        for stage in chain.stages:
            if stage.epochs:
                own = files.make(Path(folder) / stage.name)
                if past is not None:
                    _take_checkpoints(Path(past) / stage.name, own)
                metrics = self._fit(stage, *to_fit.pop(stage.name), own)
        return metrics

    def train(self, task):
        """As `run`, of what KerasTuner has drawn; gives the metrics, and the seconds.

        Args:
            task: dict of JSON values: "drawn", its own values by name; "folder" of the
                trial; "past", the folder of a trial to go on from, or None.
        """
        drawn, began = task["drawn"], time.perf_counter()
        values, epochs = self._recipe.values_of(drawn), drawn.get("tuner/epochs")
        metrics = self.run(values, task["folder"], epochs, task["past"])
        if self._recipe.tune.strategy != "hyperband":
            remove_checkpoints(task["folder"])
        return metrics, time.perf_counter() - began

    def _recipe_of(self, values, epochs):
        """The recipe of a trial: what it trains, and what is given to it."""
        recipe = self._recipe.with_values(values)
        varying = [x for x in recipe.stage if x.name in self._varying]
        given = {name for section in varying for name in self._models_of(section)}
        stages = []
        for section in recipe.stage:
            if section.name in self._varying:
                stages.append(self._as_in_the_chain(section, epochs))
            elif section.name in given & self._once:
                path = self._folder / BEFORE / section.name / "model.keras"
                stages.append(StageRecipe(name=section.name, model=str(path)))
        return recipe.model_copy(update={"stage": stages})

    def _as_in_the_chain(self, section, epochs):
        changes = {}
        # By default the last model would teach, which may be another without the others.
        if section.losses and not self._recipe.dense:
            changes["taught_by"] = self._taught_by[section.name]
        if epochs is not None and section.name == self._recipe.judged:
            changes["epochs"] = epochs
        return section.model_copy(update=changes)

    def _fit(self, stage, model, teacher, folder):
        run = StageRun(stage, model, folder)
        run.restore()
        with _one_at_a_time(self._folder / TEACHER_OUTPUTS):
            train_data = stage.train_data(teacher)
        skip_epochs(train_data, run.epochs_done)
        run.fit(train_data, self._held_out())
        end = (run.best_epoch if stage.restore_best else run.epochs_done) - 1
        return {name: x[end] for name, x in run.history.items() if name.startswith("val_")}


def remove_checkpoints(folder):
    """Removes, from the folder of a trial or of all, what a trial goes on from."""
    for name in (CHECKPOINT, BEST):
        for path in list(Path(folder).rglob(name)):
            path.unlink()


def _take_checkpoints(past, folder):
    for name in (CHECKPOINT, BEST):
        if (past / name).is_file() and not (folder / name).is_file():
            with files.renamed_when_done(folder / name) as temporary:
                temporary.write_bytes((past / name).read_bytes())


@contextlib.contextmanager
def _one_at_a_time(folder):
    """Keeps other processes out of the block, and waits for one that is within."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(files.locked(folder))
                break
            except BlockingIOError:
                time.sleep(0.5)
        yield


def _begin(setup, tell):
    """What a process does for all of its trials, and the function of a trial."""
    recipe = TunedRecipe.model_validate(setup["recipe"])
    given = setup["folder"], setup["data_dir"]
    trials = Trials(recipe, teacher_of(recipe), *given, announce=lambda line: None)
    trials.prepare(verbose=0)

    def train(task):
        answer = trials.train(task)
        gc.collect()
        return answer

    return train


if __name__ == "__main__":
    serve(_begin)
