"""Whether an exported file answers as the Keras model does."""

import dataclasses
import math

import numpy as np

from keras_kd.exporters.examples import as_dtype

# Fewer answers say too little about how often two models disagree.
LEAST_EXAMPLES = 1000

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

    What Keras's mask leaves out of a sequence counts nowhere here.

    Attributes:
        examples: How many.
        largest_difference: The largest of an output, logit or probability.
        output_range: From the Keras model's smallest to its largest output.
        agreement: Fraction of answers on which both have the same largest output; of
            "binary" and "multilabel", of outputs on which both say the same yes or no.
            None of values, of which none is right.
        keras_accuracy, file_accuracy: Fraction right, in [0, 1]; None without labels, and
            of values.
        task: A key of `keras_kd.tasks.find.ACTIVATIONS`; None: values of which nothing more
            is known, or several outputs.
        answers: How many the agreement is of: examples, or positions of theirs, or outputs.
        rmse: Of values, the root of the mean squared difference of file and model.
        keras_rmse, file_rmse: Of values, of each to the labels; None without them.
        outputs: dict of name to `Proof`, of a model with several outputs, else None. The
            others are then those of the output that differs most, agreement the least.
    """

    examples: int
    largest_difference: float
    output_range: float
    agreement: float | None
    keras_accuracy: float | None
    file_accuracy: float | None
    task: str | None = "multiclass"
    answers: int | None = None
    rmse: float | None = None
    keras_rmse: float | None = None
    file_rmse: float | None = None
    outputs: dict | None = None

    @property
    def relative_difference(self):
        """The largest difference as a fraction of the range of the outputs."""
        # A constant model has no range; what differs from it then is all there is.
        return self.largest_difference / (self.output_range or 1.0)

    def lines(self):
        """What was found, a list of lines to print."""
        if self.outputs:
            lines = []
            for name, found in self.outputs.items():
                lines += [f"output               {name}", *found.lines()]
            return lines
        lines = [
            f"largest difference   {self.largest_difference:.3g}, of outputs that "
            f"range over {self.output_range:.3g}"
        ]
        if self.task != "multiclass":
            said = self.task or "not known, so compared as values"
            lines.insert(0, f"task                 {said}")
        if self.agreement is not None:
            what = "largest output " if self.task == "multiclass" else "yes or no      "
            lines.append(f"same {what} {100 * self.agreement:.2f} %{self._of_answers}")
        if self.rmse is not None:
            lines.append(f"RMSE to the model    {self.rmse:.3g}")
        if self.file_accuracy is not None:
            lines.append(
                f"accuracy             {100 * self.file_accuracy:.2f} %, the Keras "
                f"model's {100 * self.keras_accuracy:.2f} %"
            )
        if self.file_rmse is not None:
            lines.append(
                f"RMSE to the labels   {self.file_rmse:.4g}, the Keras model's "
                f"{self.keras_rmse:.4g}"
            )
        return lines

    def by_name(self):
        """(name, `Proof`) of each output, a list; of the only one the name is None."""
        return list((self.outputs or {None: self}).items())

    def beyond(self, tolerance, min_agreement):
        """What of one output is beyond a tolerance, a list of phrases."""
        failed = []
        # Written so that NaN, which is within nothing, fails.
        if not self.relative_difference <= tolerance:
            failed.append(
                f"the largest difference of an output is {self.largest_difference:.4g}, "
                f"{self.relative_difference:.4g} of the outputs' range "
                f"(tolerance={tolerance:g})"
            )
        if self.agreement is not None and not self.agreement >= min_agreement:
            same = "have the same largest output on"
            if self.task != "multiclass":
                same = "say the same yes or no in"
            failed.append(
                f"both {same} {100 * self.agreement:.2f} % of "
                f"{self._of_answers.removeprefix(' of ') or 'the examples'} "
                f"(min_agreement={min_agreement:g})"
            )
        return failed

    @property
    def _of_answers(self):
        if self.answers in (None, self.examples):
            return ""
        return f" of {self.answers:,} answers"


def from_dict(found):
    """The `Proof` that `dataclasses.asdict` made this of."""
    outputs = found["outputs"]
    if outputs is not None:
        outputs = {name: from_dict(x) for name, x in outputs.items()}
    return Proof(**found | {"outputs": outputs})


def check(proof, path, tolerance, min_agreement):
    """Refuses a file that is beyond a tolerance; a ValueError that says by how much."""
    failed = []
    for name, of_output in proof.by_name():
        found = of_output.beyond(tolerance, min_agreement)
        before = f"of its output {name!r} " if name is not None and found else ""
        failed += [f"{before}{' and '.join(found)}"] if found else []
    if failed:
        raise ValueError(
            f"{path} was not written, because it would not answer as the Keras model does: "
            f"{'; '.join(failed)}."
        )


def prove(model, predict, batches, outputs):
    """Runs a Keras model and an exported file on the same examples.

    Args:
        model: The Keras model, with one input and one output, or a dict of outputs.
        predict: Takes inputs (batch, ...), gives the file's outputs.
        batches: (inputs, labels) as `keras_kd.exporters.examples.batches` gives them.
        outputs: A list of `keras_kd.exporters.outputs.Output`, of the model.

    Returns:
        A `Proof`.

    Raises:
        ValueError: The examples are too few, their shapes differ, labels do not fit, or
            the file has other outputs, or outputs of another shape.
    """
    shape, ask, examples, counts = None, None, 0, [[] for _ in outputs]
    for inputs, labels in batches:
        shape = shape or inputs.shape[1:]
        if inputs.shape[1:] != shape:
            raise ValueError(
                "`examples` must all have one shape. Received: "
                f"{shape} and {inputs.shape[1:]}."
            )
        taken = as_dtype(inputs, model.inputs[0].dtype, "examples")
        ask = ask or _asked(model, taken[:1], outputs)
        answers = ask(taken)
        given, left = predict(inputs), _masks(answers, outputs)
        _check_names(given, outputs)
        examples += len(inputs)
        for output, mask, found in zip(outputs, left, counts, strict=True):
            expected, by_file = map(output.in_structure, (answers, given))
            own = output.labels_in(labels)
            found.append(output.count(np.asarray(expected), by_file, own, mask))
    check_count(min(sum(x["answers"] for x in found) for found in counts))
    proofs = {
        output.name: _proof(output, examples, found)
        for output, found in zip(outputs, counts, strict=True)
    }
    return proofs[None] if None in proofs else _of_several(proofs)


def _asked(model, one, outputs):
    """The function that gives a model's answers, with Keras's masks if there are some."""

    def with_masks(inputs):
        return model(inputs, training=False)

    has_mask = any(mask is not None for mask in _masks(with_masks(one), outputs))
    # What is compiled is faster, and gives none.
    return with_masks if has_mask else model.predict_on_batch


def _masks(answers, outputs):
    """Keras's mask of each output's positions, as an array, or None, in a list."""
    masks = []
    for tensor in (output.in_structure(answers) for output in outputs):
        # Where Keras keeps it.
        mask = getattr(tensor, "_keras_mask", None)
        mask = None if mask is None else np.asarray(mask, bool)
        fits = mask is not None and mask.shape == tuple(tensor.shape)[: mask.ndim]
        masks.append(mask if fits else None)
    return masks


def check_count(count):
    """Refuses so few examples that they say too little; a ValueError.

    Args:
        count: Of examples, or of all their positions where each has an answer.
    """
    if count < LEAST_EXAMPLES:
        raise ValueError(
            f"`examples` must be at least {LEAST_EXAMPLES:,}, or have as many positions "
            "with an answer of their own, to tell how far the file's answers are from "
            f"the model's. Received: {count:,}."
        )


def check_first(answers, outputs, examples, labels):
    """Refuses, before anything is converted, what `prove` would refuse after it.

    Args:
        answers: The model's, to the first batch, in its own structure.
        outputs: As `prove` takes them.
        examples: As `export` takes them.
        labels: Of the first batch.

    Raises:
        ValueError: As `prove`, as far as the first batch tells, or the arrays' length.
    """
    whole = examples[0] if isinstance(examples, tuple) and examples else examples
    for output, mask in zip(outputs, _masks(answers, outputs), strict=True):
        shape = tuple(output.in_structure(answers).shape)
        output.check_labels(output.labels_in(labels), shape, mask)
        # Of batches nobody knows how many there are.
        if isinstance(whole, np.ndarray):
            check_count(len(whole) * math.prod(shape[1:-1]))


def _check_names(given, outputs):
    """Refuses a file of other outputs than the model's."""
    names = {x.name for x in outputs} - {None}
    theirs = set(given) if isinstance(given, dict) else set()
    if names != theirs:
        raise ValueError(
            f"The file has the outputs {', '.join(sorted(theirs)) or 'of one model alone'}"
            f", the Keras model {', '.join(sorted(names)) or 'one'}."
        )


