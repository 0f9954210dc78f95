"""Ctrl-C once: stop when the epoch is saved. Twice: stop now."""

import logging
import signal
import threading

logger = logging.getLogger(__name__)


class CtrlC:
    """While its block runs, the first Ctrl-C sets `asked`, and the second interrupts.

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
