"""Runs a chain, stage by stage, in memory or in a run folder."""

import contextlib

from keras_kd import run_dir as run_dirs
from keras_kd.chain_result import ChainResult, Measuring
from keras_kd.ctrl_c import CtrlC
from keras_kd.distribute import Workers, scope_of, strategy_of
from keras_kd.manifest import TAKEN, Manifest, environment
from keras_kd.precision import in_float32
from keras_kd.progress import Progress
from keras_kd.fingerprints import teacher_id
from keras_kd.stage_run import StageRun, read_history, skip_epochs
from keras_kd.whose_answers import refusal, whose_answers


def run_chain(chain, train_data, validation_data, run_dir, verbose, test_data, settings):
    """`DistillationChain.fit`; arguments, result and errors are its own."""
    # Made before the first is trained: what is drawn at random for a stage must not hang on
    # how much of the run is done already.
    workers = _workers_of(chain)
    to_fit = {x.name: _model_to_fit(chain, x) for x in chain.stages if x.epochs}
    with contextlib.ExitStack() as stack:
        verbose = verbose if workers.is_chief else 0
        progress = stack.enter_context(Progress(chain.stages, verbose))
        manifest, ctrl_c = None, None
        if run_dir is not None:
            description = _describe(chain, settings or {})

            def open_manifest():
                if workers.is_chief:
                    stack.enter_context(run_dirs.locked(run_dirs.make(run_dir)))
                return Manifest.open(run_dir, description, writes=workers.is_chief)

            manifest = workers.after_chief(open_manifest)
            # Nobody changes what it says before all have read it.
            workers.wait()
            ctrl_c = stack.enter_context(CtrlC())
        run = _ChainRun(chain, to_fit, manifest, progress, ctrl_c, test_data)
        result = run.fit(train_data, validation_data)
        # A chief that is still writing is no lost worker.
        workers.wait()
        return result


def _workers_of(chain):
    """The processes that train a chain's students, all in one strategy's scope or in none.

    Raises:
        ValueError: One student was made in another scope than the others.
    """
    strategies = {id(strategy_of(x.student)) for x in chain.stages}
    if len(strategies) > 1:
        raise ValueError(
            "All students of a chain must be made in the scope of the same strategy, or "
            f"none of them. Received: {len(strategies)} different ones."
        )
    return Workers.of(chain.stages[0].student)


def _describe(chain, settings):
    description = chain.describe()
    taken = sorted(settings.keys() & (description.keys() | environment().keys() | TAKEN))
    if taken:
        raise ValueError(
            "`settings` must have names that the manifest does not use itself. Received: "
            f"{', '.join(taken)}."
        )
    return description | settings


def _model_to_fit(chain, stage):
    with _named(stage), scope_of(stage.student):
        as_taught, teacher = chain.as_taught(stage)
        return as_taught.model_to_fit(teacher), teacher


@contextlib.contextmanager
def _named(stage):
    """Begins the message of an error with the stage's name."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"Stage {stage.name!r}: {error}") from error


class _ChainRun:
    def __init__(self, chain, to_fit, manifest, progress, ctrl_c, test_data):
        self.chain, self.to_fit, self.manifest = chain, to_fit, manifest
        self.progress, self.ctrl_c = progress, ctrl_c
        self.folder = manifest and manifest.folder
        self.writes = manifest is not None and manifest.writes
        self.measuring = Measuring(test_data, self.folder, self.writes)
        self.students, self.histories, self.models = {}, {}, []
        # Epochs of the data that all stages share, in this process.
        self._epochs_here = 0

    def fit(self, train_data, validation_data):
        chain = self.chain
        self._check_answers(train_data)
        if chain.teacher is not None:
            self._given("teacher", chain.teacher)
        epochs_before = 0
        for stage in chain.stages:
            if stage.epochs == 0:
                self._given(stage.name, stage.student)
            elif self._is_done(stage.name):
                self._take_up(stage)
            else:
                self._train(stage, train_data, validation_data, epochs_before)
            if stage.train_data is None:
                history = self.histories.get(stage.name, {"loss": []})
                epochs_before += len(history["loss"])
            self.students[stage.name] = in_float32(stage.student)
        result = ChainResult(self.students, self.histories, self.models)
        if self.writes:
            result.write(self.folder)
            self._export_last()
        return result

    def _check_answers(self, train_data):
        """Refuses data with cached answers of others than a stage's teachers, at once.

        A teacher that an earlier run trained is looked at when its stage begins.
        """
        epochs = {stage.name: stage.epochs for stage in self.chain.stages}
        known = {}
        for stage in self.chain.stages:
            data = train_data if stage.train_data is None else stage.train_data
            of = None if callable(data) else whose_answers(data)
            teachers = self.chain.teachers_of(stage)
            is_taught = teachers and stage.student_loss_weight != 1
            if of is None or not is_taught or self._is_done(stage.name):
                continue
            trained = [name for name in teachers if epochs.get(name)]
            if all(map(self._is_done, trained)) and trained:
                continue
            teacher = self.to_fit[stage.name][1]
            if id(teacher) not in known and not trained:
                known[id(teacher)] = teacher_id(teacher)
            if trained or of != known[id(teacher)]:
                with _named(stage):
                    raise refusal(of, ", ".join(teachers), known.get(id(teacher)))

    def _is_done(self, name):
        return self.manifest is not None and self.manifest.state(name) == "done"

    def _given(self, name, model):
        if self._is_done(name):
            self.manifest.verify(name)
            self.models.append(self.measuring.read(name))
            return
        self.models.append(self.measuring.measure(in_float32(model), name, "given"))
        if self.manifest:
            self.manifest.set_done(name, self.measuring.files(name))

    def _take_up(self, stage):
        """Takes a finished stage from the run folder."""
        self.manifest.verify(stage.name)
        folder = self.folder / stage.name
        stage.student.load_weights(folder / "model.keras")
        StageRun(stage, None, folder).remove_checkpoints()
        self.histories[stage.name] = read_history(folder)
        self.models.append(self.measuring.read(stage.name))
        self.progress.show(stage, stage.epochs)
        self.progress.say(f"{stage.name}: done before")

    def _train(self, stage, train_data, validation_data, epochs_before):
        model, teacher = self.to_fit.pop(stage.name)
        folder = self.folder and self.folder / stage.name
        if self.writes:
            folder.mkdir(exist_ok=True)
        run = StageRun(stage, model, folder, self.ctrl_c)
        with _named(stage):
            run.restore()
        if folder:
            self.manifest.set_state(stage.name, "training")
        try:
            with _named(stage):
                own = stage.train_data
                data = train_data if own is None else own
                shared = own is None and not callable(data)
                data = data(teacher) if callable(data) else data
                before = epochs_before - self._epochs_here if shared else 0
                skip_epochs(data, before + run.epochs_done)
                callbacks = self.progress.callbacks(stage)
                verbose = self.progress.keras_verbose
                run.fit(data, validation_data, callbacks, verbose)
                if shared:
                    self._epochs_here = epochs_before + run.epochs_done
        except (ValueError, FloatingPointError) as error:
            if folder:
                self.manifest.set_state(stage.name, "failed", error=str(error))
            raise
        self._finish(stage, run)

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
            f"{100 * result.accuracy:.2f} % right"
        )

    def _export_last(self):
        """Writes the last distilled student as SavedModel."""
        distilled = [x for x in self.chain.stages if x.distillation_losses is not None]
        if distilled:
            path = self.folder / distilled[-1].name / "saved_model"
            if not path.is_dir():
                run_dirs.export_saved_model(self.students[distilled[-1].name], path)
