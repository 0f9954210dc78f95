"""What a user may write, at random: it does what it should, or a ValueError says why not.

KERAS_KD_FUZZ=10 runs ten times as many examples.
"""

import atexit
import functools
import inspect
import json
import os
import shutil
import tempfile

import hypothesis
import hypothesis.configuration
import keras
import numpy as np
import pytest
import tensorflow as tf
import tomli_w
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd.recipes import recipe as recipes
from keras_kd.recipes.stage import StageRecipe
from tests.losses import instances

# It keeps numbers that it finds in our source, as soon as a test is collected.
_FOLDER = tempfile.mkdtemp(prefix="keras_kd_hypothesis_")
hypothesis.configuration.set_hypothesis_home_dir(_FOLDER)
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TIMES = int(os.environ.get("KERAS_KD_FUZZ", 1))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fuzzed(examples):
    """Runs a test on so many examples, the same each time, and keeps no file of them."""
    return hypothesis.settings(
        max_examples=examples * TIMES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        # A model is not made smaller for the message.
        phases=[hypothesis.Phase.generate],
    )


# Values that no argument, or not every argument, takes.
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.floats(-2, 8, allow_subnormal=False),
    st.sampled_from([float("nan"), float("inf"), 0.0, -0.0, 1e39, 1e-45, 10**40, 2.0**64]),
    st.floats(0, 1).map(np.float32),
    st.integers(0, 3).map(np.int64),
    st.floats(0, 4).map(np.array),
)
TEXTS = st.sampled_from(["", "kd", "mean", "logits", "probabilities", "1", "größer"])
SIMPLE = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none(), st.just(np.bool_(True)))
ANYTHING = st.one_of(
    SIMPLE,
    st.lists(SIMPLE, max_size=3),
    st.lists(st.floats(0, 2), max_size=3).map(np.array),
    st.lists(SIMPLE, max_size=2).map(tuple),
    st.dictionaries(TEXTS, SIMPLE, max_size=2),
    st.just(b"kd"),
    st.just(object),
)


def mostly(*good):
    """A value that the argument takes; once in six times any other."""
    return st.integers(0, 5).flatmap(lambda k: st.sampled_from(good) if k else ANYTHING)


KINDS = mostly(None, "logits", np.array("logits"))
WEIGHTS = mostly(None, None, [1.0], 0.5, np.array([2]), [np.float32(1), 2], [0.0])
FRACTION = mostly(0.0, 0.5, 1.0, np.float32(0.3), np.array(0.7), 1)
TEMPERATURE = mostly(4.0, 1, np.float32(2.0), 0.1, 1e4)


def dense(name=None, units=5, outputs=3, last=None):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(outputs, last)(x), name=name)


def model_of(name):
    return models()[name]


