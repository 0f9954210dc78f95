"""How far a chain is, a bar on a terminal, else a line a stage; and Ctrl-C."""

import contextlib
import logging
import signal
import sys
import threading
import time

import keras
from tqdm.auto import tqdm

from keras_kd.evaluation.profile import profile
from keras_kd.training.precision import in_float32

logger = logging.getLogger("keras_kd")


class Progress:
    """Shows a chain's progress while its block runs.

    On a terminal and in a notebook it is a bar with the time left of the whole chain: an
    epoch of a stage counts as many units as its student has multiply-accumulates, which is
    about what it takes; if those of one are unknown, all epochs count alike. Elsewhere each
    stage is a line, when it is done. Lines go to the logger "keras_kd", or are printed
    where nothing listens to what it informs of.

    Args:
        stages: A list of `keras_kd.Stage`.
        verbose: "auto"; 0 shows nothing; 1 and 2 are Keras's own bars and lines, beside a
            line a stage.
    """

    # Called with the share that is done, instead of a bar: another process shows one for
    # several.
    shown_elsewhere = None

    def __init__(self, stages, verbose):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}."
            )
        self._stages, self._verbose = stages, verbose
        self._bar, self._done = None, 0.0

    @property
    def keras_verbose(self):
        """The `verbose` for `fit`."""
        return 0 if self._verbose == "auto" else self._verbose

    def __enter__(self):
        elsewhere = Progress.shown_elsewhere
        if self._verbose == "auto" and (elsewhere or can_show_bars()):
            students = {x.name: in_float32(x.student) for x in self._stages}
            self._units = {name: profile(x).macs for name, x in students.items()}
            if None in self._units.values():
                self._units = dict.fromkeys(students, 1)
            total = sum(x.epochs * self._units[x.name] for x in self._stages)
            self._bar = _Elsewhere(elsewhere, total) if elsewhere else bar(total)
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def callbacks(self, stage):
        """What `fit` needs to move the bar."""
        return [] if self._bar is None else [_Epochs(self, stage)]

    def show(self, stage, epochs):
        """Moves the bar to so many epochs of a stage, a fraction too."""
        if self._bar is None:
            return
        before = 0
        for earlier in self._stages[: self._stages.index(stage)]:
            before += earlier.epochs * self._units[earlier.name]
        number = min(int(epochs) + 1, stage.epochs)
        self._bar.set_description(
            f"{stage.name}, epoch {number}/{stage.epochs}", refresh=False
        )
        self._bar.n = before + epochs * self._units[stage.name]
        self._bar.update(0)

    def say(self, line):
        """Shows a line, above the bar if there is one."""
        if self._verbose == 0:
            return
        # Another library may have set up the root logger, for warnings alone.
        if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
            logger.info(line)
        else:
            tqdm.write(line)


def bar(total):
    """A tqdm bar with the time that is left."""
    return tqdm(total=total, bar_format="{desc}{percentage:3.0f} %|{bar}| {remaining} left")


def bar_if_shown(total, verbose):
    """A context that gives a bar; None where `verbose`, or the place, shows none."""
    is_shown = verbose == "auto" and can_show_bars()
    return bar(total) if is_shown else contextlib.nullcontext()


def can_show_bars():
    """Whether there is a terminal, or a notebook, to show a bar on."""
    return sys.stderr.isatty() or in_notebook()


def in_notebook():
    """Whether bars are widgets of a notebook, as `tqdm.auto` finds."""
    return any(x.__module__ == "tqdm.notebook" for x in tqdm.__mro__)


class _Elsewhere:
    """What `Progress` needs of a bar, told to another process, a few times a second."""

    def __init__(self, tell, total):
        self._tell, self._total = tell, total
        self.n, self._last = 0, 0.0

    def set_description(self, words, refresh=True):
        pass

    def update(self, _):
        if time.monotonic() - self._last > 0.3:
            self._last = time.monotonic()
            self._tell(self.n / self._total if self._total else 0.0)

    def close(self):
        pass


class _Epochs(keras.callbacks.Callback):
    # So that the bar does not slow the training down; see several_steps.py.
    looks_at_batches = False

    def __init__(self, progress, stage):
        super().__init__()
        self._progress, self._stage = progress, stage

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._progress.show(self._stage, epoch)

    def on_train_batch_end(self, batch, logs=None):
        # Not known in the first epoch of data of unknown length.
        if steps := self.params.get("steps"):
            self._progress.show(self._stage, self._epoch + (batch + 1) / steps)

    def on_epoch_end(self, epoch, logs=None):
        self._progress.show(self._stage, epoch + 1)


class CtrlC:
    """Ctrl-C once: stop when the epoch is saved. Twice: stop now.

    While its block runs, the first Ctrl-C sets `asked`, and the second interrupts.

    In other threads than the main one Python handles no signals, and nothing changes; nor
    does it in a process that is told to ignore Ctrl-C, as one in a shell's background.
    """

    asked = False

    def __enter__(self):
        is_main = threading.current_thread() is threading.main_thread()
        self._listens = is_main and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        if self._listens:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error):
        if self._listens:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.warning("Stopping when this epoch is saved. Ctrl-C again stops now.")
