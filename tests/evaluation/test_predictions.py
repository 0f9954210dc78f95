import keras
import numpy as np
import pytest

from keras_kd.evaluation.evaluate import Evaluation, evaluate
from keras_kd.evaluation.predictions import Predictions, predict


def echo(classes=3, *layers, **arguments):
    """A model whose outputs are its inputs."""
    return keras.Sequential(
        [keras.layers.Input((classes,)), keras.layers.Identity(), *layers], **arguments
    )


def log_softmax64(logits):
    logits = np.asarray(logits, dtype="float64")
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(11, 3), scale=4).astype("float32")


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 3, 11)


def in_batches(x, labels):
    """Uneven ones, and labels as a column in one of them."""
    return [(x[:4], labels[:4]), (x[4:9], labels[4:9, None]), (x[9:], labels[9:])]


def test_log_probabilities_of_logits(logits, labels):
    found = predict(echo(name="small"), in_batches(logits, labels))
    assert found.name == "small" and found.log_probs.dtype == "float32"
    np.testing.assert_allclose(found.log_probs, log_softmax64(logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))


def test_of_tensorflow_datasets(logits, labels):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((logits, labels.astype("uint8"))).batch(4)
    found = predict(echo(), data, name="mine")
    assert found.name == "mine" and found.labels.dtype == "int64"
    np.testing.assert_array_equal(found.labels, labels)


def test_a_softmax_at_the_end_is_seen(logits, labels):
    model = echo(3, keras.layers.Softmax())
    found = predict(model, in_batches(logits, labels))
    np.testing.assert_allclose(found.log_probs, log_softmax64(logits), rtol=1e-4, atol=1e-5)


def test_logits_beyond_the_range_of_exp():
    found = predict(echo(), [(np.float32([[1e4, -1e4, 0]]), np.array([1]))])
    np.testing.assert_array_equal(found.log_probs, [[0, -2e4, -1e4]])


def test_outputs_can_be_said(labels):
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 11).astype("float32")
    data = in_batches(probabilities, labels)
    found = predict(echo(), data, outputs="probabilities")
    np.testing.assert_allclose(found.log_probs, np.log(probabilities), rtol=1e-5, atol=1e-6)
    as_logits = predict(echo(), data, outputs="logits")
    expected = log_softmax64(probabilities)
    np.testing.assert_allclose(as_logits.log_probs, expected, rtol=1e-5)
    with pytest.warns(UserWarning, match="'echo' are taken as logits but look like prob"):
        guessed = predict(echo(name="echo"), data)
    np.testing.assert_array_equal(guessed.log_probs, as_logits.log_probs)


def test_a_probability_of_zero_has_a_finite_logarithm():
    found = predict(echo(), [(np.float32([[0, 1, 0]]), [0])], outputs="probabilities")
    assert found.log_probs[0, 0] == pytest.approx(np.log(1e-37), rel=1e-5)


def test_mixed_precision(labels):
    x = np.random.default_rng(3).normal(size=(11, 3)).astype("float32")
    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(3, dtype="mixed_bfloat16")]
    )
    found = predict(model, in_batches(x, labels))
    assert found.log_probs.dtype == "float32"
    total = np.exp(found.log_probs.astype("float64")).sum(axis=1)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_answers(logits, labels):
    found = predict(echo(), in_batches(logits, labels)).answers()
    log_probs = log_softmax64(logits)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.predicted, log_probs.argmax(axis=1))
    confidence = np.exp(log_probs.max(axis=1))
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-5)
    likelihood = [row[label] for row, label in zip(log_probs, labels, strict=True)]
    np.testing.assert_allclose(found.log_likelihood, likelihood, rtol=1e-5, atol=1e-6)
    assert found.confidence.dtype == found.log_likelihood.dtype == "float32"


def test_fidelity(logits, labels, monkeypatch):
    # Some chunks of rows, and an incomplete one.
    monkeypatch.setattr("keras_kd.tasks.task._ROWS", 4)
    others = logits + np.random.default_rng(4).normal(size=logits.shape, scale=3)
    student = predict(echo(), in_batches(logits, labels))
    teacher = predict(echo(), in_batches(others.astype("float32"), labels), name="big")
    log_p, log_q = log_softmax64(others), log_softmax64(logits)
    kl = np.sum(np.exp(log_p) * (log_p - log_q), axis=1).mean()
    differ = np.flatnonzero(others.argmax(axis=1) != logits.argmax(axis=1))
    assert 0 < len(differ) < 11
    found = student.fidelity(teacher)
    assert found.teacher == "big"
    assert found.agreement == pytest.approx(1 - len(differ) / 11)
    assert found.kl == pytest.approx(kl, rel=1e-5)
    assert student.disagreements(teacher).tolist() == differ.tolist()


