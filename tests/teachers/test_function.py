"""Functions as teachers: trained models of other libraries, and what goes wrong in use."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

import keras_kd as kd
from keras_kd.teachers import from_function

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.arange(32) % 3
WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")


def linear(x):
    return np.asarray(x) @ WEIGHTS


def small(units=3, inputs=4):
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((inputs,)), L.Dense(8, "relu"), L.Dense(units)])


def teacher_of(function=linear, **arguments):
    return from_function(function, **{"name": "linear", "version": "1"} | arguments)


def first_loss(teacher, data, units=3, **arguments):
    distiller = kd.Distiller(teacher, small(units), "kd", **arguments)
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), labels)
    return distiller.fit(data, verbose=0).history["distillation_loss"][0]


def softmax64(z):
    e = np.exp(np.asarray(z, "float64") - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def expected():
    p, q = softmax64(linear(X) / 4), softmax64(np.array(small()(X)) / 4)
    return 16 * np.mean(np.sum(p * np.log(p / q), axis=1))


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(32)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_live_and_cached(outputs, tmp_path):
    function = linear if outputs == "logits" else lambda x: softmax64(linear(x))
    teacher = teacher_of(function, outputs=outputs)
    live = first_loss(teacher, batches(X, Y))
    cached = kd.cache_teacher(teacher, (X, Y), tmp_path / "c", dtype="float32", verbose=0)
    assert live == pytest.approx(expected(), rel=1e-4)
    assert first_loss(teacher, cached.batch(32)) == pytest.approx(expected(), rel=1e-4)
    assert teacher(X).shape == (32, 3)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_a_cache_is_of_name_version_and_answers(tmp_path):
    def cached(function=linear, **arguments):
        teacher = teacher_of(function, **arguments)
        return kd.cache_teacher(teacher, (X, Y), tmp_path, verbose=0)

    cached()
    cached(lambda x: linear(x))
    for change in ({"version": "2"}, {"name": "other"}):
        with pytest.raises(kd.CacheError, match="teacher's architecture differs"):
            cached(**change)
    with pytest.raises(kd.CacheError, match="answers the first examples differently now"):
        cached(lambda x: linear(x) + x[:, :1])


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_a_forest_teaches_a_network():
    """scikit-learn's digits: the student follows it where it was not trained."""
    data = load_digits()
    x, y = (data.data / 16).astype("float32"), data.target
    forest = RandomForestClassifier(50, random_state=0).fit(x[:1200], y[:1200])
    teacher = from_function(
        forest.predict_proba, name="forest", version="1", outputs="probabilities"
    )
    train_ds = kd.cache_teacher(teacher, (x[:1200], y[:1200]), verbose=0)
    keras.utils.set_random_seed(0)
    layers = [L.Dense(32, "relu"), L.Dense(10)]
    student = keras.Sequential([L.Input((64,)), *layers])
    loss = kd.losses.SoftTargets(1.0)
    distiller = kd.Distiller(teacher, student, loss, student_loss_weight=0)
    distiller.compile(keras.optimizers.Adam(0.01))
    distiller.fit(train_ds.shuffle(1200, seed=0).batch(64), epochs=8, verbose=0)
    answers = np.array(student(x[1200:])).argmax(1)
    assert np.mean(answers == forest.predict(x[1200:])) > 0.85


