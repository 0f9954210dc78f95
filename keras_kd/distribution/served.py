"""What a process that `keras_kd.distribution.jobs` starts does: the tasks it is told.

It reads tasks and writes answers as lines of JSON, and ends when the process that started
it does, however that ends.
"""

import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback

# Written to standard error when all is loaded: what comes after it is shown.
BEGUN = "--- begun ---\n"


def serve(begin):
    """What such a process does: its tasks, until the one that started it ends.

    What the library logs is told.

    Args:
        begin: Called with the setup and a `Teller`; gives a function of a task, which
            gives its answer, a JSON value.
    """
    # What libraries print must not come between the answers.
    tell = Teller(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    # There is nothing to be saved.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    lines, tasks = iter(sys.stdin.readline, ""), queue.SimpleQueue()
    setup = json.loads(next(lines, "null"))
    threading.Thread(target=_read_tasks, args=(lines, tasks), daemon=True).start()
    logger = logging.getLogger("keras_kd")
    logger.addHandler(_ToldLog(tell))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # What TensorFlow says of its own deprecated parts.
    logging.getLogger("tensorflow").setLevel("ERROR")
    work = begin(setup, tell)
    sys.stderr.write(BEGUN)
    sys.stderr.flush()
    sys.stdout = sys.stderr = _ToldLines(tell)
    tell(ready=True)
    while True:
        task = tasks.get()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = _answer(work, task)
        except KeyboardInterrupt:
            answer = {"stopped": True}
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tell(**answer)


def _read_tasks(lines, tasks):
    for line in lines:
        tasks.put(json.loads(line))
    # Whoever started this is gone, or needs it no more. Files are written whole.
    os._exit(0)


def _answer(work, task):
    try:
        return {"done": work(task)}
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        return {"failed": str(error), "kind": type(error).__name__}
    # As in one process, which would end with it.
    except Exception as error:
        traceback.print_exc()
        name = type(error).__name__
        return {"failed": f"{name}: {error}", "kind": name}


class Teller:
    """Tells the process that started this one, in a line of JSON a call."""

    def __init__(self, file):
        self._file, self._lock = file, threading.Lock()

    def __call__(self, **told):
        with self._lock:
            print(json.dumps(told), file=self._file, flush=True)

    def share(self, done):
        """Tells which share of the task is done, from 0 to 1."""
        self(share=done)


class _ToldLines(io.TextIOBase):
    """What is printed, told in its place among the answers, so that its task is known."""

    def __init__(self, tell):
        self._tell, self._begun = tell, ""

    def write(self, text):
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._tell(said=line.rstrip())
        return len(text)


class _ToldLog(logging.Handler):
    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def emit(self, record):
        self._tell(said=self.format(record))
