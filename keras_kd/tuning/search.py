"""What is KerasTuner's of a search: who chooses the values, and who keeps them."""

import contextlib
import copy
import dataclasses
import functools
import gc
import signal
import sys
import threading
import warnings
from pathlib import Path

import grpc
import numpy as np
from keras_tuner import HyperParameters, Objective, oracles
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.errors import FailedTrialError, FatalError

from keras_kd import files
from keras_kd.distribution.jobs import Tasks
from keras_kd.tuning.recipe import Range, takes_temperature

# Its folder, in the folder of a search.
PROJECT = "search"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of one trial.

    Attributes:
        number: From 1, in the order in which they began.
        values: dict of `Dimension.name` to value, of those that the trial has.
        objective: A float; None of a trial that failed, or is not done.
        epochs: How many of the judged stage, where it is not all; else None.
    """

    number: int
    values: dict
    objective: float | None
    epochs: int | None = None


def search(
    recipe, folder, trials, say, is_worker=False, is_distributed=False, side_by_side=None
):
    """Searches, or goes on to.

    Args:
        recipe: A `keras_kd.tuning.recipe.TunedRecipe`.
        folder: Of the search.
        trials: A `keras_kd.tuning.trials.Trials`.
        say: Called with a line a trial, by whoever trains it.
        is_worker: Whether it asks a chief, in another process, what to try.
        is_distributed: Whether it is such a chief, or worker.
        side_by_side: Called with a `keras_kd.distribution.jobs.Tasks`, whose tasks are what
            `Trials.train` takes; does them in processes. None trains here.

    Returns:
        A list of `Trial`, those that are done or failed; None for a worker.

    Raises:
        ConnectionError: The chief does not answer.
        OSError, ValueError: Of a trial, but that it did not converge.
    """
    oracle = _oracle(recipe)
    tuner = _Tuner(recipe, oracle, folder, trials, say, is_worker)
    if not is_worker and (Path(folder) / PROJECT / "oracle.json").is_file():
        oracle.reload()
        if is_distributed and oracle.has_ended():
            # No worker would come, for whom a chief waits.
            return tuner.done()
    try:
        with _Interrupts() as interrupts:
            tuner.interrupts = interrupts
            if side_by_side is None:
                tuner.search()
            else:
                tuner.save()
                side_by_side(_SideBySide(tuner, recipe))
            interrupts.check()
    except FatalError as error:
        raise error.__cause__ from None
    except grpc.RpcError as error:
        raise ConnectionError(f"The chief of the search is gone: {error}") from error
    except RuntimeError as error:
        if not is_distributed:
            raise
        raise ConnectionError(f"The chief cannot be reached: {error}") from error
    return None if is_worker else tuner.done()


class _Interrupts:
    """Remembers Ctrl-C while its block runs, so that nobody can swallow it for good.

    As always it raises KeyboardInterrupt, wherever the process is; within a callback of a
    library, such as JAX's of the garbage collector, that is thrown away.
    """

    _pressed = False

    def __enter__(self):
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        self._listens = is_main and before is signal.default_int_handler
        if self._listens:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *error):
        if self._listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, *_):
        self._pressed = True
        raise KeyboardInterrupt

    def check(self):
        """Raises what was swallowed."""
        if self._pressed:
            raise KeyboardInterrupt


class _Kept:
    """Writes what an oracle knows whole or not at all, and goes on from any such file.

    KerasTuner writes over its files, so that a process that is killed may leave a half one.
    """

    def save(self):
        files.write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        folder = Path(self._get_trial_dir(trial.trial_id))
        files.write_json(folder / "trial.json", trial.get_state())

    def reload(self):
        super().reload()
        # One that is not in this order is asked for again. That of the files is no order.
        self.trials = {name: self.trials[name] for name in self.start_order}
        # KerasTuner tries all again that were not taken from its list in time.
        ended = [name for name in self._retry_queue if self._is_over(name)]
        self._retry_queue = [x for x in self._retry_queue if x not in ended]
        self.end_order += [name for name in ended if name not in self.end_order]

    def has_ended(self):
        """Whether there is nothing to try any more."""
        if self._retry_queue or self.ongoing_trials:
            return False
        if self.max_trials is not None:
            return len(self.end_order) >= self.max_trials
        # Of Hyperband nobody else knows; what it drew for that is taken back.
        before = copy.deepcopy(self.get_state())
        status = self.populate_space("next")["status"]
        self.set_state(before)
        return status == TrialStatus.STOPPED

    def _is_over(self, name):
        return self.trials[name].status in (TrialStatus.COMPLETED, TrialStatus.FAILED)


class _Random(_Kept, oracles.RandomSearchOracle):
    pass


class _Bayesian(_Kept, oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        from sklearn.exceptions import ConvergenceWarning

        # Else a search that was stopped would draw otherwise than one that was not.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # Of the Gaussian process; nobody who searches could do anything about it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


class _Hyperband(_Kept, oracles.HyperbandOracle):
    pass


def _oracle(recipe):
    tune = recipe.tune
    make = {
        "random": functools.partial(_Random, max_trials=tune.trials),
        "bayesian": functools.partial(_Bayesian, max_trials=tune.trials),
        "hyperband": functools.partial(_Hyperband, max_epochs=_epochs(recipe)),
    }[tune.strategy]
    direction = "min" if tune.objective.endswith("loss") else "max"
    oracle = make(
        objective=Objective(tune.objective, direction),
        hyperparameters=_space(recipe),
        # To KerasTuner 0 is none.
        seed=recipe.seed + 1,
        # Where values do not converge, others may.
        max_consecutive_failed_trials=2**31,
    )
    oracle.verbose = 0
    return oracle


def _epochs(recipe):
    return next(x.epochs for x in recipe.stage if x.name == recipe.judged)


def _space(recipe):
    space = HyperParameters()
    for dimension in recipe.dimensions:
        values = dimension.values
        with _where_it_counts(space, recipe, dimension):
            if isinstance(values, Range):
                ends = {"min_value": values.min, "max_value": values.max}
                space.Float(dimension.name, **ends, sampling=values.sampling)
            else:
                space.Choice(dimension.name, list(values))
    return space


def _where_it_counts(space, recipe, dimension):
    """A temperature is not drawn for a loss that has none."""
    losses = [
        x for x in recipe.dimensions if x.stage == dimension.stage and x.key == "loss"
    ]
    if dimension.key != "temperature" or not losses:
        return contextlib.nullcontext()
    (loss,) = losses
    labels = [x for x in loss.values if _has_temperature(recipe, loss, x)]
    return space.conditional_scope(loss.name, labels)


def _has_temperature(recipe, loss, label):
    made = recipe.with_values({loss.name: loss.values[label]})
    return takes_temperature(next(x for x in made.stage if x.name == loss.stage))


class _Tuner(BaseTuner):
    def __init__(self, recipe, oracle, folder, trials, say, is_worker):
        super().__init__(oracle, directory=str(folder), project_name=PROJECT)
        self._recipe, self._trials, self._say = recipe, trials, say
        self._is_asking = is_worker

    def save(self):
        # It has nothing of its own to keep.
        if not self._is_asking:
            self.oracle.save()

    def _try_run_and_update_trial(self, *arguments, **keywords):
        # KerasTuner prints the traceback of a trial that failed, which has said it itself.
        config = sys.modules[BaseTuner.__module__].config_module
        before, config.DEBUG = config.DEBUG, False
        try:
            super()._try_run_and_update_trial(*arguments, **keywords)
        finally:
            config.DEBUG = before

    def task_of(self, trial):
        """What `Trials.train` takes of a trial."""
        drawn = trial.hyperparameters.values
        past = drawn.get("tuner/trial_id")
        return {
            "drawn": drawn,
            "folder": self.get_trial_dir(trial.trial_id),
            "past": self.get_trial_dir(past) if past else None,
        }

    def run_trial(self, trial):
        self.interrupts.check()
        return self._ended(trial, lambda: self._trials.train(self.task_of(trial)))

    def take_answer(self, trial, train):
        """Ends a trial of another process with what `train` gives, or raises."""
        self.run_trial = lambda _: self._ended(trial, train)
        self._try_run_and_update_trial(trial)
        self.on_trial_end(trial)

    def _ended(self, trial, train):
        """The metrics that `train` gives of a trial, and a line of it."""
        number = int(trial.trial_id) + 1
        values = self._recipe.values_of(trial.hyperparameters.values)
        try:
            metrics, seconds = train()
            objective = self._objective(metrics)
        except FloatingPointError as error:
            self._say(f"trial {number}: failed: {error}")
            raise FailedTrialError(str(error)) from error
        except Exception as error:
            raise FatalError(str(error)) from error
        gc.collect()
        dimensions = [x for x in self._recipe.dimensions if x.name in values]
        said = ", ".join(f"{x.name} {x.label(values[x.name])}" for x in dimensions)
        metric = self._recipe.tune.objective
        self._say(f"trial {number}: {metric} {objective:.4f} with {said}, {seconds:.0f} s")
        return metrics

    def _objective(self, metrics):
        name = self._recipe.tune.objective
        if name not in metrics:
            raise ValueError(
                "tune > objective: must be a metric of the stage. "
                f"Received: {name!r}. Known: {', '.join(sorted(metrics))}"
            )
        return metrics[name]

    def done(self):
        """The trials that are over, a list of `Trial`."""
        found = []
        for trial in self.oracle.trials.values():
            drawn = trial.hyperparameters.values
            done = trial.status == TrialStatus.COMPLETED
            if done or trial.status == TrialStatus.FAILED:
                number, epochs = int(trial.trial_id) + 1, drawn.get("tuner/epochs")
                score = float(trial.score) if done else None
                found.append(Trial(number, self._recipe.values_of(drawn), score, epochs))
        return found


class _SideBySide(Tasks):
    """The trials of a search, for processes that ask for one when they have none."""

    def __init__(self, tuner, recipe):
        self._tuner, self._running, self._asked = tuner, {}, 0
        if recipe.tune.trials is not None:
            self.count = max(0, recipe.tune.trials - len(tuner.oracle.end_order))

    def take(self):
        # Who asks again under the same name is given the same trial again.
        self._asked += 1
        trial = self._tuner.oracle.create_trial(f"job{self._asked}")
        # Hyperband may wait for others to end.
        if trial.status != TrialStatus.RUNNING:
            return None
        label = f"trial {int(trial.trial_id) + 1}"
        self._running[label] = trial
        return label, self._tuner.task_of(trial)

    def done(self, label, answer):
        self._tuner.take_answer(self._running.pop(label), lambda: answer)

    def failed(self, label, kind, message):
        # One that did not converge is an answer, too.
        if kind != FloatingPointError.__name__:
            return False

        def fail():
            raise FloatingPointError(message)

        self._tuner.take_answer(self._running.pop(label), fail)
        return True
