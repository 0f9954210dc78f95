"""Processes that are forked to be killed, for the scripts that do so."""

import os
import sys


def start(function, *arguments):
    # TensorFlow is imported but has not run yet, so its process may be copied.
    process = os.fork()
    if process == 0:
        try:
            function(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return process


def was_killed(process):
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        sys.exit("a process failed")
    return False
