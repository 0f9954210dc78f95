"""Labels and weights of the output that a loss compares."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import logsumexp

from keras_kd import Distiller, cache_teacher, losses
from keras_kd.models.taps import outputs_made_of
from keras_kd.training import batch

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
KIND, SIZE = RNG.integers(3, size=12), RNG.integers(5, size=12)
WEIGHT, OTHER = RNG.uniform(size=(2, 12)).astype("float32")


def heads(structure, units=8):
    """A model of two outputs, kind and size, in a dict or a list."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    kind = keras.layers.Dense(3, name="kind")(x)
    size = keras.layers.Dense(5, name="size")(x)
    outputs = {"kind": kind, "size": size} if structure is dict else [kind, size]
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    """The same, whose graph is not known before it runs."""

    def __init__(self, units=8):
        super().__init__()
        self.hidden = keras.layers.Dense(units, activation="relu", name="hidden")
        self.kind = keras.layers.Dense(3, name="kind")
        self.size = keras.layers.Dense(5, name="size")

    def call(self, inputs):
        x = self.hidden(inputs)
        return {"kind": self.kind(x), "size": self.size(x)}


def subclassed(units):
    model = Subclassed(units)
    model(X)
    return model


MODELS = {
    "dict": (lambda units: heads(dict, units), "kind"),
    "list": (lambda units: heads(list, units), "kind"),
    "subclassed": (subclassed, "kind"),
}


def distillation_loss(models, loss, y, sample_weight=None, **arguments):
    distiller = Distiller(*models, loss, **arguments)
    distiller.compile(keras.optimizers.SGD(0.0), {"kind": LOSS, "size": LOSS})
    logs = distiller.fit(
        X, y, sample_weight=sample_weight, batch_size=12, verbose=0, shuffle=False
    )
    return logs.history["distillation_loss"][0]


def log_softmax64(x):
    x = np.float64(x)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def expected_soft_targets(models, weight):
    """T = 1, of the output "kind", in NumPy."""
    outputs = [model.predict(X, verbose=0) for model in models]
    p, q = (
        log_softmax64(x["kind"] if isinstance(x, dict) else x[0]) for x in outputs
    )
    return float((weight * (np.exp(p) * (p - q)).sum(axis=-1)).mean())


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_the_compared_outputs_weight_is_used(kind, column):
    make, tap = MODELS[kind]
    models = make(16), make(8)
    y = [KIND, SIZE] if kind == "list" else {"kind": KIND, "size": SIZE}
    weights = [WEIGHT, OTHER] if kind == "list" else {"kind": WEIGHT, "size": OTHER}
    if column:
        weights = keras.tree.map_structure(lambda x: x[:, None], weights)
    loss = losses.SoftTargets(1.0, taps=(tap, tap))
    expected = expected_soft_targets(models, WEIGHT)
    found = distillation_loss(models, loss, y, weights)
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_weight_for_all_outputs():
    models = heads(dict, 16), heads(dict)
    y, loss = {"kind": KIND, "size": SIZE}, losses.SoftTargets(1.0, taps=("kind", "kind"))
    found = distillation_loss(models, loss, y, WEIGHT)
    assert found == pytest.approx(expected_soft_targets(models, WEIGHT), rel=1e-5)


