import gzip
import resource

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.exporters import file_profile

pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("onnxruntime")

X = np.random.default_rng(0).random((1000, 4), "float32")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    kd.export(model, folder / "free.tflite", "litert", examples=X)
    kd.export(model, folder / "fixed.onnx", "onnx", examples=X, batch_size=2)
    return [folder / "free.tflite", folder / "fixed.onnx"]


def test_profile_files(paths):
    free, fixed = file_profile.profile_files(
        paths, batch_sizes=(1, 2), repeats=4, warm_up=1, rounds=2
    )
    assert (free.file, free.format) == ("free.tflite", "litert")
    assert (fixed.file, fixed.format) == ("fixed.onnx", "onnx")
    assert [x.batch_size for x in free.latencies] == [1, 2]
    assert [x.batch_size for x in fixed.latencies] == [2]
    for found in (free, fixed):
        for latency in found.latencies:
            assert latency.runs == 8
            assert 0 < latency.median_ms <= latency.p95_ms
        assert found.threads == 1
        assert found.file_bytes == paths[found is fixed].stat().st_size
        # Less than this process has: the measured one is another, and starts afresh.
        here = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert 0 < found.runtime_memory_bytes <= found.peak_memory_bytes < here / 2


def test_files_take_turns(paths, monkeypatch):
    turns = []

    def timed(path, plan):
        turns.append(path.name)
        seconds = [[0.001, 0.002], [0.003, 0.005]][len(turns) > 2]
        return {
            "seconds": {"1": seconds},
            "peak_memory_bytes": len(turns),
            "runtime_memory_bytes": None,
        }

    monkeypatch.setattr(file_profile, "_time_in_a_process", timed)
    first, second = file_profile.profile_files(paths, rounds=2)
    assert turns == ["free.tflite", "fixed.onnx", "free.tflite", "fixed.onnx"]
    # Of 1, 2, 3 and 5 ms; the 95th percentile is at 0.85 between the last two.
    (latency,) = first.latencies
    assert latency.median_ms == pytest.approx(2.5)
    assert latency.p95_ms == pytest.approx(3 + 0.85 * 2)
    assert (first.peak_memory_bytes, second.peak_memory_bytes) == (3, 4)
    assert first.runtime_memory_bytes is None


def test_file_sizes(tmp_path):
    (tmp_path / "model" / "variables").mkdir(parents=True)
    contents = [b"a" * 1000, bytes(range(256))]
    (tmp_path / "model" / "graph.pb").write_bytes(contents[0])
    (tmp_path / "model" / "variables" / "data").write_bytes(contents[1])
    zipped = [len(gzip.compress(x)) for x in contents]
    sizes = file_profile.file_sizes
    assert sizes(tmp_path / "model" / "graph.pb") == (1000, zipped[0])
    assert sizes(tmp_path / "model") == (1256, sum(zipped))


def test_a_damaged_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(
        ValueError, match="m.onnx could not be timed: ValueError: .*damaged"
    ):
        file_profile.profile_files([tmp_path / "m.onnx"])


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"threads": 0}, "threads"),
        ({"repeats": 1.5}, "repeats"),
        ({"rounds": 0}, "rounds"),
        ({"batch_sizes": (1, 0)}, r"batch_sizes\[1\]"),
    ],
)
def test_bad_numbers(paths, arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1"):
        file_profile.profile_files(paths, **arguments)
