import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.probe import probe_inputs, probe_like

layers = keras.layers


def test_the_same_each_time_and_other_with_another_seed():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    first, again = probe_inputs(model), probe_inputs(model)
    assert first.shape == (8, 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, probe_inputs(model, seed=1))


def test_the_structure_that_the_model_takes():
    image = keras.Input((None, None, 3), name="image")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    pooled = layers.GlobalAveragePooling2D()(image)
    words = layers.Flatten()(layers.Embedding(1, 2)(tokens))
    outputs = layers.Dense(2)(layers.Concatenate()([pooled, words]))
    model = keras.Model({"image": image, "tokens": tokens}, outputs)
    inputs = probe_inputs(model, batch_size=4)
    assert inputs["image"].shape == (4, 32, 32, 3)
    assert inputs["tokens"].dtype == np.int32
    assert model(inputs).shape == (4, 2)


def test_types_that_numpy_does_not_know():
    model = keras.Sequential([keras.Input((3,), dtype="bfloat16"), layers.Dense(2)])
    assert model(probe_inputs(model)).shape == (8, 2)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_that_has_run():
    model = Subclassed()
    assert probe_inputs(model) is None
    model(np.ones((1, 6)))
    assert probe_inputs(model).shape == (8, 6)


def test_text_has_no_probe():
    text = keras.Input((), dtype="string")
    model = keras.Model(text, layers.TextVectorization(vocabulary=["a"])(text))
    assert probe_inputs(model) is None


def test_like_a_batch_but_not_of_it():
    batch = {"image": np.ones((3, 5), "float32"), "text": np.array(["a", "b", "c"])}
    batch = {key: keras.ops.convert_to_tensor(x) for key, x in batch.items()}
    inputs = probe_like(batch, batch_size=4)
    assert inputs["image"].shape == (4, 5)
    assert not (inputs["image"] == 1).any()
    assert inputs["text"].tolist() == [""] * 4


def test_a_batch_of_unknown_rank_has_no_probe():
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def trace(x):
        assert probe_like(x) is None
        return x

    trace(tf.ones((2, 3)))
