"""Which labels and weights belong to a loss, where the student has several outputs."""

from typing import NamedTuple

from keras import ops, tree

from keras_kd.losses.weights import weights_of, weights_of_examples
from keras_kd.models.symbolic import output_names
from keras_kd.models.taps import outputs_made_of


def alone(structure):
    """The one tensor in a dict or list that holds no other; else the structure itself."""
    flat = tree.flatten(structure)
    return flat[0] if len(flat) == 1 else structure


class Head(NamedTuple):
    """The student's outputs that are made of what a loss taps.

    Attributes:
        taps: Names of the student's tapped layers; None is the model's own outputs.
        outputs: Their numbers among the flattened outputs; None where the model's graph is
            not known before it runs.
        names: Of all the model's outputs.
    """

    taps: tuple
    outputs: tuple | None
    names: tuple

    def labels_and_weights(self, loss, outputs, y, sample_weight):
        """What of `y` and `sample_weight` belongs to the loss.

        Args:
            loss: The `DistillationLoss`.
            outputs: The student's `Outputs` of the batch.
            y, sample_weight: As `fit` was given them: where the student has several
                outputs, in the structure of these, or by their names.

        Returns:
            `(y, sample_weight)`: those of the one output that is made of the tapped layer.
            Of a layer that several outputs are made of, the mean of their weights, and `y`
            as it is. Both as they are for losses on the model's own outputs.

        Raises:
            ValueError: The loss needs labels, and it cannot be said of which output; or
                `y` or `sample_weight` does not fit the outputs.
        """
        own = tree.flatten(outputs.own)
        if len(own) < 2 or None in self.taps:
            return y, sample_weight
        chosen = self.outputs or _found(own, [outputs.taps[name] for name in self.taps])
        chosen = chosen or tuple(range(len(own)))
        paths = [path for path, _ in tree.flatten_with_path(outputs.own)]
        if tree.is_nested(y):
            if len(chosen) == 1:
                y = self._part("y", y, chosen[0], paths)
            elif loss.needs_labels:
                raise ValueError(
                    f"{loss!r} needs the labels of one output, and what it taps of the "
                    f"student, {', '.join(map(repr, self.taps))}, is known to be no part "
                    f"of one output alone: of {', '.join(map(repr, self.names))}. Tap the "
                    "layer that gives the output."
                )
        if tree.is_nested(sample_weight):
            parts = [self._part("sample_weight", sample_weight, k, paths) for k in chosen]
            sample_weight = _mean_weight(parts)
        return y, sample_weight

    def _part(self, argument, structure, number, paths):
        """What belongs to one output, of a dict by names or a list; None if there is none.

        Raises:
            ValueError: A list has another length than the outputs.
        """
        if isinstance(structure, dict):
            key, *more = paths[number]
            keys = [key, *self.names[number : number + 1]]
            found = [structure[key] for key in keys if key in structure]
            part = found[0] if found else None
            for key in more if tree.is_nested(part) else ():
                part = part[key]
            return part
        if len(structure) != len(paths):
            raise ValueError(
                f"`{argument}` must be a dict by names of outputs, or hold one entry for "
                f"each of the student's {len(paths)} outputs, None where there is none. "
                f"Received: {len(structure)} entries."
            )
        return structure[number]


def masked_weight(outputs, sample_weight):
    """Weights of a sequence's steps, those that Keras's mask leaves out at 0.

    As Keras's own losses have it: the mean is over the steps that are left.

    Args:
        outputs: The student's, (batch, steps, ..., size), with Keras's mask or without.
        sample_weight: (batch,), (batch, 1), the mask's shape, or None.

    Returns:
        `sample_weight` where there is no mask, else weights of the mask's shape.
    """
    # Where Keras keeps it.
    mask = getattr(outputs, "_keras_mask", None)
    if mask is None or len(mask.shape) != len(outputs.shape) - 1:
        return sample_weight
    mask = ops.cast(mask, "float32")
    weights = ops.divide_no_nan(mask, ops.mean(mask))
    if sample_weight is None:
        return weights
    return weights * weights_of(weights, ops.cast(sample_weight, "float32"))


def head_of(student, taps):
    """The `Head` of a loss that taps these layers of the student."""
    names = output_names(student)
    if len(names) < 2 or None in taps:
        return Head(taps, None, names)
    known = [outputs_made_of(student, name) for name in taps]
    if None in known:
        return Head(taps, None, names)
    return Head(taps, tuple(sorted({k for numbers in known for k in numbers})), names)


def _found(own, tapped):
    """The numbers of the outputs that are themselves what was tapped."""
    tapped = {id(x) for x in tree.flatten(tapped)}
    return tuple(k for k, output in enumerate(own) if id(output) in tapped)


def _mean_weight(parts):
    if len(parts) == 1 or all(part is None for part in parts):
        return parts[0]
    # An example counts by the mean of the weights that its positions have.
    given = [ops.cast(x, "float32") for x in parts if x is not None]
    given = list(map(weights_of_examples, given))
    # An output without weights has ones.
    given += [ops.ones_like(given[0])] * (len(parts) - len(given))
    return sum(given[1:], start=given[0]) / len(given)
