"""How LiteRT's converter is told to quantise."""

import numpy as np
import tensorflow as tf

from keras_kd.exporters import proof


def converter_options(quantization, calibration, signature, as_bytes):
    """What `keras.Model.export` hands on to the converter.

    Args:
        quantization: "float16", "dynamic" or "int8".
        calibration: For "int8", training inputs as `export` takes them.
        signature: The `keras.InputSpec` of the file's input.
        as_bytes: Whether "int8" files take and give uint8, images in [0, 255], or int8.

    Returns:
        (options, count): a dict, and how many examples calibrate.

    Raises:
        ValueError: The calibration's shape is not the input's, or it does not fill a
            batch.
    """
    options = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if quantization == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    if quantization != "int8":
        return options, 0
    inputs = _calibration(calibration, signature)
    if as_bytes:
        # Two pixels that stretch the input's range, so that a byte stands for itself.
        inputs[0].flat[:2] = 0, 255
    size = signature.shape[0] or 1

    def batches():
        for start in range(0, len(inputs) - size + 1, size):
            yield [inputs[start : start + size]]

    kind = tf.uint8 if as_bytes else tf.int8
    options |= {
        "representative_dataset": batches,
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "inference_input_type": kind,
        "inference_output_type": kind,
    }
    return options, len(inputs) // size * size


def _calibration(calibration, signature):
    inputs = [batch for batch, _ in proof.batches(calibration, "calibration")]
    shapes = {batch.shape[1:] for batch in inputs}
    if shapes != {signature.shape[1:]}:
        raise ValueError(
            "`calibration` must be inputs of the examples' shape, "
            f"{signature.shape[1:]}. Received: shapes {sorted(shapes)}."
        )
    inputs = np.concatenate(inputs).astype("float32")
    if len(inputs) < (signature.shape[0] or 1):
        raise ValueError(
            "`calibration` must fill a batch of the file, "
            f"{signature.shape[0]} examples. Received: {len(inputs)}."
        )
    return inputs
