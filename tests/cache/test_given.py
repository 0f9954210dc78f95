"""Teacher outputs of elsewhere: each form gives the same loss; what is wrong is told."""

import keras
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import Distiller, with_teacher_outputs
from keras_kd.training import batch

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 5)).astype("float32"), RNG.integers(0, 4, 24)
Z = RNG.normal(size=(24, 4)).astype("float32") * 3
FEATURES = RNG.normal(size=(24, 6)).astype("float32")
ORDER = RNG.permutation(24)


def softmax64(z):
    e = np.exp(np.asarray(z, "float64") - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def student(units=4):
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((5,)), L.Dense(6, name="hidden"), L.Dense(units)])


def loss_of(data, losses="kd", **arguments):
    distiller = Distiller(None, student(), losses, **arguments)
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), labels)
    history = distiller.fit(data.batch(24), verbose=0, shuffle=False).history
    return history["distillation_loss"][0]


def expected():
    """Soft targets at T = 4, by hand."""
    p, q = softmax64(Z / 4), softmax64(np.array(student()(X)) / 4)
    return 16 * np.mean(np.sum(p * np.log(p / q), axis=1))


def files(path):
    """dict of a form's name to outputs of it; some in another order, with an index."""
    np.save(path / "z.npy", Z)
    np.savez(path / "z.npz", Z)
    np.savez(path / "named.npz", outputs=Z[ORDER], index=ORDER)
    columns = {f"class_{k}": Z[ORDER, k] for k in range(4)}
    pa.parquet.write_table(pa.table({"index": ORDER, **columns}), path / "z.parquet")
    pa.feather.write_feather(pa.table({"outputs": Z.tolist()}), path / "z.arrow")
    return {
        "array": Z,
        "float64": Z.astype("float64"),
        "dict": {None: Z},
        "index": {None: Z[ORDER], "index": ORDER},
        "memory map": np.load(path / "z.npy", mmap_mode="r"),
        "tf.data": tf.data.Dataset.from_tensor_slices(Z),
        **{name: path / name for name in ("z.npy", "z.npz", "named.npz")},
        **{name: str(path / name) for name in ("z.parquet", "z.arrow")},
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_forms(tmp_path, streamed):
    examples = tf.data.Dataset.from_tensor_slices((X, Y)) if streamed else (X, Y)
    for name, outputs in files(tmp_path).items():
        found = loss_of(with_teacher_outputs(examples, outputs))
        assert found == pytest.approx(expected(), rel=1e-5), name


@pytest.mark.parametrize("kind", ["probabilities", "log_probs"])
def test_kinds(kind):
    p = softmax64(Z)
    outputs = {"probabilities": p, "log_probs": np.log(p)}[kind]
    found = loss_of(with_teacher_outputs((X, Y), outputs, kind=kind))
    assert found == pytest.approx(expected(), rel=1e-5)


@pytest.mark.parametrize("shape", [(24, 1), (24,)])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "log_probs"])
def test_one_unit(kind, shape):
    p = 1 / (1 + np.exp(-Z[:, :1].astype("float64")))
    outputs = {"logits": Z[:, :1], "probabilities": p, "log_probs": np.log(p)}[kind]
    data = with_teacher_outputs((X, Y % 2), outputs.reshape(shape), kind=kind)
    distiller = Distiller(None, student(1), kd.losses.SoftTargets(1.0), task="binary")
    distiller.compile(keras.optimizers.SGD(0.0), keras.losses.BinaryCrossentropy(True))
    history = distiller.fit(data.batch(24), verbose=0, shuffle=False).history
    found = history["distillation_loss"][0]
    q = 1 / (1 + np.exp(-np.array(student(1)(X), "float64")))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert found == pytest.approx(kl.mean(), rel=1e-4)


