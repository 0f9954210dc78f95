"""Students that teach each other: the total, who has which gradient, logs, files."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import MutualDistiller

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def students(make_model):
    # Not in alphabetical order, which files must not change.
    sizes = {"small": 5, "large": 16, "middle": 8}
    return {name: make_model(units=units) for name, units in sizes.items()}


def compiled(students, optimizer="sgd", metrics=("accuracy",), **arguments):
    mutual = MutualDistiller(students, **arguments)
    mutual.compile(optimizer, LOSS, list(metrics))
    return mutual


def cross_entropy64(y, logits):
    logits = np.float64(logits)
    return np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(y)), y]


def divergence64(teacher, student):
    p, q = (np.exp(np.float64(x)) for x in (teacher, student))
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
    return (p * np.log(p / q)).sum(axis=-1)


def terms64(outputs, y, weight=1.0):
    """The losses on labels and of the peers of each student, from the paper."""
    on_labels = [(weight * cross_entropy64(y, x)).mean() for x in outputs]
    from_peers = [
        np.mean(
            [
                (weight * divergence64(peer, own)).mean()
                for peer in outputs
                if peer is not own
            ]
        )
        for own in outputs
    ]
    return on_labels, from_peers


def test_total_is_the_papers(students, vectors):
    x, y = vectors
    students["large"] = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer="l2")]
    )
    weight = np.random.default_rng(1).uniform(size=len(x)).astype("float32")
    mutual = compiled(students, keras.optimizers.SGD(0.0))
    outputs = mutual.predict(x, verbose=0)
    on_labels, from_peers = terms64(outputs, y, weight)
    fit = {"batch_size": 64, "sample_weight": weight, "verbose": 0}
    history = mutual.fit(x, y, **fit).history
    kernel = np.float64(students["large"].layers[0].kernel)
    regularisation = 0.01 * np.sum(kernel**2)
    expected = sum(on_labels) + sum(from_peers) + regularisation
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history["distillation_loss"] == pytest.approx([sum(from_peers)], rel=1e-5)
    for name, value, answers in zip(students, on_labels, outputs, strict=True):
        assert history[f"{name}_loss"] == pytest.approx([value], rel=1e-5)
        right = np.mean(answers.argmax(axis=1) == y)
        assert history[f"{name}_accuracy"] == pytest.approx([right])


def test_each_student_has_the_gradient_of_its_own_terms(make_model, vectors):
    """Trained together they become what each does under its peer as a fixed teacher."""
    x, y = vectors
    pair = {"a": make_model(units=5), "b": make_model(units=8)}
    start = {name: model.get_weights() for name, model in pair.items()}
    mutual = compiled(pair, keras.optimizers.SGD(0.1))
    mutual.fit(x, y, batch_size=64, verbose=0)
    together = {name: model.get_weights() for name, model in pair.items()}
    for own, peer in (("a", "b"), ("b", "a")):
        for name, model in pair.items():
            model.set_weights(start[name])
        # Half of each loss, so twice the step.
        distiller = kd.Distiller(pair[peer], pair[own], kd.losses.SoftTargets(1.0))
        distiller.compile(keras.optimizers.SGD(0.2), LOSS)
        distiller.fit(x, y, batch_size=64, verbose=0)
        for got, want in zip(together[own], pair[own].get_weights(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_students_come_to_agree(students, vectors):
    mutual = compiled(students, keras.optimizers.Adam(0.05))
    history = mutual.fit(*vectors, epochs=20, verbose=0).history
    assert history["distillation_loss"][-1] < 0.5 * history["distillation_loss"][0]
    assert min(history[f"{name}_accuracy"][-1] for name in students) > 0.8


def test_predict_and_evaluate(students, vectors):
    x, y = vectors
    mutual = compiled(students)
    outputs = mutual.predict(x, verbose=0)
    for got, model in zip(outputs, students.values(), strict=True):
        np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    logs = mutual.evaluate(x, y, verbose=0, return_dict=True)
    names = [f"{name}_{what}" for name in students for what in ("loss", "accuracy")]
    assert set(logs) == {"loss", *names}
    assert logs["loss"] == pytest.approx(sum(logs[f"{name}_loss"] for name in students))


def test_validation_and_what_keras_offers(students, vectors):
    mutual = compiled(students, metrics=[keras.metrics.SparseCategoricalAccuracy("right")])
    best = keras.callbacks.EarlyStopping("val_small_right", mode="max")
    history = mutual.fit(
        *vectors,
        validation_data=vectors,
        class_weight={0: 2.0, 1: 1.0, 2: 0.5},
        callbacks=[best],
        verbose=0,
    ).history
    assert "val_small_right" in history and "val_distillation_loss" not in history


def test_ways_to_compile_train_the_same(make_model, vectors):
    pair = {"a": make_model(), "b": make_model()}
    start, results = [model.get_weights() for model in pair.values()], []
    for way in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        for model, weights in zip(pair.values(), start):
            model.set_weights(weights)
        mutual = MutualDistiller(pair)
        mutual.compile("sgd", LOSS, **({"jit_compile": False} | way))
        mutual.fit(*vectors, shuffle=False, verbose=0)
        results.append(pair["a"].get_weights()[0])
    for found, how in zip(results[1:], ("jit_compile", "run_eagerly"), strict=True):
        np.testing.assert_allclose(found, results[0], rtol=1e-4, atol=1e-6, err_msg=how)


def test_losses_weights_and_a_schedule(students, vectors):
    x, y = vectors
    weight = keras.optimizers.schedules.PolynomialDecay(2.0, 2, 0.0)
    mutual = compiled(
        students,
        keras.optimizers.SGD(0.0),
        distillation_losses=["logit_mse", "dkd"],
        distillation_loss_weights=[weight, 0.0],
    )
    outputs = mutual.predict(x, verbose=0)
    mse = kd.losses.LogitMSE()
    pairs = [(p, s) for p in outputs for s in outputs if p is not s]
    expected = sum(float(mse.compute_loss(*pair)) for pair in pairs) / 2
    history = mutual.fit(x, y, batch_size=64, epochs=3, verbose=0).history
    found = history["distillation_loss"]
    np.testing.assert_allclose(found, [2 * expected, expected, 0.0], rtol=1e-5)


def test_probabilities_are_compared_as_such(make_model, vectors):
    pair = [make_model(), make_model()]
    soft = [keras.Sequential([model, keras.layers.Softmax()]) for model in pair]
    for model in soft:
        model.build((None, 4))
    with pytest.warns(UserWarning, match="ends in a softmax"):
        mutual = MutualDistiller(soft)
    said = MutualDistiller(soft, student_outputs="probabilities")
    _, expected = terms64([x.predict(vectors[0], verbose=0) for x in pair], vectors[1])
    for each in (mutual, said):
        each.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        history = each.fit(*vectors, batch_size=64, verbose=0).history
        assert history["distillation_loss"] == pytest.approx([sum(expected)], rel=1e-4)


def test_saves_and_goes_on(students, vectors, tmp_path):
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top"), "accuracy"]
    mutual = compiled(students, keras.optimizers.Adam(0.01), metrics)
    mutual.fit(*vectors, verbose=0)
    mutual.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert list(again.students) == list(students)
    logs = [
        each.fit(*vectors, shuffle=False, epochs=2, verbose=0).history
        for each in (mutual, again)
    ]
    assert logs[0] == logs[1] and "large_top" in logs[0]


def test_a_student_stays_a_plain_model(students, vectors, tmp_path):
    compiled(students).fit(*vectors, verbose=0)
    students["small"].save(tmp_path / "small.keras")
    assert type(keras.saving.load_model(tmp_path / "small.keras")) is keras.Sequential


def test_a_teachers_cached_answers_are_left_alone(make_model, students, vectors):
    data = kd.cache_teacher(make_model(), vectors, verbose=0).batch(32)
    before = compiled(students).evaluate(*vectors, verbose=0, return_dict=True)
    found = compiled(students).evaluate(data, verbose=0, return_dict=True)
    assert found == pytest.approx(before, rel=1e-5)


def test_labels_are_needed(students, vectors):
    with pytest.raises(ValueError, match="Mutual learning needs labels"):
        compiled(students, metrics=()).fit(vectors[0], verbose=0)


def test_lists_take_the_models_names(make_model):
    pair = [make_model(name="a"), make_model(name="b")]
    assert MutualDistiller(pair).output_names == ["a", "b"]
    with pytest.raises(ValueError, match="names that differ; .* Received: 'a', 'a'"):
        MutualDistiller([make_model(name="a"), make_model(name="a")])


def shared(make):
    first = make(name="first")
    return {"first": first, "second": keras.Sequential([keras.Input((4,)), first])}


def of_inputs(size):
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "students, message",
    [
        (lambda make: {"a": make()}, "two or more keras.Models"),
        (lambda make: make(), "two or more keras.Models"),
        (lambda make: {"a": make(), "b": "b"}, "Received: 'b' as 'b'"),
        (lambda make: {"a": make(), "b": keras.Sequential()}, "must be built keras.Models"),
        (lambda make: dict.fromkeys("ab", make()), "is two of the `students`"),
        (shared, "'first' and 'sequential.*' share variables that would be trained: first"),
        (lambda make: {"a": make(), "b": of_inputs(6)}, r"same inputs.*\(None, 6\)"),
        (lambda make: {"a": make(), "b": make(num_classes=5)}, r"same shape.*\(None, 5\)"),
    ],
)
def test_models_that_are_no_students_together(make_model, students, message):
    with pytest.raises(ValueError, match=message):
        MutualDistiller(students(make_model))


@pytest.mark.parametrize(
    "loss", [kd.losses.SoftTargets(taps=(None, None)), kd.losses.FitNet()], ids=repr
)
def test_losses_that_are_refused(students, loss):
    with pytest.raises(ValueError, match="own outputs, .* Received: "):
        MutualDistiller(students, loss)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": None}, "`loss` must be one loss, .* Received: loss=None"),
        ({"loss": [LOSS, LOSS]}, "`loss` must be one loss"),
        ({"loss": LOSS, "metrics": {"a": "accuracy"}}, "`metrics` must be a list"),
    ],
)
def test_what_compile_refuses(students, arguments, message):
    with pytest.raises(ValueError, match=message):
        MutualDistiller(students).compile("sgd", **arguments)


@pytest.mark.parametrize("name", MutualDistiller.fixed)
def test_an_argument_that_is_set_later_is_refused(name, students):
    mutual = compiled(students)
    with pytest.raises(ValueError, match=f"`{name}` of a MutualDistiller cannot be"):
        setattr(mutual, name, [10.0])


def test_a_student_that_is_exchanged_is_refused(students, make_model, vectors):
    mutual = compiled(students)
    mutual.students["small"] = make_model()
    with pytest.raises(ValueError, match="`students` of a MutualDistiller cannot be chang"):
        mutual.fit(*vectors, verbose=0)


@pytest.mark.parametrize("first", ["float32", "mixed_float16", "float16", "float64"])
@pytest.mark.parametrize("second", ["float32", "mixed_float16"])
def test_peers_of_different_precision(first, second):
    x = np.random.default_rng(1).normal(3e5, 1e5, size=(32, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)

    def normalising(policy):
        normalization = keras.layers.Normalization(dtype="float32")
        normalization.adapt(x)
        dense = [keras.layers.Dense(n, dtype=policy) for n in (6, 3)]
        model = keras.Sequential([keras.Input((4,)), normalization, *dense])
        model.dtype_policy = policy
        return model

    pair = {"a": normalising(first), "b": normalising(second)}
    mutual = MutualDistiller(pair)
    # Compiled with and without a scaled loss; casts are the same Python in all.
    eagerly = first not in ("float32", "mixed_float16") or second != "float32"
    mutual.compile(keras.optimizers.SGD(0.01), LOSS, run_eagerly=eagerly)
    is_scaled = isinstance(mutual.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled is ("mixed_float16" in (first, second))
    outputs = [np.asarray(m.predict(x, verbose=0), "float64") for m in pair.values()]
    _, expected = terms64(outputs, y)
    history = mutual.fit(x, y, batch_size=32, verbose=0).history
    found = history["distillation_loss"]
    np.testing.assert_allclose(found, [sum(expected)], rtol=1e-2, atol=1e-3)
    assert np.isfinite(history["loss"]).all()


def weighted_accuracy(y, outputs, weight):
    right = np.argmax(outputs, axis=-1) == y
    return float(np.sum(weight * right) / np.sum(weight))


def test_weighted_metrics_are_each_students(students, vectors):
    x, y = vectors
    weight = np.random.default_rng(1).uniform(size=len(x)).astype("float32")
    mutual = MutualDistiller(students)
    mutual.compile(keras.optimizers.SGD(0.0), LOSS, weighted_metrics=["accuracy"])
    outputs = dict(zip(students, mutual.predict(x, verbose=0), strict=True))
    history = mutual.fit(
        x, y, sample_weight=weight, validation_data=(x, y, weight), verbose=0
    ).history
    evaluated = mutual.evaluate(x, y, sample_weight=weight, return_dict=True, verbose=0)
    unweighted = mutual.evaluate(x, y, return_dict=True, verbose=0)
    for name, answers in outputs.items():
        expected = weighted_accuracy(y, answers, weight)
        key = f"{name}_accuracy"
        found = history[key][0], history[f"val_{key}"][0], evaluated[key]
        assert found == pytest.approx([expected] * 3, abs=1e-6)
        expected = weighted_accuracy(y, answers, np.ones(len(y)))
        assert unweighted[key] == pytest.approx(expected, abs=1e-6)


def test_weighted_metrics_come_back_from_a_file(students, vectors, tmp_path):
    mutual = MutualDistiller(students)
    mutual.compile("sgd", LOSS, ["accuracy"], ["accuracy"], loss_weights=0.5)
    mutual.fit(*vectors, verbose=0)
    mutual.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    logs = [m.evaluate(*vectors, return_dict=True, verbose=0) for m in (mutual, again)]
    assert logs[0] == logs[1]
    assert {"small_accuracy", "small_weighted_accuracy"} <= set(logs[1])


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
@pytest.mark.parametrize("value", ["accuracy", {"small": ["accuracy"]}])
def test_metrics_that_are_no_list_are_refused(students, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be a list"):
        MutualDistiller(students).compile("sgd", LOSS, **{argument: value})


def test_losses_of_students_are_means_over_examples(students, vectors):
    x, y = vectors[0][:40], vectors[1][:40]
    mutual = compiled(students, keras.optimizers.SGD(0.0), metrics=())
    outputs = mutual.predict(x, verbose=0)
    # Batches of 32 and of 8.
    history = mutual.fit(x, y, batch_size=32, shuffle=False, verbose=0).history
    logs = mutual.evaluate(x, y, batch_size=32, return_dict=True, verbose=0)
    for name, expected in zip(students, terms64(outputs, y)[0], strict=True):
        found = history[f"{name}_loss"][0], logs[f"{name}_loss"]
        assert found == pytest.approx([expected] * 2, rel=1e-5)


def test_loss_weights_weigh_the_labels(students, vectors):
    x, y = vectors
    mutual = MutualDistiller(students)
    mutual.compile(keras.optimizers.SGD(0.0), LOSS, loss_weights=0.25)
    on_labels, from_peers = terms64(mutual.predict(x, verbose=0), y)
    logs = mutual.train_on_batch(x, y, return_dict=True)
    expected = 0.25 * sum(on_labels) + sum(from_peers)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["small_loss"] == pytest.approx(on_labels[0], rel=1e-5)
    with pytest.raises(ValueError, match="`loss_weights` must be a finite number"):
        mutual.compile("sgd", LOSS, loss_weights=[1.0, 2.0])


def one_output(structure, units):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3)(keras.layers.Dense(units)(inputs))
    return keras.Model(inputs, structure(x))


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: {"logits": y}])
@pytest.mark.parametrize("structure", [lambda x: {"logits": x}, lambda x: [x]])
def test_one_output_alone_in_a_structure(vectors, structure, labels):
    x, y = vectors
    students = {"dict": one_output(structure, 4), "plain": one_output(lambda x: x, 5)}
    mutual = compiled(students, keras.optimizers.SGD(0.0))
    outputs = mutual.predict(x, verbose=0)
    history = mutual.fit(x, labels(y), batch_size=64, verbose=0).history
    on_labels, from_peers = terms64(outputs, y)
    assert history["loss"][0] == pytest.approx(sum(on_labels) + sum(from_peers), rel=1e-5)
    assert history["dict_loss"][0] == pytest.approx(on_labels[0], rel=1e-5)
    assert "dict_accuracy" in history


def test_what_cannot_be_compared_is_named(students):
    with pytest.raises(ValueError, match="`distillation_losses` of a MutualDistiller"):
        MutualDistiller(students, "fitnet")
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(3)(inputs) for _ in range(2)]
    students["two"] = keras.Model(inputs, heads)
    with pytest.raises(ValueError, match="`students` must have one output each.* 'two'"):
        MutualDistiller(students)


X = np.random.default_rng(3).normal(size=(32, 4)).astype("float32")
BINARY = keras.losses.BinaryCrossentropy


def ending(units, activation=None):
    last = keras.layers.Dense(units, activation=activation)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), last])


def taught(pair, loss, y, sample_weight=None, x=X, **arguments):
    """The peers' loss of one step that changes nothing."""
    mutual = MutualDistiller(pair, **arguments)
    mutual.compile(keras.optimizers.SGD(0.0), loss)
    logs = mutual.train_on_batch(x, y, sample_weight, return_dict=True)
    return logs["distillation_loss"], mutual


