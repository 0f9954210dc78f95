import sys

import numpy as np
import pytest

import keras_kd as kd
from keras_kd.exporters import runtimes

pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("onnxruntime")


def test_a_fixed_batch_is_filled_up():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs))
        return 2 * inputs

    x = np.arange(14, dtype="float32").reshape(7, 2)
    loaded = runtimes.LoadedFile(run, (3, 2), "float32")
    np.testing.assert_array_equal(loaded.predict(x), 2 * x)
    assert sizes == [3, 3, 3]


def test_a_free_batch_is_not():
    sizes = []
    loaded = runtimes.LoadedFile(lambda x: sizes.append(len(x)) or x, (None, 2), "float32")
    x = np.zeros((runtimes.BATCH + 7, 2), "float32")
    assert loaded.predict(x).shape == x.shape
    assert sizes == [runtimes.BATCH, 7]


def test_quantised_numbers_by_hand():
    details = {"dtype": np.int8, "quantization": (0.5, -3)}
    real = np.float32([0.0, 1.0, 1.2, 100.0, -100.0])
    quantized = runtimes._quantized(real, details)
    np.testing.assert_array_equal(quantized, np.int8([-3, -1, -1, 127, -128]))
    np.testing.assert_array_equal(
        runtimes._real(quantized, details), np.float32([0, 1, 1, 65, -62.5])
    )
    # Bytes are real numbers as well.
    np.testing.assert_array_equal(
        runtimes._quantized(np.uint8([0, 1, 2, 200]), details), np.int8([-3, -1, 1, 127])
    )
    # Words' numbers are what they are.
    words = runtimes._quantized(np.int32([3]), {"dtype": np.int32, "quantization": (0, 0)})
    assert words == 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import keras

    layers = [keras.layers.Input((4,)), keras.layers.Dense(3)]
    model, folder = keras.Sequential(layers), tmp_path_factory.mktemp("files")
    for name, format in (("m.tflite", "litert"), ("m.onnx", "onnx"), ("m", "saved_model")):
        kd.export(model, folder / name, format)
    return folder


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
def test_damaged_files(files, tmp_path, name, damage):
    source = files / name / "saved_model.pb" if name == "m" else files / name
    contents = source.read_bytes()
    damaged = {"truncated": contents[: len(contents) // 2], "foreign": b"no model" * 99}
    path = tmp_path / name
    target = path / "saved_model.pb" if name == "m" else path
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(damaged.get(damage, b""))
    with pytest.raises(ValueError, match="could not be loaded as .*damaged, or something"):
        runtimes.open_file(path)


def onnx_file(path, *inputs, op="Add", domain=""):
    onnx = pytest.importorskip("onnx")
    tensor, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, list(inputs), ["sum"], domain=domain)],
        "graph",
        [tensor(name, kind, [None, 4]) for name in inputs],
        [tensor("sum", kind, [None, 4])],
    )
    opsets = [onnx.helper.make_opsetid(x, 1 if x else 13) for x in {"", domain}]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, path)
    return path


def test_a_whole_file_that_is_not_run_is_not_called_damaged(tmp_path):
    refused = "'onnx' that onnxruntime does not run: "
    path = onnx_file(tmp_path / "two.onnx", "first", "second")
    with pytest.raises(ValueError, match=f"{refused}it has 2 inputs"):
        runtimes.open_file(path)
    path = onnx_file(tmp_path / "erfc.onnx", "first", op="Erfc")
    with pytest.raises(ValueError, match=f"{refused}.*Erfc"):
        runtimes.open_file(path)
    path = onnx_file(tmp_path / "other.onnx", "first", op="Mine", domain="other")
    with pytest.raises(ValueError, match=refused):
        runtimes.open_file(path)


def test_what_an_error_says():
    first = ValueError("<unknown>:0: error: loc(callsite(x at y)): 'tf.Erf' op\nnote: z")
    assert runtimes.reason(first) == "'tf.Erf' op"
    second = ValueError("m.tflite could not be loaded")
    second.__cause__ = RuntimeError("Node 1: an error: too large\n")
    assert runtimes.reason(second) == "Node 1: an error: too large"
    assert runtimes.reason(KeyError()) == "KeyError"
    third = ValueError("Exception encountered when calling A.call().\n\n\x1b[1mB.\x1b[0m\n")
    assert runtimes.reason(third) == "Exception encountered when calling A.call(). B."
    assert runtimes.reason(ValueError("in user code:\n\n  File x\n\n  E: y\n")) == "E: y"


def test_no_exported_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        runtimes.open_file(tmp_path / "gone.onnx")
    (tmp_path / "m.keras").write_text("")
    with pytest.raises(ValueError, match="ends in .tflite or .onnx, or is a folder"):
        runtimes.open_file(tmp_path / "m.keras")


@pytest.mark.parametrize(
    "module, format",
    [
        ("ai_edge_litert.interpreter", "litert"),
        ("onnxruntime", "onnx"),
        ("tf2onnx", "onnx"),
    ],
)
def test_a_missing_runtime(tmp_path, monkeypatch, make_model, module, format):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"m{runtimes.FORMATS[format][0]}"
    with pytest.raises(ImportError, match=r"pip install 'keras_kd\[export\]'"):
        kd.export(make_model(), path, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
def test_time_file(files, name):
    timed = runtimes.time_file(
        files / name, [1, 2], threads=None if name == "m" else 1, warm_up=1, repeats=3
    )
    assert [len(x) for x in timed["seconds"].values()] == [3, 3]
    assert all(s > 0 for x in timed["seconds"].values() for s in x)
    assert timed["peak_memory_bytes"] >= timed["runtime_memory_bytes"] > 0


def test_several_outputs_of_a_fixed_batch():
    def run(inputs):
        return {"b": 2 * inputs, "a": inputs.sum(axis=-1)}

    x = np.arange(14, dtype="float32").reshape(7, 2)
    given = runtimes.LoadedFile(run, (3, 2), "float32").predict(x)
    assert list(given) == ["b", "a"]
    np.testing.assert_array_equal(given["b"], 2 * x)
    np.testing.assert_array_equal(given["a"], x.sum(axis=-1))


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
def test_outputs_by_the_names_of_the_model(tmp_path, name):
    """Those of a LiteRT file come in another order than the model's."""
    import keras

    x = keras.Input((4,))
    last, first, more = (keras.layers.Dense(2, name=n) for n in ("last", "first", "more"))
    model = keras.Model(x, [last(x), first(x), more(x)])
    path, format = tmp_path / name, {"m.tflite": "litert", "m.onnx": "onnx"}.get(name)
    kd.export(model, path, format or "saved_model")
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    given = runtimes.open_file(path).predict(inputs)
    assert set(given) == {"last", "first", "more"}
    for layer in (last, first, more):
        expected = inputs @ layer.kernel.numpy()
        np.testing.assert_allclose(given[layer.name], expected, atol=1e-5)
    threads = None if name == "m" else 1
    timed = runtimes.time_file(path, [2], threads=threads, warm_up=1, repeats=2)
    assert len(timed["seconds"][2]) == 2


def test_a_litert_file_without_signatures():
    class Interpreter:
        def get_signature_list(self):
            return {}

        def get_output_details(self):
            return [{"name": "x", "index": 7}, {"name": "y", "index": 5}]

    found = runtimes._litert_outputs(Interpreter())
    assert {name: details["index"] for name, details in found.items()} == {"x": 7, "y": 5}
