"""What is looked at before the first step, and what cannot be."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import Distiller, losses
from keras_kd.training import checks

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("loss", [SPARSE, "sparse_categorical_crossentropy"])
def test_labels_outside_the_classes(loss):
    with pytest.raises(ValueError, match=r"labels in 0..9.* from 0 to 10"):
        checks.check_labels(np.arange(11), loss, num_classes=10)


@pytest.mark.parametrize(
    "y, loss, num_classes",
    [
        (np.arange(10), SPARSE, 10),
        (np.arange(11), "mse", 10),  # no class numbers
        (np.arange(11), SPARSE, None),  # classes not known before the first batch
        (None, SPARSE, 10),
        (np.zeros(0), SPARSE, 10),
    ],
)
def test_labels_that_are_right_or_not_known(y, loss, num_classes):
    checks.check_labels(y, loss, num_classes)


def test_first_answers_look_at_the_first_examples_alone():
    x = np.ones((40, 2), "float32")
    x[35] = np.nan
    seen = []
    checks.check_first_answers(lambda x: seen.append(x) or x, x, "teacher", count=32)
    assert len(seen[0]) == 32


def test_first_answers_of_several_inputs():
    x = {"a": np.ones((4, 2)), "b": np.full((4, 2), np.inf)}
    with pytest.raises(ValueError, match="`x` holds NaN or infinite values in its first 4"):
        checks.check_first_answers(lambda x: x["a"], x, "teacher")


@pytest.mark.parametrize("x", [None, iter([]), np.zeros((0, 4)), [np.ones(3), "text"]])
def test_data_that_is_not_in_memory_is_not_touched(x):
    checks.check_first_answers(lambda x: pytest.fail("ran"), x, "teacher")


def test_integers_are_finite():
    assert checks.check_first_answers(lambda x: x, np.arange(3), "teacher") is None


@pytest.mark.parametrize("given", ["argument", "dataset"])
@pytest.mark.parametrize(
    "loss", [losses.SimilarityPreserving(), losses.RelationalKnowledge()], ids=repr
)
def test_batches_too_small_for_a_loss(make_model, vectors, loss, given):
    distiller = Distiller(make_model(), make_model(), loss)
    distiller.compile("sgd", SPARSE)
    small = loss.least_batch - 1
    x, more = vectors, {"batch_size": small}
    if given == "dataset":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(vectors)
        x, more = (data.batch(small, drop_remainder=True),), {}
    with pytest.raises(ValueError, match=f"fewer than {loss.least_batch} it is the same"):
        distiller.fit(*x, **more, verbose=0)
    inputs = keras.Input(batch_shape=(small, 4))
    fixed = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match=f"Received: batches of {small}"):
        Distiller(make_model(), fixed, loss)


VECTORS = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
CLASSES = np.argmax(VECTORS[:, :3], axis=1)


def classifier(*last, has_input=True):
    first = [keras.Input((4,))] if has_input else []
    dense = [keras.layers.Dense(6, "relu"), keras.layers.Dense(3)]
    return keras.Sequential([*first, *dense, *last])


LOSSES = keras.losses
MISTAKEN = {
    "sparse": LOSSES.SparseCategoricalCrossentropy(from_logits=True),
    "one-hot": LOSSES.CategoricalCrossentropy(from_logits=True),
    "teacher-free": kd.TeacherFreeLoss(),
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_a_label_loss_of_logits_on_probabilities_is_said(case, make_model):
    student = classifier(keras.layers.Softmax(), keras.layers.Identity())
    models = {
        "Distiller": lambda: kd.Distiller(
            make_model(), student, "kd", student_outputs=None, student_loss_weight=1.0
        ),
        "MutualDistiller": lambda: kd.MutualDistiller({"a": student, "b": make_model()}),
        "Stage": lambda: kd.Stage("s", student, 1, loss=MISTAKEN[case]),
    }
    for name, make in models.items():
        with pytest.warns(UserWarning) as warned:
            made = make()
            if name == "Stage":
                made.model_to_fit(None)
            else:
                made.compile("sgd", MISTAKEN[case])
        assert any("a second softmax" in str(x.message) for x in warned), name


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        LOSSES.categorical_crossentropy,
        LOSSES.SparseCategoricalCrossentropy(),
        [LOSSES.CategoricalCrossentropy()],
    ],
)
def test_a_label_loss_of_probabilities_on_logits_is_refused(loss, make_model):
    with pytest.raises(ValueError, match="gives logits.*from_logits=True.*Received: loss="):
        kd.Distiller(make_model(), make_model(), "kd").compile("sgd", loss)
    later = kd.Distiller(make_model(), classifier(has_input=False), "kd")
    later.compile("sgd", loss)
    is_sparse = "sparse" in str(loss).lower()
    with pytest.raises(ValueError, match="gives logits"):
        later.fit(VECTORS, CLASSES if is_sparse else np.eye(3)[CLASSES], verbose=0)
    with pytest.raises(ValueError, match="gives logits"):
        kd.Stage("s", make_model(), 1, loss=loss).model_to_fit(None)


def test_label_losses_that_fit(make_model):
    soft = classifier(keras.layers.Softmax())
    distiller = kd.Distiller(make_model(), soft, "kd", student_outputs="probabilities")
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    distiller = kd.Distiller(make_model(), make_model(), "kd", task="multiclass")
    for loss in ("mse", LOSSES.SparseCategoricalCrossentropy(from_logits=True)):
        distiller.compile("sgd", loss)
    said = kd.Distiller(make_model(), make_model(), "kd", student_outputs="logits")
    said.compile("sgd", "sparse_categorical_crossentropy")


def test_weights_as_an_array():
    assert checks.check_weights(np.array([1.0, 0.5]), count=2) == [1.0, 0.5]
    with pytest.raises(ValueError, match="one finite number >= 0 for each of the 1"):
        checks.check_weights(np.array([1.0, 0.5]), count=1)


def test_what_has_no_weight_may_be_anything():
    x = np.ones((4, 2), "float32")
    x[2] = np.nan
    weights = np.float32([1, 1, 0, 1])
    checks.check_first_answers(lambda x: x, x, "teacher", weights)
    with pytest.raises(ValueError, match="`x` holds NaN"):
        checks.check_first_answers(lambda x: x, x, "teacher", 1 - weights)
    # Where a mask may leave out positions, nobody knows which answers count.
    checks.check_first_answers(None, x[:2], "teacher")
