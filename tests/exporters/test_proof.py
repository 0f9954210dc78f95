import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.exporters import proof

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


@pytest.mark.parametrize("kind", ["pair", "array", "tensor", "dataset", "inputs alone"])
def test_forms_of_examples(kind):
    dataset = tf.data.Dataset.from_tensor_slices((OUTPUTS, LABELS[:, None])).batch(500)
    examples = {
        "pair": (OUTPUTS, LABELS),
        "array": OUTPUTS,
        "tensor": tf.constant(OUTPUTS),
        "dataset": dataset,
        "inputs alone": dataset.map(lambda x, y: x),
    }[kind]
    inputs, labels = zip(*proof.batches(examples), strict=True)
    np.testing.assert_array_equal(np.concatenate(inputs), OUTPUTS)
    if kind in ("pair", "dataset"):
        np.testing.assert_array_equal(np.concatenate(labels), LABELS)
    else:
        assert set(labels) == {None}


def test_the_first_batch_is_not_lost():
    first, batches = proof.first_and_all(iter([OUTPUTS[:5], OUTPUTS[5:8]]))
    assert len(first) == 5
    assert [len(x) for x, _ in batches] == [5, 3]


def test_are_probabilities():
    assert proof.are_probabilities([[0.2, 0.8], [1.0, 0.0]])
    assert not proof.are_probabilities([[0.2, 0.8], [1.0, 0.1]])
    assert not proof.are_probabilities([[1.2, -0.2]])
