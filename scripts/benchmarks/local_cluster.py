"""Runs a recipe on several processes of this machine; see scripts/local_cluster."""

import sys
from pathlib import Path

from keras_kd.distribution import cluster


def main(count, *arguments):
    if not count.isdigit() or int(count) < 1 or "--run-dir" not in arguments:
        sys.exit("Usage: local_cluster N RECIPE --run-dir DIR [more of `keras-kd run`]")
    folder = Path(arguments[arguments.index("--run-dir") + 1])
    command = [sys.executable, "-c", "from keras_kd.cli import main; main()", "run"]
    log_dir = folder.with_name(f"{folder.name}-logs")
    done = cluster.run_locally([*command, *arguments], int(count), log_dir=log_dir)
    print(done[0][1])
    failed = {i: code for i, (code, _) in enumerate(done) if code != 0}
    if failed:
        codes = ", ".join(f"worker {i} with {code}" for i, code in failed.items())
        sys.exit(f"Failed: {codes}. Their outputs are in {log_dir}.")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
