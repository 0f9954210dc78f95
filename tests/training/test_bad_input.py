"""What bad input gets: a table of mistakes and the message that a user wants to read."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.losses import SoftTargets

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.arange(8) % 3


def model(*shape, units=3, end=()):
    inputs = keras.layers.Input(shape or (4,))
    return keras.Sequential([inputs, keras.layers.Dense(units), *end])


class Unbuilt(keras.Model):
    def call(self, x):
        return x


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [keras.layers.Dense(3)(inputs) for _ in range(2)])


def without_weights():
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.ReLU()])


def rank_one():
    return model(units=1, end=[keras.layers.Reshape(()), keras.layers.Identity()])


def one_model_as_both():
    teacher = model()
    return {"teacher": teacher, "student": teacher}


def shared_layer():
    teacher = model()
    both = [keras.layers.Input((4,)), teacher.layers[0], keras.layers.ReLU()]
    return {"teacher": teacher, "student": keras.Sequential(both)}


def taps(*pair):
    return {"distillation_losses": SoftTargets(taps=pair)}


CONSTRUCTOR = {
    "teacher a path": ({"teacher": "t.keras"}, "`teacher` must be .* Received: 't.keras'"),
    "teacher a layer": (
        lambda: {"teacher": keras.layers.Dense(3)},
        "`teacher` must be a keras.Model. Received: .* of type Dense",
    ),
    "student a function": ({"student": len}, "`student` must be a keras.Model. Received"),
    "teacher unbuilt": (
        lambda: {"teacher": Unbuilt(name="new")},
        "`teacher` has no weights yet.* the unbuilt model 'new'",
    ),
    "teacher without weights": (
        lambda: {"teacher": without_weights()},
        "has no weights, so it was never trained",
    ),
    "one model as both": (one_model_as_both, "are the same model.*clone_model"),
    "a layer of both that trains": (
        shared_layer,
        "would train variables that belong to `teacher`.*Shared: .*kernel",
    ),
    "class counts": (
        lambda: {"student": model(units=5)},
        r"same shape: give the student's layer as many.*\(None, 3\).*\(None, 5\)",
    ),
    "class counts, one of which would broadcast": (
        lambda: {"student": model(units=1)},
        r"same shape.*\(None, 3\).*\(None, 1\)",
    ),
    "class counts, Keras's own loss": (
        lambda: {
            "student": model(units=1),
            "distillation_losses": keras.distillation.LogitsDistillation(),
        },
        r"LogitsDistillation compares.*\(None, 3\).*\(None, 1\)",
    ),
    "rank 1 outputs": (
        lambda: {"teacher": rank_one(), "student": rank_one()},
        r"outputs of shape \(batch, ..., size\).*teacher_outputs of shape \(None,\)",
    ),
    "ranks that differ": (
        lambda: {"student": model(end=[keras.layers.Reshape((1, 3))])},
        r"same shape.*\(None, 3\).*\(None, 1, 3\)",
    ),
    "several outputs": (
        lambda: {"student": two_outputs()},
        "the student has several. Say which by the layers.*taps=",
    ),
    "losses None": ({"distillation_losses": None}, "A distillation loss is .* None"),
    "losses empty": ({"distillation_losses": []}, "must name at least one loss"),
    "loss unknown": ({"distillation_losses": "kdd"}, r"Did you mean 'kd'\?"),
    "loss of Keras for labels": (
        {"distillation_losses": keras.losses.KLDivergence()},
        "A distillation loss is an object with `compute_loss`",
    ),
    "loss a class": ({"distillation_losses": SoftTargets}, "A distillation loss is an obj"),
    "weights too many": ({"distillation_loss_weights": [1.0, 2.0]}, "each of the 1"),
    "weights too few": ({"distillation_loss_weights": []}, r"1 .*Received: \[\]"),
    "weight NaN": ({"distillation_loss_weights": [float("nan")]}, "finite number >= 0"),
    "weight infinite": ({"distillation_loss_weights": [float("inf")]}, "number >= 0"),
    "weight negative": ({"distillation_loss_weights": -1.0}, r"Received: \[-1.0\]"),
    "weight a string": ({"distillation_loss_weights": ["1"]}, r"Received: \['1'\]"),
    "student weight above 1": ({"student_loss_weight": 1.5}, "between 0 and 1.*weight=1.5"),
    "student weight negative": ({"student_loss_weight": -0.1}, "between 0 and 1"),
    "student weight a string": ({"student_loss_weight": "half"}, "weight='half'"),
    "student weight NaN": ({"student_loss_weight": float("nan")}, "between 0 and 1"),
    "student weight None": ({"student_loss_weight": None}, "student_loss_weight=None"),
    "student weight a truth value": ({"student_loss_weight": True}, "between 0 and 1"),
    "kind of the teacher's outputs": (
        {"teacher_outputs": "softmax"},
        "`teacher_outputs` must be None or one of 'logits', 'probabilities'",
    ),
    "kind of the student's outputs": (
        {"student_outputs": 3},
        "`student_outputs` must be .*Received: student_outputs=3",
    ),
    "tap of no layer": (taps("densee", "dense"), "There is no layer 'densee'"),
    "all weights 0": (
        {"distillation_loss_weights": [0.0], "student_loss_weight": 0},
        "are all 0, so nothing would be learned",
    ),
    "what is no loss": ({"distillation_losses": 3}, "^`distillation_losses`: A dist"),
    "kind in an array": (
        {"teacher_outputs": np.array("softmax")},
        "`teacher_outputs` must be None or one of 'logits', 'probabilities'",
    ),
    "kind of what is no layer": (
        {"teacher_outputs": {3: "logits"}},
        "`teacher_outputs` must be None or one of 'logits', 'probabilities'",
    ),
    "unknown argument": ({"temperature": 4.0}, "temperature"),
}


@pytest.mark.parametrize("case", CONSTRUCTOR)
def test_the_constructor_refuses(case):
    change, message = CONSTRUCTOR[case]
    change = change() if callable(change) else change
    arguments = {"distillation_losses": "kd"} | change
    for name in ("teacher", "student"):
        if name not in arguments:
            arguments[name] = model()
    with pytest.raises(ValueError, match=message):
        kd.Distiller(**arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"temperature": 0}, "`temperature` must be a finite number greater than 0"),
        ({"temperature": -1.0}, "Received: temperature=-1.0"),
        ({"temperature": "4"}, "Received: temperature='4'"),
        ({"temperature": None}, "Received: temperature=None"),
        ({"temperature": True}, "Received: temperature=True"),
        ({"temperature": float("nan")}, "Received: temperature=nan"),
        ({"temperature": float("inf")}, "Received: temperature=inf"),
        ({"form": "mse"}, "`form` must be one of 'kl', 'cross_entropy'"),
        ({"taps": "dense"}, "`taps` must be a pair of layer names, the teacher's first"),
        ({"taps": [("a", "b"), ("c", "d")]}, "one pair of outputs. Give one SoftTargets"),
    ],
)
def test_soft_targets_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftTargets(**arguments)


def compiled(teacher=None, student=None, metrics=None, **arguments):
    distiller = kd.Distiller(teacher or model(), student or model(), "kd", **arguments)
    distiller.compile("sgd", LOSS, metrics=metrics)
    return distiller


def with_bad_weights():
    teacher = model()
    teacher.layers[0].kernel.assign(np.full((4, 3), np.nan))
    return teacher


def overflowing():
    """Finite weights, whose answers are NaN for these inputs."""
    return model(end=[keras.layers.Lambda(lambda x: x / (x - x))])


def fit(distiller, *args, **kwargs):
    return distiller.fit(*args, verbose=0, **kwargs)


def no_batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).take(0).batch(4)


FIT = {
    "loss is needed": (
        lambda: kd.Distiller(model(), model(), "kd").compile("sgd"),
        "`loss`.*needed because student_loss_weight=0.5. Received: loss=None",
    ),
    "fit before compile": (
        lambda: fit(kd.Distiller(model(), model(), "kd"), X, Y),
        "must call `compile\\(\\)` before",
    ),
    "evaluate before compile": (
        lambda: kd.Distiller(model(), model(), "kd").evaluate(X, Y, verbose=0),
        "must call `compile\\(\\)` before",
    ),
    "labels too large": (lambda: fit(compiled(), X, Y + 1), r"0..2.* from 1 to 3"),
    "labels negative": (lambda: fit(compiled(), X, Y - 1), r"0..2.* from -1 to 1"),
    "NaN in the teacher's weights": (
        lambda: fit(compiled(with_bad_weights()), X, Y),
        "`teacher` .* holds NaN or infinite values in '.*kernel'",
    ),
    "NaN in the teacher's outputs": (
        lambda: fit(compiled(overflowing()), X, Y),
        "`teacher` .* answers with NaN or infinite values to the first 8 examples",
    ),
    "NaN in the inputs": (
        lambda: fit(compiled(), np.full_like(X, np.nan), Y),
        "`x` holds NaN or infinite values",
    ),
    "no examples": (lambda: fit(compiled(), X[:0], Y[:0]), "holds no batches"),
    "no batches": (lambda: fit(compiled(), no_batches()), "holds no batches"),
    "no labels": (
        lambda: fit(compiled(), X),
        r"labels \(y\) are missing.* needed where student_loss_weight > 0",
    ),
    "no labels for the metrics": (
        lambda: fit(compiled(metrics=["accuracy"], student_loss_weight=0), X),
        "`metrics`, given to compile, need labels",
    ),
    "no labels in validation": (
        lambda: fit(compiled(), X, Y, validation_data=(X,)),
        "labels",
    ),
    "more labels than examples": (lambda: fit(compiled(), X, np.tile(Y, 2)), "sizes"),
}


# Keras's own words about shuffle=True and about data that runs out.
@pytest.mark.filterwarnings("ignore:.*(shuffle|ran out of data):UserWarning")
@pytest.mark.parametrize("case", FIT)
def test_compile_and_fit_refuse(case):
    do, message = FIT[case]
    with pytest.raises(ValueError, match=message):
        do()


def test_a_failed_check_leaves_the_student_as_it_was():
    distiller = compiled(with_bad_weights())
    before = distiller.student.get_weights()
    with pytest.raises(ValueError):
        fit(distiller, X, Y)
    for old, new in zip(before, distiller.student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_batch_of_one_is_no_mistake():
    history = fit(compiled(), X[:1], Y[:1]).history
    assert np.isfinite(history["loss"]).all()
