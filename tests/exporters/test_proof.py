import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.exporters import proof
from keras_kd.training import batch

RNG = np.random.default_rng(0)
# The model hands its inputs on, so these are its outputs.
OUTPUTS = RNG.normal(size=(1200, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 1200)


def echo():
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Identity()])


def test_numbers_by_hand():
    # Example 700 is off by 0.75 in one logit; in 30 of them another class wins.
    def predict(inputs):
        other = inputs.copy()
        found = np.flatnonzero(np.all(inputs == OUTPUTS[700], axis=1))
        other[found, 1] -= 0.75
        for row in OUTPUTS[:30]:
            other[np.all(inputs == row, axis=1)] = np.roll(row, 1)
        return other

    changed = OUTPUTS.astype("float64")
    changed[700, 1] -= 0.75
    changed[:30] = np.roll(changed[:30], 1, axis=1)
    found = proof.prove(echo(), predict, proof.batches((OUTPUTS, LABELS)))
    assert found.examples == 1200
    assert found.largest_difference == pytest.approx(np.abs(changed - OUTPUTS).max())
    assert found.output_range == pytest.approx(np.ptp(OUTPUTS))
    assert found.relative_difference == pytest.approx(
        found.largest_difference / found.output_range
    )
    same = changed.argmax(axis=1) == OUTPUTS.argmax(axis=1)
    assert found.agreement == np.mean(same)
    assert found.keras_accuracy == np.mean(OUTPUTS.argmax(axis=1) == LABELS)
    assert found.file_accuracy == np.mean(changed.argmax(axis=1) == LABELS)


def test_a_map_of_classes_counts_each_place():
    maps = OUTPUTS[:1000].reshape(1000, 1, 3).repeat(2, axis=1)
    model = keras.Sequential([keras.layers.Input((2, 3)), keras.layers.Identity()])

    def predict(inputs):
        other = inputs.copy()
        other[:, 1] = np.roll(other[:, 1], 1, axis=1)
        return other

    assert proof.prove(model, predict, proof.batches(maps)).agreement == 0.5


def test_nan_is_beyond_every_tolerance():
    def predict(inputs):
        other = inputs.copy()
        other[-1, 0] = np.nan
        return other

    found = proof.prove(echo(), predict, proof.batches(OUTPUTS))
    with pytest.raises(ValueError, match="nan"):
        proof.check(found, "m.onnx", tolerance=1.0, min_agreement=0.0)


def test_each_tolerance_is_kept_to():
    found = proof.Proof(1000, 0.5, 10.0, 0.98, None, None)
    proof.check(found, "m.onnx", tolerance=0.05, min_agreement=0.98)
    with pytest.raises(ValueError, match="0.05 of the outputs' range .tolerance=0.04"):
        proof.check(found, "m.onnx", tolerance=0.04, min_agreement=0.98)
    with pytest.raises(ValueError, match="98.00 % of the examples .min_agreement=0.99"):
        proof.check(found, "m.onnx", tolerance=0.05, min_agreement=0.99)


def test_a_file_of_other_outputs():
    with pytest.raises(ValueError, match=r"outputs have shape \(256, 2\)"):
        proof.prove(echo(), lambda x: x[:, :2], proof.batches(OUTPUTS))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, k):
        part = slice(500 * k, 500 * k + 500)
        return {"logits": OUTPUTS[part]}, LABELS[part], WEIGHTS[part]


