"""Examples in all forms that `export` takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.exporters import examples
from keras_kd.tasks.heads import alone
from keras_kd.training import batch

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(1200, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 1200)


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
    given = FORMS[form][not with_labels]
    inputs, labels = zip(*examples.batches(given), strict=True)
    np.testing.assert_array_equal(np.concatenate(inputs), OUTPUTS)
    if with_labels:
        joined = np.concatenate(list(map(alone, labels)))
        np.testing.assert_array_equal(joined.ravel(), LABELS)
    else:
        assert set(labels) == {None}


@pytest.mark.parametrize(
    "given, received",
    [
        ({"a": OUTPUTS, "b": OUTPUTS}, "a dict of 'a', 'b'"),
        (
            ({"a": OUTPUTS, "b": OUTPUTS}, LABELS),
            r"a tuple of 2 \(a dict of .*, ndarray\)",
        ),
        ((OUTPUTS, LABELS, WEIGHTS, WEIGHTS), "a tuple of 4"),
        ([(OUTPUTS, LABELS, WEIGHTS, WEIGHTS)], "a tuple of 4"),
        ("images", "str"),
        ((), "a tuple of 0"),
        ((None, LABELS), "NoneType"),
    ],
)
def test_other_forms_are_refused(given, received):
    with pytest.raises(ValueError, match=f"`calibration` must be inputs.*: .*{received}"):
        list(examples.batches(given, "calibration"))


def test_the_first_batch_is_not_lost():
    first, batches = examples.first_and_all(iter([OUTPUTS[:5], OUTPUTS[5:8]]))
    assert len(first) == 5
    assert [len(x) for x, _ in batches] == [5, 3]


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
        found = examples.as_dtype(given, dtype, "a")
        np.testing.assert_array_equal(found, given.astype(dtype))
    else:
        with pytest.raises(ValueError, match=f"`a` must be what the model takes, {dtype} "):
            examples.as_dtype(given, dtype, "a")


def test_texts_are_no_examples():
    with pytest.raises(ValueError, match="`examples` must be numbers. .*their lookup"):
        list(examples.batches(np.array([["a"], ["b"]])))


def test_labels_of_several_outputs():
    """In any structure, each part cut as the inputs are."""
    for labels in (
        {"a": LABELS, "b": OUTPUTS},
        [LABELS, OUTPUTS],
        (LABELS, None, tf.constant(OUTPUTS)),
    ):
        given = list(examples.batches((OUTPUTS, labels)))
        assert {type(part) for _, part in given} == {type(labels)}
        parts = zip(*(keras.tree.flatten(part) for _, part in given), strict=True)
        for found, whole in zip(parts, keras.tree.flatten(labels), strict=True):
            if whole is None:
                assert set(found) == {None}
            else:
                np.testing.assert_array_equal(np.concatenate(found), whole)
    with pytest.raises(ValueError, match=r"equally long.*\[1200, 1200, 7\]"):
        list(examples.batches((OUTPUTS, [LABELS, LABELS[:7]])))


@pytest.mark.parametrize("labels", [list(LABELS), LABELS.tolist(), [[x] for x in LABELS]])
def test_a_list_of_numbers_is_no_structure(labels):
    (*_, (_, last)) = examples.batches((OUTPUTS, labels))
    np.testing.assert_array_equal(last.ravel(), LABELS[1024:])
