"""Tasks side by side, in processes of this machine, each on cores of its own.

A process runs a module that calls `keras_kd.distribution.served.serve`.

Which order numbers are added in hangs on the number of threads, so each process has as many
as one that has the machine to itself, and fewer cores for them: it gives the same bits.
"""

import collections
import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras

from keras_kd.distribution.served import BEGUN

# By which TensorFlow, oneDNN, PyTorch, NumPy and JAX choose how many threads they start.
_THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NPROC",
)
# One process would take all of a GPU's memory, which they share.
_ON_A_GPU = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
# Seconds in which a process ends of itself.
_TO_END = 5


class JobError(ChildProcessError):
    """Some tasks failed, or their processes were killed; the others are done."""


def cores():
    """The cores that this process may use, a list; those of one physical core together."""
    if not hasattr(os, "sched_getaffinity"):  # Not on macOS, nor on Windows.
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=lambda x: (_siblings(x), x))


def _siblings(core):
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return int(path.read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return core


def shares(jobs, tasks, say):
    """Divides the cores among so many processes, and says so.

    Args:
        jobs: How many are asked for, an integer, 1 or greater. There are no more than
            cores, and no more than tasks.
        tasks: How many there are; None where that is not known.
        say: Called with a line.

    Returns:
        A list of lists of cores, one for each process.
    """
    own, asked = cores(), jobs
    jobs = min(jobs, len(own), tasks or jobs)
    # The first ones have what is left over.
    ends = [(i * len(own) + jobs - 1) // jobs for i in range(jobs + 1)]
    found = [own[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    sizes = sorted({len(x) for x in found})
    line = f"Jobs: {jobs}"
    if jobs < asked:
        why = f"{len(own)} cores" if jobs == len(own) else f"{tasks} to do"
        line += f", not {asked}, as there are {why}"
    say(f"{line}; cores of each: {' or '.join(map(str, sizes))} of {len(own)}")
    return found


@dataclasses.dataclass
class _Job:
    """A process, and what it is at."""

    process: subprocess.Popen
    reading: list = dataclasses.field(default_factory=list)
    # Of its task, and of the last one, whose last lines may come late.
    label: str | None = None
    last_label: str | None = None
    done: float = 0.0
    is_ready: bool = False
    errors: collections.deque = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=20)
    )


class Tasks:
    """What is to be done side by side. To be inherited from."""

    # How many there are, where that is known.
    count = None

    def take(self):
        """`(label, task)`: words, and a JSON value; None: there is none until one ends."""
        raise NotImplementedError

    def done(self, label, answer):
        """Called with the answer to a task, a JSON value."""

    def failed(self, label, kind, message):
        """Called with an error of a task; whether that is an answer, too."""
        return False


def run(module, setup, shares, tasks, say, bar=None, prepare=None):
    """Does tasks in processes, and waits for all of them.

    Ctrl-C goes to each of them; the third one kills them. When one has failed, or was
    killed, the others go on, and another takes its place.

    Args:
        module: Name of a module that, run as a program, calls `serve`.
        setup: A JSON value, for each process.
        shares: As `shares` gives them.
        tasks: A `Tasks`.
        say: Called with each line that a process says, after the label of its task.
        bar: A tqdm bar of which each task is one unit; or None.
        prepare: Called before the first of them begins, while they are loaded; or None.

    Returns:
        dict of the label of each task that did not end to the reason, a sentence.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped some.
    """
    return _Run(module, setup, shares, tasks, say, bar).run(prepare)


class _Run:
    def __init__(self, module, setup, shares, tasks, say, bar):
        self._module, self._setup, self._shares = module, json.dumps(setup), shares
        self._tasks, self._say, self._bar = tasks, say, bar
        self._jobs = [None] * len(shares)
        self._events = queue.SimpleQueue()
        self._failed, self._count = {}, 0
        # Where no process can begin none is started again.
        self._is_broken = [False] * len(shares)
        self._interrupts, self._is_stopped = 0, False

    def run(self, prepare):
        try:
            self._jobs = [self._start(own) for own in self._shares]
            if prepare is not None:
                prepare()
            for job in self._jobs:
                self._send(job, self._setup)
            with self._forwarding():
                self._fill()
                while any(job and job.label for job in self._jobs):
                    self._take(*self._events.get())
                    self._fill()
        finally:
            self._end()
        if self._is_stopped:
            raise KeyboardInterrupt
        return self._failed

    @contextlib.contextmanager
    def _forwarding(self):
        """Gives Ctrl-C to the processes, which no terminal reaches."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            yield
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, *_):
        self._interrupts += 1
        if self._interrupts > 2:
            self._is_stopped = True
            raise KeyboardInterrupt
        for job in self._jobs:
            if job is not None and job.process.poll() is None:
                job.process.send_signal(signal.SIGINT)

    def _fill(self):
        """Gives each process that has none a task."""
        for number, job in enumerate(self._jobs):
            if self._is_broken[number] or (job and job.label):
                continue
            taken = self._tasks.take()
            if taken is None:
                continue
            if self._interrupts:
                # It is not begun.
                self._is_stopped = True
                continue
            label, task = taken
            if job is None:
                job = self._jobs[number] = self._start(self._shares[number])
                self._send(job, self._setup)
            job.label, job.last_label, job.done = label, label, 0.0
            self._send(job, json.dumps(task))
        self._show()

    def _start(self, own):
        command = [sys.executable, "-P", "-m", self._module]
        environment = _environment()
        with _on(own):
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C is for this process, which hands it on.
                start_new_session=True,
            )
        job = _Job(process)
        for read in (self._read_errors, self._read):
            thread = threading.Thread(target=read, args=(job,), daemon=True)
            thread.start()
            job.reading.append(thread)
        return job

    def _send(self, job, line):
        # One that has ended says so itself.
        with contextlib.suppress(OSError):
            job.process.stdin.write(line + "\n")
            job.process.stdin.flush()

    def _read(self, job):
        for line in job.process.stdout:
            self._events.put((job, json.loads(line)))
        self._events.put((job, None))

    def _read_errors(self, job):
        is_begun = False
        for line in job.process.stderr:
            # What libraries say of themselves when they are loaded helps nobody.
            if line == BEGUN:
                is_begun = True
            elif line.strip():
                job.errors.append(line.strip())
                if is_begun:
                    self._events.put((job, {"said": line.rstrip()}))

    def _take(self, job, told):
        if told is None:
            self._take_end(job)
        elif "said" in told:
            label = job.last_label
            self._say(f"{label}: {told['said']}" if label else told["said"])
        elif "share" in told:
            job.done = told["share"]
        elif "ready" in told:
            job.is_ready = True
        else:
            self._take_answer(job, told)

    def _take_answer(self, job, told):
        label, job.label = job.label, None
        if "stopped" in told:
            self._is_stopped = True
            return
        if "done" in told:
            self._tasks.done(label, told["done"])
        elif not self._tasks.failed(label, told["kind"], told["failed"]):
            self._fail(label, told["failed"])
            return
        self._count += 1

    def _take_end(self, job):
        """A process has ended, which none does by itself while it has a task."""
        code = job.process.wait()
        job.reading[0].join(_TO_END)
        number = self._jobs.index(job)
        _close(job)
        self._jobs[number] = None
        self._is_broken[number] = not job.is_ready
        if job.label is None:
            return
        if self._interrupts and code == -signal.SIGINT:
            self._is_stopped = True
            return
        if code < 0:
            why = f"its process was killed by {_name(-code)}"
            if -code == signal.SIGKILL:
                why += ", as the system does where memory runs out"
        else:
            said = job.errors[-1] if job.errors else "it said nothing"
            why = f"its process ended with exit status {code}: {said}"
        self._fail(job.label, why)

    def _fail(self, label, why):
        self._failed[label] = why
        self._say(f"{label} failed: {why}")

    def _show(self):
        if self._bar is None:
            return
        labels = [x.label for x in self._jobs if x and x.label]
        self._bar.set_description(", ".join(labels) or "done", refresh=False)
        self._bar.n = self._count + sum(x.done for x in self._jobs if x and x.label)
        self._bar.update(0)

    def _end(self):
        """Ends all processes, which have nothing to do any more, or shall not go on."""
        jobs = [x for x in self._jobs if x]
        for job in jobs:
            with contextlib.suppress(OSError):
                job.process.stdin.close()
        for job in jobs:
            try:
                job.process.wait(_TO_END)
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            for thread in job.reading:
                thread.join(_TO_END)
            _close(job)
        while not self._events.empty():
            job, told = self._events.get()
            if told and "said" in told:
                self._take(job, told)


def _close(job):
    for stream in (job.process.stdin, job.process.stdout, job.process.stderr):
        # What it has not read is of no use to it.
        with contextlib.suppress(OSError):
            stream.close()


def _name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _on(own):
    """While it lasts, what this thread starts is on these cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment():
    threads = dict.fromkeys(_THREADS, str(len(cores())))
    # What this program has told its own libraries.
    if tensorflow := sys.modules.get("tensorflow"):
        told = tensorflow.config.threading
        for name, value in (
            ("TF_NUM_INTRAOP_THREADS", told.get_intra_op_parallelism_threads()),
            ("TF_NUM_INTEROP_THREADS", told.get_inter_op_parallelism_threads()),
        ):
            if value:
                threads[name] = str(value)
    own = {
        "KERAS_BACKEND": keras.backend.backend(),
        # They import what this process does, wherever it is.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(x) for x in sys.path),
    }
    return threads | _ON_A_GPU | os.environ | own
