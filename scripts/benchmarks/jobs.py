"""Runs a recipe over seeds one after the other and side by side, in turns.

    python scripts/benchmarks/jobs.py [--jobs 2] [--seeds 4] [--repeats 3] [--markdown FILE]

The recipe is the fully connected student under the shipped teacher, whose outputs are
cached; or another one, with --recipe. Each run is a command as a user gives it: imports,
reading the data and the teacher's own pass are in its time. Printed are the seconds of
each, how busy the machine was before it, and the ratio. Exits with 1 where the two ways do
not give the same weights and results, bit for bit.
"""

import argparse
import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py

RECIPE = """
dataset = "mnist"
batch_size = 256
teacher = "mnist/teacher"
test_each_epoch = false

[[stage]]
name = "student"
model = "mnist_student"
epochs = {epochs}
optimizer = {{ name = "adam", learning_rate = 0.001 }}
losses = [{{ name = "kd", temperature = 4.0, form = "cross_entropy" }}]
student_loss_weight = 0.5
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recipe", type=Path, help="Another recipe than the student's.")
    parser.add_argument("--markdown", type=Path, help="A file for the table.")
    arguments = parser.parse_args()
    rows, found = [], set()
    with tempfile.TemporaryDirectory() as folder:
        recipe = arguments.recipe or Path(folder) / "student.toml"
        if arguments.recipe is None:
            recipe.write_text(RECIPE.format(epochs=arguments.epochs))
        for repeat in range(arguments.repeats):
            for jobs in (1, arguments.jobs):
                run_dir = Path(folder) / f"{repeat}-{jobs}"
                rows.append(run(recipe, arguments.seeds, jobs, run_dir))
                found.add(results(run_dir))
    print(text := table(rows, arguments.jobs), flush=True)
    same = len(found) == 1
    print(f"Weights and results: {'the same' if same else 'DIFFERENT'}")
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    sys.exit(0 if same else 1)


def run(recipe, seeds, jobs, run_dir):
    """A command's seconds and processor seconds, and the load before it, a dict."""
    command = [sys.executable, "-c", "from keras_kd.cli import main; main()", "run"]
    command += [str(recipe), "--run-dir", str(run_dir)]
    load, start, used = os.getloadavg()[0], time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [*command, "--seeds", str(seeds), "--jobs", str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout)
    row = {
        "jobs": jobs,
        "load before": f"{load:.1f}",
        "seconds": time.perf_counter() - start,
        "processor seconds": processor_seconds() - used,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def processor_seconds():
    """Of all processes that have ended, and those that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def results(run_dir):
    """A digest of all weights, and of the results without times."""
    digest = hashlib.sha256()
    for path in sorted(run_dir.rglob("model.keras")):
        weights = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
        with h5py.File(weights) as file:
            # Names that Keras numbers in a process, such as flatten_1, are attributes.
            file.visititems(lambda name, x: digest.update(in_bytes(name, x)))
    for path in sorted(run_dir.rglob("results.json")):
        digest.update(json.dumps(without_times(json.loads(path.read_text()))).encode())
    return digest.hexdigest()


def in_bytes(name, item):
    """A part of a file of weights: its place, and its numbers if it has some."""
    numbers = item[()].tobytes() if isinstance(item, h5py.Dataset) else b""
    return name.encode() + numbers


def without_times(value):
    """A JSON value without what a clock said; a model's file has a date in it."""
    if isinstance(value, dict):
        varying = ("seconds", "file_bytes")
        return {k: without_times(x) for k, x in value.items() if k not in varying}
    return list(map(without_times, value)) if isinstance(value, list) else value


def table(rows, jobs):
    """The runs as a Markdown table, and the ratio of the medians and of each pair."""
    from keras_kd.tables import markdown_table

    shown = [
        {k: f"{x:.0f}" if isinstance(x, float) else x for k, x in row.items()}
        for row in rows
    ]
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
    text = ", ".join(f"{x:.2f}" for x in ratios)
    return (
        f"{markdown_table(shown, numbers_from=0)}\n\n"
        f"{jobs} jobs are {statistics.median(ratios):.2f} times as fast ({text})."
    )


if __name__ == "__main__":
    main()