def test_a_layer_of_all_outputs_has_the_mean_of_their_weights():
    models = heads(dict, 8), heads(dict, 8)
    y, loss = {"kind": KIND, "size": SIZE}, losses.FitNet(taps=("hidden", "hidden"))
    hidden = [
        np.maximum(X @ m.get_layer("hidden").kernel.numpy(), 0).astype("float64")
        for m in models
    ]
    values = np.square(hidden[0] - hidden[1]).mean(axis=-1)
    # Keras gives each output the one array.
    for weights, mean in ((WEIGHT, WEIGHT), ([WEIGHT, OTHER], (WEIGHT + OTHER) / 2)):
        if isinstance(weights, list):
            weights = dict(zip(("kind", "size"), weights, strict=True))
        found = distillation_loss(models, loss, y, weights)
        assert found == pytest.approx((values * mean).mean(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("name", ["dkd", "nkd", "wsl"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_gets_the_labels_of_its_output(kind, name, one_hot):
    make, tap = MODELS[kind]
    models = make(16), make(8)
    loss = losses.get(name, taps=(tap, tap))
    outputs = [model.predict(X, verbose=0) for model in models]
    sides = [np.float32(x["kind"] if isinstance(x, dict) else x[0]) for x in outputs]
    expected = float(losses.get(name).compute_loss(*sides, y_true=KIND))
    labels = np.eye(3, dtype="float32")[KIND] if one_hot else KIND
    y = [labels, SIZE] if kind == "list" else {"kind": labels, "size": SIZE}
    distiller = Distiller(*models, loss, student_loss_weight=0.0)
    # Labels are handed over alike in steps that are compiled: one loss stands for all.
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=name != "dkd")
    logs = distiller.fit(X, y, batch_size=12, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-5)


def test_labels_of_no_one_output():
    models = heads(dict, 16), heads(dict, 8)
    loss = losses.DKD(taps=("kind", "hidden"))
    with pytest.raises(ValueError, match="same shape"):
        Distiller(*models, loss)
    models = heads(dict, 3), heads(dict, 3)
    loss = losses.DKD(taps=("kind", "hidden"))
    message = "needs the labels of one output.*'hidden'.*'kind', 'size'"
    with pytest.raises(ValueError, match=message):
        distillation_loss(models, loss, {"kind": KIND, "size": SIZE})


def test_a_list_of_another_length():
    models = heads(list, 16), heads(list)
    loss = losses.SoftTargets(taps=("kind", "kind"))
    term = Distiller(*models, loss)._terms[0]
    outputs = term.student, [keras.ops.ones((2, 3)), keras.ops.ones((2, 5))]
    with pytest.raises(ValueError, match="`sample_weight` must be a dict .* 3 entries"):
        term.head.labels_and_weights(
            loss, type("Outputs", (), {"own": outputs[1], "taps": {}}), None, [1, 2, 3]
        )


def softened(units):
    inputs = keras.Input((4,))
    outputs = heads(dict, units)(inputs)
    soft = {k: keras.layers.Softmax(name=f"{k}_soft")(x) for k, x in outputs.items()}
    return keras.Model(inputs, soft)


def test_outputs_that_are_made_of_a_layer():
    model = softened(8)
    inner = model.layers[1].name
    assert outputs_made_of(model, f"{inner}/kind") == (0,)
    assert outputs_made_of(model, f"{inner}/size") == (1,)
    assert outputs_made_of(model, f"{inner}/hidden") == (0, 1)
    assert outputs_made_of(model, "size_soft") == (1,)
    assert outputs_made_of(heads(list), "size") == (1,)
    assert outputs_made_of(subclassed(8), "kind") is None


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_the_logits_before_a_softmax_have_its_outputs_labels():
    models = softened(16), softened(8)
    taps = tuple(f"{model.layers[1].name}/kind" for model in models)
    inner = [model.layers[1].predict(X, verbose=0)["kind"] for model in models]
    expected = float(losses.DKD().compute_loss(*inner, y_true=KIND))
    distiller = Distiller(*models, losses.DKD(taps=taps), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0))
    y = {"kind": KIND, "size": SIZE}
    logs = distiller.fit(X, y, batch_size=12, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-5)


def sequences(units):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(11, units, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


@pytest.mark.parametrize("weights", [None, "example", "step"])
@pytest.mark.parametrize("taps", [None, ("logits", "logits")])
@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_masked_steps_teach_nothing(name, taps, weights):
    x, y = RNG.integers(1, 11, size=(8, 6)), RNG.integers(3, size=(8, 6))
    x[:, 4:] = 0
    models = sequences(6), sequences(4)
    weight = {None: None, "example": WEIGHT[:8], "step": RNG.uniform(size=(8, 6))}[weights]
    loss = losses.get(name, taps=taps)
    distiller = Distiller(*models, loss, student_loss_weight=0.0)
    # As above.
    how = {"run_eagerly": True} if name != "dkd" else {"jit_compile": False}
    distiller.compile(keras.optimizers.SGD(0.0), **how)
    logs = distiller.fit(x, y, sample_weight=weight, batch_size=8, verbose=0).history
    sides = [model.predict(x, verbose=0)[:, :4] for model in models]
    if weights == "step":
        weight = weight[:, :4]
    expected = losses.get(name).compute_loss(*sides, y[:, :4], weight)
    assert logs["distillation_loss"][0] == pytest.approx(float(expected), rel=1e-4)


# What is hidden from the student's loss is this token.
HIDDEN, PLACES = 0, (2, 4)
TAPPED = {
    name
    for name, loss in losses.LOSSES.items()
    if not loss.on_logits and name not in ("reviewkd", "crd")
}
LEAVING_OUT = ["mask", "ignored", "weights", "together"]


def pixels(units, seed, has_mask=False, places=PLACES):
    """Four classes for each place of maps of tokens, none of which sees another place."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(places, dtype="int32")
    x = keras.layers.Embedding(11, units, mask_zero=has_mask, name="embedding")(inputs)
    x = keras.layers.Dense(units, name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="logits")(x))


def set_hidden(model, value):
    (table,) = model.get_layer("embedding").get_weights()
    table[HIDDEN] = value
    model.get_layer("embedding").set_weights([table])


def one_step(name, way, content, cut=False, **how):
    """Both losses of one step, and the weights after it.

    Args:
        content: What teacher and student answer, and the label, where something is hidden.
        cut: Whether the columns are cut off that are hidden as a whole.
    """
    rng, units = np.random.default_rng(0), (3, 3) if name == "fsp" else (5, 3)
    x, y = rng.integers(1, 11, (6, *PLACES)), rng.integers(4, size=(6, *PLACES))
    weight = rng.uniform(0.5, 2, size=x.shape) if way in ("weights", "together") else None
    is_hidden = np.zeros(x.shape, bool)
    is_hidden[..., 2:] = True
    if not cut:
        # As of sequences of several lengths; and of an example nothing is left.
        if how.pop("is_ragged", True):
            is_hidden[:3, 1, 1] = is_hidden[5] = True
    of_teacher, of_student, label = content
    x[is_hidden], y[is_hidden] = HIDDEN, label
    ignored = None
    if way in ("ignored", "together"):
        ignored, y[is_hidden] = -1, -1
    if way in ("weights", "together"):
        weight[is_hidden] = 0
    if cut:
        x, y = x[..., :2], y[..., :2]
        weight = weight if weight is None else weight[..., :2]
    places = x.shape[1:]
    teacher = pixels(units[0], 1, places=places)
    student = pixels(units[1], 2, way in ("mask", "together"), places)
    set_hidden(teacher, of_teacher), set_hidden(student, of_student)
    taps = {"taps": ("features", "features")} if name in TAPPED else {}
    if name == "fsp":
        taps = {"taps": [("embedding", "embedding"), ("features", "features")]}
    more = {"num_examples": 6, "feat_dim": 3, "negatives": 4} if name == "crd" else {}
    distiller = Distiller(teacher, student, losses.get(name, **taps, **more))
    loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=ignored)
    distiller.compile(keras.optimizers.SGD(0.1), loss, **how)
    if name == "crd":
        x = batch.pack(x, index=np.arange(6))
    logs = distiller.train_on_batch(x, y, weight, return_dict=True)
    layers = [*student.layers, *distiller.loss_layers]
    weights = [w for layer in layers for w in layer.get_weights()]
    return [float(logs["student_loss"]), float(logs["distillation_loss"])], weights


def check_nothing_is_seen(name, way, **how):
    # The teacher's answers are hidden, NaN or not, and the student's.
    first, weights = one_step(name, way, (0.5, -1.0, 1), **how)
    second, others = one_step(name, way, (np.nan, 3.0, 2), **how)
    assert first == second and np.isfinite(first).all() and 0 != first[1]
    # No gradient goes there.
    assert (weights[0][HIDDEN] == -1.0).all() and (others[0][HIDDEN] == 3.0).all()
    weights[0][HIDDEN] = others[0][HIDDEN] = 0
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)


LEAVE_OUT = [name for name in losses.names() if name != "reviewkd"]


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "together") for name in LEAVE_OUT]
    + [(name, way) for name in ("kd", "wsl", "ab", "sp") for way in LEAVING_OUT[:3]],
)
def test_what_the_labels_loss_leaves_out_is_not_seen(name, way):
    check_nothing_is_seen(name, way, run_eagerly=True)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "fitnet", "rkd"])
def test_what_is_left_out_is_not_seen_compiled(name, jit_compile):
    check_nothing_is_seen(name, "together", jit_compile=jit_compile)


def test_what_is_left_out_is_not_seen_on_jax():
    pytest.importorskip("jax")
    script = "from tests.tasks import test_heads\nfor name in ('kd', 'ofd', 'sp'):\n"
    script += "    test_heads.check_nothing_is_seen(name, 'together')\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ
        | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
        # Small models take longer to be compiled than to be trained.
        | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "mask") for name in LEAVE_OUT if name != "crd"]
    + [(name, "ignored") for name in ("kd", "dkd", "simkd", "cc")],
)
def test_padded_is_as_cut(name, way):
    content = 0.5, -1.0, 1
    padded, weights = one_step(name, way, content, is_ragged=False, run_eagerly=True)
    cut, others = one_step(name, way, content, cut=True, run_eagerly=True)
    np.testing.assert_allclose(padded, cut, rtol=2e-6)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_value_is_the_mean_of_what_is_left():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, size=(8, 6)), rng.integers(-1, 3, size=(8, 6))
    weight = rng.uniform(0, 2, size=(8, 6))
    models = sequences(6), sequences(4)
    teacher, student = (
        np.float64(m(x)) - logsumexp(np.float64(m(x)), -1, keepdims=True) for m in models
    )
    kl = np.sum(np.exp(teacher) * (teacher - student), axis=-1)
    is_left = (x != 0) & (y != -1)
    expected = np.sum((kl * weight)[is_left]) / np.sum(is_left)
    distiller = Distiller(*models, losses.SoftTargets(temperature=1.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    logs = distiller.train_on_batch(x, y, weight, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)
    own = np.take_along_axis(student, np.maximum(y, 0)[..., None], -1)[..., 0]
    expected = np.sum((-own * weight)[is_left]) / np.sum(is_left)
    assert logs["student_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("structure", [dict, list])
def test_one_of_several_losses_ignores_a_class(structure):
    kind = np.where(np.arange(12) < 5, 255, KIND)
    models = heads(structure, 16), heads(structure)
    ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)
    pair, y, both = losses.DKD(taps=("kind", "kind")), [kind, SIZE], [ignoring, LOSS]
    if structure is dict:
        y, both = ({"kind": a, "size": b} for a, b in (y, both))
    distiller = Distiller(*models, [pair, losses.SoftTargets(taps=("size", "size"))])
    distiller.compile(keras.optimizers.SGD(0.0), both)
    found = distiller.train_on_batch(X, y, return_dict=True)["distillation_loss"]
    outputs = [keras.tree.flatten(m(X)) for m in models]
    (teacher, others), (student, mine) = outputs
    expected = losses.DKD().compute_loss(teacher[5:], student[5:], KIND[5:])
    expected += losses.SoftTargets().compute_loss(others, mine)
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("taps", [("features", "features"), None])
def test_a_cached_teacher_leaves_out_what_a_live_one_does(tmp_path, taps):
    x = RNG.integers(1, 11, (6, *PLACES))
    y = np.where(x < 4, 255, x % 4)
    teacher, found = pixels(5, 1), []
    cached = cache_teacher(
        teacher, (x, y), tmp_path, outputs=[taps and taps[0]], dtype="float32", verbose=0
    )
    for data in ((x, y), (cached.batch(6),)):
        loss = losses.get("fitnet" if taps else "kd", taps=taps)
        keras.utils.set_random_seed(3)
        distiller = Distiller(teacher, pixels(3, 2), loss)
        ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)
        distiller.compile(keras.optimizers.SGD(0.1), ignoring)
        logs = distiller.fit(*data, shuffle=False, verbose=0)
        found.append(logs.history["distillation_loss"][0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_features_of_other_positions_count_fully():
    models = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4, 4, 3))
        half = keras.layers.Conv2D(3, 2, strides=2, name="half")(inputs)
        x = keras.layers.UpSampling2D(2)(half)
        models.append(keras.Model(inputs, keras.layers.Conv2D(4, 1)(x)))
    x = RNG.normal(size=(6, 4, 4, 3)).astype("float32")
    y = RNG.integers(4, size=(6, 4, 4))
    distiller = Distiller(*models, losses.FitNet(taps=("half", "half")))
    ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=2)
    distiller.compile(keras.optimizers.SGD(0.0), ignoring)
    found = distiller.train_on_batch(x, y, return_dict=True)["distillation_loss"]
    sides = [keras.Model(m.input, m.get_layer("half").output)(x) for m in models]
    assert found == pytest.approx(float(losses.FitNet().compute_loss(*sides)), rel=1e-5)


def test_a_loss_that_cannot_leave_out_a_place_says_so():
    models = pixels(5, 1), pixels(3, 2)
    distiller = Distiller(*models, losses.ReviewKD(taps=[("features", "features")] * 2))
    ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=2)
    distiller.compile("sgd", ignoring)
    with pytest.raises(ValueError, match="ReviewKD .* none can be left out by a mask"):
        distiller.train_on_batch(np.ones((6, *PLACES)), np.ones((6, *PLACES), int))


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("name", ["kd", "fitnet", "ab", "ofd", "simkd", "reviewkd", "rkd"])
def test_an_ignored_example_is_not_seen(name):
    found = []
    y = np.where(np.arange(8) < 3, -1, np.arange(8) % 4)
    for content in (0.5, 7.0):
        models = []
        for seed, units in enumerate((5, 3)):
            keras.utils.set_random_seed(seed)
            inputs = keras.Input((4, 4, 2))
            x = keras.layers.Conv2D(units, 1, name="features")(inputs)
            x = keras.layers.GlobalAveragePooling2D()(x)
            models.append(keras.Model(inputs, keras.layers.Dense(4)(x)))
        x = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype("float32")
        x[:3] = content
        pairs = 2 if name == "reviewkd" else 1
        taps = [("features", "features")] * pairs if name != "kd" else None
        distiller = Distiller(*models, losses.get(name, taps=taps))
        ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1)
        distiller.compile(keras.optimizers.SGD(0.1), ignoring, run_eagerly=True)
        logs = distiller.train_on_batch(x, y, return_dict=True)
        layers = [*distiller.student.layers, *distiller.loss_layers]
        weights = [w for layer in layers for w in layer.get_weights()]
        found.append([float(logs["distillation_loss"]), *weights])
    assert found[0][0] > 0
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
