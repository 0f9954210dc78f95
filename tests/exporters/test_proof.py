import keras
import numpy as np
import pytest

from keras_kd.exporters import proof
from keras_kd.exporters.examples import batches
from keras_kd.exporters.outputs import Output

RNG = np.random.default_rng(0)
# The model hands its inputs on, so these are its outputs.
OUTPUTS = RNG.normal(size=(1200, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 1200)


def echo():
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Identity()])


def prove(model, predict, examples, *outputs):
    return proof.prove(model, predict, batches(examples), list(outputs or [Output()]))


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
    found = prove(echo(), predict, (OUTPUTS, LABELS))
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

    assert prove(model, predict, maps).agreement == 0.5


def test_nan_is_beyond_every_tolerance():
    def predict(inputs):
        other = inputs.copy()
        other[-1, 0] = np.nan
        return other

    found = prove(echo(), predict, OUTPUTS)
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
        prove(echo(), lambda x: x[:, :2], OUTPUTS)


def off_by(change):
    """A file that answers otherwise, by a function of the outputs."""
    return lambda inputs: change(inputs.copy())


@pytest.mark.parametrize("in_probabilities", [False, True])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_yes_and_no_by_hand(task, in_probabilities):
    units = 1 if task == "binary" else 3
    given = OUTPUTS[:, :units]
    given = 1 / (1 + np.exp(-given)) if in_probabilities else given
    other = given.copy()
    # Past the border in 36 rows, and within one side of it in the others.
    border = 0.5 if in_probabilities else 0.0
    other[:36] = 2 * border - other[:36]
    other[36:] += 0.25 * (border - other[36:])
    labels = RNG.integers(0, 2, given.shape)
    model = keras.Sequential([keras.layers.Input((units,)), keras.layers.Identity()])
    rows = {x.tobytes(): y for x, y in zip(given, other, strict=True)}
    found = prove(
        model,
        lambda inputs: np.stack([rows[x.tobytes()] for x in inputs]),
        (given, labels[:, 0] if units == 1 else labels),
        Output(task=task, in_probabilities=in_probabilities),
    )
    assert found.agreement == pytest.approx(1 - 36 / 1200)
    assert (found.task, found.answers) == (task, 1200 * units)
    odds = np.log(given / (1 - given)) if in_probabilities else given
    flipped = np.where(np.arange(1200)[:, None] < 36, -odds, odds)
    assert found.keras_accuracy == pytest.approx(np.mean((odds > 0) == labels))
    assert found.file_accuracy == pytest.approx(np.mean((flipped > 0) == labels))
    assert found.rmse is None and found.keras_rmse is None


@pytest.mark.parametrize("task", ["regression", None])
def test_values_by_hand(task):
    def predict(inputs):
        # Another unit is the largest in every row, which says nothing.
        return inputs + np.array([0.25, 0.0, -0.5], "float32")

    targets = RNG.normal(size=(1200, 3))
    found = prove(echo(), predict, (OUTPUTS, targets), Output(task=task))
    assert found.agreement is None and found.file_accuracy is None
    assert found.largest_difference == pytest.approx(0.5, abs=1e-6)
    assert found.rmse == pytest.approx(np.sqrt((0.0625 + 0.25) / 3), abs=1e-6)
    errors = OUTPUTS.astype("float64") - targets
    assert found.keras_rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)
    errors = predict(OUTPUTS).astype("float64") - targets
    assert found.file_rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)
    # No least agreement is asked of it.
    proof.check(found, "m.onnx", tolerance=1.0, min_agreement=None)
    with pytest.raises(ValueError, match="tolerance=0.01"):
        proof.check(found, "m.onnx", tolerance=0.01, min_agreement=None)
    shown = "\n".join(found.lines())
    assert "largest output" not in shown and f"{found.rmse:.3g}" in shown


def test_an_ignored_class_counts_for_no_accuracy():
    labels = LABELS.copy()
    labels[:300] = 255
    found = prove(echo(), off_by(lambda x: x), (OUTPUTS, labels), Output(ignore_class=255))
    right = OUTPUTS[300:].argmax(axis=1) == LABELS[300:]
    assert found.keras_accuracy == found.file_accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize("positions", [1, 30])
def test_positions_are_answers_too(positions):
    """40 pictures with 30 answers each are enough, and 40 answers are not."""
    given = OUTPUTS.reshape(40, 30, 3)[:, :positions]
    model = keras.Sequential([keras.layers.Input((positions, 3)), keras.layers.Identity()])
    if positions == 1:
        with pytest.raises(ValueError, match="at least 1,000.* Received: 40"):
            prove(model, off_by(lambda x: x), given)
        return
    found = prove(model, off_by(lambda x: x), given)
    assert (found.examples, found.answers) == (40, 1200)


def test_what_a_mask_leaves_out_counts_nowhere():
    """Padded steps have outputs and labels of no meaning."""
    words = RNG.integers(1, 9, (400, 6))
    words[:, 4:] = 0
    x = keras.Input((6,), dtype="int32")
    model = keras.Model(x, keras.layers.Embedding(9, 3, mask_zero=True)(x))
    (table,) = model.get_weights()
    labels = RNG.integers(0, 3, (400, 6))
    labels[:, 4:] = -1

    def predict(inputs):
        outputs = table[inputs]
        outputs[:, 4:] = 100.0
        return outputs

    found = prove(model, predict, (words, labels))
    assert (found.largest_difference, found.agreement, found.answers) == (0, 1.0, 1600)
    right = table[words[:, :4]].argmax(axis=-1) == labels[:, :4]
    assert found.keras_accuracy == pytest.approx(right.mean())
    assert found.output_range == pytest.approx(np.ptp(table[1:]))


def several():
    x = keras.Input((3,))
    kept = keras.layers.Identity()(x)
    return keras.Model(x, {"b": kept, "a": -kept})


def test_each_output_has_a_line_of_its_own():
    def predict(inputs):
        other = -inputs
        other[np.isin(inputs[:, 0], OUTPUTS[:60, 0])] *= -1
        return {"a": other, "b": inputs}

    outputs = Output("b", task="regression"), Output("a")
    labels = {"a": LABELS, "b": None}
    found = prove(several(), predict, (OUTPUTS, labels), *outputs)
    assert list(found.outputs) == ["b", "a"]
    a, b = found.outputs["a"], found.outputs["b"]
    assert b.rmse == 0 and b.agreement is None and b.file_rmse is None
    same = OUTPUTS[:60].argmax(axis=1) == (-OUTPUTS[:60]).argmax(axis=1)
    assert not same.any() and a.agreement == pytest.approx(1 - 60 / 1200)
    assert a.keras_accuracy == pytest.approx(np.mean((-OUTPUTS).argmax(axis=1) == LABELS))
    # Of the whole, the worst.
    assert found.largest_difference == a.largest_difference
    assert found.agreement == a.agreement and found.file_accuracy is None
    message = "its output 'a' .*difference.* and both have the same largest output on 95.00"
    with pytest.raises(ValueError, match=message) as error:
        proof.check(found, "m.onnx", tolerance=0.01, min_agreement=0.99)
    assert "'b'" not in str(error.value)


def test_a_file_of_other_names():
    outputs = Output("a"), Output("b")
    for given in (lambda x: x, lambda x: {"a": x}, lambda x: {"a": x, "c": x}):
        with pytest.raises(ValueError, match="the Keras model a, b"):
            prove(several(), given, OUTPUTS, *outputs)
    with pytest.raises(ValueError, match="The file has the outputs a, b"):
        prove(echo(), lambda x: {"a": x, "b": x}, OUTPUTS)