@pytest.mark.parametrize("kind", ["probabilities", "log_probs", "logits"])
def test_the_largest_of_each_row(kind):
    p = softmax64(Z)
    classes = np.argsort(-Z, axis=1)[:, :2]
    top = np.take_along_axis(p, classes, axis=1)
    values = {"probabilities": top, "log_probs": np.log(top), "logits": np.log(top) + 7}
    data = with_teacher_outputs((X, Y), (values[kind], classes), kind=kind, num_classes=4)
    (x, _), *_ = data.batch(24)
    _, (own, _) = batch.unpack(x)
    taught = softmax64(own)
    # The mass that is left is shared; of logits nobody knows it.
    wanted = np.repeat((1 - top.sum(1, keepdims=True)) / 2, 4, axis=1)
    if kind == "logits":
        wanted, top = np.zeros((24, 4)), top / top.sum(1, keepdims=True)
    np.put_along_axis(wanted, classes, top, axis=1)
    np.testing.assert_allclose(taught, wanted, rtol=1e-4, atol=1e-6)
    assert loss_of(data) > 0


def test_layers_that_were_kept():
    data = with_teacher_outputs((X, Y), {None: Z, "block": FEATURES})
    loss = kd.losses.get("sp", taps=("block", "hidden"))
    found = loss_of(data, ["kd", loss])

    def similar(features):
        g = features @ features.T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    apart = similar(FEATURES.astype("float64")) - similar(np.array(_hidden(), "float64"))
    assert found == pytest.approx(expected() + np.sum(apart**2) / 24**2, rel=1e-4)
    with pytest.raises(ValueError, match="losses need more: 'block'. Received: the"):
        loss_of(with_teacher_outputs((X, Y), Z), ["kd", loss])
    alone = with_teacher_outputs((X, Y), {"block": FEATURES})
    assert loss_of(alone, loss) > 0
    with pytest.raises(ValueError, match="losses need more: the teacher's own outputs"):
        loss_of(alone)


def _hidden():
    model = student()
    return model.layers[0](X)


def test_what_cache_teacher_kept_needs_no_teacher_either():
    teacher = student()
    data = kd.cache_teacher(teacher, (X, Y), verbose=0)
    assert loss_of(data, teacher_outputs="logits") == pytest.approx(0, abs=1e-4)
    # What a softmax kept are no logits, and there is no teacher to ask.
    soft = keras.Sequential([teacher, L.Softmax()])
    data = kd.cache_teacher(soft, (X, Y), verbose=0)
    found = loss_of(data, teacher_outputs="probabilities")
    assert found == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="Say teacher_outputs='logits' or 'probabilities'"):
        loss_of(data)


def test_an_npz_of_one_layer(tmp_path):
    np.savez(tmp_path / "layer.npz", block=FEATURES)
    data = with_teacher_outputs((X, Y), tmp_path / "layer.npz")
    assert loss_of(data, kd.losses.get("sp", taps=("block", "hidden"))) > 0


def test_what_carries_something_already():
    numbered = kd.with_index((X, Y))
    for make in (lambda: with_teacher_outputs(numbered, Z),
                 lambda: kd.cache_teacher(student(), numbered, verbose=0)):  # fmt: skip
        with pytest.raises(ValueError, match="carries the examples' numbers, or teacher o"):
            make()


