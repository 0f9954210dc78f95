"""Runs a chain, stage by stage, in memory or in a run folder."""

import contextlib
import logging

from keras_kd import files as run_dirs
from keras_kd.chain import passes, random_state
from keras_kd.chain.beforehand import (
    callbacks_of,
    check_teachers,
    try_a_batch,
    try_to_save,
)
from keras_kd.chain.carried import (
    check_carried,
    check_made,
    is_first,
    is_given,
    outputs_id,
    outputs_of,
    takes_its_own,
    without_teacher,
)
from keras_kd.chain.own_objects import check_apart, unmoved
from keras_kd.chain.progress import CtrlC, Progress
from keras_kd.chain.result import ChainResult, Measuring
from keras_kd.chain.stage import measured_as, named
from keras_kd.chain.stage_run import StageRun, read_history
from keras_kd.data.order import in_order
from keras_kd.distribution.workers import (
    Workers,
    check_no_strategy,
    scope_of,
    strategy_of,
)
from keras_kd.losses.arguments import check_integer
from keras_kd.runs.descriptions import tells_all
from keras_kd.runs.manifest import TAKEN, Manifest, RunError, check_folder, environment
from keras_kd.training.precision import in_float32

logger = logging.getLogger(__name__)


def run_chain(
    chain,
    train_data,
    validation_data,
    run_dir,
    verbose,
    test_data,
    settings,
    callbacks,
    steps_per_epoch,
):
    """`DistillationChain.fit`; arguments, result and errors are its own."""
    steps = steps_per_epoch
    if steps is not None:
        steps = check_integer("steps_per_epoch", steps, least=1)
    measured = {"validation_data": validation_data, "test_data": test_data}
    passes.check_data(chain, train_data, measured, run_dir, steps)
    check_apart(chain.teacher, chain.stages)
    # Made before the first is trained: what is drawn at random for a stage must not hang on
    # how much of the run is done already.
    workers = _workers_of(chain)
    to_fit = {x.name: _model_to_fit(chain, x) for x in chain.stages if x.epochs}
    with contextlib.ExitStack() as stack:
        verbose = verbose if workers.is_chief else 0
        progress = stack.enter_context(Progress(chain.stages, verbose))
        manifest, ctrl_c = None, None
        if run_dir is not None:
            description = _describe(chain, steps, settings or {})
            if is_given({"": chain.first_teacher}):
                outputs = outputs_of(chain, train_data, test_data)
                description["teacher"]["outputs"] = outputs

            def open_manifest():
                if workers.is_chief:
                    check_folder(run_dir)
                    stack.enter_context(run_dirs.locked(run_dirs.make(run_dir)))
                return Manifest.open(run_dir, description, writes=workers.is_chief)

            manifest = workers.after_chief(open_manifest)
            # Nobody changes what it says before all have read it.
            workers.wait()
            ctrl_c = stack.enter_context(CtrlC())
        run = _ChainRun(chain, to_fit, manifest, progress, ctrl_c, measured)
        result = run.fit(train_data, callbacks, steps)
        # A chief that is still writing is no lost worker.
        workers.wait()
        return result


def _workers_of(chain):
    """The processes that train a chain's students, all in one strategy's scope or in none.

    Raises:
        ValueError: One student was made in another scope than the others; or this is one,
            and Keras is on another backend than TensorFlow.
    """
    check_no_strategy()
    strategies = {id(strategy_of(x.student)) for x in chain.stages}
    if len(strategies) > 1:
        raise ValueError(
            "All students of a chain must be made in the scope of the same strategy, or "
            f"none of them. Received: {len(strategies)} different ones."
        )
    return Workers.of(chain.stages[0].student)


def _describe(chain, steps, settings):
    # Of a run that an earlier version began nothing says it; it had none.
    description = chain.describe() | {"steps_per_epoch": steps}
    taken = sorted(settings.keys() & (description.keys() | environment().keys() | TAKEN))
    if taken:
        raise ValueError(
            "`settings` must have names that the manifest does not use itself. Received: "
            f"{', '.join(taken)}."
        )
    return description | settings


def _model_to_fit(chain, stage):
    with named(stage), scope_of(stage.student):
        as_taught, teacher = chain.as_taught(stage)
        return as_taught.model_to_fit(teacher), teacher