def test_fidelity_to_itself(logits, labels):
    found = predict(echo(), in_batches(logits, labels))
    assert (found.fidelity(found).agreement, found.fidelity(found).kl) == (1.0, 0.0)
    assert found.disagreements(found).shape == (0,)


def test_a_teacher_on_other_examples(logits, labels):
    found = predict(echo(name="small"), in_batches(logits, labels))
    order = np.argsort(labels)
    other = Predictions("big", labels[order], found.predicted, found.log_probs)
    with pytest.raises(ValueError, match="`teacher` 'big' and 'small' were not run on the"):
        found.fidelity(other)
    with pytest.raises(ValueError, match="same order: their labels differ"):
        found.disagreements(other)


def test_a_teacher_of_other_classes(logits, labels):
    small = predict(echo(name="small"), in_batches(logits, labels))
    wide = np.concatenate([logits, logits], axis=1)
    big = predict(echo(6, name="big"), in_batches(wide, labels))
    with pytest.raises(ValueError, match="'big' has 6 classes and 'small' has 3; "):
        small.fidelity(big)


X = np.float32([[9, 0, 0], [0, 9, 0], [0, 0, 9]])
NAN = np.float32([[9, 0, 0], [0, np.nan, 0], [0, 0, np.inf]])
Y = np.array([0, 1, 2])


@pytest.mark.parametrize(
    "dataset, message",
    [
        ([], "`dataset` is empty; nothing to evaluate on"),
        ([(X[:0], Y[:0])], "`dataset` is empty"),
        ([X], "`dataset` must give batches of .*Received: a ndarray"),
        ([(X, np.eye(4)[Y])], r"`dataset` must have class labels.*shape \(3, 4\)"),
        ([(X, Y[:2])], r"labels of shape \(2,\) and dtype int64 for 3 examples"),
        ([(X, Y), (X, [0, 1, 3])], "labels in 0..2, .*'m'. Received: label 3 of example 5"),
        ([(X, [0, -1, 2])], "Received: label -1 of example 1"),
        ([(X, Y), (NAN, Y)], "'m' answered example 4 of `dataset` with NaN or infinite"),
    ],
)
def test_bad_data(dataset, message):
    with pytest.raises(ValueError, match=message):
        predict(echo(name="m"), dataset)


@pytest.mark.parametrize(
    "dataset",
    [
        (X, Y),
        (X, Y, np.array([1.0, 0.0, 2.0])),
        [(X, np.eye(3)[Y])],
        [(X[:2], Y[:2], np.ones(2)), (X[2:], Y[2:].astype("float32"), np.ones(1))],
    ],
)
def test_what_keras_takes(dataset):
    """Each example once, whatever its weight."""
    wanted, found = predict(echo(), [(X, Y)]), predict(echo(), dataset)
    np.testing.assert_array_equal(found.labels, Y)
    np.testing.assert_array_equal(found.log_probs, wanted.log_probs)


def test_messages_name_the_data_as_the_user_does():
    with pytest.raises(ValueError, match="`test_data` must hold labels in 0..2"):
        predict(echo(), [(X, Y + 1)], argument="test_data")


def test_bad_outputs():
    maps = keras.Sequential([keras.layers.Input((3,)), keras.layers.Reshape((3, 1))])
    with pytest.raises(ValueError, match="a yes or no or a value. Say which: task='bina"):
        predict(maps, [(X, Y)])
    with pytest.raises(ValueError, match=r"labels of shape \(3,\) .*shape \(3, 3, 1\)"):
        predict(maps, [(X, Y)], task="binary")
    inputs = keras.Input((3,))
    two = keras.Model(inputs, [keras.layers.Identity()(inputs)] * 2)
    with pytest.raises(ValueError, match="must have one output .*Received: list"):
        predict(two, [(X, Y)])


def test_outputs_that_are_no_probabilities():
    message = "'m' are no probabilities, .*of example 2 sum to 9, the smallest is 0."
    with pytest.raises(ValueError, match=message):
        data = [(X[:2] / 9, Y[:2]), (X[2:], Y[2:])]
        predict(echo(name="m"), data, outputs="probabilities")
    with pytest.raises(ValueError, match="`outputs` must be .*'probabilities'. Received"):
        predict(echo(), [(X, Y)], outputs="softmax")


def test_one_output_in_a_dict(make_model, vectors):
    import tensorflow as tf

    model = make_model()
    inputs = keras.Input((4,))
    wrapped = keras.Model(inputs, {"logits": model(inputs)})
    x, y = vectors
    plain = predict(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(16))
    data = tf.data.Dataset.from_tensor_slices((x, {"logits": y})).batch(16)
    found = predict(wrapped, data)
    np.testing.assert_array_equal(found.labels, plain.labels)
    np.testing.assert_allclose(found.log_probs, plain.log_probs, rtol=1e-6)


