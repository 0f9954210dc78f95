"""The process of LiteRT's converter: how it dies, and what is then said."""

import os
import signal
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.exporters import converter

X = np.random.default_rng(0).random((10, 4), "float32")


@pytest.fixture
def serve(monkeypatch):
    """Puts a script in place of the process's; the true one is left for other tests."""
    monkeypatch.setattr(converter, "_process", None)
    yield lambda x: monkeypatch.setattr(converter, "_SERVE", f"import os, sys\n{x}")
    converter._stop()


ONCE = "sys.stdin.readline()\n"


@pytest.mark.parametrize(
    "script, how",
    [
        (f"{ONCE}os.kill(os.getpid(), 11)", "signal 11 (SIGSEGV)"),
        (f"{ONCE}os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)"),
        (f"{ONCE}sys.exit('first\\nno room')", "exit status 1: no room"),
        (f"{ONCE}sys.exit(3)", "exit status 3: no message"),
        (ONCE, "exit status 0"),
    ],
)
def test_how_it_stopped_is_told(serve, script, how):
    serve(script)
    assert converter.ask({"path": "m.tflite"}) == {"stopped": how}


def test_one_that_ended_by_itself_is_replaced(serve, tmp_path):
    first = tmp_path / "first"
    serve(
        f"path = {str(first)!r}\n{ONCE}"
        "if os.path.exists(path): print('{\"written\": true}', flush=True)\n"
        "open(path, 'w').close()"
    )
    assert converter.ask({"path": "m.tflite"}) == {"written": True}


def test_a_full_disk_is_an_os_error(serve, make_model, tmp_path):
    serve(f"{ONCE}print('{{\"os\": [28, \"No space left on device\"]}}', flush=True)")
    with pytest.raises(OSError, match="No space left.*: '/.*/m.tflite'") as caught:
        kd.export(make_model(), tmp_path / "m.tflite", "litert")
    assert caught.value.errno == 28 and not list(tmp_path.iterdir())


def test_a_process_that_is_in_another_folder_now(make_model, tmp_path, monkeypatch):
    converter.start()
    monkeypatch.chdir(tmp_path)
    kd.export(make_model(), "m.tflite", "litert")
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_ends_it(serve):
    serve(f"{ONCE}import time; time.sleep(60)")
    converter.start()
    process = converter._process._popen
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        converter.ask({"path": "m.tflite"})
    assert process.returncode == -signal.SIGKILL and time.monotonic() - start < 30


def test_a_forked_process_starts_its_own(serve, monkeypatch):
    serve(f"{ONCE}")
    converter.start()
    parents = converter._process
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        converter.start()
        assert converter._process is not parents and parents._popen.poll() is None
        converter._stop()
    parents.stop()


def told(monkeypatch, *arguments):
    """What TensorFlow's converter is told."""
    made = types.SimpleNamespace(target_spec=types.SimpleNamespace(), optimizations=[])
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda path: made)
    assert converter._converter("model", *arguments) is made
    return made


@pytest.mark.parametrize("batch_size, sizes", [(None, [1] * 10), (5, [5, 5])])
def test_calibration_comes_in_batches_of_the_file(monkeypatch, batch_size, sizes):
    made = told(monkeypatch, "int8", X, batch_size, False)
    given = [batch for (batch,) in made.representative_dataset()]
    assert [len(x) for x in given] == sizes
    np.testing.assert_array_equal(np.concatenate(given), X)
    assert made.inference_input_type == made.inference_output_type == tf.int8
    assert made.target_spec.supported_ops == [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def test_images_are_bytes(monkeypatch):
    made = told(monkeypatch, "int8", X, None, True)
    assert made.inference_input_type == made.inference_output_type == tf.uint8


def test_the_others_need_no_calibration(monkeypatch):
    half = told(monkeypatch, "float16", None, None, True)
    assert half.target_spec.supported_types == [tf.float16]
    dynamic = told(monkeypatch, "dynamic", None, None, True)
    assert dynamic.optimizations == half.optimizations == [tf.lite.Optimize.DEFAULT]
    assert not hasattr(dynamic, "representative_dataset")
    assert not told(monkeypatch, None, None, None, True).optimizations
