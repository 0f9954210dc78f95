"""Tasks of a test of `keras_kd.distribution.jobs`, which need no training."""

import importlib.util
import os
import signal
import time
from pathlib import Path

# By its file: the package would load TensorFlow.
FILE = Path(__file__).parents[2] / "keras_kd" / "distribution" / "served.py"


def begin(setup, tell):
    def work(task):
        if task == "raise":
            raise ValueError("a reason")
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "wait":
            Path(setup, str(os.getpid())).touch()
            time.sleep(60)
        tell.share(0.5)
        print("printed")
        names = ("TF_NUM_INTRAOP_THREADS", "KERAS_BACKEND")
        own = {name: os.environ[name] for name in names}
        return own | {"task": task, "cores": sorted(os.sched_getaffinity(0))}

    return work


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("served", FILE)
    served = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(served)
    served.serve(begin)