def given(shape, activation=None):
    """A model that gives its inputs, through an activation."""
    layers = [keras.layers.Input(shape), keras.layers.Activation(activation or "linear")]
    return keras.Sequential(layers)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_unit_is_two_classes(shape, activation):
    rng = np.random.default_rng(6)
    z = rng.normal(size=(40, 1)).astype("float32")
    y = rng.integers(0, 2, 40)
    model = given((1,), activation)
    found = predict(model, [(z[:15], y[:15].reshape(15, *shape)), (z[15:], y[15:])],
                    task="binary")  # fmt: skip
    expected = np.stack([-np.logaddexp(0, z[:, 0]), -np.logaddexp(0, -z[:, 0])], axis=1)
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.predicted, z[:, 0] > 0)
    answers = found.answers()
    np.testing.assert_allclose(answers.logits, z[:, 0], rtol=1e-4, atol=1e-5)
    both = np.concatenate([0 * z, z], axis=1)
    teacher = predict(echo(2, name="two"), [(both[:9], y[:9]), (both[9:], y[9:])])
    close = found.fidelity(teacher)
    assert close.agreement == 1 and close.kl == pytest.approx(0, abs=1e-6)


def test_a_sigmoid_shows_a_yes_or_no_and_several_labels():
    z = np.random.default_rng(7).normal(size=(6, 3)).astype("float32")
    assert predict(given((1,), "sigmoid"), [(z[:, :1], z[:, 0] > 0)]).task == "binary"
    several = predict(given((3,), "sigmoid"), [(z, z > 0)])
    assert several.sums.task.name == "multilabel"
    assert Evaluation.of(several.answers()).accuracy == 1


LOGITS = np.random.default_rng(8).normal(size=(6, 4, 5, 3)).astype("float32")
MAPS = np.random.default_rng(9).integers(0, 3, (6, 4, 5))


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot", "arrays"])
def test_pixels(form):
    labels = {
        "column": MAPS[..., None], "one-hot": np.eye(3)[MAPS], "numbers": MAPS
    }.get(form, MAPS)  # fmt: skip
    data = [(LOGITS[:4], labels[:4]), (LOGITS[4:], labels[4:])]
    data = (LOGITS, labels) if form == "arrays" else data
    found = evaluate(given((4, 5, 3)), data)
    assert (found.task, found.examples, found.answers) == ("multiclass", 6, 120)
    predicted = LOGITS.argmax(-1)
    assert found.accuracy == pytest.approx(np.mean(predicted == MAPS))
    ious = [
        np.sum((MAPS == k) & (predicted == k)) / np.sum((MAPS == k) | (predicted == k))
        for k in range(3)
    ]
    assert found.counts == "mean_iou"
    assert found.scores["mean_iou"].value == pytest.approx(np.mean(ious))
    assert [x.iou for x in found.per_class] == pytest.approx(ious)
    assert [x.examples for x in found.per_class] == np.bincount(MAPS.ravel()).tolist()


@pytest.mark.parametrize("by", ["ignore_class", "weights", "both"])
def test_pixels_that_are_left_out_count_in_nothing(by):
    out = np.random.default_rng(10).uniform(size=MAPS.shape) < 0.3
    labels = MAPS.copy()
    weights = np.ones(MAPS.shape)
    ignored = None
    if by in ("ignore_class", "both"):
        labels[:3][out[:3]], ignored = 255, 255
    if by in ("weights", "both"):
        weights[3:][out[3:]] = 0
    out[:3] &= by != "weights"
    out[3:] &= by != "ignore_class"
    odd = np.where(out[..., None], np.nan, LOGITS).astype("float32")
    model, teacher = given((4, 5, 3)), given((4, 5, 3))
    found = evaluate(model, [(odd, labels, weights)], teacher, ignore_class=ignored)
    predicted = LOGITS.argmax(-1)
    assert found.answers == np.sum(~out)
    assert found.accuracy == pytest.approx(np.mean((predicted == MAPS)[~out]))
    assert (found.fidelity.agreement, found.fidelity.kl) == (1, 0)


def test_a_label_that_is_no_class_is_told_with_what_leaves_it_out():
    labels = MAPS.copy()
    labels[1, 2, 3] = 255
    message = "label 255 of example 1, position 13. What has no label .*`ignore_class`"
    with pytest.raises(ValueError, match=message):
        predict(given((4, 5, 3)), [(LOGITS, labels)])


def test_tokens_that_a_mask_leaves_out():
    words = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0], [2, 2, 2, 2, 2]])
    labels = np.random.default_rng(11).integers(0, 4, words.shape)
    model = keras.Sequential(
        [keras.layers.Embedding(5, 6, mask_zero=True), keras.layers.Dense(4)]
    )
    found = evaluate(model, [(words, labels)])
    logits, keep = np.array(model(words)), words != 0
    log_probs = log_softmax64(logits.reshape(-1, 4)).reshape(logits.shape)
    right = (log_probs.argmax(-1) == labels)[keep]
    assert (found.answers, found.accuracy) == (10, pytest.approx(right.mean()))
    likelihood = np.take_along_axis(log_probs, labels[..., None], -1)[..., 0][keep]
    perplexity = np.exp(-likelihood.mean())
    assert found.scores["perplexity"].value == pytest.approx(perplexity, rel=1e-5)


