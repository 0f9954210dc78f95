"""What a student's outputs mean: looked up, said, refused; and what is then compared."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd
from keras_kd import Distiller, cache_teacher, losses
from keras_kd.tasks.find import find_task, last_activation

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
BINARY = keras.losses.BinaryCrossentropy
TEMPERATURE = 4.0


def net(units, activation=None, name=None):
    """Its outputs are in pixels where `units` is a shape."""
    shape = (units,) if isinstance(units, int) else units
    last = [layers.Dense(int(np.prod(shape))), layers.Reshape(shape)]
    if activation is not None:
        last.append(layers.Activation(activation))
    hidden = layers.Dense(8, activation="relu")
    return keras.Sequential([layers.Input((4,)), hidden, *last], name=name)


def dense(units, activation=None):
    last = layers.Dense(units, activation=activation)
    return keras.Sequential([layers.Input((4,)), layers.Dense(8, activation="relu"), last])


FOUND = [
    (dense(10), None, "multiclass"),
    (dense(10, "softmax"), None, "multiclass"),
    (dense(10), "sparse_categorical_crossentropy", "multiclass"),
    (dense(10, "softmax"), keras.losses.CategoricalFocalCrossentropy(), "multiclass"),
    (dense(10, "softmax"), "mse", "multiclass"),
    (dense(2, "softmax"), BINARY(), "multiclass"),
    (dense(1, "sigmoid"), None, "binary"),
    (dense(1, "sigmoid"), "mse", "binary"),
    (dense(1), BINARY(from_logits=True), "binary"),
    (dense(1), keras.losses.binary_focal_crossentropy, "binary"),
    (dense(1), [BINARY(from_logits=True)], "binary"),
    (dense(5, "sigmoid"), None, "multilabel"),
    (dense(5), BINARY(from_logits=True), "multilabel"),
    (net((6, 6, 1), "sigmoid"), None, "binary"),
    (net((6, 6, 3), "sigmoid"), BINARY(), "multilabel"),
    (dense(1), "mae", "regression"),
    (dense(3), keras.losses.Huber(), "regression"),
    (dense(1), None, None),
    (dense(1), lambda y_true, y_pred: 0.0, None),
]


@pytest.mark.parametrize("student, loss, task", FOUND)
def test_it_is_looked_up(student, loss, task):
    found, why = find_task(student, loss)
    assert found == task and why.startswith(f"{student.output_shape[-1]} ")


def test_the_teachers_activation_tells_where_the_students_does_not():
    assert find_task(dense(5), teacher=dense(5, "sigmoid"))[0] == "multilabel"
    assert find_task(dense(1), teacher=dense(1, "sigmoid"))[0] == "binary"
    assert find_task(dense(5, "softmax"), teacher=dense(5, "sigmoid"))[0] == "multiclass"


def test_of_several_outputs_it_is_not_looked_up():
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(3)(inputs)])
    assert find_task(two, "mse") == (None, "")
    assert find_task(two, "mse", said="regression") == ("regression", "")


@pytest.mark.parametrize(
    "student, loss, said, message",
    [
        (dense(10, "softmax"), BINARY(), None, "10 softmax units under Binary"),
        (dense(5, "sigmoid"), "categorical_crossentropy", None, "5 sigmoid units under"),
        (dense(1), "sparse_categorical_crossentropy", None, "1 linear unit under sparse"),
        (dense(5), None, "binary", "`task` 'binary' takes outputs of one unit.*with 5"),
        (dense(1), None, "multiclass", "'multiclass' takes outputs of two units or more"),
        (dense(1), None, "Binary", "`task` must be one of .*task='Binary'"),
        (dense(1), None, 1, "`task` must be one of .*Received: task=1"),
    ],
)
def test_what_contradicts_itself(student, loss, said, message):
    with pytest.raises(ValueError, match=message):
        find_task(student, loss, said=said)


@pytest.mark.filterwarnings("ignore:.*ends in a softmax")
def test_what_contradicts_itself_is_known_before_the_first_step():
    distiller = Distiller(dense(10, "softmax"), dense(10, "softmax"), "kd")
    with pytest.raises(ValueError, match="10 softmax units under binary_cross.*. Give"):
        distiller.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="`task` 'binary' takes outputs of one unit"):
        Distiller(dense(5), dense(5), "kd", task="binary")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "tanh", "relu", None])
def test_last_activation(activation):
    wanted = activation or "linear"
    inner = dense(3, activation)
    assert last_activation(inner) == wanted
    nested = keras.Sequential([layers.Input((4,)), layers.Dense(4), inner])
    assert last_activation(nested) == wanted
    assert last_activation(net((2, 3), activation)) == (activation or None)
    own = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation=keras.ops.sin)])
    assert last_activation(own) is None


def sigmoid64(logits):
    return np.exp(-np.logaddexp(0, -np.float64(logits)))


def odds64(probabilities):
    p = np.float64(probabilities)
    return np.log(p) - np.log1p(-p)


def divergence64(teacher, student):
    """The mean over examples and outputs, from logits."""
    p, q = (sigmoid64(x / TEMPERATURE) for x in (teacher, student))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return TEMPERATURE**2 * each.mean()


def fitted(teacher, student, loss, y, given="kd", **arguments):
    """The distillation loss of one step that changes nothing."""
    distiller = Distiller(teacher, student, given, **arguments)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    history = distiller.fit(X, y, batch_size=64, shuffle=False, verbose=0).history
    (value,) = history["distillation_loss"]
    return value, distiller


@pytest.mark.parametrize("units", [1, 5, (3, 3, 1)], ids=str)
@pytest.mark.parametrize(
    "taught, learned",
    [(None, None), ("sigmoid", "sigmoid"), ("sigmoid", None), (None, "sigmoid")],
)
def test_each_output_is_compared_by_itself(units, taught, learned):
    """Whether teacher and student give logits or probabilities."""
    teacher, student = net(units, taught), net(units, learned)
    y = np.random.default_rng(1).integers(0, 2, (64, *teacher.output_shape[1:]))
    task = "multilabel" if units == 5 else "binary"
    loss = BINARY(from_logits=learned is None)
    with pytest.warns(UserWarning, match=f"`task` is taken as '{task}': .*under Binary"):
        value, _ = fitted(teacher, student, loss, y.astype("float32"))
    logits = [
        odds64(model(X)) if activation else np.float64(model(X))
        for model, activation in ((teacher, taught), (student, learned))
    ]
    np.testing.assert_allclose(value, divergence64(*logits), rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        said, _ = fitted(teacher, student, loss, y.astype("float32"), task=task)
    assert said == value


def test_without_labels_it_must_be_said():
    with pytest.raises(ValueError, match="cannot be told .1 linear unit.*task='binary'"):
        fitted(dense(1), dense(1), None, None, student_loss_weight=0.0)
    teacher, student = dense(1), dense(1)
    how = {"student_loss_weight": 0.0, "task": "binary"}
    value, _ = fitted(teacher, student, None, None, **how)
    np.testing.assert_allclose(value, divergence64(teacher(X), student(X)), rtol=1e-4)


Y5 = np.zeros((64, 5), "float32")


@pytest.mark.filterwarnings("ignore:`task` is taken as")
@pytest.mark.parametrize(
    "name", ["kd", "logit_mse", "dkd", "dist", "logit_std", "nkd", "wsl", "ttm"]
)
def test_losses_that_have_no_meaning_say_so(name):
    model, student = dense(5), dense(5)
    sigmoids = BINARY(from_logits=True)
    if name in ("kd", "logit_mse"):
        assert np.isfinite(fitted(model, student, sigmoids, Y5, name)[0])
    else:
        with pytest.raises(ValueError, match="no meaning for the task 'multilabel' .5 lin"):
            fitted(model, student, sigmoids, Y5, name)
    if name == "logit_mse":
        assert np.isfinite(fitted(model, student, "mse", Y5, name)[0])
    else:
        with pytest.raises(ValueError, match="task 'regression' .*have: 'logit_mse', and"):
            fitted(model, student, "mse", Y5, name)


class Clipped(layers.Layer):
    """What a layer of one's own gives says nothing of a sigmoid."""

    def call(self, x):
        return keras.ops.clip(x, 0.0, 1.0)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
