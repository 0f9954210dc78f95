"""A teacher of strings, asked by the bytes that a student takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.teachers.of_texts import of_bytes, takes_texts

TEXTS = ["ab ba", "ab", "naïve straße", "a", "ба"]


def teacher_of_strings(shape):
    inputs = keras.Input(shape, dtype="string")
    mode = "int" if shape else "count"
    words = keras.layers.TextVectorization(output_mode=mode, split="character")
    words.adapt(TEXTS)
    x = words(inputs)
    if shape:
        x = keras.layers.GlobalMaxPooling1D()(keras.layers.Embedding(20, 4)(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def test_outputs_of_another_shape_than_keras_knows_are_told():
    inputs = keras.Input((1,), dtype="string")
    words = keras.layers.TextVectorization(output_mode="count", split="character")
    words.adapt(TEXTS)
    teacher = keras.Model(inputs, keras.layers.Dense(3)(words(inputs)))
    with pytest.raises(ValueError, match=r"shape \(3,\), and Keras takes them for"):
        of_bytes(teacher)


@pytest.mark.parametrize("shape", [(1,), ()])
def test_it_answers_the_bytes_as_their_texts(shape, tmp_path):
    teacher = teacher_of_strings(shape)
    assert takes_texts(teacher)
    texts = tf.constant(TEXTS)
    expected = teacher(texts[:, None] if shape else texts)
    seen = of_bytes(teacher)
    assert not takes_texts(seen)
    rows = np.stack([as_row(text) for text in TEXTS])
    np.testing.assert_array_equal(seen(rows), expected)
    seen.save(tmp_path / "t.keras")
    again = keras.saving.load_model(tmp_path / "t.keras")
    np.testing.assert_array_equal(again.predict(rows, verbose=0), expected)


def as_row(text, length=16):
    """The bytes of UTF-8, each plus 1, by hand."""
    row = np.zeros(length, "int32")
    content = text.encode()
    row[: len(content)] = np.frombuffer(content, "uint8").astype("int32") + 1
    return row