def test_a_file_without_a_teacher_loads_without_one(tmp_path):
    distiller = Distiller(None, student(), "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    again = kd.load_distiller(tmp_path / "d.keras", teacher=None)
    again.fit(with_teacher_outputs((X, Y), Z).batch(24), verbose=0, shuffle=False)


def test_a_distiller_without_a_teacher_is_kept_and_goes_on(tmp_path):
    data = with_teacher_outputs((X, Y), Z).batch(24)
    distiller = Distiller(None, student(), "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(data, validation_data=(X, Y), verbose=0, shuffle=False)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(again(X), distiller(X))
    again.fit(data, verbose=0, shuffle=False)
    with pytest.raises(ValueError, match="carries no teacher outputs, and there"):
        distiller.fit(X, Y, verbose=0, shuffle=False)


def test_other_examples_than_rows_are_told_while_they_are_read():
    """Of a data set whose length nobody knows."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: y < 2)
    with pytest.raises(tf.errors.FailedPreconditionError, match="contained only 11"):
        list(with_teacher_outputs(data, Z))


Z_WITH_NAN = Z.copy()
Z_WITH_NAN[7, 2] = np.nan
P = softmax64(Z)
TOP = np.argsort(-Z, axis=1)[:, :2]


@pytest.mark.parametrize(
    "outputs, arguments, message",
    [
        (Z[:5], {}, "one row for each example. Received: 5 rows for 24 examples"),
        (Z_WITH_NAN, {}, "`outputs` of example 7 hold NaN or infinite numbers"),
        ({None: Z, "a": FEATURES[:3]}, {}, "Received: 3 and 24 rows"),
        ({"a": Z_WITH_NAN}, {}, "example 7 hold NaN or infinite numbers of the layer 'a'"),
        (Z, {"kind": "probabilities"}, r"example 0 hold probabilities that are not in \[0"),
        (P / 2, {"kind": "probabilities"}, "do not sum to 1 .of labels of their own give"),
        (np.log(P) - 1, {"kind": "log_probs"}, "example 0 hold logarithms .* do not sum"),
        (Z, {"kind": "soft"}, "`kind` must be"),
        ({"a": FEATURES}, {"kind": "log_probs"}, "`kind` is of the teacher's own outputs"),
        (Z, {"num_classes": 4}, "`num_classes` is for outputs of the largest classes"),
        ((P, TOP), {"num_classes": 4}, "must be .values, classes. of shape"),
        ((P[:, :2], TOP), {}, "`num_classes` must say how many classes"),
        ((P[:, :2], TOP + 3), {"num_classes": 4}, "hold classes that are not in 0..3"),
        ((P[:, :2], 0 * TOP), {"num_classes": 4}, "example 0 hold one class twice"),
        (
            (np.ones((24, 2)), TOP),
            {"num_classes": 4, "kind": "probabilities"},
            "probabilities that sum to more than 1",
        ),
        ({None: Z, "index": ORDER + 1}, {}, "each of 0..23 once. Received: 24 in row"),
        ({None: Z, "index": 0 * ORDER}, {}, "Received: 0 in row 1, twice"),
        ({None: Z, "index": ORDER / 2}, {}, "one whole number for each of the 24 rows"),
        ({"index": ORDER}, {}, "Received: an index alone"),
        (np.array(["a"] * 24), {}, "must be arrays of numbers"),
        ("teacher.txt", {}, "must be the path of a .npy, .npz, .parquet or .arrow"),
    ],
)
def test_refused(outputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        with_teacher_outputs((X, Y), outputs, **arguments)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "a.arrow"])
def test_files_that_hold_something_else(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        with_teacher_outputs((X, Y), tmp_path / name)
    (tmp_path / name).write_text("something else")
    with pytest.raises(ValueError, match=f"{tmp_path / name} "):
        with_teacher_outputs((X, Y), tmp_path / name)


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "z.npy", np.array([{}] * 24, object), allow_pickle=True)
    with pytest.raises(ValueError, match="does not hold arrays"):
        with_teacher_outputs((X, Y), tmp_path / "z.npy")


def test_columns_that_are_no_numbers(tmp_path):
    path = tmp_path / "z.parquet"
    pa.parquet.write_table(pa.table({"a": ["x"] * 24}), path)
    with pytest.raises(ValueError, match="column 'a' of .* must hold numbers"):
        with_teacher_outputs((X, Y), path)
    pa.parquet.write_table(pa.table({"a": [1.0] * 23 + [None]}), path)
    with pytest.raises(ValueError, match="column 'a' of .* has nothing in row 23"):
        with_teacher_outputs((X, Y), path)


def test_what_is_never_in_a_step_keeps_none_from_being_compiled():
    """As XLA compiles it, which on JAX is the default."""
    distiller = Distiller(None, student(), "kd")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, jit_compile=True)
    assert distiller.jit_compile