def test_numbers_in_0_to_1_are_compared_as_they_are():
    models = []
    for _ in range(2):
        last = [layers.Dense(1), Clipped()]
        models.append(keras.Sequential([layers.Input((4,)), *last]))
    teacher, student = models
    y = np.zeros((64, 1), "float32")
    value, _ = fitted(teacher, student, "mse", y, "logit_mse")
    wanted = np.mean((np.float64(teacher(X)) - np.float64(student(X))) ** 2)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_keras_own_loss_on_sigmoids():
    keras_loss = keras.distillation.LogitsDistillation(temperature=2.0)
    with pytest.raises(ValueError, match="LogitsDistillation has no meaning .*'multi"):
        fitted(dense(5), dense(5), BINARY(from_logits=True), Y5, keras_loss)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
def test_what_is_told_stays():
    teacher, student = dense(5), dense(5)
    told = losses.SoftTargets(TEMPERATURE, activation="softmax")
    value, distiller = fitted(teacher, student, BINARY(from_logits=True), Y5, told)
    np.testing.assert_allclose(value, told.compute_loss(teacher(X), student(X)), rtol=1e-4)
    assert distiller.distillation_losses == (told,)
    plain = losses.SoftTargets(TEMPERATURE)
    value, distiller = fitted(teacher, student, BINARY(from_logits=True), Y5, plain)
    # Another loss on the labels, another task.
    assert plain.activation is None and distiller.distillation_losses == (plain,)
    y = np.eye(5, dtype="float32")[np.arange(64) % 5]
    distiller.compile(
        keras.optimizers.SGD(0.0), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    history = distiller.fit(X, y, batch_size=64, shuffle=False, verbose=0).history
    wanted = plain.compute_loss(teacher(X), student(X))
    np.testing.assert_allclose(history["distillation_loss"], [wanted], rtol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    teacher, student = dense(5, "sigmoid"), dense(5)
    loss = BINARY(from_logits=True)
    value, distiller = fitted(teacher, student, loss, Y5, task="multilabel")
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.task == "multilabel"
    history = loaded.fit(X, Y5, batch_size=64, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["distillation_loss"], [value], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
def test_a_student_learns_one_unit():
    """From the teacher alone, whose answers it comes to give."""
    keras.utils.set_random_seed(0)
    teacher, student = dense(1, "sigmoid"), dense(1, "sigmoid")
    teacher.set_weights([3 * x for x in teacher.get_weights()])
    distiller = Distiller(teacher, student, "kd", student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(0.05))
    history = distiller.fit(X, epochs=60, verbose=0).history["distillation_loss"]
    assert history[-1] < 0.02 * history[0]
    same = (np.asarray(teacher(X)) > 0.5) == (np.asarray(student(X)) > 0.5)
    assert same.mean() > 0.9


def plain_or_cast(units, activation, cast):
    """As mixed precision has it: a cast to float32 behind the last activation."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    outputs = layers.Dense(units, activation=activation)(hidden)
    if cast:
        outputs = layers.Activation("linear", dtype="float32")(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
@pytest.mark.parametrize("units", [1, 3])
def test_a_cast_behind_a_sigmoid_is_none(units):
    teacher, student = (plain_or_cast(units, "sigmoid", True) for _ in range(2))
    assert last_activation(teacher) == "sigmoid"
    assert last_activation(plain_or_cast(units, None, True)) == "linear"
    value, _ = fitted(teacher, student, BINARY(), np.zeros((64, units), "float32"))
    wanted = divergence64(odds64(teacher(X)), odds64(student(X)))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


class Subclassed(keras.Model):
    """Whose outputs nobody knows before it runs."""

    def __init__(self, units, activation=None):
        super().__init__()
        self.dense = layers.Dense(units, activation=activation)

    def call(self, x):
        return self.dense(x)


@pytest.mark.filterwarnings("ignore:`task` is taken as")
@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_of_a_subclassed_student_the_loss_shows_it(units, activation):
    teacher, student = (Subclassed(units, activation) for _ in range(2))
    teacher(X), student(X)
    loss = BINARY(from_logits=activation is None)
    value, _ = fitted(teacher, student, loss, np.zeros((64, units), "float32"))
    logits = [np.float64(x(X)) for x in (teacher, student)]
    logits = list(map(odds64, logits)) if activation else logits
    np.testing.assert_allclose(value, divergence64(*logits), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*ends in a softmax")
@pytest.mark.filterwarnings("ignore:`task` is taken as")
@pytest.mark.parametrize(
    "taught, learned, loss, task",
    [
        ("softmax", "sigmoid", BINARY(), None),
        ("softmax", None, BINARY(from_logits=True), "multilabel"),
        ("sigmoid", "softmax", "categorical_crossentropy", None),
        ("sigmoid", "softmax", "categorical_crossentropy", "multiclass"),
        ("hard_sigmoid", "softmax", "categorical_crossentropy", None),
    ],
)
def test_teacher_and_student_of_two_tasks_are_refused(taught, learned, loss, task):
    distiller = Distiller(dense(3, taught), dense(3, learned), "kd", task=task)
    with pytest.raises(ValueError, match=f"`teacher` .* ends in a {taught}, and for"):
        distiller.compile("sgd", loss)


def test_what_is_kept_of_sigmoids_keeps_what_is_near_to_1():
    teacher, student = dense(3, "sigmoid"), dense(3)
    teacher.set_weights([6 * x for x in teacher.get_weights()])
    y = np.zeros((64, 3), "float32")
    distiller = Distiller(teacher, student, "kd", task="multilabel")
    distiller.compile(keras.optimizers.SGD(0.0), BINARY(from_logits=True))
    found = [
        distiller.fit(data, shuffle=False, verbose=0).history["distillation_loss"][0]
        for data in (
            tf.data.Dataset.from_tensor_slices((X, y)).batch(64),
            cache_teacher(teacher, (X, y), verbose=0).batch(64),
        )
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for")
@pytest.mark.parametrize("given", ["kd", "logit_mse"])
@pytest.mark.parametrize("learned", ["sigmoid", None])
def test_tapped_sigmoids_are_compared_each_by_itself(given, learned):
    def two(activation):
        inputs = keras.Input((4,))
        labels = layers.Dense(3, activation=activation, name="labels")(inputs)
        return keras.Model(inputs, [labels, layers.Dense(2, name="kind")(inputs)])

    teacher, student = two("sigmoid"), two(learned)
    loss = losses.get(given)
    config = loss.get_config() | {"taps": [["labels", "labels"]]}
    how = {"student_loss_weight": 0.0}
    value, _ = fitted(teacher, student, None, None, type(loss).from_config(config), **how)
    taught, learnt = (np.float64(x(X)[0]) for x in (teacher, student))
    taught, learnt = odds64(taught), odds64(learnt) if learned else learnt
    wanted = {"kd": divergence64, "logit_mse": lambda a, b: np.mean((a - b) ** 2)}[given]
    np.testing.assert_allclose(value, wanted(taught, learnt), rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_small_logits_are_no_probabilities_by_chance(seed):
    """Behind a layer that says nothing of an activation."""
    keras.utils.set_random_seed(seed)
    models = []
    for _ in range(2):
        inputs = keras.Input((5, 5, 1))
        maps = layers.Conv2D(1, 3, bias_initializer="ones")(inputs)
        models.append(keras.Model(inputs, layers.GlobalAveragePooling2D()(maps)))
    teacher, student = models
    images = np.random.default_rng(seed).random((64, 5, 5, 1), "float32")
    distiller = Distiller(teacher, student, "kd", task="binary")
    distiller.compile(keras.optimizers.SGD(0.0), BINARY(from_logits=True))
    y = np.zeros((64, 1), "float32")
    history = distiller.fit(images, y, batch_size=64, verbose=0).history
    wanted = divergence64(teacher(images), student(images))
    np.testing.assert_allclose(history["distillation_loss"], [wanted], rtol=1e-4)


def test_the_largest_classes_of_a_softmax_are_no_labels():
    teacher, student = dense(5), dense(5)
    cached = cache_teacher(teacher, (X, Y5), top_k=3, verbose=0).batch(64)
    distiller = Distiller(teacher, student, "kd", task="multilabel")
    distiller.compile("sgd", BINARY(from_logits=True))
    with pytest.raises(ValueError, match="largest classes of a softmax.*Leave `top_k` out"):
        distiller.fit(cached, shuffle=False, verbose=0)
    classes = Distiller(teacher, student, "kd")
    classes.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    classes.fit(cached, shuffle=False, verbose=0)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "units, activation, task",
    [(3, "sigmoid", "multilabel"), (1, "sigmoid", "binary"), (3, None, "multiclass")],
)
def test_an_ensembles_task_is_its_own(units, activation, task, wrapped):
    def model(activation=activation):
        layers = [keras.layers.Dense(units, activation)]
        return keras.Sequential([keras.layers.Input((4,)), *layers])

    ensemble = keras_kd.teachers.Ensemble([model(), model()], outputs=None)
    if wrapped:
        ensemble = keras_kd.teachers.Preprocessed(ensemble, keras.layers.Rescaling(2.0))
    assert find_task(ensemble)[0] == task
    # A linear student is what its teacher is.
    assert find_task(model(None), None, ensemble)[0] == task


def test_an_ensemble_of_values():
    def model():
        return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])

    ensemble = keras_kd.teachers.Ensemble([model(), model()], task="regression")
    assert find_task(ensemble)[0] == "regression"
    assert find_task(model(), "mse", ensemble)[0] == "regression"
    with pytest.raises(ValueError, match="contradict each other"):
        find_task(ensemble, "sparse_categorical_crossentropy")


@pytest.mark.parametrize("units", [2, 3])
def test_an_ensemble_that_took_itself_for_one_of_classes(units):
    """Of linear units nobody can know; a loss of labels says otherwise."""

    def model():
        layers = [keras.layers.Dense(units)]
        return keras.Sequential([keras.layers.Input((4,)), *layers])

    ensemble = keras_kd.teachers.Ensemble([model(), model()])
    with pytest.raises(ValueError, match="contradict each other: .*as `teacher`"):
        find_task(model(), BINARY(from_logits=True), ensemble)
    distiller = Distiller(ensemble, model(), "kd", task="multilabel")
    with pytest.raises(ValueError, match="an ensemble and the like have one of their own"):
        distiller.compile("sgd", BINARY(from_logits=True))
    ours = keras_kd.teachers.Ensemble([model(), model()], task="multilabel")
    assert find_task(model(), BINARY(from_logits=True), ours)[0] == "multilabel"
