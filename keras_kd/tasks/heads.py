"""Which labels and weights belong to a loss, where the student has several outputs."""

import functools
from typing import Any, NamedTuple

from keras import ops, tree
from keras.src.backend import get_keras_mask

from keras_kd.losses.ops import fits_shape
from keras_kd.losses.weights import weights_of, weights_of_examples
from keras_kd.models.symbolic import output_names, output_structure
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
        paths: Of all the model's outputs in their structure; () where it is not known.
        label_loss: The student's loss on the labels, as `compile` takes it; or None.
    """

    taps: tuple
    outputs: tuple | None
    names: tuple
    paths: tuple = ()
    label_loss: Any = None

    def loss_of_output(self):
        """The loss on the labels of the one output that is compared; None if unknown."""
        loss, number = self.label_loss, (self.outputs or (0,))[0]
        if not isinstance(loss, (list, tuple, dict)):
            return loss
        if len(self.names) < 2:
            return alone(loss)
        is_known = self.outputs is not None and len(self.outputs) == 1 and self.paths
        return self._part("loss", loss, number, self.paths) if is_known else None

    def left_out(self, outputs, y, sample_weight, compared):
        """`sample_weight` as `masked_weight` has it, of what is compared.

        Args:
            outputs: The student's `Outputs` of the batch.
            y, sample_weight: Those of the output, as `labels_and_weights` gives them.
            compared: list of what the loss receives of the student.
        """
        own, chosen, paths = self._own(outputs)
        if len(chosen) != 1:
            # Each output has labels of its own.
            return masked_weight(compared, None, None, sample_weight)
        loss = self.label_loss
        if isinstance(loss, (list, tuple, dict)) and len(own) > 1:
            loss = self._part("loss", loss, chosen[0], paths)
        elif isinstance(loss, (list, tuple, dict)):
            loss = alone(loss)
        y = None if tree.is_nested(y) else y
        return masked_weight(
            compared, own[chosen[0]], y, sample_weight, ignored_class(loss)
        )

    def _own(self, outputs):
        """The student's own outputs, which of them is compared, and the paths of all."""
        own = tree.flatten(outputs.own)
        chosen = tuple(range(len(own)))
        if len(own) > 1 and None not in self.taps:
            # Where the graph is known it may not have run.
            taps = () if self.outputs else map(outputs.taps.get, self.taps)
            chosen = self.outputs or _found(own, list(taps)) or chosen
        return own, chosen, [path for path, _ in tree.flatten_with_path(outputs.own)]

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
        own, chosen, paths = self._own(outputs)
        if len(own) < 2 or None in self.taps:
            return y, sample_weight
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


def ignored_class(loss):
    """The class that a loss on the labels ignores, as Keras's `ignore_class`; or None."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get("ignore_class")
    told = getattr(loss, "_fn_kwargs", {})
    return getattr(loss, "ignore_class", told.get("ignore_class"))


def masked_weight(compared, own, y, sample_weight, ignored=None):
    """Weights of what is compared, at 0 what the student's loss on the labels leaves out.

    That is what Keras's mask hides, and where the label is the class that the loss ignores.
    As Keras's own losses have it, the mean is over what is left.

    Args:
        compared: list of what a loss receives of the student, each (batch, ..., size), as
            the model gave it, with Keras's mask or without.
        own: The student's output that they are part of; or None.
        y: Its labels, or None.
        sample_weight: (batch,), (batch, 1), one for each position of the output, or None.
        ignored: As `ignored_class` gives it.

    Returns:
        `sample_weight` where nothing is left out, or where what is compared has other
        positions than what is; else weights of these positions.
    """
    masks = [get_keras_mask(x) for x in compared]
    if own is not None:
        masks += [get_keras_mask(own)] if all(own is not x for x in compared) else []
        if ignored is not None and y is not None:
            # As Keras compares them.
            labels = ops.reshape(ops.cast(y, "float32"), ops.shape(own)[:-1])
            masks += [ops.not_equal(labels, float(ignored))]
    masks = [x for x in masks if x is not None and _is_of_positions(x, compared)]
    if not masks:
        return sample_weight
    masks = [ops.cast(x, "bool") for x in masks]
    rank = max(len(x.shape) for x in masks)
    masks = [ops.reshape(x, (*ops.shape(x), *[1] * (rank - len(x.shape)))) for x in masks]
    mask = ops.cast(functools.reduce(ops.logical_and, masks), "float32")
    weights = ops.divide_no_nan(mask, ops.mean(mask))
    if sample_weight is None:
        return weights
    return weights * weights_of(weights, ops.cast(sample_weight, "float32"))


def _is_of_positions(mask, compared):
    """Whether it tells for the first positions of one of the tensors, or for examples."""
    rank = len(mask.shape)
    return any(
        rank < len(x.shape) and fits_shape(mask.shape, x.shape[:rank])
        and (rank == 1 or rank == len(x.shape) - 1)
        for x in compared
    )


def head_of(student, taps):
    """The `Head` of a loss that taps these layers of the student."""
    names = output_names(student)
    if len(names) < 2 or None in taps:
        return Head(taps, None, names)
    known = [outputs_made_of(student, name) for name in taps]
    if None in known:
        return Head(taps, None, names)
    outputs = tuple(sorted({k for numbers in known for k in numbers}))
    paths = [path for path, _ in tree.flatten_with_path(output_structure(student))]
    return Head(taps, outputs, names, tuple(paths))


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
