"""Whether an exported file answers as the Keras model does."""

import dataclasses
import itertools

import keras
import numpy as np

from keras_kd.evaluation.labelled import are_one_hot
from keras_kd.tasks.heads import alone
from keras_kd.training.batch import inputs_of

# Fewer examples say too little about how often two models disagree.
LEAST_EXAMPLES = 1000
_BATCH = 256
# NumPy has no kind for them.
_OF_16_BITS = ("bfloat16",)

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
        (inputs, labels): NumPy arrays (batch, ...), labels as they are given, or None.

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
        yield _pair(batch, name)


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
    inputs = np.asarray(inputs)
    if inputs.dtype.kind not in "biuf" and inputs.dtype.name not in _OF_16_BITS:
        raise ValueError(
            f"`{name}` must be numbers. Received: inputs of dtype {inputs.dtype}. Of a "
            "model of texts, export what follows their lookup."
        )
    return inputs, None if labels is None else np.asarray(labels)


def as_dtype(inputs, dtype, name):
    """Inputs in the dtype that a model takes.

    Raises:
        ValueError: It takes integers, and these are no such ones.
    """
    with np.errstate(invalid="ignore"):
        taken = inputs.astype(dtype, copy=False)
    if not keras.backend.is_float_dtype(str(dtype)) and not np.array_equal(taken, inputs):
        raise ValueError(
            f"`{name}` must be what the model takes, {dtype} numbers. Received: "
            f"{inputs.dtype} numbers from {np.min(inputs):g} to {np.max(inputs):g}, which "
            "are not all of these."
        )
    return taken


def check_labels(labels, outputs_shape):
    """Refuses labels that do not fit the outputs; gives them as class numbers.

    Args:
        labels: One for each answer, or one-hot; None are none.
        outputs_shape: Of the answers, (batch, ..., num_classes).

    Raises:
        ValueError: They have another shape.
    """
    if labels is None:
        return None
    answers = tuple(outputs_shape[:-1])
    if labels.shape == tuple(outputs_shape) and are_one_hot(labels):
        return np.argmax(labels, axis=-1).reshape(-1)
    if labels.shape not in (answers, (*answers, 1)):
        raise ValueError(
            "`examples` must have one label for each answer, of shape "
            f"{('n', *answers[1:])}, or one-hot labels. Received: labels of shape "
            f"{('n', *labels.shape[1:])}, {len(labels)} of them for {answers[0]} inputs."
        )
    return labels.reshape(-1)


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
        given = as_dtype(inputs, model.inputs[0].dtype, "examples")
        expected = np.asarray(alone(model.predict_on_batch(given)))
        if not np.isfinite(expected.astype("float32")).all():
            raise ValueError(
                f"The Keras model {model.name!r} answers `examples` with NaN or infinite "
                "numbers. Are they finite, and scaled as in training?"
            )
        counts.append(_compare(expected, predict(inputs), labels))
    count = sum(x["examples"] for x in counts)
    check_count(count)

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


def check_count(count):
    """Refuses so few examples that they say too little; a ValueError."""
    if count < LEAST_EXAMPLES:
        raise ValueError(
            f"`examples` must be at least {LEAST_EXAMPLES:,}, to tell how far the file's "
            f"answers are from the model's. Received: {count:,}."
        )


def check_first(model, examples, inputs, labels):
    """Refuses, before anything is converted, what `prove` would refuse after it.

    Args:
        model: As `prove` takes it.
        examples: As `export` takes them.
        inputs, labels: Of their first batch.

    Raises:
        ValueError: As `prove`, as far as the first batch tells, or the arrays' length.
    """
    given = as_dtype(inputs, model.inputs[0].dtype, "examples")
    # Not compiled: what is no graph the converter says in its own words.
    answer = alone(model(given[:1], training=False))
    check_labels(labels, (len(inputs), *answer.shape[1:]))
    # Of batches nobody knows how many there are.
    whole = examples[0] if isinstance(examples, tuple) and examples else examples
    if isinstance(whole, np.ndarray):
        check_count(len(whole))


def _compare(expected, given, labels):
    """Counts of one batch."""
    if given.shape != expected.shape:
        raise ValueError(
            f"The file's outputs have shape {given.shape}, the Keras model's "
            f"{expected.shape}."
        )
    by_keras = np.argmax(expected, axis=-1).reshape(-1)
    by_file = np.argmax(given, axis=-1).reshape(-1)
    labels = check_labels(labels, expected.shape)
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
