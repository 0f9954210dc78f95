"""Where a loss's tensors come from, and probabilities that become logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd import Distiller, cache_teacher
from keras_kd import losses as losses_module
from keras_kd.losses import PerExampleLoss, SoftTargets
from keras_kd.tasks.find import last_activation
from keras_kd.tasks.kinds import OutputKinds, check_said
from keras_kd.training.terms import Outputs, make_term
from tests.tasks.test_find import (
    BINARY,
    TEMPERATURE,
    X,
    dense,
    divergence64,
    fitted,
    odds64,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOGITS = np.array([[3.0, 0.0, -2.0], [1.0, 1.0, 400.0]], "float32")


class Takes(PerExampleLoss):
    """Keeps what it was given."""

    def __init__(self, taps=(), on_logits=False):
        self.taps, self.on_logits = taps, on_logits

    def call(self, teacher_outputs, student_outputs, y_true):
        self.given = teacher_outputs, student_outputs
        return keras.ops.ones(2)


def with_softmax(last=None):
    last = last or [keras.layers.Dense(3, activation="softmax", name="last")]
    return keras.Sequential([keras.layers.Input((4,)), *last], name="soft")


def outputs(own, **taps):
    return Outputs(keras.ops.convert_to_tensor(own), taps)


def term_of(loss, weight, teacher, student, teacher_kind=None):
    said = check_said("teacher_outputs", teacher_kind)
    kinds = OutputKinds("teacher", teacher, said), OutputKinds("student", student)
    term = make_term(loss, weight, teacher, student, *kinds)
    for each in kinds:
        each.look()
    return term


def given(loss, teacher, student, **kinds):
    term = term_of(loss, 1.0, teacher, student, **kinds)
    probabilities = keras.ops.softmax(LOGITS)
    term.compute(outputs(probabilities), outputs(LOGITS), None, None)
    return loss.given


def softened(x, temperature):
    return keras.ops.softmax(x / temperature)


@pytest.mark.parametrize(
    "last",
    [
        [keras.layers.Dense(3, activation="softmax")],
        [keras.layers.Dense(3), keras.layers.Softmax()],
        [keras.layers.Dense(3), keras.layers.Activation("softmax")],
        [with_softmax()],
    ],
    ids=["Dense", "Softmax", "Activation", "nested"],
)
def test_a_softmax_at_the_end_is_found_and_said(make_model, last):
    with pytest.warns(UserWarning, match="`teacher` 'soft' ends in a softmax.*log"):
        teacher, student = given(Takes(on_logits=True), with_softmax(last), make_model())
    np.testing.assert_allclose(softened(teacher, 4.0), softened(LOGITS, 4.0), atol=1e-6)
    np.testing.assert_array_equal(student, LOGITS)


def test_said_kinds_need_no_warning(make_model):
    loss = Takes(on_logits=True)
    kinds = {"teacher_kind": "probabilities"}
    teacher, _ = given(loss, with_softmax(), make_model(), **kinds)
    np.testing.assert_allclose(softened(teacher, 4.0), softened(LOGITS, 4.0), atol=1e-6)
    teacher, _ = given(loss, with_softmax(), make_model(), teacher_kind="logits")
    np.testing.assert_array_equal(teacher, keras.ops.softmax(LOGITS))


def test_losses_that_are_not_on_logits_get_what_the_model_gives(make_model):
    teacher, _ = given(Takes(), with_softmax(), make_model())
    np.testing.assert_array_equal(teacher, keras.ops.softmax(LOGITS))


def test_a_probability_of_zero_stays_finite(make_model):
    loss = Takes(on_logits=True)
    kinds = {"teacher_kind": "probabilities"}
    term = term_of(loss, 1.0, with_softmax(), make_model(), **kinds)
    term.compute(outputs([[0.0, 1.0, 0.0]]), outputs([[0.0, 1.0, 0.0]]), None, None)
    assert np.isfinite(loss.given[0]).all()


def test_taps_arrive_in_their_order(make_model):
    class TakesTwo(Takes):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            self.given = teacher_outputs, student_outputs
            return keras.ops.ones(())

        def build(self, teacher_shape, student_shape):
            self.shapes = teacher_shape, student_shape

    teacher, student = make_model(units=8), make_model(units=6)
    names = [layer.name for layer in teacher.layers + student.layers]
    loss = TakesTwo(taps=((names[0], names[2]), (None, names[3])))
    term = term_of(loss, 2.0, teacher, student)
    assert loss.shapes == ([(None, 8), (None, 3)], [(None, 6), (None, 3)])
    ours = {name: np.float32(i) for i, name in enumerate(names)}
    value = term.compute(outputs(9.0, **ours), outputs(9.0, **ours), None, None)
    assert [float(x) for x in loss.given[0] + loss.given[1]] == [0.0, 9.0, 2.0, 3.0]
    assert float(value) == 2.0


def test_probabilities_teach_as_their_logits_do(vectors):
    """The same teacher with and without its softmax gives the same training."""
    logits = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    soft = keras.Sequential([logits, keras.layers.Softmax()])
    soft.build((None, 4))
    student = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    start, results = student.get_weights(), []
    for teacher, kind in ((logits, "logits"), (soft, "probabilities")):
        student.set_weights(start)
        distiller = Distiller(
            teacher, student, SoftTargets(4.0), student_loss_weight=0, teacher_outputs=kind
        )
        distiller.compile(keras.optimizers.SGD(0.1))
        distiller.fit(vectors[0], shuffle=False, epochs=3, verbose=0)
        results.append(student.get_weights()[0])
    assert np.abs(results[0] - start[0]).max() > 0.01
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("losses", [["kd"], ["dkd"], ["kd", "fitnet"]])
@pytest.mark.parametrize("form", ["dict", "list"])
def test_one_output_in_a_dict_or_list_is_that_output(losses, form):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    y, weights = np.argmax(x[:, :3], axis=1), np.linspace(0, 1, 16)

    def history(wrap):
        keras.utils.set_random_seed(0)
        models = []
        for units in (8, 4):
            inputs = keras.Input((4,))
            hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
            models.append(keras.Model(inputs, wrap(keras.layers.Dense(3)(hidden))))
        taps = {"fitnet": {"taps": ("hidden", "hidden")}}
        made = [losses_module.get(name, **taps.get(name, {})) for name in losses]
        distiller = Distiller(*models, made)
        distiller.compile("sgd", wrap(SPARSE))
        fit = {"batch_size": 8, "shuffle": False, "verbose": 0, "sample_weight": weights}
        return distiller.fit(x, wrap(y), **fit).history

    wrap = {"dict": lambda x: {"logits": x}, "list": lambda x: [x]}[form]
    found, expected = history(wrap), history(lambda x: x)
    for name in ("loss", "student_loss", "distillation_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def of_maps(units):
    inputs = keras.Input((4, 5, 1))
    x = keras.layers.Conv2D(units, 3, padding="same", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(3, 1)(x))


def softened64(logits):
    x = np.float64(logits) / 4
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("shape", [(8, 4, 5, 1), (8, 4, 5), (8, 1, 1), (8, 1, 1, 1)])
@pytest.mark.parametrize("column", [(), (1,)])
def test_weights_of_positions_weigh_labels_and_distillation_alike(shape, column):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4, 5, 1)).astype("float32")
    y, weight = rng.integers(0, 3, (8, 4, 5)), rng.random(shape).astype("float32")
    teacher, student = of_maps(6), of_maps(4)
    hint = losses_module.FitNet(taps=(None, None))
    distiller = Distiller(teacher, student, ["kd", hint], student_loss_weight=0.25)
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    p, q = (model.predict(x, verbose=0) for model in (teacher, student))
    logs = distiller.fit(
        x, y.reshape(*y.shape, *column), batch_size=8, sample_weight=weight, verbose=0
    ).history
    each = np.broadcast_to(weight.reshape(*shape[:3]), y.shape)
    log_q = np.float64(q) - np.log(np.exp(np.float64(q)).sum(axis=-1, keepdims=True))
    on_labels = -np.take_along_axis(log_q, y[..., None], axis=-1)[..., 0]
    assert logs["student_loss"][0] == pytest.approx(np.mean(each * on_labels), rel=1e-5)
    soft = softened64(p), softened64(q)
    divergence = 16 * (np.exp(soft[0]) * (soft[0] - soft[1])).sum(axis=-1)
    # The hint has one value for each example, which counts at each of its positions.
    hints = np.square(np.float64(p) - q).mean(axis=(1, 2, 3)).reshape(-1, 1, 1)
    expected = np.mean(each * divergence) + np.mean(each * hints)
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def recurrent(units, **arguments):
    inputs = keras.Input((5, 4))
    outputs, *_ = keras.layers.LSTM(units, return_state=True, name="lstm")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(outputs), **arguments)


def test_a_layer_of_several_outputs_says_how_to_tap_one():
    message = "Say which: 'lstm:0' of shape .None, 6., 'lstm:1' of shape .*'lstm:2'"
    with pytest.raises(ValueError, match=message):
        Distiller(recurrent(6), recurrent(6), losses_module.FitNet(taps=("lstm", "lstm")))


@pytest.mark.parametrize("units", [6, 4])
def test_a_tap_of_one_output_trains_and_comes_back(tmp_path, units):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5, 4)).astype("float32"), rng.integers(0, 3, 16)
    teacher, student = recurrent(6, name="teacher"), recurrent(units)
    # Another width has the loss make a layer, for the shape of that output.
    hint = losses_module.FitNet(taps=("lstm:1", "lstm:2"))
    distiller = Distiller(teacher, student, hint)
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    hidden = teacher.get_layer("lstm")(x)[1]
    cell = student.get_layer("lstm")(x)[2]
    cell = hint.layers[0](cell) if hint.layers else cell
    expected = np.mean(np.square(np.float64(hidden) - np.float64(cell)))
    data = keras_kd.cache_teacher(teacher, (x, y), outputs=["lstm:1"], verbose=0)
    for given in ((x, y), (data.batch(16),)):
        logs = distiller.fit(*given, shuffle=False, verbose=0).history
        # What was kept is in 16 bits.
        assert logs["distillation_loss"] == pytest.approx([expected], rel=1e-3)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    logs = again.fit(x, y, batch_size=16, verbose=0).history
    assert logs["distillation_loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_a_tap_of_a_quantised_teacher(make_model, vectors):
    teacher, student = make_model(units=8), make_model(units=8)
    names = [model.layers[0].name for model in (teacher, student)]
    teacher.quantize("int8")
    distiller = Distiller(teacher, student, losses_module.FitNet(taps=names))
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    hidden = [model.layers[0](vectors[0]) for model in (teacher, student)]
    expected = np.mean(np.square(np.float64(hidden[0]) - np.float64(hidden[1])))
    logs = distiller.fit(*vectors, batch_size=64, verbose=0).history
    assert logs["distillation_loss"] == pytest.approx([expected], rel=1e-5)


SPARSE = keras.losses.SparseCategoricalCrossentropy
YES = np.arange(64) % 2


def logits64(model):
    """A model's logits, in NumPy: of two classes up to a constant."""
    outputs = np.float64(model.predict(X, verbose=0))
    activation = last_activation(model)
    of_probabilities = {"sigmoid": odds64, "softmax": np.log}
    return of_probabilities.get(activation, np.array)(outputs)


