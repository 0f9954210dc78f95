"""The virtual teacher's loss, against the authors' formula in float64."""

import doctest
import json

import keras
import numpy as np
import pytest

from keras_kd import Distiller, TeacherFreeLoss
from keras_kd.training import teacher_free

DEFAULTS = {
    "alpha": 0.1,
    "temperature": 20.0,
    "correct_prob": 0.99,
    "multiplier": 100.0,
}
OTHERS = {"alpha": 0.95, "temperature": 3.0, "correct_prob": 0.8, "multiplier": 1.0}


def teacher_free64(y_true, logits, alpha, temperature, correct_prob, multiplier):
    """One value per example, in loops."""
    values = []
    for label, row in zip(y_true, np.float64(logits), strict=True):
        log_q = row - row.max() - np.log(np.exp(row - row.max()).sum())
        k = len(row)
        u = np.array([correct_prob if c == label else (1 - correct_prob) / (k - 1)
                      for c in range(k)])  # fmt: skip
        p = np.exp(u / temperature) / np.exp(u / temperature).sum()
        mean = sum(p[c] * (np.log(p[c]) - log_q[c]) for c in range(k)) / k
        values.append((1 - alpha) * -log_q[label] + alpha * multiplier * mean)
    return np.array(values)


def inputs(batch_size, num_classes):
    rng = np.random.default_rng(num_classes)
    logits = rng.normal(scale=3.0, size=(batch_size, num_classes)).astype("float32")
    return rng.integers(num_classes, size=batch_size), logits


@pytest.mark.parametrize("shape", [(1, 2), (5, 10), (7, 100)])
@pytest.mark.parametrize("arguments", [DEFAULTS, OTHERS])
def test_values(shape, arguments):
    y_true, logits = inputs(*shape)
    expected = teacher_free64(y_true, logits, **arguments)
    value = TeacherFreeLoss(**arguments)(y_true, logits)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    each = TeacherFreeLoss(**arguments, reduction=None)(y_true, logits)
    np.testing.assert_allclose(each, expected, rtol=1e-4)


def test_defaults():
    y_true, logits = inputs(5, 10)
    expected = teacher_free64(y_true, logits, **DEFAULTS).mean()
    np.testing.assert_allclose(TeacherFreeLoss()(y_true, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_large_logits(dtype):
    logits = keras.ops.cast([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], dtype)
    value = TeacherFreeLoss()(np.array([1, 0]), logits)
    expected = teacher_free64([1, 0], keras.ops.cast(logits, "float32"), **DEFAULTS)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-3)


def test_trains_any_model_with_weights_and_metrics(make_model, vectors, tmp_path):
    model = make_model()
    model.compile(keras.optimizers.Adam(0.05), TeacherFreeLoss(), metrics=["accuracy"])
    weight = np.ones(64, "float32")
    fit = {"sample_weight": weight, "epochs": 20, "verbose": 0}
    history = model.fit(*vectors, **fit).history
    assert history["accuracy"][-1] > 0.8
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    expected = model.evaluate(*vectors, verbose=0)
    assert again.evaluate(*vectors, verbose=0) == pytest.approx(expected)


def test_labels_in_other_shapes():
    y_true, logits = inputs(5, 10)
    expected = TeacherFreeLoss()(y_true, logits)
    for labels in (y_true[:, None], np.eye(10)[y_true]):
        np.testing.assert_allclose(TeacherFreeLoss()(labels, logits), expected, rtol=1e-6)


def test_config():
    text = json.dumps(keras.saving.serialize_keras_object(TeacherFreeLoss(**OTHERS)))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.get_config().items() >= OTHERS.items()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"alpha": -0.1}, "`alpha` must be a finite number, 0 or greater"),
        ({"alpha": 1.5}, "`alpha` must be at most 1.* alpha=1.5"),
        ({"temperature": 0}, "`temperature` must be"),
        ({"correct_prob": 1.0}, "`correct_prob` less than 1"),
        ({"multiplier": "1"}, "`multiplier` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TeacherFreeLoss(**arguments)


def test_probabilities_where_they_are_said():
    y_true, logits = inputs(5, 10)
    expected = TeacherFreeLoss()(y_true, logits)
    loss = TeacherFreeLoss(from_logits=False)
    again = TeacherFreeLoss.from_config(loss.get_config())
    for each in (loss, again):
        value = each(y_true, keras.ops.softmax(logits))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_softmax_before_it_is_told(vectors):
    layers = [keras.Input((4,)), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("sgd", TeacherFreeLoss())
    with pytest.warns(UserWarning, match="takes logits.*from_logits=False"):
        model.fit(*vectors, verbose=0)
    model.compile("sgd", TeacherFreeLoss(from_logits=False))
    model.fit(*vectors, verbose=0)


def test_one_class():
    with pytest.raises(ValueError, match="two or more classes"):
        TeacherFreeLoss()(np.zeros(3, int), np.zeros((3, 1), "float32"))


def test_docstring_example_runs():
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(TeacherFreeLoss, globs=dict(vars(teacher_free)))
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
@pytest.mark.parametrize("ignored", [-1, 255])
def test_an_ignored_class_has_no_loss(ignored, reduction):
    y_true, logits = inputs(7, 10)
    each = teacher_free64(y_true, logits, **DEFAULTS)
    is_left = np.arange(7) > 2
    y_true = np.where(is_left, y_true, ignored)
    logits[:3] = np.nan
    loss = TeacherFreeLoss(ignore_class=ignored, reduction=reduction)
    expected = each[is_left].mean() if reduction != "sum" else each[is_left].sum()
    np.testing.assert_allclose(loss(y_true, logits), expected, rtol=1e-5)
    again = TeacherFreeLoss.from_config(json.loads(json.dumps(loss.get_config())))
    assert float(again(y_true[:, None], logits)) == float(loss(y_true, logits))
    with pytest.raises(ValueError, match="`ignore_class` must be an integer"):
        TeacherFreeLoss(ignore_class="void")


def test_what_a_mask_hides_has_no_loss():
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6)(x))
    x = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 4, 4, 2]])
    y = np.where(x == 0, 99, x)
    model.compile(keras.optimizers.SGD(0.0), TeacherFreeLoss(ignore_class=4))
    is_left = (x != 0) & (y != 4)
    expected = teacher_free64(y[is_left], model.predict(x, verbose=0)[is_left], **DEFAULTS)
    assert model.train_on_batch(x, y) == pytest.approx(expected.mean(), rel=1e-5)


def test_of_sigmoids_it_contradicts():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "sigmoid")])
    with pytest.raises(ValueError, match="3 sigmoid units under TeacherFreeLoss"):
        Distiller(keras.models.clone_model(model), model, "kd").compile(
            "sgd", TeacherFreeLoss(from_logits=False)
        )