def test_values_of_boosted_trees():
    y = X @ np.float32([1, 2, 3, 4])
    trees = GradientBoostingRegressor(random_state=0).fit(X, y)
    teacher = from_function(trees.predict, name="trees", version="1")
    assert teacher(X).shape == (32, 1)
    distiller = kd.Distiller(teacher, small(1), "logit_mse", task="regression")
    distiller.compile(keras.optimizers.SGD(0.0), "mse")
    history = distiller.fit(X, y, batch_size=32, verbose=0).history
    wanted = np.mean((trees.predict(X)[:, None] - np.array(small(1)(X))) ** 2)
    assert history["distillation_loss"][0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_an_onnx_file(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small()
    kd.export(model, tmp_path / "t.onnx", "onnx", examples=np.repeat(X, 32, 0))
    session = onnxruntime.InferenceSession(tmp_path / "t.onnx")
    (inputs,) = session.get_inputs()
    teacher = teacher_of(lambda x: session.run(None, {inputs.name: np.float32(x)})[0])
    np.testing.assert_allclose(teacher(X), model(X), rtol=1e-4, atol=1e-5)
    cached = kd.cache_teacher(teacher, (X, Y), verbose=0)
    assert first_loss(teacher, cached.batch(32)) == pytest.approx(0, abs=1e-4)


def test_a_torch_module():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 3)

    def answer(x):
        with torch.no_grad():
            return module(torch.from_numpy(np.array(x))).numpy()

    weight, bias = (x.detach().numpy() for x in module.parameters())
    np.testing.assert_allclose(teacher_of(answer)(X), X @ weight.T + bias, rtol=1e-4)


class Flaky:
    """Fails at some calls, as a service does."""

    def __init__(self, *fails):
        self.calls, self.fails = 0, fails

    def __call__(self, x):
        self.calls += 1
        if self.calls in self.fails:
            raise TimeoutError("no answer")
        return linear(x)


def test_it_is_asked_again(monkeypatch, caplog):
    pauses = []
    monkeypatch.setattr("keras_kd.teachers.function.time.sleep", pauses.append)
    teacher = teacher_of(Flaky(1, 2))
    np.testing.assert_allclose(teacher(X), linear(X), rtol=1e-6)
    assert pauses == [1, 2]
    assert "linear failed (TimeoutError: no answer) and is asked again in 2 s, 2 of 3" in (
        caplog.text
    )
    with pytest.raises(TimeoutError, match="no answer"):
        teacher_of(Flaky(1), retries=0)(X)


def test_what_was_kept_before_it_failed_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_kd.cache.filling.SHARD_BYTES", 8 * 3 * 2, raising=False)
    x = np.random.default_rng(2).normal(size=(4096, 4)).astype("float32")
    failing = Flaky(*range(12, 99))
    with pytest.raises(TimeoutError):
        teacher = teacher_of(failing, retries=0)
        kd.cache_teacher(teacher, x, tmp_path, batch_size=128, verbose=0)
    good = Flaky()
    data = kd.cache_teacher(teacher_of(good), x, tmp_path, batch_size=128, verbose=0)
    assert len(data) == 4096


def test_members_and_preprocessing():
    both = kd.teachers.Preprocessed(teacher_of(), L.Rescaling(2.0), input_shape=(4,))
    np.testing.assert_allclose(both(X), linear(2 * X), rtol=1e-5)


def test_no_file_holds_it(tmp_path):
    distiller = kd.Distiller(teacher_of(), small(), "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    path = tmp_path / "d.keras"
    distiller.save(path, include_teacher=False)
    again = kd.load_distiller(path, teacher_of())
    np.testing.assert_array_equal(again(X), distiller(X))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"function": 3}, "`function` must be callable"),
        ({"name": ""}, "`name` must be a string that tells"),
        ({"version": 1}, "`version` must be a string .* Received: version=1"),
        ({"outputs": "classes"}, "`outputs` must be"),
        ({"retries": -1}, "`retries` must be an integer, 0 or greater"),
        ({"output_shape": (0,)}, "`output_shape` must be an integer, 1 or greater"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        teacher_of(**arguments)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: linear(x)[:3], r"a row for each of the 32 .*: float32 of .*3, 3"),
        (lambda x: ["a"] * len(x), "must give an array of numbers"),
        (lambda x: 1.0, r"Received: float64 of shape \(\)"),
    ],
)
def test_answers_that_are_none(function, message):
    with pytest.raises(ValueError, match=message):
        teacher_of(function)(X)


def test_another_shape_than_was_said():
    with pytest.raises(ValueError, match=r"a row of shape \(5,\) for each"):
        teacher_of(output_shape=(5,))(X)


def test_what_its_outputs_are_is_said_where_it_is_made():
    with pytest.raises(ValueError, match="is said where it is made, by `outputs`"):
        kd.Distiller(teacher_of(), small(), "kd", teacher_outputs="probabilities")


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: 1 / (1 + np.exp(-linear(x))), "classes that sum to 1.*of labels"),
        (linear, "must give probabilities of classes"),
        (lambda x: linear(x) * np.nan, "answers with NaN or infinite"),
    ],
)
def test_answers_that_are_no_probabilities(function, message):
    with pytest.raises(ValueError, match=message):
        teacher_of(function, outputs="probabilities")(X)


def test_it_is_none_of_a_compilers():
    assert not teacher_of().supports_jit


def test_two_columns_teach_one_unit():
    """They are known in the batch alone: the logits a, b are the one logit b - a."""
    answers = linear(X)[:, :2]
    teacher = teacher_of(lambda x: linear(x)[:, :2])
    distiller = kd.Distiller(teacher, small(1), "kd", task="binary")
    labels = keras.losses.BinaryCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), labels)
    z = (answers[:, 1] - answers[:, 0]).astype("float64") / 4
    s = np.array(distiller.student(X), "float64")[:, 0] / 4
    p, q = (1 / (1 + np.exp(-a)) for a in (z, s))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = distiller.fit(X, Y % 2, batch_size=len(X), shuffle=False, verbose=0)
    found = found.history["distillation_loss"][0]
    assert found == pytest.approx(16 * divergence.mean(), rel=1e-4)
