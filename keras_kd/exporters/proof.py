"""Whether an exported file answers as the Keras model does."""

import dataclasses
import itertools

import keras
import numpy as np

from keras_kd.tasks.heads import alone
from keras_kd.training.batch import inputs_of

# Fewer examples say too little about how often two models disagree.
LEAST_EXAMPLES = 1000
_BATCH = 256

# Of each quantisation: the largest difference of an output that is allowed, as a fraction
# of the range of the Keras model's outputs, and the least agreement.
TOLERANCES = {
    None: (1e-4, 0.999),
    "float16": (0.01, 0.998),
    "dynamic": (0.1, 0.99),
    # The largest logits are beyond what the calibration has seen, and are cut off; and a
    # step of the logits moves a doubtful example's probabilities by many of theirs.
    "int8": (0.25, 0.99),
}


@dataclasses.dataclass(frozen=True)
class Proof:
    """How an exported file compares with its Keras model, on the same examples.

    Attributes:
        examples: How many.
        largest_difference: The largest of an output, logit or probability.
        output_range: From the Keras model's smallest to its largest output.
        agreement: Fraction of examples on which both have the same largest output.
        keras_accuracy, file_accuracy: Fraction right, in [0, 1]; None without labels.
    """

    examples: int
    largest_difference: float
    output_range: float
    agreement: float
    keras_accuracy: float | None
    file_accuracy: float | None

    @property
    def relative_difference(self):
        """The largest difference as a fraction of the range of the outputs."""
        # A constant model has no range; what differs from it then is all there is.
        return self.largest_difference / (self.output_range or 1.0)


def check(proof, path, tolerance, min_agreement):
    """Refuses a file that is beyond a tolerance; a ValueError that says by how much."""
    failed = []
    # Written so that NaN, which is within nothing, fails.
    if not proof.relative_difference <= tolerance:
        failed.append(
            f"the largest difference of an output is {proof.largest_difference:.4g}, "
            f"{proof.relative_difference:.4g} of the outputs' range "
            f"(tolerance={tolerance:g})"
        )
    if not proof.agreement >= min_agreement:
        failed.append(
            f"both have the same largest output on {100 * proof.agreement:.2f} % of the "
            f"examples (min_agreement={min_agreement:g})"
        )
    if failed:
        raise ValueError(
            f"{path} was not written, because it would not answer as the Keras model does: "
            f"{' and '.join(failed)}."
        )


def are_probabilities(outputs):
    """Whether outputs (batch, ..., num_classes) are each a distribution."""
    outputs = np.asarray(outputs)
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def batches(examples, name="examples"):
    """Examples in any of the forms that `export` takes, as batches.

    Args:
        examples: Inputs (n, ...): an array, or a dict or list with one in it, as of a model
            whose one input has a name. A tuple of such, of labels (n,) and of weights, of
            which both may be missing, and weights are left aside. Or batches of one or the
            other, for instance a `tf.data.Dataset`.
        name: The argument's, for messages.

    Yields:
        (inputs, labels): NumPy arrays (batch, ...) and (batch,); labels may be None.

    Raises:
        ValueError: They are of no such form.
    """
    if isinstance(examples, (np.ndarray, dict)) or keras.ops.is_tensor(examples):
        examples = (examples,)
    if isinstance(examples, tuple):
        examples = _slices(_pair(examples, name), name)
    elif isinstance(examples, keras.utils.PyDataset):
        examples = _of_py_dataset(examples, name)
    elif not hasattr(examples, "__iter__"):
        raise ValueError(
            f"`{name}` must be an array of inputs, a tuple (inputs, labels), or batches "
            f"of these. Received: {type(examples).__name__}."
        )
    for batch in examples:
        inputs, labels = _pair(batch, name)
        yield inputs, None if labels is None else labels.reshape(-1)


def _pair(part, name):
    """(inputs, labels) of a batch, or of all of it, as arrays."""
    # A list of one is what a model of one input takes.
    is_tuple = isinstance(part, tuple) or (isinstance(part, list) and len(part) in (2, 3))
    inputs, labels, *more = (*part, None) if is_tuple and part else (part, None)
    inputs, labels = alone(inputs_of(inputs)), alone(labels)
    nested = any(isinstance(x, (dict, tuple)) for x in (inputs, labels))
    if len(more) > 2 or nested or not np.ndim(inputs):
        raise ValueError(
            f"`{name}` must be inputs, or tuples of inputs, labels and weights, where "
            "inputs and labels are an array each, or a dict or list with one in it. "
            f"Received: {_described(part)}."
        )
    return np.asarray(inputs), None if labels is None else np.asarray(labels)


