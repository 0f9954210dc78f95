"""Python scripts in processes that are forked from one with the library imported.

Importing TensorFlow, Keras and the library takes a process five seconds. Here a server does
it once, and a copy of it runs a script: a process as any other, which is killed, and ends,
as any other. Run by itself, this is the server.
"""

import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

# TensorFlow is imported by these but does not run yet, so its process may be copied.
IMPORTED = ("tensorflow", "keras_kd", "keras_kd.chain.chain", "tests.conftest")


class Popen:
    """As `subprocess.Popen`, of [sys.executable, script, *arguments].

    Standard output and errors go to files, which are opened here.
    """

    def __init__(self, command, env, stdout, stderr):
        self.returncode = None
        self.pid = _ask([command[1:], dict(env), [str(x.name) for x in (stdout, stderr)]])

    def poll(self):
        if self.returncode is None:
            self.returncode = _ask(self.pid)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, 9)

    def wait(self, timeout=float("inf")):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.pid, timeout)
            time.sleep(0.05)
        return self.returncode


@functools.cache
def _server():
    # It ends when its standard input does, so with this process.
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(request):
    server = _server()
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def _serve():
    """Answers until there is nothing left to answer; a copy returns what it is to run."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if isinstance(request, int):
            done, status = os.waitpid(request, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if done else None
        elif not (answer := os.fork()):
            return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def main():
    sys.path[0] = str(Path(__file__).parents[1])
    for name in IMPORTED:
        importlib.import_module(name)
    # Else each copy would look through all that is imported.
    gc.collect()
    gc.freeze()
    arguments, environment, outputs = _serve()
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate([os.devnull, *outputs]):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
