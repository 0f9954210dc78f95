"""Fingerprints are the same for the same, and differ for what differs."""

import keras
import numpy as np
import pytest

from keras_kd.models.fingerprints import (
    ExamplesFingerprint,
    cache_settings,
    model_fingerprint,
    teacher_id,
)
from keras_kd.teachers import Ensemble, Several, from_saved_model


@pytest.fixture
def teacher(make_model):
    return make_model(name="teacher")


def of_examples(*batches):
    fingerprint = ExamplesFingerprint()
    for batch in batches:
        fingerprint.update([batch])
    return fingerprint.result()


def test_a_saved_compiled_or_frozen_teacher_is_the_same(teacher, tmp_path):
    before = model_fingerprint(teacher)
    teacher.compile("adam", "mse")
    teacher.trainable = False
    teacher.save(tmp_path / "teacher.keras")
    assert model_fingerprint(teacher) == before
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    assert model_fingerprint(loaded) == before


def test_one_changed_weight_is_another_teacher(teacher):
    before = model_fingerprint(teacher)
    bias = teacher.weights[1]
    bias.assign(bias + keras.ops.one_hot(0, 8) * 1e-6)
    after = model_fingerprint(teacher)
    assert after["weights"] != before["weights"]
    assert after["architecture"] == before["architecture"]


def test_another_activation_is_another_architecture(teacher):
    other = keras.models.clone_model(
        teacher, clone_function=lambda layer: layer.__class__.from_config(
            layer.get_config() | {"activation": "tanh"}
        )
    )
    other.set_weights(teacher.get_weights())
    before, after = model_fingerprint(teacher), model_fingerprint(other)
    assert after["architecture"] != before["architecture"]
    assert after["weights"] == before["weights"]


def test_a_teacher_without_a_configuration_has_a_fingerprint():
    class Teacher(keras.Model):
        def __init__(self, something):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    teachers = [Teacher(object()), Teacher(object())]
    for model in teachers:
        model(np.ones((1, 3)))
    teachers[1].set_weights(teachers[0].get_weights())
    assert model_fingerprint(teachers[0]) == model_fingerprint(teachers[1])


def branches(activation="relu", dtype=None, joined="first", anew=False):
    """Two layers side by side, one of which a third takes; with names by Keras."""
    inner = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    if anew:
        # Keras begins again to count, as in a process that loads the inner model.
        keras.backend.clear_session(free_memory=False)
    x = keras.Input((4,))
    sides = {
        "first": keras.layers.Dense(4, activation=activation, dtype=dtype)(x),
        "second": keras.layers.Dense(4, activation=activation, dtype=dtype)(x),
    }
    y = keras.layers.Add()([sides[joined], inner(x)])
    return keras.Model(x, [*sides.values(), y])


def architecture(model):
    return model_fingerprint(model)["architecture"]


def test_the_same_model_under_other_names_is_the_same_architecture():
    """Keras's own names go on counting, so they differ."""
    first, second = branches(), branches()
    assert [x.name for x in first.layers] != [x.name for x in second.layers]
    assert architecture(first) == architecture(second)
    keras.backend.clear_session(free_memory=False)
    third = branches(anew=True)
    inner = next(x for x in third.layers if isinstance(x, keras.Sequential))
    assert inner.layers[0].name in [x.name for x in third.layers]
    assert architecture(third) == architecture(first)
    assert model_fingerprint(first)["weights"] != model_fingerprint(second)["weights"]
    second.set_weights(first.get_weights())
    assert model_fingerprint(first) == model_fingerprint(second)


@pytest.mark.parametrize(
    "change", [{"activation": "tanh"}, {"dtype": "float64"}, {"joined": "second"}]
)
def test_another_model_is_another_architecture(change):
    assert architecture(branches(**change)) != architecture(branches())


def test_each_policy_is_another_architecture(make_model):
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    for build in (branches, make_model):
        assert len({architecture(build(dtype=x)) for x in policies}) == 3


def test_a_layer_may_be_called_as_what_it_does():
    def named(name, activation):
        layers = [keras.layers.Dense(4, activation=activation, name=name)]
        return keras.Sequential([keras.layers.Input((4,)), *layers])

    assert architecture(named("relu", "relu")) == architecture(named("tanh", "relu"))
    assert architecture(named("relu", "relu")) != architecture(named("tanh", "tanh"))


def same_again(teacher, folder, how):
    if how == "loaded":
        teacher.save(folder / "teacher.keras")
        return keras.models.load_model(folder / "teacher.keras")
    if how == "frozen":
        teacher.compile("adam", "mse")
        teacher.trainable = False
        return teacher
    again = keras.models.clone_model(
        teacher,
        clone_function=lambda layer: layer.from_config(
            layer.get_config() | {"dtype": how, "name": f"other_{layer.name}"}
        ),
    )
    again.set_weights(teacher.get_weights())
    return again


