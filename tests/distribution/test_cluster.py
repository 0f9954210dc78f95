"""Clusters of processes on this machine: found, started, killed and started again."""

import importlib
import json
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_kd.distribution import cluster
from keras_kd.distribution.workers import WorkerError, strategy_of
from tests import forked

WORKER = Path(__file__).parent / "train_on_cluster.py"
COMMAND_LINE = Path(__file__).parents[1] / "sample_command_line.py"
SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
# Seconds in which the others must have ended after one was killed; 5 to 15 here.
END = 60


def config(index=0, **jobs):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": task(index, *jobs)})}


def task(index, job):
    return {"type": job, "index": index}


def test_a_cluster_is_found_where_it_is_said():
    assert cluster.find(environment={}) is None
    assert cluster.find(environment=config(worker=["a:1"])) is None
    assert cluster.find(environment={"SLURM_STEP_NUM_TASKS": "1"}) is None
    found = cluster.find(["a:1", "b:2"], index=1, environment={})
    assert found.cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert (found.task_type, found.task_id) == ("worker", 1)


def test_a_cluster_of_tf_config(monkeypatch):
    environment = config(1, worker=["a:1", "b:2"])
    monkeypatch.setenv("TF_CONFIG", environment["TF_CONFIG"])
    found = cluster.find()
    assert found.cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert (found.task_type, found.task_id) == ("worker", 1)


def test_a_cluster_of_slurm(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    names = ("PROCID", "STEP_NUM_TASKS", "STEP_NODELIST", "STEP_TASKS_PER_NODE")
    for name, value in zip(names, ("1", "2", "n[1-2]", "1(x2)"), strict=True):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = cluster.find()
    assert found.cluster_spec().as_dict() == {"worker": ["n1:8888", "n2:8888"]}
    assert found.get_task_info() == ("worker", 1)


@pytest.mark.parametrize(
    "workers, index, environment, words",
    [
        (["a:1", "b:2"], None, {}, "one of 0..1.*Received: None"),
        (["a:1", "b:2"], 2, {}, "one of 0..1.*Received: 2"),
        (["a:1", "b"], 0, {}, "must be host:port, each once. Received: a:1,b"),
        (["a:1", "a:1"], 0, {}, "each once"),
        (None, 1, {}, "no effect without the list"),
        (None, None, {"TF_CONFIG": "{"}, "damaged"),
        (None, None, {"TF_CONFIG": '{"cluster": {}}'}, "damaged.*task"),
        (None, None, config(2, worker=["a:1", "b:1"]), "this process among them"),
        (None, None, config(0, ps=["a:1", "b:1"]), "must name jobs 'worker'"),
        (None, None, {"SLURM_STEP_NUM_TASKS": "x"}, "number of tasks. Received: 'x'"),
        (None, None, {"SLURM_STEP_NUM_TASKS": "2"}, "of 2 tasks of Slurm, and its other"),
    ],
)
def test_what_names_no_cluster_is_refused(workers, index, environment, words):
    with pytest.raises(ValueError, match=words):
        cluster.find(workers, index, environment)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [x.getsockname()[1] for x in sockets]
    for x in sockets:
        x.close()
    return ports


def test_a_worker_that_never_comes_is_named_in_time():
    own, here, missing = free_ports(3)
    addresses = [f"127.0.0.1:{x}" for x in (own, here, missing)]
    since = time.monotonic()
    with socket.create_server(("127.0.0.1", here)):
        words = rf"within 2 seconds. Missing: worker 2 \(127.0.0.1:{missing}\)"
        with pytest.raises(WorkerError, match=words):
            cluster.join(cluster.find(addresses, 0), timeout=2)
    assert time.monotonic() - since < 10


def test_a_resolver_that_does_not_say_who_this_is_is_refused():
    import tensorflow as tf

    spec = tf.train.ClusterSpec({"worker": ["127.0.0.1:1", "127.0.0.1:2"]})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec)
    with pytest.raises(ValueError, match="`resolver` must know which worker this is"):
        cluster.join(resolver, timeout=1)


def test_one_worker_is_no_cluster(make_model):
    for resolver in (None, cluster.find(["a:1"], 0)):
        strategy = cluster.join(resolver)
        assert strategy.num_replicas_in_sync == 1
        with strategy.scope():
            assert strategy_of(make_model()) is None


def test_a_command_runs_in_each_process(tmp_path):
    code = "import os, sys; print(os.environ['TF_CONFIG']); sys.exit(len(sys.argv) - 1)"
    done = cluster.run_locally([sys.executable, "-c", code], 2, log_dir=tmp_path)
    tasks = [json.loads(text)["task"]["index"] for _, text in done]
    assert [x for x, _ in done] == [0, 0] and tasks == [0, 1]
    assert (tmp_path / "worker-1.log").read_text() == done[1][1]
    assert len(set(json.loads(done[0][1])["cluster"]["worker"])) == 2


