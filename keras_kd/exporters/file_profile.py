"""What an exported file costs: size, latency and memory in its own runtime."""

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from keras_kd.exporters import runtimes


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one run, in milliseconds.

    Attributes:
        batch_size: Inputs a run.
        median_ms, p95_ms: The middle one of all runs, and that which 95 % do not exceed.
        runs: How many were timed, after those to warm up.
    """

    batch_size: int
    median_ms: float
    p95_ms: float
    runs: int


@dataclasses.dataclass(frozen=True)
class FileProfile:
    """The cost of an exported file.

    Attributes:
        file, format: Its name, and as `export` takes it.
        file_bytes, gzip_bytes: Size, as it is and gzipped; see `file_sizes`.
        latencies: A `Latency` for each batch size that the file takes.
        threads: Of the runtime.
        peak_memory_bytes: The most that a process held which did nothing but load and run
            the file, Python and the runtime included; None where the system does not tell.
        runtime_memory_bytes: The same before it loaded the file.
    """

    file: str
    format: str
    file_bytes: int
    gzip_bytes: int
    latencies: list
    threads: int
    peak_memory_bytes: int | None
    runtime_memory_bytes: int | None


def profile_files(
    paths, *, batch_sizes=(1, 32), threads=1, repeats=100, warm_up=10, rounds=3
):
    """Measures exported files in turn, so that a busy moment is no one file's alone.

    In each round each file has a process of its own, so that none is helped or hindered by
    what ran before. Inputs are random numbers.

    Args:
        paths: `.tflite` and `.onnx` files and folders of SavedModels.
        batch_sizes: Integers >= 1; a file with a fixed batch is run at that one alone.
        threads: Of the runtime, at least 1.
        repeats: Runs timed in each round, at each batch size, at least 1.
        warm_up: Runs before them, which are not.
        rounds: How often it is each file's turn, at least 1.

    Returns:
        A list of `FileProfile`, in the order of the paths.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A number is out of range, or a file cannot be run.
    """
    numbers = {"threads": threads, "repeats": repeats, "rounds": rounds}
    numbers |= {f"batch_sizes[{i}]": size for i, size in enumerate(batch_sizes)}
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer >= 1. Received: {name}={value!r}."
            )
    paths = [Path(path) for path in paths]
    formats = [runtimes.format_of(path) for path in paths]
    plan = {
        "batch_sizes": list(batch_sizes),
        "threads": threads,
        "warm_up": warm_up,
        "repeats": repeats,
    }
    timed = [[] for _ in paths]
    for _ in range(rounds):
        for path, found in zip(paths, timed, strict=True):
            found.append(_time_in_a_process(path, plan))
    return [
        _file_profile(path, kind, found, threads)
        for path, kind, found in zip(paths, formats, timed, strict=True)
    ]


def file_sizes(path):
    """`(file_bytes, gzip_bytes)` of a file; of a folder, summed over its files."""
    path = Path(path)
    files = [x for x in path.rglob("*") if x.is_file()] if path.is_dir() else [path]
    contents = [file.read_bytes() for file in files]
    return sum(map(len, contents)), sum(len(gzip.compress(x)) for x in contents)


def _time_in_a_process(path, plan):
    # With -P, this folder's names (profile.py) are not taken for Python's own modules.
    command = [sys.executable, "-P", runtimes.__file__]
    process = subprocess.run(
        [*command, json.dumps({"path": str(path)} | plan)], capture_output=True, text=True
    )
    if process.returncode:
        said = (process.stderr.strip().splitlines() or ["no message"])[-1]
        if process.returncode < 0:
            said = f"its runtime was stopped by {runtimes.signal_name(process.returncode)}"
        raise ValueError(f"{path} could not be timed: {said}")
    return json.loads(process.stdout.splitlines()[-1])


def _file_profile(path, kind, rounds, threads):
    file_bytes, gzip_bytes = file_sizes(path)
    latencies = []
    for size in rounds[0]["seconds"]:
        seconds = np.concatenate([x["seconds"][size] for x in rounds])
        median, p95 = 1000 * np.percentile(seconds, [50, 95])
        latencies.append(Latency(int(size), float(median), float(p95), len(seconds)))

    def largest(key):
        return max((x[key] for x in rounds if x[key] is not None), default=None)

    return FileProfile(
        path.name,
        kind,
        file_bytes,
        gzip_bytes,
        latencies,
        threads,
        largest("peak_memory_bytes"),
        largest("runtime_memory_bytes"),
    )
