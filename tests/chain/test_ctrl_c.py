"""Ctrl-C, as the system sends it."""

import os
import signal
import threading

import pytest

from keras_kd.chain.ctrl_c import CtrlC


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
