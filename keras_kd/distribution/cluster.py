"""The processes of a cluster: which they are, and the strategy in which they train."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import tensorflow as tf

from keras_kd.distribution.workers import WorkerError, check_backend

# Seconds in which all workers must have come.
START_TIMEOUT = 300
# Seconds in which the others end when one has failed, in `run_locally`.
_END_TIMEOUT = 60


def find(workers=None, index=None, environment=os.environ):
    """The cluster that this process is told to be in; None where it is alone.

    Args:
        workers: list of "host:port", the same for all of them; the first is the chief.
            None looks at the environment: TF_CONFIG, which Kubernetes's training operators
            write, and else a step of several tasks that Slurm started.
        index: The number of this process among them, from 0.
        environment: dict of environment variables.

    Returns:
        A `tf.distribute.cluster_resolver.ClusterResolver`, or None.

    Raises:
        ValueError: `workers` and `index` do not fit each other, or TF_CONFIG or Slurm's
            variables are damaged.
    """
    resolvers = tf.distribute.cluster_resolver
    if workers is not None:
        cluster = tf.train.ClusterSpec({"worker": _checked(workers, index)})
        return resolvers.SimpleClusterResolver(
            cluster, task_type="worker", task_id=index, rpc_layer="grpc"
        )
    if index is not None:
        raise ValueError("A worker's index has no effect without the list of workers.")
    if environment.get("TF_CONFIG"):
        config = _checked_config(environment["TF_CONFIG"])
        alone = sum(map(len, config["cluster"].values())) == 1
        return None if alone else resolvers.TFConfigClusterResolver()
    # One that Slurm's `srun` started.
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or "1"
    if not tasks.isdigit():
        raise ValueError(
            "The environment's SLURM_STEP_NUM_TASKS must be the number of tasks. "
            f"Received: {tasks!r}."
        )
    if int(tasks) < 2:
        return None
    try:
        return resolvers.SlurmClusterResolver()
    # TensorFlow's words for variables that lack, or that it cannot read.
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"The environment is of a step of {tasks} tasks of Slurm, and its other "
            f"variables do not say which ({error}). Start the command by srun, or name the "
            "workers: --workers HOST:PORT,... --worker-index N."
        ) from error


def _checked(workers, index):
    if index is None or not 0 <= index < len(workers):
        raise ValueError(
            f"The worker's index must be one of 0..{len(workers) - 1}, the number of this "
            f"process in the list of workers. Received: {index}."
        )
    for address in workers:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or workers.count(address) > 1:
            raise ValueError(
                "Workers must be host:port, each once. Received: " + ",".join(workers)
            )
    return workers


def _checked_config(text):
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        known = int(task["index"]) < len(jobs[task["type"]])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The environment's TF_CONFIG is damaged ({error!r}). Received: {text!r}."
        ) from error
    extra = sorted(set(jobs) - {"chief", "worker"})
    if not known or extra:
        raise ValueError(
            "The environment's TF_CONFIG must name jobs 'worker', and 'chief' if it likes, "
            f"and this process among them. Received: {text!r}."
        )
    return config


def join(resolver, timeout=START_TIMEOUT):
    """Waits for the other workers, and makes the strategy in which all train.

    To be called before TensorFlow does anything else.

    Args:
        resolver: A `ClusterResolver`: one of `find`, or another of TensorFlow's, such as
            `KubernetesClusterResolver`. None is no cluster.
        timeout: Seconds in which all must have come.

    Returns:
        A `tf.distribute.MultiWorkerMirroredStrategy`; where there is one worker,
        TensorFlow's default, in whose scope all is as without.

    Raises:
        ValueError: `resolver` does not say which of the workers this is, or Keras is on
            another backend than TensorFlow.
        WorkerError: Some did not come; names them.
    """
    jobs = resolver.cluster_spec().as_dict() if resolver else {}
    addresses = {(job, i): x for job in jobs for i, x in enumerate(jobs[job])}
    if len(addresses) < 2:
        return tf.distribute.get_strategy()
    check_backend("a cluster of workers")
    own = (resolver.task_type, resolver.task_id)
    if own not in addresses:
        raise ValueError(
            "`resolver` must know which worker this is: set its task_type and task_id, "
            f"such as 'worker' and 0. Received: {own}, of {sorted(addresses)}."
        )
    until = time.monotonic() + timeout
    own_address = addresses.pop(own)
    _wait_for(addresses, int(own_address.rpartition(":")[2]), until, timeout)
    # One that dies now is waited for by TensorFlow itself, for an hour and in C++.
    watch = threading.Timer(timeout, _give_up, [timeout])
    watch.daemon = True
    watch.start()
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    finally:
        watch.cancel()


def _wait_for(addresses, port, until, timeout):
    """Returns when each of the others has been seen to listen, as this one does."""
    missing = dict(addresses)
    with socket.create_server(("", port)):
        while missing:
            missing = {k: x for k, x in missing.items() if not _listens(x)}
            if missing and time.monotonic() > until:
                names = ", ".join(f"{job} {i} ({x})" for (job, i), x in missing.items())
                raise WorkerError(
                    f"Not all workers came within {timeout} seconds. Missing: {names}. "
                    "Start all of them, each with the same list, then try again."
                )
            if missing:
                time.sleep(0.2)


def _listens(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _give_up(timeout):
    message = f"Not all workers started TensorFlow within {timeout} seconds."
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def run_locally(command, count, timeout=None, log_dir=None):
    """Runs a command in so many processes of one cluster on this machine.

    Each has a TF_CONFIG in its environment, on free ports of 127.0.0.1. When one fails, the
    others have a minute to end by themselves.

    Args:
        command: list of strings.
        count: How many processes.
        timeout: Seconds for all of it; None is no limit.
        log_dir: A folder for `worker-0.log` and so on. Defaults to a temporary one.

    Returns:
        A list of `(exit code, output)`, one for each process.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(log_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        logs = [folder / f"worker-{i}.log" for i in range(count)]
        processes = []
        try:
            environments = local_environments(count)
            for environment, log in zip(environments, logs, strict=True):
                with log.open("wb") as file:
                    processes.append(
                        subprocess.Popen(command, env=environment, stdout=file, stderr=file)
                    )
            _wait_for_all(processes, timeout)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
        codes = [process.returncode for process in processes]
        return list(zip(codes, texts, strict=True))


def local_environments(count):
    """Environments, with TF_CONFIG, of the processes of a cluster on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [f"127.0.0.1:{x.getsockname()[1]}" for x in sockets]
    for x in sockets:
        x.close()
    for index in range(count):
        config = {
            "cluster": {"worker": hosts},
            "task": {"type": "worker", "index": index},
        }
        yield os.environ | {"TF_CONFIG": json.dumps(config)}


def _wait_for_all(processes, timeout):
    until = time.monotonic() + timeout if timeout else float("inf")
    failed = False
    while any(process.poll() is None for process in processes):
        if time.monotonic() > until:
            return
        if not failed and any(process.poll() for process in processes):
            failed, until = True, min(until, time.monotonic() + _END_TIMEOUT)
        time.sleep(0.1)
