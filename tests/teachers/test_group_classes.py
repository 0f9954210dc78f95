import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.teachers import GroupClasses

L = keras.layers
X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


@pytest.fixture
def teacher():
    return of(6)


def of(units, activation=None, shape=(4,)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input(shape), L.Dense(8), L.Dense(units, activation)])


def softmax64(z):
    z = np.asarray(z, "float64")
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_probabilities_are_added(activation):
    model = of(6, activation)
    p = np.asarray(model(X), "float64") if activation else softmax64(model(X))
    groups = [4, [0, 2, 5]]
    added = np.stack([p[:, 4], p[:, [0, 2, 5]].sum(1)], axis=1)
    dropped = softmax64(GroupClasses(model, groups)(X))
    expected = added / added.sum(1, keepdims=True)
    np.testing.assert_allclose(dropped, expected, rtol=1e-5)
    other = softmax64(GroupClasses(model, groups, rest="other")(X))
    expected = np.concatenate([added, p[:, [1, 3]].sum(1, keepdims=True)], axis=1)
    np.testing.assert_allclose(other, expected, rtol=1e-5)


def test_ranges_are_groups():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    found = GroupClasses(model, [range(0, 6, 2), range(1, 6, 2)])
    np.testing.assert_array_equal(found(X), GroupClasses(model, [[0, 2, 4], [1, 3, 5]])(X))
    np.testing.assert_array_equal(
        GroupClasses(model, range(3))(X), GroupClasses(model, [0, 1, 2])(X)
    )


def test_of_positions_and_of_logits_beyond_exp():
    model = of(4, shape=(3, 4))
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")
    p = softmax64(model(x))
    grouped = softmax64(GroupClasses(model, [[0, 3], 1], "other")(x))
    expected = np.stack([p[..., 0] + p[..., 3], p[..., 1], p[..., 2]], axis=-1)
    np.testing.assert_allclose(grouped, expected, rtol=1e-5)
    identity = keras.Sequential([L.Input((3,)), L.Identity()])
    logits = GroupClasses(identity, [0, [1, 2]], outputs="logits")
    found = np.array(logits(np.float32([[1e4, -1e4, 0]])))
    np.testing.assert_allclose(found[0, 0] - found[0, 1], 1e4)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_labels_of_their_own_are_chosen(activation):
    model = of(5, activation)
    task = None if activation else "multilabel"
    found = np.array(GroupClasses(model, [3, 1], task=task)(X))
    z = np.asarray(model(X), "float64")[:, [3, 1]]
    expected = np.log(z / (1 - z)) if activation else z
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_it_teaches_live_and_cached_and_comes_back(teacher, tmp_path):
    grouped = GroupClasses(teacher, [[0, 1], 2, [3, 5]])
    y = np.arange(12) % 3
    losses = []
    for data in ((X, y), kd.cache_teacher(grouped, (X, y), verbose=0)):
        keras.utils.set_random_seed(1)
        distiller = kd.Distiller(grouped, of(3), "kd")
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        given = (data,) if isinstance(data, tuple) else (data.batch(12),)
        given = given[0] if isinstance(data, tuple) else given
        history = distiller.fit(*given, verbose=0, shuffle=False).history
        losses.append(history["distillation_loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2) != 0
    p, q = softmax64(np.array(grouped(X)) / 4), None
    keras.utils.set_random_seed(1)
    q = softmax64(np.array(of(3)(X)) / 4)
    expected = 16 * np.mean(np.sum(p * np.log(p / q), axis=1))
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    grouped.save(tmp_path / "grouped.keras")
    again = keras.saving.load_model(tmp_path / "grouped.keras")
    np.testing.assert_array_equal(again(X), grouped(X))


def test_the_error_of_unequal_class_counts_names_it(teacher):
    with pytest.raises(ValueError, match="kd.teachers.GroupClasses makes a teacher of"):
        kd.Distiller(teacher, of(3), "kd")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"groups": 3}, "`groups` must be a list with an entry for each class"),
        ({"groups": [[0, 1]]}, "two or more. Received"),
        ({"groups": [0, 6]}, r"classes of `teacher`, 0..5, .*Received: 6"),
        ({"groups": [0, []]}, r"one or more in each. Received: \[\]"),
        ({"groups": [0, -1]}, "`groups` must be an integer, 0 or greater"),
        ({"groups": [0, "cat"]}, "`groups` must be an integer"),
        ({"groups": [[0, 1], [1, 2]]}, "Received more than once: 1"),
        ({"groups": [0, [1, 2, 3, 4, 5]], "rest": "other"}, "here there is none"),
        ({"groups": [0, 1], "rest": "even"}, "`rest` must be"),
        ({"groups": [[0, 1], 2], "task": "multilabel"}, r"do not add up. Received: \[0, 1"),
        ({"groups": [0, 1], "task": "regression"}, "`task` must be 'multiclass' or"),
        ({"groups": [0, 1], "outputs": "softmax"}, "`outputs` must be None or one of"),
    ],
)
def test_refused(teacher, arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupClasses(teacher, **arguments)


def test_teachers_without_classes():
    with pytest.raises(ValueError, match="one output .* of two classes or more"):
        GroupClasses(of(1), [0, 1])
    with pytest.raises(ValueError, match="with symbolic inputs"):
        GroupClasses("teacher.keras", [0, 1])
