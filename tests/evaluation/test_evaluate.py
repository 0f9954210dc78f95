import json

import keras
import numpy as np
import pytest

from keras_kd import cache_teacher, with_teacher_inputs
from keras_kd.evaluation.answers import Answers
from keras_kd.evaluation.evaluate import Evaluation, evaluate
from keras_kd.evaluation.predictions import Fidelity, predict

# Six examples of the classes 0, 1 and 2, of 4 known; class 1 is never predicted.
LABELS = [0, 0, 0, 1, 2, 2]
PREDICTED = [0, 0, 2, 3, 2, 2]
CONFIDENCE = [0.9, 0.8, 0.5, 0.4, 0.7, 1.0]
LIKELIHOOD = [0.9, 0.8, 0.25, 0.125, 0.7, 1.0]


@pytest.fixture
def answers():
    confidence, likelihood = np.float32(CONFIDENCE), np.float32(np.log(LIKELIHOOD))
    return Answers(np.array(LABELS), np.array(PREDICTED), confidence, likelihood)


def echo(classes=3, name="echo"):
    layers = [keras.layers.Input((classes,)), keras.layers.Identity()]
    return keras.Sequential(layers, name=name)


def dense():
    layers = [keras.layers.Input((3,)), keras.layers.Dense(3)]
    return keras.Sequential(layers, name="teacher")


def test_counts_errors_over_uneven_batches():
    logits = np.float32([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0]])
    labels = np.array([0, 1, 2, 1, 2])
    batches = [(logits[:2], labels[:2]), (logits[2:], labels[2:, None])]
    counted = evaluate(echo(), batches)
    assert (counted.examples, counted.errors) == (5, 2)
    assert counted.accuracy == pytest.approx(3 / 5)
    # Each label's probability is e^9 or 1 of e^9 + 2.
    mean = np.log(np.exp(9) + 2) - 3 * 9 / 5
    assert counted.negative_log_likelihood == pytest.approx(mean, rel=1e-5)
    assert counted.fidelity is None


def test_compares_with_the_teacher(make_model, vectors):
    student, teacher = make_model(name="student"), make_model(name="teacher")
    x, labels = vectors
    batches = [(x[:40], labels[:40]), (x[40:], labels[40:])]
    found = evaluate(student, batches, teacher)
    p, q = (np.exp(predict(m, batches).log_probs.astype(float)) for m in (teacher, student))
    assert found.fidelity == Fidelity(
        teacher="teacher",
        agreement=pytest.approx(np.mean(p.argmax(1) == q.argmax(1))),
        kl=pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)), rel=1e-4),
    )
    assert found.errors == np.sum(student.predict(x, verbose=0).argmax(1) != labels)


def test_a_teacher_gets_the_inputs_that_are_its_own(vectors):
    x, labels = vectors
    logits = np.random.default_rng(0).normal(size=(len(x), 3)).astype("float32")
    teacher_logits = np.roll(logits, 1, axis=0)
    data = with_teacher_inputs((logits, labels % 3), teacher_logits).batch(7)
    found = evaluate(echo(name="student"), data, teacher=echo(name="teacher"))
    agree = logits.argmax(axis=1) == teacher_logits.argmax(axis=1)
    assert found.fidelity.agreement == pytest.approx(np.mean(agree))
    assert found.errors == np.sum(logits.argmax(axis=1) != labels % 3)
    own = predict(echo(), data, of_teacher=True)
    assert np.array_equal(own.predicted, teacher_logits.argmax(axis=1))
    student, teacher = echo(name="student"), dense()
    kept = with_teacher_inputs((logits, labels % 3), teacher_logits)
    kept = cache_teacher(teacher, kept, verbose=0).batch(7)
    with pytest.raises(ValueError, match="kept of a teacher with inputs of its own"):
        evaluate(student, kept, teacher)
    with pytest.raises(ValueError, match="must take the inputs that `teacher` takes"):
        evaluate(student, (logits, labels % 3), echo(4))


def test_a_teacher_of_other_classes(make_model, vectors):
    with pytest.raises(ValueError, match="'t' has 4 classes and 's' has 3"):
        evaluate(make_model(name="s"), [vectors], make_model(num_classes=4, name="t"))


def test_a_dataset_that_is_shuffled_anew(make_model, vectors):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(vectors).shuffle(64).batch(16)
    with pytest.raises(ValueError, match="shuffled anew each time"):
        evaluate(make_model(), data, make_model())