@pytest.mark.parametrize("how", ["loaded", "frozen", "float32", "mixed_bfloat16"])
def test_the_same_teacher_has_the_same_id(teacher, tmp_path, how):
    before = teacher_id(teacher)
    assert teacher_id(same_again(teacher, tmp_path, how)) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda first, second: first,
        lambda first, second: second,
        lambda first, second: Ensemble([first, second]),
        lambda first, second: Ensemble([second, first]),
        lambda first, second: Ensemble([first, second], temperature=2.0),
        lambda first, second: Several({"a": first, "b": second}),
        lambda first, second: keras.Sequential([*first.layers, keras.layers.Softmax()]),
    ],
)
def test_each_teacher_has_an_id_of_its_own(make, make_model):
    models = make_model(), make_model()
    others = [models[0], models[1], Ensemble(models), keras.models.clone_model(models[0])]
    found = teacher_id(make(*models))
    assert teacher_id(make(*models)) == found
    assert [teacher_id(x) for x in others].count(found) <= 1


def test_a_saved_model_is_told_by_its_constants(teacher, make_model, tmp_path):
    def constant(model, path):
        import tensorflow as tf

        kernel, bias = (tf.constant(x.numpy()) for x in model.weights[:2])
        module = tf.Module()
        spec = tf.TensorSpec([None, 4])
        call = tf.function(lambda x: {"y": x @ kernel + bias}, input_signature=[spec])
        tf.saved_model.save(module, str(path), {"serving_default": call})
        return str(path)

    one, same = (constant(teacher, tmp_path / name) for name in "ab")
    other = constant(make_model(), tmp_path / "c")
    teachers = [from_saved_model(path) for path in (one, one, same, other)]
    for told in teacher_id, lambda model: model_fingerprint(model)["architecture"]:
        ids = list(map(told, teachers))
        assert ids[0] == ids[1] == ids[2] != ids[3]


def test_another_saved_model_of_the_same_kind_is_another(make_model, tmp_path):
    """By its weights, where these are variables."""
    for name in "ab":
        make_model().export(tmp_path / name, verbose=False)
    moved = from_saved_model(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "c")
    same, other = (from_saved_model(tmp_path / name) for name in "cb")
    assert model_fingerprint(moved) == model_fingerprint(same)
    assert model_fingerprint(moved)["weights"] != model_fingerprint(other)["weights"]


def test_what_a_lookup_was_adapted_to_counts():
    def lookup(vocabulary):
        layers = [keras.layers.IntegerLookup(output_mode="multi_hot")]
        layers[0].adapt(vocabulary)
        model = keras.Sequential([keras.Input((2,), dtype="int64"), *layers])
        return teacher_id(model)

    assert lookup([1, 2, 3]) == lookup([1, 2, 3]) != lookup([4, 5, 6])


def test_the_size_of_batches_does_not_matter():
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert of_examples(x[:4], x[4:]) == of_examples(x)
    assert of_examples(x)["examples"] == 10


def test_order_shows_in_one_fingerprint_and_not_in_the_other():
    x = np.random.default_rng(0).normal(size=(10, 3))
    before, after = of_examples(x), of_examples(x[::-1])
    assert after["data"] != before["data"]
    assert after["data_in_any_order"] == before["data_in_any_order"]


def test_one_changed_byte_shows_in_both():
    x = np.zeros((10, 3), "uint8")
    before = of_examples(x)
    x[7, 1] = 1
    after = of_examples(x)
    assert after["data"] != before["data"]
    assert after["data_in_any_order"] != before["data_in_any_order"]


def test_settings_tell_what_augment_does(teacher):
    def settings(shift):
        def augment(inputs, indices, view, seed):
            return inputs + shift * keras.ops.cast(view, "float32")[:, None]

        x = np.zeros((2, 4), "float32")
        return cache_settings(teacher, x, [], augment, views=2, seed=0)["augment"]

    assert settings(1.0) == settings(1.0) != settings(2.0)


def test_inputs_and_outputs_in_a_dict_are_told_by_their_own_names():
    """Keras numbers the layers, and not what they are called in the dict."""

    def model(gives="logits"):
        keras.utils.set_random_seed(0)
        first, second = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        hidden = keras.layers.Dense(4)(keras.layers.Add()([first, second]))
        outputs = {gives: keras.layers.Dense(2)(hidden)}
        return keras.Model({"a": first, "b": second}, outputs)

    first, again = model(), model()
    assert model_fingerprint(first) == model_fingerprint(again)
    assert teacher_id(first) == teacher_id(again)
    other = model_fingerprint(model("others"))["architecture"]
    assert other != model_fingerprint(first)["architecture"]