def _described(part):
    if isinstance(part, dict):
        return f"a dict of {', '.join(map(repr, part))}"
    if isinstance(part, (list, tuple)) and len(part) == 1:
        return _described(part[0])
    if isinstance(part, (list, tuple)):
        parts = ", ".join(map(_described, part))
        return f"a {type(part).__name__} of {len(part)} ({parts})"
    return type(part).__name__


def _of_py_dataset(dataset, name):
    if dataset.num_batches is None:
        raise ValueError(f"`{name}`, a PyDataset, must have a length. Received: none.")
    return (dataset[k] for k in range(dataset.num_batches))


def _slices(pair, name):
    inputs, labels = pair
    if labels is not None and np.shape(labels)[:1] != inputs.shape[:1]:
        raise ValueError(
            f"`{name}`, a tuple, must be (inputs, labels), equally long. Received: parts "
            f"of lengths {[*inputs.shape[:1], *np.shape(labels)[:1]]}."
        )
    for start in range(0, len(inputs), _BATCH):
        part = slice(start, start + _BATCH)
        yield inputs[part], None if labels is None else labels[part]


def in_structure(model, inputs):
    """The inputs of a model of one input in the dict or list that it takes."""
    # Of a Sequential model Keras keeps no structure; it takes a tensor.
    if isinstance(model, keras.Sequential):
        return inputs
    return keras.tree.pack_sequence_as(model.input, [inputs])


def first_and_all(examples, name="examples"):
    """The first batch's inputs, and an iterator over all batches, that one included."""
    iterator = batches(examples, name)
    first = next(iterator, None)
    if first is None or not len(first[0]):
        raise ValueError(f"`{name}` is empty.")
    return first[0], itertools.chain([first], iterator)


def prove(model, predict, batches):
    """Runs a Keras model and an exported file on the same examples.

    Args:
        model: The Keras model, with one input and one output (batch, ..., num_classes).
        predict: Takes inputs (batch, ...), gives the file's outputs.
        batches: (inputs, labels) as `batches` gives them.

    Returns:
        A `Proof`.

    Raises:
        ValueError: The examples are too few, their shapes differ, labels do not fit, or
            the file's outputs have another shape.
    """
    shape, counts = None, []
    for inputs, labels in batches:
        shape = inputs.shape[1:] if shape is None else shape
        if inputs.shape[1:] != shape:
            raise ValueError(
                "`examples` must all have one shape. Received: "
                f"{shape} and {inputs.shape[1:]}."
            )
        given = inputs.astype(model.inputs[0].dtype, copy=False)
        expected = np.asarray(alone(model.predict_on_batch(given)))
        counts.append(_compare(expected, predict(inputs), labels))
    count = sum(x["examples"] for x in counts)
    if count < LEAST_EXAMPLES:
        raise ValueError(
            f"`examples` must be at least {LEAST_EXAMPLES:,}, to tell how far the file's "
            f"answers are from the model's. Received: {count:,}."
        )

    def fraction(key):
        hits = [x[key] for x in counts]
        return None if None in hits else sum(hits) / sum(x["answers"] for x in counts)

    highest = np.max([x["highest"] for x in counts])
    lowest = np.min([x["lowest"] for x in counts])
    return Proof(
        examples=count,
        # NumPy's max gives NaN where there is one.
        largest_difference=float(np.max([x["difference"] for x in counts])),
        output_range=float(highest - lowest),
        agreement=fraction("agree"),
        keras_accuracy=fraction("keras_right"),
        file_accuracy=fraction("file_right"),
    )


def _compare(expected, given, labels):
    """Counts of one batch."""
    if given.shape != expected.shape:
        raise ValueError(
            f"The file's outputs have shape {given.shape}, the Keras model's "
            f"{expected.shape}."
        )
    by_keras = np.argmax(expected, axis=-1).reshape(-1)
    by_file = np.argmax(given, axis=-1).reshape(-1)
    if labels is not None and labels.shape != by_keras.shape:
        raise ValueError(
            f"Labels must be integers, one for each answer, {len(by_keras)} in this batch. "
            f"Received: {len(labels)}."
        )
    return {
        "examples": len(expected),
        "answers": len(by_keras),
        "difference": np.max(np.abs(expected.astype("float64") - given)),
        "highest": np.max(expected),
        "lowest": np.min(expected),
        "agree": int(np.sum(by_keras == by_file)),
        "keras_right": None if labels is None else int(np.sum(by_keras == labels)),
        "file_right": None if labels is None else int(np.sum(by_file == labels)),
    }