@functools.cache
def models():
    """Good and bad ones for an argument that takes a model; none of them is trained."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return {
        "teacher": dense("teacher", 6),
        "student": dense("student"),
        "other": dense("other", 4),
        "soft": dense("soft", last="softmax"),
        "wide": dense("wide", outputs=7),
        "unbuilt": keras.Sequential([keras.layers.Dense(3)]),
        "two": keras.Model(inputs, [keras.layers.Dense(3)(inputs) for _ in range(2)]),
        "layer": keras.layers.Dense(3),
        "none": None,
        "text": "teacher",
    }


@pytest.fixture(autouse=True, scope="module")
def _models_before():
    # Not in a strategy, which draws from no random state but its own.
    models()


GOOD = ("teacher", "student", "other")
BAD = ("soft", "wide", "unbuilt", "two", "layer", "none", "text")
MOSTLY_GOOD = st.sampled_from(4 * GOOD + BAD).map(model_of)
NO_LOSSES = ("crd", "none", keras.distillation.LogitsDistillation)
LOSSES = mostly("kd", "logit_mse", "dkd", "fitnet", "rkd", np.str_("kd"), *NO_LOSSES)
CONSTRUCTORS = {
    "Distiller": (
        kd.Distiller,
        {
            "teacher": st.sampled_from(8 * ("teacher",) + BAD).map(model_of),
            "student": st.sampled_from(8 * ("student",) + BAD).map(model_of),
            "distillation_losses": st.one_of(LOSSES, st.lists(LOSSES, max_size=3)),
        },
        {
            "distillation_loss_weights": WEIGHTS,
            "student_loss_weight": FRACTION,
            "teacher_outputs": KINDS,
            "student_outputs": KINDS,
            "validation_distillation": mostly(True, False, np.bool_(False)),
        },
    ),
    "MutualDistiller": (
        kd.MutualDistiller,
        {
            "students": st.one_of(
                st.lists(MOSTLY_GOOD, min_size=1, max_size=3),
                st.dictionaries(TEXTS, MOSTLY_GOOD, max_size=3),
                st.permutations(GOOD).map(lambda names: [models()[x] for x in names]),
            )
        },
        {
            "distillation_losses": st.one_of(LOSSES, st.lists(LOSSES, max_size=3)),
            "distillation_loss_weights": WEIGHTS,
            "student_outputs": KINDS,
        },
    ),
    "Ensemble": (
        kd.teachers.Ensemble,
        {"models": st.lists(MOSTLY_GOOD, min_size=2, max_size=2) | mostly("none")},
        {
            "weights": mostly(None, [1.0, 2], np.array([1, 3])),
            "temperature": TEMPERATURE,
            "outputs": KINDS,
        },
    ),
    "Several": (
        kd.teachers.Several,
        {"models": st.dictionaries(TEXTS, MOSTLY_GOOD, max_size=3) | mostly("none")},
        {},
    ),
    "Stage": (
        kd.Stage,
        {"name": mostly("s", "größer"), "student": MOSTLY_GOOD},
        {
            "epochs": mostly(1, np.int64(2)),
            "distillation_losses": LOSSES,
            "distillation_loss_weights": WEIGHTS,
            "student_loss_weight": FRACTION,
            "taught_by": mostly(None, "teacher"),
            "patience": mostly(None, 1),
            "restore_best": mostly(False, True),
            "monitor": mostly("val_loss", "val_accuracy"),
        },
    ),
    "TeacherFreeLoss": (
        kd.TeacherFreeLoss,
        {},
        {
            "alpha": FRACTION,
            "temperature": TEMPERATURE,
            "correct_prob": mostly(0.9, np.float32(0.5)),
            "multiplier": TEMPERATURE,
            "from_logits": mostly(True, False, np.bool_(True)),
        },
    ),
}


def arguments_of(needed, others):
    return st.fixed_dictionaries(needed, optional=others)


def made_or_refused(make, arguments):
    """What is made; None where a ValueError names one of the arguments."""
    try:
        made = make(**arguments)
        hypothesis.event("made")
        return made
    except ValueError as error:
        # Models that do not go together are named without quotes.
        names = [f"`{name}" for name in arguments] + ["the teacher", "the student"]
        names += ["teacher_outputs of shape", "'" + str(arguments.get("name"))]
        assert any(name in str(error) for name in names), (arguments, error)
        return None


@pytest.mark.parametrize("name", CONSTRUCTORS)
@hypothesis.given(data=st.data())
@fuzzed(12)
def test_constructors(name, data):
    make, needed, others = CONSTRUCTORS[name]
    arguments = data.draw(arguments_of(needed, others))
    if name == "Stage":
        arguments = {"epochs": 1} | arguments
    made = made_or_refused(make, arguments)
    if made is None:
        return
    if name in ("Ensemble", "TeacherFreeLoss"):
        json.dumps(made.get_config())
    if name == "Ensemble":
        assert np.isfinite(made(np.ones((2, 4), "float32"))).all()
    if name == "TeacherFreeLoss":
        y_pred = [[0.7, 0.3], [0.1, 0.9]]
        assert np.isfinite(float(made([0, 1], y_pred)))


@pytest.mark.parametrize("name", kd.losses.names())
@hypothesis.given(data=st.data())
@fuzzed(3)
def test_losses(name, data):
    parameters = inspect.signature(kd.losses.LOSSES[name]).parameters
    needed = {k: st.just(x) for k, x in instances.REQUIRED.items() if k in parameters}
    defaults = {k: x.default for k, x in parameters.items() if k not in needed}
    others = {k: mostly(x, x) if k != "taps" else ANYTHING for k, x in defaults.items()}
    taps = mostly(("hidden", "hidden"), np.array(["hidden", "hidden:0"]))
    arguments = data.draw(arguments_of(needed, others | {"taps": taps}))
    loss = made_or_refused(kd.losses.LOSSES[name], arguments)
    if loss is None:
        return
    config = loss.get_config()
    again = type(loss).from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    rng = np.random.default_rng(0)
    maps = name in ("at", "nst", "fsp", "ft", "ab", "ofd", "reviewkd", "simkd", "vid")
    shape = (6, 4, 4, 5) if maps else (6, 5)
    teacher, student = rng.normal(size=(2, *shape)).astype("float32")
    more = {"index": np.arange(6)} if loss.needs_index else {}
    pairs = max(1, len(loss.taps))
    if pairs > 1 or name in ("fsp", "reviewkd"):
        teacher, student = [teacher] * max(2, pairs), [student] * max(2, pairs)
    try:
        value = loss.compute_loss(teacher, student, y_true=np.arange(6) % 5, **more)
    except ValueError:  # Such as a margin for another number of channels.
        return
    hypothesis.note(f"{loss!r}")
    assert np.isfinite(float(value))


LAYERS = ("dense", "conv", "nested", "norm", "dropout", "dict", "two", "shared", "masked")


def made_of(kind, units, classes, policy):
    """A small model of a kind, for inputs (4,), or (4, 4, 1), or (5, 3)."""
    shape = {"conv": (4, 4, 1), "masked": (5, 3)}.get(kind, (4,))
    keras.config.set_dtype_policy(policy)
    try:
        layers = keras.layers
        inputs = x = keras.Input(shape)
        if kind == "conv":
            x = layers.Conv2D(units, 2, activation="relu")(x)
            x = layers.GlobalAveragePooling2D()(x)
        elif kind == "masked":
            x = layers.LSTM(units)(layers.Masking()(x))
        elif kind == "nested":
            x = keras.Sequential([layers.Input(shape), layers.Dense(units)])(x)
        elif kind == "shared":
            same = layers.Dense(4)
            x = same(same(x))
        else:
            x = layers.Dense(units, activation="relu", kernel_regularizer="l2")(x)
        x = layers.BatchNormalization()(x) if kind == "norm" else x
        x = layers.Dropout(0.5, seed=1)(x) if kind == "dropout" else x
        head = layers.Dense(classes, dtype="float32", name="head")
        outputs = head(x)
        if kind == "dict":
            outputs = {"logits": outputs}
        if kind == "two":
            outputs = [outputs, layers.Dense(2, dtype="float32", name="more")(x)]
        return keras.Model(inputs, outputs)
    finally:
        keras.config.set_dtype_policy("float32")


def softened(logits, temperature):
    logits = tf.cast(logits, "float64") / temperature
    return logits - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)


def plain_losses(student_logits, teacher_logits, y, weight, setting):
    """(on the labels, of distillation) of one batch, in float64, from the papers."""
    log_q = softened(student_logits, 1.0)
    one_hot = tf.one_hot(y, log_q.shape[-1], dtype="float64")
    on_labels = -tf.reduce_sum(one_hot * log_q, axis=-1)
    distilled = tf.zeros_like(on_labels)
    for loss_weight, temperature in setting["losses"]:
        if temperature is None:
            difference = tf.cast(teacher_logits, "float64")
            difference -= tf.cast(student_logits, "float64")
            each = tf.reduce_mean(difference**2, axis=-1)
        else:
            log_p = softened(teacher_logits, temperature)
            difference = log_p - softened(student_logits, temperature)
            each = temperature**2 * tf.reduce_sum(tf.exp(log_p) * difference, axis=-1)
        distilled += loss_weight * each
    return tf.reduce_mean(weight * on_labels), tf.reduce_mean(weight * distilled)


SETTINGS = st.fixed_dictionaries(
    {
        "teacher": st.sampled_from(["dense", "norm", "dropout", "nested"]),
        "student": st.sampled_from(LAYERS),
        "policy": st.sampled_from(["float32", "float32", "float32", "mixed_bfloat16"]),
        "classes": st.integers(2, 5),
        "batch": st.integers(1, 7),
        "labels": st.sampled_from(["integers", "column", "one-hot"]),
        "data": st.sampled_from(["arrays", "dataset", "generator", "remainder"]),
        "weighted": st.sampled_from([None, "ones", "some", "zeros"]),
        "student_loss_weight": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "losses": st.lists(
            st.tuples(
                st.sampled_from([0.0, 0.5, 1.0, 3.0]),
                st.sampled_from([None, 0.5, 1.0, 4.0, 20.0]),
            ),
            min_size=1,
            max_size=3,
        ),
        "eagerly": st.sampled_from([True, True, True, True, False]),
        "seed": st.integers(0, 2**16),
    }
)


def fit_once(distiller, x, y, weight, setting):
    """One epoch, of one step unless batches leave a remainder; the history."""
    parts = (x, y) if weight is None else (x, y, weight)
    size = setting["batch"]
    if setting["data"] in ("arrays", "remainder"):
        arguments = {"x": x, "y": y, "sample_weight": weight, "batch_size": size}
        return distiller.fit(**arguments, shuffle=False, verbose=0).history
    if setting["data"] == "dataset":
        data = tf.data.Dataset.from_tensor_slices(parts).batch(size)
    else:
        data = (parts for _ in range(1))
    return distiller.fit(data, verbose=0).history


def logits_of(outputs):
    """What is compared: the first output."""
    return keras.tree.flatten(outputs)[0]


@pytest.mark.slow
@hypothesis.given(setting=SETTINGS)
@fuzzed(24)
def test_training_is_the_plain_calculation(setting):
    keras.utils.set_random_seed(setting["seed"])
    rng = np.random.default_rng(setting["seed"])
    same_inputs = setting["student"] if setting["student"] in ("conv", "masked") else None
    kind = same_inputs or setting["teacher"]
    teacher = made_of(kind, 6, setting["classes"], "float32")
    student = made_of(setting["student"], 5, setting["classes"], setting["policy"])
    teacher_head = student_head = "head"
    pair = (teacher_head, student_head) if setting["student"] == "two" else None
    losses = [
        kd.losses.LogitMSE(taps=pair)
        if temperature is None
        else kd.losses.SoftTargets(temperature, taps=pair)
        for _, temperature in setting["losses"]
    ]
    weights = [weight for weight, _ in setting["losses"]]
    arguments = (teacher, student, losses, weights, setting["student_loss_weight"])
    if not any(weights) and not setting["student_loss_weight"]:
        with pytest.raises(ValueError, match="are all 0, so nothing would be learned"):
            kd.Distiller(*arguments)
        return
    distiller = kd.Distiller(*arguments)
    is_one_hot = setting["labels"] == "one-hot"
    loss = keras.losses.CategoricalCrossentropy if is_one_hot else type(LOSS)
    loss = loss(from_logits=True)
    distiller.compile(
        keras.optimizers.SGD(0.1),
        [loss, None] if setting["student"] == "two" else loss,
        run_eagerly=setting["eagerly"],
    )
    steps = 2 if setting["data"] == "remainder" else 1
    count = setting["batch"] + (setting["batch"] + 1) // 2 * (steps - 1)
    x = rng.normal(size=(count, *student.inputs[0].shape[1:])).astype("float32")
    labels = rng.integers(0, setting["classes"], count)
    y = {"column": labels[:, None], "one-hot": np.eye(setting["classes"])[labels]}
    y = y.get(setting["labels"], labels)
    weights = {"ones": np.ones(count), "some": rng.random(count), "zeros": np.zeros(count)}
    weight = weights.get(setting["weighted"])
    weight = None if weight is None else weight.astype("float32")
    if setting["student"] == "two":
        # As Keras takes them of a model of two outputs.
        y, weight = (y, np.zeros(count)), None
    plain = keras.models.clone_model(student)
    plain.set_weights(student.get_weights())
    taught_by = logits_of(teacher(x, training=False))
    totals, seen = [], []
    for first in range(0, count, setting["batch"]):
        rows = slice(first, first + setting["batch"])
        each = np.ones(count) if weight is None else np.float64(weight)
        with tf.GradientTape() as tape:
            outputs = logits_of(plain(x[rows], training=True))
            batch = taught_by[rows], labels[rows], each[rows]
            parts = plain_losses(outputs, *batch, setting)
            share = setting["student_loss_weight"]
            total = share * parts[0] + (1 - share) * parts[1]
            total += tf.cast(sum(plain.losses), "float64") if plain.losses else 0.0
        gradients = tape.gradient(total, plain.trainable_weights)
        for variable, gradient in zip(plain.trainable_weights, gradients, strict=True):
            if gradient is not None:
                variable.assign_sub(0.1 * tf.cast(gradient, variable.dtype))
        totals.append(float(total))
        seen.append(len(x[rows]))
    history = fit_once(distiller, x, y, weight, setting)
    is_mixed = setting["policy"] != "float32"
    tolerance = {"rtol": 0.05, "atol": 0.02} if is_mixed else {"rtol": 1e-3, "atol": 1e-4}
    expected = np.average(totals, weights=seen)
    np.testing.assert_allclose(history["total_loss"][0], expected, **tolerance)
    np.testing.assert_allclose(history["loss"][0], expected, **tolerance)
    for ours, theirs in zip(student.get_weights(), plain.get_weights(), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, **tolerance)


# What TOML can say.
TOML = st.one_of(
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([0.0, 0.5, 1.0, -1.0, 4.0, 1e39, float("nan"), float("inf"), 2**40]),
    st.sampled_from(["", " ", "adam", "kd", "val_loss", "first", "First", "second "]),
    st.lists(st.one_of(st.integers(-1, 9), st.floats(0, 2), st.just("kd")), max_size=2),
    st.just({}),
    st.just({"name": "kd"}),
    st.builds(
        lambda name, a, b: {
            "schedule": name,
            "initial_learning_rate": a,
            "decay_steps": b,
        },
        st.sampled_from(["CosineDecay", "ExponentialDecay", "PolynomialDecay", "None"]),
        st.sampled_from([1.0, 0.5, -1.0, float("nan"), float("inf"), "1", True, 0.0]),
        st.sampled_from([10, 0, -1, "1", True, 2.5]),
    ),
)
OF_LOSS = ("temperature", "alpha", "beta", "form", "taps", "gamma")
OF_OPTIMIZER = ("learning_rate", "beta_1", "beta_2", "epsilon", "clipnorm", "momentum")
OF_OPTIMIZER += ("weight_decay", "use_ema", "ema_momentum", "amsgrad", "name", "rho")


# What some keys take.
RIGHT = {"seed": 3, "batch_size": 20, "temperature": 2.0, "beta": 0.5, "repeat": 2}
RIGHT |= {"learning_rate": 0.01, "beta_2": 0.9, "momentum": 0.5, "epsilon": 1e-6}
RIGHT |= {"weight_decay": 0.01, "clipnorm": 1, "use_ema": True, "examples": 100}
RIGHT |= {"student_loss_weight": 0.3, "distillation_loss_weights": [2], "classes": [1, 7]}
RIGHT |= {"published_accuracy": [99.0], "validation_examples": 500, "dense": False}
RIGHT |= {"dtype_policy": "mixed_bfloat16", "taught_by": ["first"], "alpha": 0}


@st.composite
def recipe_tables(draw):
    """A right recipe with up to three keys of any value."""
    stages = [
        {"name": name, "model": "mnist_fc_8", "epochs": 1} for name in ("first", "second")
    ]
    stages[1]["taught_by"] = "first"
    stages[1]["losses"] = [{"name": draw(st.sampled_from(["kd", "dkd", "logit_mse"]))}]
    stages[1]["optimizer"] = {"name": draw(st.sampled_from(["adam", "sgd", "rmsprop"]))}
    table = {"dataset": "mnist", "batch_size": 50, "stage": stages}
    places = [
        *[(table, key) for key in recipes.Recipe.model_fields if key != "stage"],
        *[(stages[1], key) for key in StageRecipe.model_fields],
        *[(stages[1]["losses"][0], key) for key in OF_LOSS],
        *[(stages[1]["optimizer"], key) for key in OF_OPTIMIZER],
    ]
    changed = []
    for holder, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        is_right = key in RIGHT and draw(st.booleans())
        holder[key] = RIGHT[key] if is_right else draw(TOML)
        changed.append(key)
    return table, changed


@hypothesis.given(drawn=recipe_tables())
@fuzzed(45)
def test_recipes(drawn, tmp_path_factory):
    table, changed = drawn
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    try:
        recipe = recipes.load(path)
        if recipe.teacher is not None:
            return
        chain = recipes.make_chain(recipe, None)
        hypothesis.event("made")
    except ValueError as error:
        message = str(error)
        # A part of what was changed is named, or the stage that is wrong as a whole.
        assert any(key in message for key in changed), (changed, message)
        return
    for stage in chain.stages:
        optimizer = stage.optimizer
        if isinstance(optimizer, keras.optimizers.Optimizer):
            variable = keras.Variable(np.ones(3, "float32"))
            for _ in range(3):
                optimizer.apply([keras.ops.ones(3)], [variable])
            assert np.isfinite(variable.numpy()).all(), (changed, table)