def test_of_answers(answers):
    found = Evaluation.of(answers)
    assert (found.examples, found.errors) == (6, 2)
    mean = -np.mean(np.log(LIKELIHOOD))
    assert found.negative_log_likelihood == pytest.approx(mean, rel=1e-6)
    # No two lie in one of the 15 bins: the sum of |right - confidence|.
    gaps = 0.1 + 0.2 + 0.5 + 0.4 + 0.3 + 0.0
    assert found.calibration_error == pytest.approx(gaps / 6, rel=1e-6)


def test_per_class(answers):
    rows = [
        (x.label, x.examples, x.errors, x.accuracy, x.precision)
        for x in Evaluation.of(answers).per_class
    ]
    assert rows == [
        (0, 3, 1, 2 / 3, 1.0),
        (1, 1, 1, 0.0, None),
        (2, 2, 0, 1.0, 2 / 3),
        (3, 0, 0, None, 0.0),
    ]


def test_from_a_file_as_from_memory(answers, tmp_path):
    answers.write_csv(tmp_path / "answers.csv")
    again = Answers.read_csv(tmp_path / "answers.csv")
    assert Evaluation.of(again) == Evaluation.of(answers)


def test_as_json(answers):
    found = Evaluation.of(answers, Fidelity("teacher", 0.5, 0.25)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [
        "task", "places", "examples", "answers", "errors", "accuracy", "accuracy_interval",
        "negative_log_likelihood", "calibration_error", "scores", "per_class", "fidelity",
    ]  # fmt: skip
    assert found["fidelity"] == {"teacher": "teacher", "agreement": 0.5, "kl": 0.25}
    # The interval of 4 of 6: 0.6667 and 6 examples, by the formula with z^2 = 3.841.
    middle, half = (4 + 1.9207) / 9.8415, 1.96 * np.sqrt(6 * 2 / 9 + 0.9604) / 9.8415
    expected = [middle - half, middle + half]
    assert found["accuracy_interval"] == pytest.approx(expected, abs=1e-4)
    first, *_, last = found["per_class"]
    assert list(first) == [
        "label", "examples", "errors", "accuracy", "precision", "accuracy_interval"
    ]  # fmt: skip
    assert (last["accuracy"], last["accuracy_interval"]) == (None, None)
    assert Evaluation.of(answers).to_dict()["fidelity"] is None


def test_summary(answers):
    lines = Evaluation.of(answers, Fidelity("big", 0.5, 0.25)).summary().splitlines()
    assert lines[0] == "66.67 % right, 2 errors in 6"
    assert lines[1] == "30.00 to 90.32 % is the 95 % interval"
    assert lines[2:] == [
        f"{-np.mean(np.log(LIKELIHOOD)):.4f} nats negative log-likelihood",
        "0.2500 expected calibration error",
        "50.00 % agreement with big",
        "0.2500 nats KL(big || this model)",
    ]
    assert len(Evaluation.of(answers).summary().splitlines()) == 4


def test_table(answers):
    lines = Evaluation.of(answers).table().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "label", "examples", "errors", "right (%)", "95 % interval", "precision (%)"
    ]  # fmt: skip
    # Of one example, wrong, the upper end is z^2 / (1 + z^2).
    assert cells[3] == ["1", "1", "1", "0.00", "0.00 to 79.35", "-"]
    assert cells[5] == ["3", "0", "0", "-", "-", "0.00"]


def test_rows_of_labels_of_their_own_say_what_is_missed():
    z = np.float32([[1, -1], [1, 1], [-1, 1]])
    y = np.array([[1, 0], [0, 1], [0, 0]])
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Identity()])
    lines = evaluate(model, [(z, y)], task="multilabel").table().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # Nothing is missed of label 0, although a no is taken for a yes.
    assert cells[0][2:4] == ["missed", "recall (%)"]
    assert cells[2][:4] == ["0", "1", "0", "100.00"] and cells[2][-1] == "50.00"


def test_pixels_have_no_intervals_class_by_class():
    z = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    model = keras.Sequential([keras.layers.Input((4, 4, 2)), keras.layers.Identity()])
    table = evaluate(model, [(z, z.argmax(-1))]).table()
    assert "interval" not in table and "IoU (%)" in table