@pytest.mark.filterwarnings("ignore:.*ends in a softmax", "ignore:`task` is taken")
@pytest.mark.parametrize("activations", [(None, None), ("sigmoid", "softmax")])
@pytest.mark.parametrize("name", ["kd", "dkd", "nkd", "dist", "wsl", "ttm", "logit_mse"])
def test_one_unit_teaches_two_classes(name, activations):
    teacher, student = dense(1, activations[0]), dense(2, activations[1])
    loss = SPARSE(from_logits=activations[1] is None)
    value, distiller = fitted(teacher, student, loss, YES, name)
    z, mine = logits64(teacher), logits64(student)
    two = np.concatenate([np.zeros_like(z), z], axis=1)
    if activations[1]:
        # Both are logarithms of probabilities.
        two -= np.logaddexp(0, z)
    expected = losses_module.get(name).compute_loss(two, mine, YES)
    assert value == pytest.approx(float(expected), rel=1e-4)
    if name == "kd":
        # Of two classes the divergence is that of yes and no.
        assert value == pytest.approx(divergence64(z, mine[:, 1:] - mine[:, :1]), rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*ends in a softmax", "ignore:`task` is taken")
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("ends", [(None, None), ("softmax", "sigmoid"), ("softmax", None)])
@pytest.mark.parametrize("name", ["kd", "logit_mse"])
def test_two_classes_teach_one_unit(name, ends, is_cached, tmp_path):
    teacher, student = dense(2, ends[0]), dense(1, ends[1])
    distiller = Distiller(teacher, student, name)
    distiller.compile(keras.optimizers.SGD(0.0), BINARY(from_logits=ends[1] is None))
    x = tf.data.Dataset.from_tensor_slices((X, YES[:, None]))
    if is_cached:
        x = cache_teacher(teacher, (X, YES[:, None]), tmp_path, dtype="float32", verbose=0)
    logs = distiller.fit(x.batch(64), shuffle=False, verbose=0).history
    z = np.diff(logits64(teacher), axis=1)
    mine = logits64(student)
    expected = divergence64(z, mine) if name == "kd" else np.mean((z - mine) ** 2)
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*ends in a softmax", "ignore:`task` is taken")
def test_keras_own_softmax_loss_of_one_unit_and_two_classes():
    teacher, student = dense(1, "sigmoid"), dense(2)
    own = keras.distillation.LogitsDistillation(temperature=TEMPERATURE)
    value, _ = fitted(teacher, student, SPARSE(from_logits=True), YES, own)
    z = logits64(teacher)
    two = np.concatenate([np.zeros_like(z), z], axis=1).astype("float32")
    expected = own.compute_loss(two, logits64(student).astype("float32"))
    assert value == pytest.approx(float(expected), rel=1e-4)
    distiller = Distiller(dense(2), dense(1), own)
    with pytest.raises(ValueError, match="LogitsDistillation has no .*'kd', 'logit_mse'"):
        distiller.compile("sgd", BINARY(from_logits=True))


@pytest.mark.filterwarnings("ignore:`task` is taken")
@pytest.mark.parametrize("units", [(1, 2), (2, 1)])
def test_numbers_and_labels_of_other_counts_do_not_teach(units):
    teacher, student = dense(units[0]), dense(units[1])
    loss = "mse" if units[1] == 1 else BINARY(from_logits=True)
    distiller = Distiller(teacher, student, "logit_mse")
    with pytest.raises(ValueError, match="must have the same shape"):
        distiller.compile("sgd", loss)


def two_heads(units=8):
    """One class of three, and yes or no for each of five or of one; all logits."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units, activation="relu")(inputs)
    outputs = [keras.layers.Dense(n, name=f"of_{n}")(x) for n in (3, 5, 1)]
    return keras.Model(inputs, outputs)


HEADS = [SPARSE(from_logits=True), BINARY(from_logits=True), "mse"]


def tapped_fit(name, number, loss="kd", heads=HEADS):
    rng = np.random.default_rng(0)
    teacher, student = two_heads(16), two_heads()
    distiller = Distiller(teacher, student, losses_module.get(loss, taps=(name, name)))
    distiller.compile(keras.optimizers.SGD(0.0), heads)
    y = [YES, rng.integers(2, size=(64, 5)), rng.normal(size=(64, 1))]
    logs = distiller.train_on_batch(X, y, return_dict=True)
    both = (np.float64(m.predict(X, verbose=0)[number]) for m in (teacher, student))
    return logs["distillation_loss"], both


@pytest.mark.parametrize("structure", [list, dict])
def test_tapped_logits_are_what_their_outputs_loss_says(structure):
    heads = HEADS
    if structure is dict:
        heads = {f"of_{n}": x for n, x in zip((3, 5, 1), HEADS, strict=True)}
    found, both = tapped_fit("of_5", 1, heads=heads)
    assert found == pytest.approx(divergence64(*both), rel=1e-4)
    found, both = tapped_fit("of_3", 0, heads=heads)
    expected = losses_module.SoftTargets().compute_loss(*both)
    assert found == pytest.approx(float(expected), rel=1e-4)
    # One unit of yes and no, and one number.
    found, both = tapped_fit("of_1", 2, heads=[*HEADS[:2], BINARY(from_logits=True)])
    assert found == pytest.approx(divergence64(*both), rel=1e-4)
    with pytest.raises(ValueError, match="SoftTargets.* task 'regression' .*'of_1'"):
        tapped_fit("of_1", 2)
    with pytest.raises(ValueError, match="DKD.* has no meaning .*'of_5'"):
        tapped_fit("of_5", 1, "dkd")


def test_logit_mse_of_the_largest_classes():
    teacher = dense(5)
    cached = cache_teacher(teacher, (X, YES), top_k=2, verbose=0).batch(32)
    distiller = Distiller(teacher, dense(5), "logit_mse")
    distiller.compile("sgd", SPARSE(from_logits=True))
    with pytest.raises(ValueError, match="LogitMSE.* compares the logits.*`top_k` out"):
        distiller.fit(cached, shuffle=False, verbose=0)


@pytest.mark.filterwarnings("ignore:`task` is taken")
@pytest.mark.parametrize("name", losses_module.names())
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_unit_is_taught_or_its_loss_is_refused(name, activation):
    parameters = {"num_examples": 64} if name == "crd" else {}
    changed = []
    # A layer of a loss may start where a ReLU has no gradient.
    for seed in range(5):
        keras.utils.set_random_seed(seed)
        models = [dense(1, activation), dense(1, activation)]
        before = models[1].get_weights()
        try:
            loss = losses_module.get(name, **parameters)
            distiller = Distiller(*models, loss, student_loss_weight=0.0, task="binary")
            distiller.compile(keras.optimizers.SGD(1.0), BINARY(not activation))
            distiller.train_on_batch(X, YES[:, None])
        except ValueError as error:
            assert "Received" in str(error) or "Those that have" in str(error)
            return
        pairs = zip(before, models[1].get_weights(), strict=True)
        changed.append(any(np.any(x != y) for x, y in pairs))
        if changed[-1]:
            return
    assert any(changed)


@pytest.mark.parametrize("inner", [None, "categorical_crossentropy", "mse"])
def test_keras_own_losses_of_one_unit(inner):
    loss = keras.distillation.LogitsDistillation(**({"loss": inner} if inner else {}))
    with pytest.raises(ValueError, match="LogitsDistillation .*('kd', )?'logit_mse'"):
        distiller = Distiller(dense(1), dense(1), loss)
        distiller.compile("sgd", BINARY(from_logits=True))


def test_two_yes_or_no_are_no_two_classes():
    with pytest.raises(ValueError, match="SoftTargets .* must have the same shape"):
        Distiller(dense(1, "sigmoid"), dense(2, "sigmoid"), "kd")
    distiller = Distiller(dense(2, "sigmoid"), dense(1), "kd")
    with pytest.raises(ValueError, match="ends in a sigmoid, .*'binary' .* of a softmax"):
        distiller.compile("sgd", BINARY(from_logits=True))


def _two(z, temperature):
    """Softened log-probabilities of two classes, float64; one unit z is (0, z)."""
    z = np.asarray(z, "float64") / temperature
    z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@pytest.mark.filterwarnings("ignore:`task`", "ignore:`shuffle=True`", "ignore:`student`")
@pytest.mark.parametrize("way", ["given", "log_probs", "live", "cached"])
@pytest.mark.parametrize("columns, units", [(2, 1), (1, 2)])
@pytest.mark.parametrize("ends_in", [None, "probabilities"])
def test_columns_that_are_known_in_the_batch_alone(columns, units, way, ends_in):
    """One unit is the logit of two classes beside functions and given outputs, too."""
    rng = np.random.default_rng(columns)
    x = rng.normal(size=(16, 3)).astype("float32")
    y = rng.integers(0, 2, 16)
    z = 2 * rng.normal(size=(16, columns)).astype("float32")
    p = np.exp(_two(z, 1))[:, -columns:].astype("float32")
    teacher, data = None, (x, y)
    if way in ("live", "cached"):
        table = {tuple(row): value for row, value in zip(x, p, strict=True)}

        def answer(inputs):
            rows = [table.get(tuple(row), p[0]) for row in np.asarray(inputs)]
            return np.stack(rows)

        how = {"name": "table", "version": "1", "outputs": "probabilities"}
        teacher = keras_kd.teachers.from_function(answer, **how)
    if way == "given":
        data = keras_kd.with_teacher_outputs(data, z)
    elif way == "log_probs":
        data = keras_kd.with_teacher_outputs(data, np.log(p), kind="log_probs")
    elif way == "cached":
        data = keras_kd.cache_teacher(teacher, data, verbose=0, dtype="float32")
    else:
        data = tf.data.Dataset.from_tensor_slices(data)
    activation = ends_in and {1: "sigmoid", 2: "softmax"}[units]
    outputs = keras.layers.Dense(units, activation=activation)
    student = keras.Sequential([keras.Input((3,)), outputs])
    answers = np.asarray(student(x), "float64")
    if ends_in:
        answers = np.log(answers) - (np.log1p(-answers) if units == 1 else 0)
    losses = {1: keras.losses.BinaryCrossentropy}
    loss = losses.get(units, keras.losses.SparseCategoricalCrossentropy)
    distiller = Distiller(teacher, student, SoftTargets(temperature=3.0))
    distiller.compile(keras.optimizers.SGD(0.0), loss(from_logits=not ends_in))
    found = distiller.fit(data.batch(8), verbose=0).history["distillation_loss"]
    theirs, ours = _two(z, 3.0), _two(answers, 3.0)
    wanted = 9 * np.sum(np.exp(theirs) * (theirs - ours), axis=1).mean()
    assert found[0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.filterwarnings("ignore:`shuffle=True`")
def test_two_columns_are_no_value(vectors):
    """Of a regression's one unit they stay refused, and the message says what to give."""
    x, y = vectors
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    distiller = keras_kd.Distiller(None, student, "logit_mse", task="regression")
    distiller.compile("sgd", "mse")
    data = keras_kd.with_teacher_outputs((x, y), np.ones((len(x), 2))).batch(8)
    with pytest.raises(ValueError, match="two \\(a, b\\) are the one logit b - a"):
        distiller.fit(data, verbose=0)