class _ChainRun:
    def __init__(self, chain, to_fit, manifest, progress, ctrl_c, measured):
        self.chain, self.to_fit, self.manifest = chain, to_fit, manifest
        self.progress, self.ctrl_c = progress, ctrl_c
        self.folder = manifest and manifest.folder
        self.writes = manifest is not None and manifest.writes
        self.validation_data, test_data = measured.values()
        is_test = test_data is not self.validation_data
        argument = "test_data" if is_test else "validation_data"
        tasks = measured_as(chain)
        self.measuring = Measuring(test_data, tasks, self.folder, self.writes, argument)
        self.students, self.histories, self.models = {}, {}, []
        self.runs = {}
        # The stages before: on what, how many epochs, and whether in this process.
        self._passed = []

    def fit(self, train_data, callbacks, steps):
        chain = self.chain
        self.train_data, self.steps = train_data, steps
        self.callbacks = callbacks_of(chain.stages, callbacks)
        self.measuring.first_takes_its_own = takes_its_own(chain, train_data)
        check_teachers(chain, self.to_fit, self._given_to, self._is_done)
        self._begin()
        if chain.first_teacher is not None:
            self._given("teacher", chain.first_teacher)
        for stage in chain.stages:
            if stage.epochs == 0:
                self._given(stage.name, stage.student)
            elif self._is_done(stage.name):
                self._take_up(stage)
            else:
                self._train(stage)
            self.students[stage.name] = in_float32(stage.student)
        result = ChainResult(self.students, self.histories, self.models)
        if self.writes:
            result.write(self.folder)
            self._export_last()
        return result

    def _begin(self):
        """Makes each stage begin as in the first process, whatever was trained in this."""
        left = [x for x in self.chain.stages if x.epochs and not self._is_done(x.name)]
        for stage in left:
            with named(stage):
                passes.check_given(self._given_to(stage))
                # One without weights would draw them before its turn.
                if stage.student.built:
                    self.measuring.try_out(stage.student, stage.name)
                    try_to_save(stage, self.folder)
        for stage in left:
            folder = self.folder and self.folder / stage.name
            if self.writes:
                folder.mkdir(exist_ok=True)
            model, _ = self.to_fit[stage.name]
            run = StageRun(stage, model, folder, self.ctrl_c)
            with named(stage):
                try_a_batch(run, self.validation_data, self._given_to(stage))
                run.keep_start()
            self.runs[stage.name] = run
        start = random_state.digest()
        if self.manifest is not None:
            start = self.manifest.remember("random_state", start)
        self._random_start = start

    def _is_done(self, name):
        return self.manifest is not None and self.manifest.state(name) == "done"

    def _given(self, name, model):
        if self._is_done(name):
            self.manifest.verify(name)
            self.models.append(self.measuring.read(name))
            return
        measured = self.measuring.measure(in_float32(model), name, "given")
        if measured is None:
            return
        self.models.append(measured)
        if self.manifest:
            self.manifest.set_done(name, self.measuring.files(name))

    def _take_up(self, stage):
        """Takes a finished stage from the run folder."""
        self.manifest.verify(stage.name)
        folder = self.folder / stage.name
        stage.student.load_weights(folder / "model.keras")
        StageRun(stage, None, folder).remove_checkpoints()
        self.histories[stage.name] = read_history(folder)
        data = in_order(self._given_to(stage), self._seed_of(stage), self.steps)
        epochs = len(self.histories[stage.name]["loss"])
        self._passed.append((stage, None if callable(data) else data, epochs, False))
        self.models.append(self.measuring.read(stage.name))
        self.progress.show(stage, stage.epochs)
        self.progress.say(f"{stage.name}: done before")

    def _train(self, stage):
        model, teacher = self.to_fit.pop(stage.name)
        run = self.runs.pop(stage.name)
        run.begin()
        with named(stage):
            run.restore()
        if self.folder:
            self.manifest.set_state(stage.name, "training")
        try:
            with named(stage):
                data = self._data_of(stage, teacher)
                passes.skip_epochs(data, run.epochs_done, steps=self.steps)
                callbacks = self.callbacks[stage.name]
                if callbacks and run.epochs_done:
                    self._doubt(stage, "what its callbacks keep is in no checkpoint")
                callbacks = [*callbacks, *self.progress.callbacks(stage)]
                verbose = self.progress.keras_verbose
                with unmoved(stage, self.chain.teacher, self.chain.stages):
                    run.fit(data, self.validation_data, callbacks, verbose, self.steps)
                self._passed.append((stage, data, run.epochs_done, True))
        except (ValueError, FloatingPointError) as error:
            if self.folder:
                self.manifest.set_state(stage.name, "failed", error=str(error))
            raise
        self._finish(stage, run)

    def _given_to(self, stage):
        """The training data of a stage as its user gives them."""
        if stage.train_data is not None:
            return stage.train_data
        return self._without_unused(stage, self.train_data)

    def _without_unused(self, stage, data):
        """The training data of all stages without what is the first teacher's alone."""
        is_for_it = is_first(self.chain.teachers_of(stage))
        return data if is_for_it else without_teacher(data)

    def _made_for(self, stage, teacher, make):
        """What a function of training data makes for a stage."""
        teachers = self.chain.teachers_of(stage)
        given = is_given(teachers)
        data = make(None if given else teacher)
        passes.check_given(data)
        if stage.train_data is None:
            data = self._without_unused(stage, data)
            check_made(stage, teachers, data)
        if is_first(teachers):
            self.measuring.check_first(data)
        if given:
            check_carried(data)
            known = found = outputs_id(data)
            if self.manifest:
                known = self.manifest.remember(f"outputs_of_{stage.name}", found)
            if known != found:
                raise RunError(
                    "the function `train_data` gives other teacher outputs than those that "
                    f"the run in {self.folder} was begun with. Nothing was changed: choose "
                    "another folder, or give what was given there."
                )
        return data

    def _data_of(self, stage, teacher):
        """What a stage is trained on, as it is when the stages before are over."""
        data = self._given_to(stage)
        is_made = callable(data)
        if not is_made:
            data = in_order(data, self._seed_of(stage), self.steps)
            self._pass_again(data)
        # What a function of data draws, and what `fit` does, hangs on the stage alone.
        random_state.begin(self._random_start, self._number(stage))
        if is_made:
            random_state.begin_data()
            data = self._made_for(stage, teacher, data)
            passes.check_repeatable(self.steps, train_data=data)
            data = in_order(data, self._seed_of(stage), self.steps)
            before = self._data_before()
            if self.folder and passes.share_state(data, before):
                raise ValueError(
                    "the function `train_data` gave the same data again, or a part of "
                    "them, whose shuffle stands where the stages before left it, so that "
                    "a run folder could not be gone on with. Make new data each time, or "
                    "give the data themselves."
                )
        if self.folder:
            self._say_doubts(stage, data)
        return data

    def _data_before(self):
        return [x for _, x, _, _ in self._passed if x is not None]

    def _pass_again(self, data):
        """Goes through what stages of another process went through before."""
        for i, (stage, other, epochs, is_here) in enumerate(self._passed):
            if other is not None and not is_here and passes.share_state(data, [other]):
                random_state.begin(self._random_start, self._number(stage))
                passes.skip_epochs(other, epochs, to_end=True, steps=self.steps)
                self._passed[i] = (stage, other, epochs, True)

    def _say_doubts(self, stage, data):
        """Says why the same bits cannot be promised of a run that is gone on with."""
        found = passes.doubts(data, self.steps)
        if self.steps and passes.share_state(data, self._data_before()):
            found.append(
                "it goes on with the shuffle of a stage before, of which so much was read "
                "ahead as there was time for; give a function that makes new data"
            )
        if not tells_all(stage.describe([])):
            found.append(
                "its losses, metrics or optimizer hold objects that cannot be told from "
                "others, so that to go on with others would not be refused"
            )
        for reason in found:
            self._doubt(stage, reason)

    def _doubt(self, stage, reason):
        logger.warning(
            "Stage %r: gone on with after a stop, the run may not be the same to the last "
            "bit: %s.",
            stage.name,
            reason,
        )

    def _number(self, stage):
        return [x.name for x in self.chain.stages].index(stage.name)

    def _seed_of(self, stage):
        return [int(self.chain.seed), self._number(stage)]

    def _finish(self, stage, run):
        teachers = self.chain.teachers_of(stage)
        taught_by = ", ".join(teachers) or "labels"
        result = self.measuring.measure(
            in_float32(stage.student),
            stage.name,
            taught_by,
            teachers,
            seconds=run.seconds,
            epochs=run.epochs_done,
            best_epoch=run.best_epoch,
        )
        if self.folder:
            if self.writes:
                run.write_history()
            files = [*self.measuring.files(stage.name), "history.csv"]
            self.manifest.set_done(stage.name, files)
            run.remove_checkpoints()
        self.models.append(result)
        self.histories[stage.name] = run.history
        epochs = f"{run.epochs_done} epoch{'s'[: run.epochs_done > 1]}"
        self.progress.say(
            f"{stage.name}: taught by {taught_by}, {epochs} in {run.seconds:.0f} s, "
            + result.in_words()
        )

    def _export_last(self):
        """Writes the last distilled student as SavedModel."""
        distilled = [x for x in self.chain.stages if x.distillation_losses is not None]
        if distilled:
            path = self.folder / distilled[-1].name / "saved_model"
            try:
                if not path.is_dir():
                    run_dirs.export_saved_model(self.students[distilled[-1].name], path)
            except OSError:
                raise
            # What a layer or its backend cannot write is of any kind; all else is there.
            except Exception as error:
                logger.warning("%s cannot be written as SavedModel: %s", path, error)
