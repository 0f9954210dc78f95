"""cache_teacher: what it gives, what it reuses, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.cache import filling
from keras_kd.cache.answers import TeacherAnswers
from keras_kd.cache.cache import cache_teacher
from keras_kd.cache.files import CacheError
from keras_kd.training import batch


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(filling, "SHARD_EXAMPLES", 16)


@pytest.fixture
def teacher(make_model):
    return make_model(name="teacher")


@pytest.fixture
def calls(monkeypatch):
    """The numbers of the first examples of the batches that the teacher answered."""
    firsts, call = [], TeacherAnswers.__call__

    def call_and_tell(answers, inputs, first, view):
        firsts.append(first)
        return call(answers, inputs, first, view)

    monkeypatch.setattr(TeacherAnswers, "__call__", call_and_tell)
    return firsts


def cache(teacher, dataset, path=None, **arguments):
    return cache_teacher(teacher, dataset, path, **({"verbose": 0} | arguments))


def slices(*data):
    return tf.data.Dataset.from_tensor_slices(data)


def augment(inputs, indices, view, seed):
    shift = indices % 3 + 10 * view + seed
    return inputs + tf.cast(shift, tf.float32)[:, None]


WAYS = pytest.mark.parametrize("on_disk", [False, True])
KINDS = pytest.mark.parametrize("kind", [tuple, slices])


def as_kind(kind, *data):
    return data if kind is tuple else slices(*data)


@WAYS
@KINDS
def test_each_example_carries_what_the_teacher_says_of_it(
    teacher, vectors, tmp_path, kind, on_disk
):
    x, y = vectors
    hidden = teacher.layers[0].name
    dataset = cache(
        teacher, as_kind(kind, x, y), tmp_path if on_disk else None, outputs=[None, hidden]
    )
    assert len(dataset) == 64
    for packed, labels in dataset.shuffle(64, seed=0).batch(10):
        inputs, (own, taps) = batch.unpack(packed)
        np.testing.assert_allclose(own, teacher(inputs), rtol=2e-3, atol=2e-3)
        features = teacher.layers[0](inputs)
        np.testing.assert_allclose(taps[hidden], features, rtol=2e-3, atol=2e-3)
        np.testing.assert_array_equal(labels, np.argmax(inputs[:, :3], axis=1))


@WAYS
@KINDS
def test_the_student_sees_the_views_that_the_teacher_saw(
    teacher, vectors, tmp_path, kind, on_disk
):
    x, y = vectors
    dataset = cache(
        teacher,
        as_kind(kind, x, y),
        tmp_path if on_disk else None,
        views=2,
        augment=augment,
        seed=1,
        dtype="float32",
        batch_size=8,
    )
    epochs = dataset.shuffle(64, seed=0).batch(10)
    means = []
    for _ in range(3):
        seen = []
        for packed, _ in epochs:
            inputs, (own, _) = batch.unpack(packed)
            np.testing.assert_allclose(own, teacher(inputs), rtol=1e-4, atol=1e-4)
            seen.extend(inputs.numpy())
        means.append(np.mean(seen) - x.mean())
    shift = 1 + np.mean(np.arange(64) % 3)
    np.testing.assert_allclose(means, [shift, shift + 10, shift], rtol=1e-5)


def test_deformed_digits_are_the_same_to_teacher_and_student(mnist_sample, tmp_path):
    images, labels = (part[:40] for part in mnist_sample[0])
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    teacher = keras.Sequential(layers)
    dataset = cache(
        teacher,
        (images, labels),
        tmp_path / "cache",
        views=2,
        augment=keras_kd.augment.Deform(),
        dtype="float32",
    ).batch(16)
    first, second = ([batch.unpack(x) for x, _ in dataset] for _ in range(2))
    for x, (outputs, _) in first + second:
        np.testing.assert_allclose(teacher(x), outputs, atol=1e-4)
    assert np.abs(first[0][0] - second[0][0]).max() > 0.5


def test_unlabelled_examples(teacher, vectors):
    dataset = cache(teacher, vectors[0])
    inputs, (own, _) = batch.unpack(next(iter(dataset.batch(64))))
    np.testing.assert_allclose(own, teacher(inputs), rtol=2e-3, atol=2e-3)


def test_fit_learns_from_the_cached_outputs(teacher, make_model, vectors):
    def strip(packed, y):
        inputs, (own, _) = batch.unpack(packed)
        return inputs, own

    dataset = cache(teacher, vectors).shuffle(64).batch(16).map(strip)
    student = make_model()
    student.compile("adam", "mse")
    history = student.fit(dataset, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_any_batch_size_gives_the_same(teacher, vectors, tmp_path, batch_size):
    dataset = cache(teacher, vectors, tmp_path, batch_size=batch_size)
    packed, _ = next(iter(dataset.batch(64)))
    own = batch.unpack(packed)[1][0]
    np.testing.assert_allclose(own, teacher(vectors[0]), rtol=2e-3, atol=2e-3)


@KINDS
def test_a_cache_is_reused(teacher, vectors, tmp_path, calls, kind):
    data = as_kind(kind, *vectors)
    first = list(cache(teacher, data, tmp_path).batch(64).as_numpy_iterator())
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    calls.clear()
    again = list(cache(teacher, data, tmp_path).batch(64).as_numpy_iterator())
    assert set(calls) == {0}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    tf.nest.map_structure(np.testing.assert_array_equal, again, first)


def test_arrays_and_streams_share_a_cache(teacher, vectors, tmp_path):
    cache(teacher, vectors, tmp_path)
    cache(teacher, slices(*vectors), tmp_path)


def test_integers_of_numpy_are_integers(teacher, vectors, tmp_path):
    two = np.int64(2)
    arguments = {"views": two, "top_k": two, "batch_size": two, "seed": two}
    cache(teacher, vectors, tmp_path, augment=augment, **arguments)


def test_other_labels_need_no_other_cache(teacher, vectors, tmp_path, calls):
    x, y = vectors
    cache(teacher, (x, y), tmp_path)
    calls.clear()
    dataset = cache(teacher, (x, y + 1), tmp_path)
    assert set(calls) == {0}
    np.testing.assert_array_equal(next(iter(dataset.batch(64)))[1], y + 1)


def without_labels(x, weights):
    return slices(x, weights).map(lambda x, w: (x, None, w))


@WAYS
@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_weights_without_labels_weigh_the_distillation(
    teacher, make_model, vectors, tmp_path, kind, on_disk
):
    x, _ = vectors
    weights = np.where(np.arange(64) < 32, 0.0, 1.0).astype("float32")
    student = make_model()

    def loss(data):
        distiller = keras_kd.Distiller(teacher, student, "kd", student_loss_weight=0.0)
        distiller.compile(keras.optimizers.SGD(0.0))
        history = distiller.fit(data.batch(64), shuffle=False, verbose=0).history
        return history["distillation_loss"]

    data = (x, None, weights) if kind == "arrays" else without_labels(x, weights)
    dataset = cache(teacher, data, tmp_path if on_disk else None, dtype="float32")
    assert len(dataset.element_spec) == 3
    found = loss(dataset)
    np.testing.assert_allclose(found, loss(without_labels(x, weights)), rtol=1e-5)
    # Keras divides by the number of examples, whatever they weigh.
    alone = loss(slices(x[32:]))
    np.testing.assert_allclose(found, np.divide(alone, 2), rtol=1e-5)
    assert loss(keras_kd.with_index(data)) == pytest.approx(found, rel=1e-5)


def test_parts_that_are_none_are_left_out(teacher, vectors, tmp_path):
    x, y = vectors
    for data in ((x, y, None), slices(x, y).map(lambda x, y: (x, y, None))):
        dataset = cache(teacher, data)
        np.testing.assert_array_equal(next(iter(dataset.batch(64)))[1], y)
    for data in ((x, None), slices(x).map(lambda x: (x, None, None))):
        assert isinstance(cache(teacher, data).element_spec, dict)
        assert isinstance(keras_kd.with_index(data).element_spec, dict)
    with pytest.raises(ValueError, match="numbers as x.* Received: float32, object"):
        cache(teacher, ({"a": x, "b": None}, y))
    with pytest.raises(ValueError, match="one row for each example"):
        cache(teacher, (x, (y, None)))


def changed(x, what):
    x = x.copy()
    if what == "one example":
        x[40, 2] += 1e-6
    return {"order": x[::-1], "length": x[:60], "dtype": x.astype("float64")}.get(what, x)


@KINDS
@pytest.mark.parametrize(
    "what, reason",
    [
        ("one example", "`dataset` gives other examples"),
        ("order", "`dataset` gives the same examples in another order"),
        ("length", "`dataset` had 64 examples. Received: 60"),
        ("dtype", "`x` was .*float32.* Received: .*float64"),
    ],
)
def test_other_examples_are_refused(teacher, vectors, tmp_path, kind, what, reason):
    x, _ = vectors
    cache(teacher, as_kind(kind, x, x), tmp_path)
    x = changed(x, what)
    with pytest.raises(CacheError, match=reason) as error:
        cache(teacher, as_kind(kind, x, x), tmp_path)
    assert str(tmp_path) in str(error.value)


def shift(inputs, indices, view, seed):
    return inputs + 1


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"dtype": "float32"}, "`dtype` was 'float16'. Received: dtype='float32'"),
        ({"top_k": 2}, "`top_k` was None. Received: top_k=2"),
        ({"outputs": [None, "hidden"]}, "`outputs` was .*own.* Received: .*hidden"),
        ({"seed": 2}, "`seed` was 1. Received: seed=2"),
        ({"views": 3}, "`views` was 2. Received: views=3"),
        ({"augment": shift}, "`augment` makes something else of the first examples"),
    ],
)
def test_other_arguments_are_refused(vectors, tmp_path, arguments, reason):
    teacher = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(8, name="hidden")]
    )
    before = {"augment": augment, "views": 2, "seed": 1}
    cache(teacher, vectors, tmp_path, **before)
    with pytest.raises(CacheError, match=reason):
        cache(teacher, vectors, tmp_path, **(before | arguments))


def test_another_teacher_is_refused(teacher, vectors, tmp_path):
    cache(teacher, vectors, tmp_path)
    teacher.weights[-1].assign(teacher.weights[-1] + 1e-6)
    with pytest.raises(CacheError, match="the teacher's weights differ"):
        cache(teacher, vectors, tmp_path)


def test_another_version_is_refused(teacher, vectors, tmp_path, monkeypatch):
    cache(teacher, vectors, tmp_path)
    monkeypatch.setattr(keras_kd, "__version__", "99.0")
    with pytest.raises(CacheError, match="written by keras_kd .*; this is keras_kd 99.0"):
        cache(teacher, vectors, tmp_path)


def test_changed_code_of_the_teacher_shows_in_its_answers(vectors, tmp_path):
    class Teacher(keras.Model):
        factor = 1

        def call(self, x):
            return self.factor * x

        def build(self, shape):
            self.built = True

    teacher = Teacher(name="teacher")
    teacher.build((None, 4))
    cache(teacher, vectors, tmp_path)
    cache(teacher, vectors, tmp_path)
    Teacher.factor = 2
    with pytest.raises(CacheError, match="answers the first examples differently"):
        cache(teacher, vectors, tmp_path)


@KINDS
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_shard_is_refused(teacher, vectors, tmp_path, kind, damage):
    data = as_kind(kind, *vectors)
    cache(teacher, data, tmp_path)
    file = tmp_path / "shard-00002-view-0-output-0.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage != "missing":
        file.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(CacheError, match=f"{file.name} is (damaged|missing)"):
        cache(teacher, data, tmp_path)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"outputs": []}, r"`outputs` must be a list .* Received: outputs=\[\]"),
        ({"outputs": "hidden"}, "`outputs` must be a list"),
        ({"outputs": ["hidden"]}, "no layer 'hidden'"),
        ({"views": 0}, "`views` must be an integer, 1 or greater"),
        ({"views": 2}, "no effect without `augment`.* views=2"),
        ({"seed": "a"}, "`seed` must be an integer. Received: seed='a'"),
        ({"seed": 3}, "no effect without `augment`.* seed=3"),
        ({"augment": "flip"}, "`augment` must be a function"),
        ({"dtype": "bfloat16"}, "`dtype` must be 'float16' or 'float32'"),
        ({"top_k": 0}, "`top_k` must be an integer, 1 or greater"),
        ({"top_k": 3}, "`top_k` must be less than the number of classes, 3"),
        ({"rest": "drop"}, "no effect without `top_k`"),
        ({"rest": "zero", "top_k": 1}, "`rest` must be 'even' or 'drop'"),
        ({"outputs": ["x"], "top_k": 1}, "`outputs` leaves them out"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer, 1 or greater"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    teacher, vectors, tmp_path, arguments, reason
):
    with pytest.raises(ValueError, match=reason):
        cache(teacher, vectors, tmp_path / "cache", **arguments)
    assert not (tmp_path / "cache").exists()


def test_a_batched_dataset_is_refused(teacher, vectors):
    with pytest.raises(ValueError, match=r"cache it before `batch`.*\(None, 4\)"):
        cache(teacher, slices(*vectors).batch(8))


@WAYS
def test_a_dataset_that_turns_out_empty_is_refused(teacher, vectors, tmp_path, on_disk):
    empty = slices(*vectors).filter(lambda x, y: False)
    with pytest.raises(ValueError, match="`dataset` is empty"):
        cache(teacher, empty, tmp_path if on_disk else None)


@pytest.mark.parametrize("model", [None, "teacher", keras.layers.Dense(3)])
def test_what_is_no_model_is_refused(vectors, model):
    with pytest.raises(ValueError, match="`teacher` must be a keras.Model"):
        cache(model, vectors)


def test_an_unbuilt_teacher_is_refused(vectors):
    with pytest.raises(ValueError, match="`teacher` has no weights yet"):
        cache(keras.Sequential([keras.layers.Dense(3)]), vectors)


def test_progress_is_shown_unless_it_is_silenced(teacher, vectors, capsys):
    cache(teacher, vectors, verbose=1)
    assert "64/64" in capsys.readouterr().err
    cache(teacher, vectors)
    assert capsys.readouterr().err == ""