WEIGHTS = RNG.random(1200)
DATASET = tf.data.Dataset.from_tensor_slices((OUTPUTS, LABELS[:, None], WEIGHTS))
NAMED = DATASET.map(lambda x, y, w: ({"logits": x}, {"class": y}, w)).batch(500)
# Each with labels, and without.
FORMS = {
    "pair": ((OUTPUTS, LABELS), OUTPUTS),
    "tensors": ((tf.constant(OUTPUTS), tf.constant(LABELS)), tf.constant(OUTPUTS)),
    "triple": ((OUTPUTS, LABELS, WEIGHTS), (OUTPUTS,)),
    "dicts": (({"a": OUTPUTS}, {"b": LABELS}), {"a": OUTPUTS}),
    "lists of one": (([OUTPUTS], [LABELS]), [OUTPUTS]),
    "dataset": (DATASET.batch(500), DATASET.map(lambda *xs: xs[0]).batch(500)),
    "of dicts": (NAMED, NAMED.map(lambda *xs: xs[0])),
    "of tuples of one": (NAMED, NAMED.map(lambda *xs: xs[:1])),
    "numbered": (
        NAMED.map(lambda x, y, w: (batch.pack(x, index=y["class"]), y)),
        NAMED.map(lambda x, y, w: batch.pack(x, index=y["class"])),
    ),
    "PyDataset": (Batches(), [Batches()[k][:1] for k in range(3)]),
    "generator": ((Batches()[k] for k in range(3)), [[x] for x, _, _ in NAMED]),
}


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_examples(form, with_labels):
    examples = FORMS[form][not with_labels]
    inputs, labels = zip(*proof.batches(examples), strict=True)
    np.testing.assert_array_equal(np.concatenate(inputs), OUTPUTS)
    if with_labels:
        np.testing.assert_array_equal(np.concatenate(labels).ravel(), LABELS)
    else:
        assert set(labels) == {None}


@pytest.mark.parametrize(
    "examples, received",
    [
        ({"a": OUTPUTS, "b": OUTPUTS}, "a dict of 'a', 'b'"),
        (
            ({"a": OUTPUTS, "b": OUTPUTS}, LABELS),
            r"a tuple of 2 \(a dict of .*, ndarray\)",
        ),
        ((OUTPUTS, {"a": LABELS, "b": LABELS}), "a tuple of 2"),
        ((OUTPUTS, LABELS, WEIGHTS, WEIGHTS), "a tuple of 4"),
        ([(OUTPUTS, LABELS, WEIGHTS, WEIGHTS)], "a tuple of 4"),
        ("images", "str"),
        ((), "a tuple of 0"),
        ((None, LABELS), "NoneType"),
    ],
)
def test_other_forms_are_refused(examples, received):
    with pytest.raises(ValueError, match=f"`calibration` must be inputs.*: .*{received}"):
        list(proof.batches(examples, "calibration"))


def test_the_first_batch_is_not_lost():
    first, batches = proof.first_and_all(iter([OUTPUTS[:5], OUTPUTS[5:8]]))
    assert len(first) == 5
    assert [len(x) for x, _ in batches] == [5, 3]


def test_are_probabilities():
    assert proof.are_probabilities([[0.2, 0.8], [1.0, 0.0]])
    assert not proof.are_probabilities([[0.2, 0.8], [1.0, 0.1]])
    assert not proof.are_probabilities([[1.2, -0.2]])


@pytest.mark.parametrize(
    "labels",
    [np.arange(6) % 3, np.arange(6)[:, None] % 3, np.eye(3)[np.arange(6) % 3]],
)
def test_labels_of_any_form(labels):
    np.testing.assert_array_equal(proof.check_labels(labels, (6, 3)), np.arange(6) % 3)
    assert proof.check_labels(None, (6, 3)) is None


@pytest.mark.parametrize("labels", [np.zeros((6, 4)), np.zeros(5), np.ones((6, 3))])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="`examples` must have one label for each answer"):
        proof.check_labels(labels, (6, 3))


@pytest.mark.parametrize(
    "given, dtype, good",
    [
        (np.array([0, 255], "int64"), "uint8", True),
        (np.array([0.0, 7.0]), "int32", True),
        (np.array([0, 1]), "float32", True),
        (np.array([0.1]), "float32", True),
        (np.array([0.5, 1.0]), "uint8", False),
        (np.array([-1, 0]), "uint8", False),
        (np.array([256]), "uint8", False),
        (np.array([np.nan]), "int32", False),
    ],
)
def test_what_an_integer_input_takes(given, dtype, good):
    """Nothing is cut off or wrapped without a word."""
    if good:
        found = proof.as_dtype(given, dtype, "a")
        np.testing.assert_array_equal(found, given.astype(dtype))
    else:
        with pytest.raises(ValueError, match=f"`a` must be what the model takes, {dtype} "):
            proof.as_dtype(given, dtype, "a")


def test_texts_are_no_examples():
    with pytest.raises(ValueError, match="`examples` must be numbers. .*their lookup"):
        list(proof.batches(np.array([["a"], ["b"]])))