def test_fidelity_of_several_labels_and_of_values():
    rng = np.random.default_rng(12)
    z = rng.normal(size=(20, 3)).astype("float32")
    t = z + rng.normal(size=z.shape).astype("float32")
    teacher = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3)])
    teacher.layers[0].set_weights([np.eye(3), np.float32([1, -1, 0.5])])
    t = z + np.float32([1, -1, 0.5])
    found = evaluate(given((3,)), [(z, z > 0)], teacher, task="multilabel").fidelity
    p, q = (1 / (1 + np.exp(-x.astype("float64"))) for x in (t, z))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert found.kl == pytest.approx(kl.mean(), rel=1e-4)
    assert found.agreement == pytest.approx(np.mean((t > 0) == (z > 0)))
    values = evaluate(given((3,)), [(z, z)], teacher, task="regression")
    assert values.fidelity.agreement is values.fidelity.kl is None
    assert values.fidelity.rmse == pytest.approx(np.sqrt(np.mean((t - z) ** 2)), rel=1e-5)
    assert values.scores["mean_absolute_error"].value == 0
    assert "0.8660" not in values.summary() and "root mean squared" in values.summary()


@pytest.mark.parametrize(
    "task, labels, message",
    [
        ("binary", [[0.5], [1.0]], "labels of the task 'binary': 0 or 1 for each"),
        ("binary", [[2], [1]], "must hold labels of the task 'binary'.*label 2 of exam"),
        ("binary", [[0, 1], [1, 0]], "0 or 1 for each example or position. Received: "),
        ("regression", [[np.nan], [1]], "a finite number for each output. Received: label"),
        ("regression", [["a"], ["b"]], "Received: labels of shape .* dtype <U1"),
    ],
)
def test_labels_of_another_task(task, labels, message):
    with pytest.raises(ValueError, match=message):
        predict(given((1,)), [(np.zeros((2, 1)), np.array(labels))], task=task)


def test_an_unknown_task():
    with pytest.raises(ValueError, match="`task` must be None or one of 'multiclass', "):
        predict(given((1,)), [(np.zeros((2, 1)), np.zeros(2))], task="ranking")


def test_several_labels_are_no_single_ones():
    z = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match="'multilabel': 0 or 1 for each output. .*(2,)"):
        predict(given((3,)), [(z, np.array([0, 1]))], task="multilabel")
    with pytest.raises(ValueError, match=r"label \[0 2 0\] of example 1"):
        predict(given((3,)), [(z, np.array([[0, 1, 1], [0, 2, 0]]))], task="multilabel")


@pytest.mark.parametrize("maps", [False, True])
def test_outputs_that_differ_by_less_than_their_log_probabilities_can_tell(maps):
    """The larger one is the answer, as in Keras's metrics."""
    z = np.float32([[1e-9, 0, 2e-9], [0, 3e-9, 1e-9]])
    z, y = (z[:, None], np.array([[2], [1]])) if maps else (z, np.array([2, 1]))
    found = Evaluation.of(predict(given(z.shape[1:]), [(z, y)]).answers())
    assert found.accuracy == 1


class EndsUnseen(keras.Model):
    """Ends in an activation that no layer shows."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize("form", ["subclassed", "ops", "reshape"])
@pytest.mark.parametrize(
    "task, function", [("multiclass", "softmax"), ("multilabel", "sigmoid")]
)
def test_probabilities_whose_activation_no_layer_shows(form, task, function):
    z = 3 * np.random.default_rng(13).normal(size=(30, 3)).astype("float32")
    y = np.random.default_rng(14).integers(0, 3 if task == "multiclass" else 2, (30, 3))
    y = y[:, 0] if task == "multiclass" else y
    activate = getattr(keras.ops, function)
    inputs = keras.Input((3,))
    model = {
        "subclassed": EndsUnseen(activate),
        "ops": keras.Model(inputs, activate(inputs)),
        "reshape": keras.Model(
            inputs, keras.layers.Reshape((3,))(keras.layers.Activation(function)(inputs))
        ),
    }[form]
    found = evaluate(model, [(z[:20], y[:20]), (z[20:], y[20:])], task=task)
    wanted = evaluate(given((3,), function), [(z, y)], task=task)
    assert found.accuracy == wanted.accuracy
    nll = wanted.negative_log_likelihood
    assert found.negative_log_likelihood == pytest.approx(nll, rel=1e-4)
