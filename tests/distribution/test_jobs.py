"""Tasks in processes side by side: one that fails, one that is killed, Ctrl-C."""

import functools
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import keras
import pytest

from keras_kd.distribution import jobs
from tests import forked

MODULE = "tests.distribution.fake_job"


class Listed(jobs.Tasks):
    def __init__(self, tasks):
        self.left, self.answers = list(tasks), {}

    def take(self):
        return (f"task {len(self.left)}", self.left.pop()) if self.left else None

    def done(self, label, answer):
        self.answers[label] = answer


@pytest.mark.parametrize(
    "asked, tasks, sizes, why",
    [
        (2, 5, [4, 4], "Jobs: 2; cores of each: 4 of 8"),
        (3, None, [3, 3, 2], "Jobs: 3; cores of each: 2 or 3 of 8"),
        (9, 2, [4, 4], "Jobs: 2, not 9, as there are 2 to do; cores of each: 4 of 8"),
        (20, 30, [1] * 8, "Jobs: 8, not 20, as there are 8 cores; cores of each: 1 of 8"),
        (4, 1, [8], "Jobs: 1, not 4, as there are 1 to do; cores of each: 8 of 8"),
    ],
)
def test_each_core_is_of_one_process(asked, tasks, sizes, why, monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: [0, 4, 1, 5, 2, 6, 3, 7])
    said = []
    found = jobs.shares(asked, tasks, said.append)
    assert sorted(map(len, found)) == sorted(sizes) and said == [why]
    assert sorted(x for share in found for x in share) == list(range(8))


def test_the_others_go_on(tmp_path, monkeypatch):
    """With what remains of the tasks: one raises, one is killed, the rest answer."""
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    own = os.sched_getaffinity(0)
    said, tasks = [], Listed(["last", "kill", "raise", "first"])
    shares = [[min(own)], [max(own)]]
    prepare = functools.partial(said.append, "prepared")
    failed = jobs.run(MODULE, str(tmp_path), shares, tasks, said.append, prepare=prepare)
    assert said[0] == "prepared" and failed.keys() == {"task 2", "task 3"}
    assert failed["task 3"] == "a reason"
    assert "killed by SIGKILL" in failed["task 2"]
    assert {x["task"] for x in tasks.answers.values()} == {"first", "last"}
    for answer in tasks.answers.values():
        assert answer["cores"] in shares
        # As many threads as one process has that has the machine to itself.
        assert answer["TF_NUM_INTRAOP_THREADS"] == str(len(own))
        assert answer["KERAS_BACKEND"] == keras.backend.backend()
    assert {"task 1: printed", "task 4: printed"} <= set(said)
    assert os.sched_getaffinity(0) == own


def running(folder, count, parent=None):
    """The processes that wait in `fake_job`, when so many do, or their parent has ended."""
    until = time.monotonic() + 60
    while len(found := list(folder.iterdir())) < count and time.monotonic() < until:
        if parent is not None and parent.poll() is not None:
            break
        time.sleep(0.05)
    return [int(x.name) for x in found]


def is_there(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_ends_all(tmp_path):
    found = []

    def press():
        found.extend(running(tmp_path, 2))
        os.kill(os.getpid(), signal.SIGINT)

    tasks, shares = Listed(["wait"] * 5), [list(os.sched_getaffinity(0))] * 2
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        jobs.run(MODULE, str(tmp_path), shares, tasks, print)
    assert len(found) == 2 and not any(map(is_there, found))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


PARENT = """
import os, sys
sys.path.insert(0, sys.argv[2])
from keras_kd.distribution import jobs
from tests.distribution.test_jobs import Listed, MODULE
jobs.run(MODULE, sys.argv[1], [list(os.sched_getaffinity(0))], Listed(["wait"]), print)
"""


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    script, waiting = tmp_path / "parent.py", tmp_path / "waiting"
    script.write_text(PARENT)
    waiting.mkdir()
    with open(tmp_path / "log", "w") as log:
        root = Path(__file__).parents[2]
        command = [sys.executable, str(script), str(waiting), str(root)]
        parent = forked.Popen(command, os.environ, log, log)
    found = running(waiting, 1, parent)
    assert len(found) == 1, (tmp_path / "log").read_text()
    (process,) = found
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while is_there(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_there(process)


def test_a_process_that_cannot_begin(tmp_path):
    tasks = Listed(["first", "second", "third"])
    shares = [list(os.sched_getaffinity(0))]
    failed = jobs.run("tests.none", str(tmp_path), shares, tasks, print)
    assert list(failed) == ["task 3"] and len(tasks.left) == 2
    assert re.search("exit status 1: .*No module named tests.none", failed["task 3"])
