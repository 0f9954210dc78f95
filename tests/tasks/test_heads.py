"""Labels and weights of the output that a loss compares."""

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses
from keras_kd.models.taps import outputs_made_of

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
