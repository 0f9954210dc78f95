"""What would fail in a later stage, or at the end, is refused before the first step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import DistillationChain, Stage, cache_teacher
from keras_kd.chain import run as chain_run
from keras_kd.chain.result import Measuring


@pytest.fixture(scope="module")
def data(vectors):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(16)


@pytest.fixture(scope="module")
def make_chain(make_model):
    """Builds the same chain each time, but for what the second stage is given."""

    def make(**second):
        keras.utils.set_random_seed(0)
        stages = [
            Stage("first", make_model(8), 2, "kd"),
            Stage("student", make_model(4), 2, **({"distillation_losses": "kd"} | second)),
        ]
        return DistillationChain(make_model(16), stages)

    return make


class Own(keras.layers.Layer):
    """A class that is not registered."""

    def call(self, x):
        return x


def refused(chain, message, *arguments, **keywords):
    """Nothing was trained."""
    before = chain.stages[0].student.get_weights()
    with pytest.raises(ValueError, match=message):
        chain.fit(*arguments, **keywords, verbose=0)
    for a, b in zip(before, chain.stages[0].student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("folder", [None, "run"])
@pytest.mark.parametrize(
    "test_data, message",
    [
        (lambda x, y: (x[:, :3], y), "(?s)Stage 'alone': .*incompatible"),
        (lambda x, y: (x, np.eye(4)[y]), "Stage 'alone': `test_data` must have class lab"),
        (lambda x, y: (x, y + 3), "Stage 'alone': `test_data` must hold labels in 0..2"),
        (lambda x, y: (x, y[:9]), "as many examples"),
    ],
)
def test_what_the_end_needs_is_tried_before_training(
    make_model, vectors, data, tmp_path, folder, test_data, message
):
    chain = DistillationChain(None, [Stage("alone", make_model(), 1)])
    how = {"run_dir": folder and tmp_path / folder}
    refused(chain, message, data, data, test_data=test_data(*vectors), **how)


@pytest.mark.parametrize("monitor", ["val_acuracy", "val_logit_mse_loss", "accuracy"])
def test_what_to_monitor_is_looked_for_before_training(make_chain, data, tmp_path, monitor):
    chain = make_chain(restore_best=True, monitor=monitor)
    message = f"Stage 'student': `monitor` must be .*val_accuracy, .*Received: .*{monitor}"
    refused(chain, message, data, data, tmp_path / "run", test_data=data.take(2))


def test_what_keras_names_itself_can_be_monitored(make_chain, data):
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")]
    for monitor in "val_top", "val_student_loss":
        chain = make_chain(restore_best=True, monitor=monitor, metrics=metrics)
        result = chain.fit(data, data, test_data=data.take(2), verbose=0)
        assert monitor in result.histories["student"]


def one_hot(x, y):
    return x, tf.one_hot(y, 3)


def narrow(x, y):
    return x[:, :3], y


LATER = {
    "loss": ({"loss": keras.losses.CategoricalCrossentropy(from_logits=True)}, "rank|shap"),
    "metric": ({"metrics": [keras.metrics.Precision()]}, "does not fit the labels"),
    "width": (lambda data: {"train_data": data.map(narrow)}, "incompatible"),
    "labels": (lambda data: {"train_data": data.map(one_hot)}, "rank|shape"),
    "no labels": (lambda data: {"train_data": data.map(lambda x, y: x)}, "missing from"),
    "metrics without labels": (
        lambda data: {"train_data": data.map(lambda x, y: x), "student_loss_weight": 0.0},
        "`metrics` need labels.*metrics=None .a Stage has accuracy by default",
    ),
    "arrays": ({"train_data": (np.zeros((9, 3)), np.zeros(9))}, "incompatible"),
    "no arrays": ({"train_data": (np.zeros((0, 4)), np.zeros(0))}, "holds no examples"),
}


@pytest.mark.parametrize("what", LATER)
def test_what_does_not_fit_in_a_later_stage(make_chain, data, what):
    given, message = LATER[what]
    chain = make_chain(**(given(data) if callable(given) else given))
    before = chain.stages[0].student.get_weights()
    with pytest.raises(Exception, match=f"(?s)(Stage 'student'.*)?{message}"):
        chain.fit(data, data, verbose=0)
    for a, b in zip(before, chain.stages[0].student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_training_data(make_chain, data):
    refused(make_chain(), "Stage 'first': `train_data` must be given", None, data)
    with pytest.raises(ValueError, match="Stage 'first': .*a function must return what"):
        make_chain().fit(lambda teacher: None, data, verbose=0)
    chain = make_chain()
    for stage in chain.stages:
        stage.train_data = data
    chain.fit(None, data, verbose=0)


def test_a_student_that_cannot_be_saved(make_model, data, tmp_path, monkeypatch, caplog):
    def chain():
        layers = [keras.layers.Input((4,)), Own(), keras.layers.Dense(3)]
        return DistillationChain(None, [Stage("a", keras.Sequential(layers), 1)])

    chain().fit(data, data, tmp_path / "run", verbose=0)
    assert "'a': its model.keras will need `custom_objects`" in caplog.text
    assert "'Own' in the file is not known" in caplog.text
    monkeypatch.setattr(Own, "save_own_variables", lambda self, store: 1 / 0)
    refused(chain(), "Stage 'a': .*could not be saved", data, data, tmp_path / "other")


@pytest.mark.parametrize("kind", ["tf.data", "arrays", "cached"])
def test_nothing_of_it_is_kept(make_model, make_chain, vectors, data, monkeypatch, kind):
    """The same weights and histories, to the bit, as if nothing had been tried."""
    examples = tf.data.Dataset.from_tensor_slices(vectors)

    def fit():
        chain = make_chain(restore_best=True, metrics=["accuracy"])
        given = {
            "tf.data": lambda: examples.shuffle(64, seed=1).batch(16),
            "arrays": lambda: vectors,
            "cached": lambda: lambda x: cache_teacher(x, vectors, verbose=0).batch(16),
        }[kind]()
        return chain.fit(given, vectors, test_data=data, verbose=0)

    tried = fit()
    monkeypatch.setattr(chain_run, "try_a_batch", lambda *_: None)
    plain = fit()
    assert tried.histories == plain.histories
    for name in plain.students:
        pairs = zip(tried.students[name].weights, plain.students[name].weights, strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:.build... was called on layer")
def test_a_student_without_weights_draws_them_in_its_turn(vectors, data, monkeypatch):
    """Not when another one's first batch is tried."""

    def drawn(shape, dtype=None):
        return np.random.normal(size=shape).astype("float32")

    def fit():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(3, kernel_initializer=drawn) for _ in range(2)]
        students = [keras.Sequential([layer]) for layer in layers]
        stages = [Stage(name, x, 1) for name, x in zip("ab", students, strict=True)]
        return DistillationChain(None, stages).fit(data, data, verbose=0)

    tried = fit()
    monkeypatch.setattr(Measuring, "try_out", lambda *_: None)
    plain = fit()
    for name in "ab":
        pairs = zip(tried.students[name].weights, plain.students[name].weights, strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_what_is_not_known_is_not_tried(vectors):
    """Batches of a fixed size, images of any size."""
    inputs = keras.Input(batch_shape=(8, 4))
    fixed = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    data = tf.data.Dataset.from_tensor_slices(vectors).batch(8)
    DistillationChain(None, [Stage("a", fixed, 1)]).fit(data, data, verbose=0)
    inputs = keras.Input((None, None, 1))
    maps = keras.layers.Conv2D(2, 3)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    free = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    images = np.ones((8, 5, 5, 1), "float32"), np.zeros(8, "int64")

    def batches():
        yield images

    signature = (
        tf.TensorSpec((None, None, None, 1)),
        tf.TensorSpec((None,), tf.int64),
    )
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    result = DistillationChain(None, [Stage("a", free, 1)]).fit(data, images, verbose=0)
    assert result.models[0].examples == 8


def test_one_hot_labels_under_the_default_loss(make_model, vectors):
    x, y = vectors
    data = (x, np.eye(3, dtype="float32")[y])
    chain = DistillationChain(None, [Stage("s", make_model(), 1)])
    with pytest.raises(ValueError, match="Stage .s.: `loss` Sp.* Of one-hot labels give"):
        chain.fit(data, data, verbose=0)