@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_students_of_yes_and_no(units, activation, tmp_path):
    pair = {"a": ending(units, activation), "b": ending(units, activation)}
    y = np.random.default_rng(0).integers(2, size=(32, units))
    loss, task = BINARY(from_logits=activation is None), {1: "binary", 5: "multilabel"}
    with pytest.warns(UserWarning, match=f"`task` is taken as '{task[units]}'"):
        found, mutual = taught(pair, loss, y)
    p, q = (np.float64(x.predict(X, verbose=0)) for x in pair.values())
    if activation is None:
        p, q = (1 / (1 + np.exp(-x)) for x in (p, q))
    # Of both directions.
    both = (p - q) * (np.log(p / (1 - p)) - np.log(q / (1 - q)))
    assert found == pytest.approx(np.mean(both), rel=1e-4)
    mutual.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="taken as"):
        again = keras.saving.load_model(tmp_path / "m.keras")
    logs = again.train_on_batch(X, y, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(found, rel=1e-5)


def test_students_of_numbers():
    pair, y = {"a": ending(2), "b": ending(2)}, np.zeros((32, 2))
    with pytest.raises(ValueError, match="SoftTargets.* 'regression'.*'logit_mse'"):
        taught(pair, "mse", y)
    losses = kd.losses.LogitMSE()
    found, mutual = taught(pair, "mse", y, distillation_losses=losses, task="regression")
    p, q = (x.predict(X, verbose=0) for x in pair.values())
    assert found == pytest.approx(2 * np.mean((p - q) ** 2), rel=1e-4)
    assert mutual.get_config()["task"] == "regression"


@pytest.mark.filterwarnings("ignore:`task` is taken")
def test_students_of_several_tasks():
    pair = {"a": ending(3), "b": ending(3, "softmax")}
    with pytest.raises(ValueError, match="'a' is for 'regression' .*'b' is for 'multicl"):
        MutualDistiller(pair, student_outputs="logits").compile("sgd", "mae")
    with pytest.raises(ValueError, match="`task` 'binary' takes outputs of one unit"):
        MutualDistiller({"a": ending(3), "b": ending(3)}, task="binary")


def test_what_the_labels_loss_leaves_out_peers_leave_out():
    pair, rng = {"a": ending(4), "b": ending(4)}, np.random.default_rng(0)
    y = rng.integers(4, size=32)
    y[20:] = 255
    ignoring = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)
    dkd = kd.losses.DKD()
    found, _ = taught(pair, ignoring, y, distillation_losses=dkd)
    p, q = (x.predict(X[:20], verbose=0) for x in pair.values())
    expected = dkd.compute_loss(p, q, y[:20]) + dkd.compute_loss(q, p, y[:20])
    assert found == pytest.approx(float(expected), rel=1e-4)
    # What is there is nothing.
    other = np.where(np.arange(32)[:, None] < 20, X, 7.0).astype("float32")
    assert taught(pair, ignoring, y, x=other, distillation_losses=dkd)[0] == found