def _proof(output, examples, counts):
    """The `Proof` of one output, of the counts of its batches."""

    def total(key):
        parts = [x.get(key) for x in counts]
        return None if None in parts else sum(parts)

    def fraction(key, of):
        return total(key) / total(of) if total(key) is not None and total(of) else None

    def root(key):
        mean = fraction(key, "numbers")
        return None if mean is None else float(np.sqrt(mean))

    highest = np.max([x["highest"] for x in counts])
    lowest = np.min([x["lowest"] for x in counts])
    return Proof(
        examples=examples,
        # NumPy's max gives NaN where there is one.
        largest_difference=float(np.max([x["difference"] for x in counts])),
        output_range=float(highest - lowest),
        agreement=fraction("agree", "decisions"),
        keras_accuracy=fraction("keras_right", "labelled"),
        file_accuracy=fraction("file_right", "labelled"),
        task=output.task,
        answers=total("decisions"),
        rmse=root("squares"),
        keras_rmse=root("keras_squares"),
        file_rmse=root("file_squares"),
    )


def _of_several(proofs):
    """One `Proof` of those of several outputs, by their names."""
    worst = max(proofs.values(), key=lambda x: x.relative_difference)
    agreements = [x.agreement for x in proofs.values() if x.agreement is not None]
    return Proof(
        worst.examples,
        worst.largest_difference,
        worst.output_range,
        min(agreements, default=None),
        None,
        None,
        task=None,
        outputs=proofs,
    )
