"""A teacher of texts that sees the bytes which its students take."""

import keras

from keras_kd.models.symbolic import symbolic_inputs
from keras_kd.teachers.preprocessed import Preprocessed


def takes_texts(teacher):
    """Whether a model's one input is of strings, as of a `TextVectorization`."""
    inputs = symbolic_inputs(teacher)
    return len(inputs) == 1 and str(inputs[0].dtype) == "string"


def of_bytes(teacher):
    """A teacher of strings as one of the bytes of `keras_kd.datasets`.

    On TensorFlow, which alone has strings.

    Args:
        teacher: A `keras.Model` for which `takes_texts` holds.

    Returns:
        A `keras_kd.teachers.Preprocessed` that takes (batch, length), int32: the bytes of
        UTF-8, each plus 1, and 0 for padding.

    Raises:
        ValueError: Keras knows another shape of its outputs than they have, as after a
            `TextVectorization` that counts words of (batch, 1).
    """
    _check_shape(teacher)
    inputs = keras.Input((None,), dtype="int32", name="bytes")
    with_axis = len(symbolic_inputs(teacher)[0].shape) == 2
    return Preprocessed(teacher, keras.Model(inputs, TextOfBytes(with_axis)(inputs)))


def _check_shape(teacher):
    import tensorflow as tf

    shape = symbolic_inputs(teacher)[0].shape
    found = teacher(tf.constant(["a"] if len(shape) == 1 else [["a"]])).shape
    said = teacher.output_shape
    if len(found) != len(said):
        raise ValueError(
            f"`teacher` {teacher.name!r} gives outputs of shape {tuple(found[1:])}, and "
            f"Keras takes them for {tuple(said[1:])}: its TextVectorization counts words "
            'of texts of an axis. Give it keras.Input((), dtype="string").'
        )


@keras.saving.register_keras_serializable(package="keras_kd")
class TextOfBytes(keras.layers.Layer):
    """Strings of their bytes plus 1; 0 is none.

    Args:
        with_axis: Whether texts are (batch, 1); else (batch,).
    """

    def __init__(self, with_axis=True, **kwargs):
        # It computes nothing, so no precision is its own.
        super().__init__(dtype="float32", **kwargs)
        self.with_axis = with_axis

    def call(self, inputs):
        import tensorflow as tf

        table = tf.constant([b""] + [bytes([x]) for x in range(256)])
        letters = tf.gather(table, inputs)
        return tf.strings.reduce_join(letters, axis=-1, keepdims=self.with_axis)

    def compute_output_spec(self, inputs):
        shape = (inputs.shape[0], 1) if self.with_axis else (inputs.shape[0],)
        return keras.KerasTensor(shape, dtype="string")

    def get_config(self):
        base = {key: x for key, x in super().get_config().items() if key != "dtype"}
        return base | {"with_axis": self.with_axis}
