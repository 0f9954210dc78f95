import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.exporters.quantization import converter_options

X = np.random.default_rng(0).random((10, 4), "float32")


def signature(batch_size):
    return keras.InputSpec(shape=(batch_size, 4), dtype="float32")


@pytest.mark.parametrize("batch_size, sizes", [(None, [1] * 10), (5, [5, 5]), (4, [4, 4])])
def test_calibration_comes_in_batches_of_the_file(batch_size, sizes):
    options, count = converter_options("int8", X, signature(batch_size), as_bytes=False)
    given = [batch for (batch,) in options["representative_dataset"]()]
    assert [len(x) for x in given] == sizes
    assert count == sum(sizes)
    np.testing.assert_array_equal(np.concatenate(given), X[:count])
    assert options["inference_input_type"] == tf.int8


def test_two_pixels_stretch_the_range_to_all_bytes():
    images = np.full((10, 4), 100, "uint8")
    options, _ = converter_options("int8", images, signature(None), as_bytes=True)
    given = np.concatenate([x for (x,) in options["representative_dataset"]()])
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given[0], [0, 255, 100, 100])
    assert np.all(given[1:] == 100) and np.all(images == 100)
    assert options["inference_output_type"] == tf.uint8


def test_the_others_need_no_calibration():
    for kind in ("dynamic", "float16"):
        options, count = converter_options(kind, None, signature(None), as_bytes=True)
        assert count == 0 and "representative_dataset" not in options
