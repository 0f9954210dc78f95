"""What a chain shows, on a terminal and off it."""

import io
import logging
import os
import signal
import sys
import threading

import numpy as np
import pytest

from keras_kd import Stage
from keras_kd.chain import progress
from keras_kd.chain.progress import CtrlC, Progress, logger
from keras_kd.evaluation.profile import profile
from keras_kd.training.several_steps import batches_at_a_time


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """To be called in the test: before it, pytest puts a file of its own there."""

    def begin():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return begin


@pytest.fixture
def stages(make_model):
    return [Stage("ta", make_model(16), 3), Stage("student", make_model(4), 2)]


def test_off_a_terminal_lines_go_to_the_logger(stages, caplog, capsys):
    caplog.set_level(logging.INFO, "keras_kd")
    with Progress(stages, "auto") as progress:
        assert progress.keras_verbose == 0
        assert progress.callbacks(stages[0]) == []
        progress.show(stages[0], 3)
        progress.say("ta: 98 % right")
    assert caplog.record_tuples == [("keras_kd", logging.INFO, "ta: 98 % right")]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("listens_to_warnings", [False, True])
def test_lines_are_printed_where_nobody_listens(
    stages, capsys, monkeypatch, listens_to_warnings
):
    if not listens_to_warnings:
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "level", logging.INFO)
    assert logger.hasHandlers() == listens_to_warnings
    with Progress(stages, "auto") as progress:
        progress.say("ta: 98 % right")
    assert capsys.readouterr() == ("ta: 98 % right\n", "")


@pytest.mark.parametrize("verbose, line", [(0, ""), (1, "done\n"), (2, "done\n")])
def test_with_a_number_there_is_no_bar(stages, on_terminal, capsys, verbose, line):
    terminal = on_terminal()
    with Progress(stages, verbose) as progress:
        assert progress.keras_verbose == verbose
        assert progress.callbacks(stages[0]) == []
        progress.show(stages[0], 1)
        progress.say("done")
    assert capsys.readouterr().out == line
    # tqdm moves to the line's beginning to clear a bar there might be.
    assert terminal.getvalue().strip("\r") == ""


def test_the_bar_counts_epochs_by_what_they_cost(stages, on_terminal):
    terminal = on_terminal()
    ta, student = (profile(x.student).macs for x in stages)
    with Progress(stages, "auto") as progress:
        assert progress.keras_verbose == 0
        bar = progress._bar
        assert bar.total == 3 * ta + 2 * student
        shown = [
            (stages[0], 0, 0, "ta, epoch 1/3"),
            (stages[0], 1.25, 1.25 * ta, "ta, epoch 2/3"),
            (stages[0], 3, 3 * ta, "ta, epoch 3/3"),
            (stages[1], 0, 3 * ta, "student, epoch 1/2"),
            (stages[1], 2, 3 * ta + 2 * student, "student, epoch 2/2"),
        ]
        for stage, epochs, position, words in shown:
            progress.show(stage, epochs)
            assert bar.n == pytest.approx(position)
            assert bar.desc.startswith(words)
        bar.refresh()
    assert bar.disable, "it is closed"
    assert "student, epoch 2/2: 100 %|" in terminal.getvalue()


def test_training_moves_the_bar(stages, on_terminal, vectors, monkeypatch):
    on_terminal()
    x, y = vectors
    stage = stages[1]
    ta, student = (profile(x.student).macs for x in stages)
    with Progress(stages, "auto") as progress:
        positions = []
        show = progress.show

        def spy(*arguments):
            show(*arguments)
            positions.append((progress._bar.n - 3 * ta) / student)

        monkeypatch.setattr(progress, "show", spy)
        model = stage.model_to_fit(None)
        callbacks = progress.callbacks(stage)
        model.fit(x, y, 2, epochs=2, initial_epoch=1, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(positions, [1, *(1 + np.arange(1, 33) / 32), 2])
    # The bar does not slow it down.
    assert batches_at_a_time(callbacks) == 8


def test_lines_stand_above_the_bar(stages, on_terminal, capsys):
    terminal = on_terminal()
    with Progress(stages, "auto") as progress:
        progress.say("ta: done before")
    assert capsys.readouterr().out == "ta: done before\n"
    # The bar, then blanks over it, then the bar again.
    bar, blanks, *_, again = terminal.getvalue().strip("\r\n").split("\r")
    assert "0 %|" in bar and "0 %|" in again and not blanks.strip()


def test_a_given_model_takes_no_time(make_model, on_terminal):
    on_terminal()
    stages = [Stage("given", make_model(), 0), Stage("student", make_model(), 1)]
    with Progress(stages, "auto") as progress:
        progress.show(stages[1], 0.5)
        assert progress._bar.n == progress._bar.total / 2


@pytest.mark.parametrize("verbose", [3, -1, "yes", None])
def test_bad_verbose(stages, verbose):
    message = f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}"
    with pytest.raises(ValueError, match=message):
        Progress(stages, verbose)


def press():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def handler():
    """The handler before the test, which must be there after it, too."""
    before = signal.getsignal(signal.SIGINT)
    yield before
    assert signal.getsignal(signal.SIGINT) is before


def test_once_asks(caplog):
    with CtrlC() as ctrl_c:
        assert not ctrl_c.asked
        press()
        assert ctrl_c.asked
    assert caplog.messages == ["Stopping when this epoch is saved. Ctrl-C again stops now."]
    assert not CtrlC().asked


def test_twice_interrupts():
    with pytest.raises(KeyboardInterrupt):
        with CtrlC() as ctrl_c:
            press()
            assert ctrl_c.asked
            press()
            pytest.fail("went on")
    with pytest.raises(KeyboardInterrupt):
        press()


def test_the_handler_is_back_after_an_error(handler):
    with pytest.raises(ValueError, match="bad"):
        with CtrlC():
            assert signal.getsignal(signal.SIGINT) is not handler
            raise ValueError("bad")


def test_in_another_thread_nothing_changes(handler):
    found = []

    def look():
        with CtrlC() as ctrl_c:
            found.extend([signal.getsignal(signal.SIGINT), ctrl_c.asked])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [handler, False]


def test_who_ignores_it_goes_on_to(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC() as ctrl_c:
            press()
            press()
        assert not ctrl_c.asked
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_notebook_has_a_bar(monkeypatch):
    """What `tqdm.auto` gives there is a widget's class."""
    from tqdm.notebook import tqdm_notebook

    assert not progress.in_notebook()
    monkeypatch.setattr(progress, "tqdm", tqdm_notebook)
    assert progress.in_notebook()