def test_processes_end_with_the_time(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    since = time.monotonic()
    assert [x for x, _ in cluster.run_locally(command, 2, timeout=1)] == [-9, -9]
    assert time.monotonic() - since < 20


@pytest.mark.slow
def test_two_workers_learn_what_one_does(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(cluster, "subprocess", forked)
    workers = importlib.import_module("workers")
    clusters = {count: workers.run(count) for count in (1, 2)}
    rows, good = workers.compare(clusters)
    assert good, rows
    losses = clusters[1][0]["losses"]
    assert len(losses) == 50 and np.mean(losses[:5]) > np.mean(losses[-5:]) + 0.05
    # The script can fail.
    clusters[2][1]["weights"] = "other"
    assert not workers.compare(clusters)[1]
    clusters[1][0]["losses"][7] += 1e-4
    assert not workers.compare({1: clusters[1], 2: clusters[2][:1]})[1]


def run_two(*command):
    """Runs a script in two processes, forked, that are a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "subprocess", forked)
        return cluster.run_locally([sys.executable, *map(str, command)], 2, timeout=240)


def run_chain(folder, *arguments):
    done = run_two(WORKER, "chain", folder, *arguments)
    told = [folder / f"told-{index}.json" for index in range(2)]
    return done, [json.loads(x.read_text()) for x in told if x.is_file()]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    """What both workers tell of the chain that nothing happens to."""
    done, told = run_chain(tmp_path_factory.mktemp("unharmed"))
    assert [code for code, _ in done] == [0, 0], done[0][1][-3000:] + done[1][1][-3000:]
    return told


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0])
def test_a_killed_worker_ends_the_others_and_a_new_start_goes_on(
    tmp_path, unharmed, killed
):
    harmed, expected = tmp_path, unharmed
    since = time.time()
    done, told = run_chain(harmed, str(killed))
    ended = time.time()
    assert done[killed][0] == -9 and told == []
    code, text = done[1 - killed]
    assert code == 1 and "WorkerError: Another worker is gone" in text, text[-3000:]
    at = float(done[killed][1].rpartition("killed at ")[2].split()[0])
    assert since < at and ended - at < END
    manifest = json.loads((harmed / "run" / "manifest.json").read_text())
    assert [x["state"] for x in manifest["stages"]] == ["done", "training"]

    done, told = run_chain(harmed)
    assert [code for code, _ in done] == [0, 0], done[0][1][-3000:] + done[1][1][-3000:]
    for name in ("loss", "weights", "errors"):
        assert told[0][name] == told[1][name] == expected[0][name], name
    assert len(told[0]["loss"]) == 4
    # Of six shards each, half by each worker: the teacher's, then the assistant's.
    assert sorted(expected[0]["shards"]) == [0, 0, 2, 2, 4, 4]
    assert sorted(expected[1]["shards"]) == [1, 1, 3, 3, 5, 5]
    assert told[0]["shards"] == told[1]["shards"] == []


@pytest.mark.slow
def test_the_readme_example_runs_on_two_workers():
    done = run_two(WORKER, "readme")
    assert [code for code, _ in done] == [0, 0], done[0][1][-3000:] + done[1][1][-3000:]
    # Of both, one line.
    first, second = (text.splitlines()[-1] for _, text in done)
    assert first == second and json.loads(first)["epochs"] == 2
    for _, text in done:
        before, _, after = text.partition("the seeds differ")
        assert "no common seed" not in before and after.count("no common seed") == 1


RECIPE = """
dataset = "mnist"
batch_size = 50
seed = 3
teacher = "mnist/student"
[[stage]]
name = "first"
model = "mnist_fc_8"
epochs = 1
losses = [{ name = "kd" }]
examples = 200
"""


@pytest.mark.slow
def test_the_command_line_runs_a_recipe_on_two_workers(tmp_path, write_recipe):
    folder = tmp_path / "run"
    command = (COMMAND_LINE, "run", write_recipe(text=RECIPE), "--run-dir", folder)
    done = run_two(*command)
    assert [code for code, _ in done] == [0, 0], done[0][1][-3000:] + done[1][1][-3000:]
    assert f"Written to {folder}" in done[0][1]
    assert "Run folder" not in done[1][1] and "| model" not in done[1][1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [x["state"] for x in manifest["stages"]] == ["done"]
    assert (folder / "accuracies.md").is_file()
    assert not (folder / ".teacher_outputs").exists()
    # A second start finds the run, on the chief, and the other worker hears of it.
    done = run_two(*command)
    assert done[0][0] == 1 and "holds a run" in done[0][1]
    assert done[1][0] != 0
