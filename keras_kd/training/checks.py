"""What a Distiller refuses before the first step."""

import inspect
import math
import types
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_kd import losses as losses_module
from keras_kd.losses import arguments
from keras_kd.losses.schedules import check_schedule, is_schedule, plain, shown
from keras_kd.losses.shapes import check_batch
from keras_kd.models.symbolic import output_names, symbolic_outputs
from keras_kd.tasks.heads import ignored_class
from keras_kd.training.teacher_and_student import check_taught, states_of


def check_fraction(name, value):
    """`value` as a float, if it is a number between 0 and 1; a schedule of it as it is."""
    if is_schedule(value):
        return check_schedule(name, value, lambda x: 0 <= x <= 1, "between 0 and 1")
    return arguments.check_fraction(name, value)


def label_weight(value, weights):
    """`student_loss_weight`, checked as `check_fraction`, beside the others' weights.

    Raises:
        ValueError: It is no such number; or all weights are 0.
    """
    value = check_fraction("student_loss_weight", value)
    if value == 0 and not any(weights):
        raise ValueError(
            "`student_loss_weight` and `distillation_loss_weights` are all 0, so nothing "
            f"would be learned. Received: {value} and {[*weights]}."
        )
    return value


def weighted(losses, weights):
    """Distillation losses as given, and their weights, as two tuples of one length.

    Tuples, as what is put into a list later would have no effect.

    Raises:
        ValueError: There is no loss or no such loss, or a weight is no number >= 0 or no
            loss's.
    """
    losses = plain(losses)
    losses = losses if isinstance(losses, (list, tuple)) else [losses]
    losses = tuple(map(_loss, losses))
    return losses, tuple(check_weights(weights, len(losses)))


def _loss(identifier):
    try:
        return losses_module.get(plain(identifier))
    except ValueError as error:
        raise ValueError(f"`distillation_losses`: {error}") from error


def check_weights(weights, count):
    """`distillation_loss_weights` as a list of `count` floats or schedules of them."""
    if count == 0:
        raise ValueError(
            "`distillation_losses` must name at least one loss. Received: an empty list."
        )
    if weights is None:
        return [1.0] * count
    weights = plain(weights)
    weights = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    weights = [_checked_weight(w) for w in weights]
    if len(weights) != count or not all(map(_is_weight, weights)):
        raise ValueError(
            "`distillation_loss_weights` must hold one finite number >= 0 for each of the "
            f"{count} distillation losses. Received: [{', '.join(map(shown, weights))}]."
        )
    return [w if is_schedule(w) else float(w) for w in weights]


def _checked_weight(value):
    if not is_schedule(value):
        return plain(value)
    name = "distillation_loss_weights"
    return check_schedule(name, value, lambda x: 0 <= x < math.inf, "0 or greater")


def _is_weight(value):
    return is_schedule(value) or arguments.is_finite_number(value) and value >= 0


def check_validates(value):
    """`validation_distillation`, if it is True or False."""
    return arguments.check_choice("validation_distillation", value, (True, False))


def check_one_of(name, value, choices):
    """`value`, if it is None or one of `choices`; else a ValueError."""
    if value is not None and value not in choices:
        raise ValueError(
            f"`{name}` must be None or one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}."
        )
    return value


def check_losses(teacher, losses, validation_distillation):
    """Refuses losses that would change the teacher, or in validation anything.

    Raises:
        ValueError: A loss trains the teacher's variables, or, where it is validated with,
            remembers training examples or does not know when it is not training.
    """
    for loss in losses:
        variables = [v for layer in loss.layers for v in layer.trainable_variables]
        check_taught(f"The layers of {loss!r}", variables, teacher)
        moves = any(map(states_of, loss.layers)) and not loss.takes_training
        if validation_distillation and moves and not loss.has_state:
            raise ValueError(
                f"{loss!r} has layers whose state changes in training, and does not know "
                "when it is not training: `evaluate` would change it. Set takes_training = "
                "True in its class, and hand the argument `training` on to the layers. "
                "Received: validation_distillation=True."
            )
        if validation_distillation and (loss.needs_index or loss.has_state):
            raise ValueError(
                f"{loss!r} remembers the training examples, and validation examples would "
                "be taken for these. Received: validation_distillation=True."
            )


def check_batch_size(losses, x, batch_size=None, *args, **kwargs):
    """Refuses batches too small for a loss, as far as it is known: as `fit` is called.

    Raises:
        ValueError: A loss would be constant for them.
    """
    if batch_size is None:
        # A tf.data.Dataset knows what its batches have in common.
        specs = tree.flatten(getattr(x, "element_spec", ()))
        shapes = [spec.shape for spec in specs if hasattr(spec, "shape")]
        ranked = [shape for shape in shapes if shape.rank]
        batch_size = ranked[0][0] if ranked else None
    for loss in losses:
        check_batch(loss, batch_size)


def check_fit(distiller, x, y, args, kwargs):
    """Looks at the teacher, and at data in memory, before a `fit`.

    Args:
        distiller: The `Distiller`, compiled.
        x, y: As `fit` is given them.
        args, kwargs: Of `keras.Model.fit`, after x and y.

    Raises:
        ValueError: The teacher's weights or first answers are not finite, labels are
            outside the student's classes, or validation has no loss to judge by.
    """
    if not distiller.validation_distillation:
        check_loss_in_validation(distiller.loss, args, kwargs)
    check_finite(distiller.teacher)
    outputs = symbolic_outputs(distiller.student)
    num_classes = outputs[0].shape[-1] if len(outputs) == 1 else None
    check_labels(y, distiller.loss, num_classes)
    given = inspect.signature(keras.Model.fit).bind(distiller, x, y, *args, **kwargs)
    weight = given.arguments.get("sample_weight")
    # What a mask leaves out the teacher may answer with anything.
    run = None if _may_mask(distiller.student) else distiller.run_teacher
    check_first_answers(run, x, distiller.teacher.name, weight)


def check_finite(teacher):
    """Refuses a teacher whose weights hold NaN or infinity, naming the first."""
    for variable in teacher.weights:
        if not _all_finite(variable.value):
            raise ValueError(
                f"`teacher` {teacher.name!r} holds NaN or infinite values in "
                f"{variable.path!r}; its training or its file went wrong."
            )


def check_first_answers(run_teacher, x, teacher_name, sample_weight=None, count=32):
    """Refuses inputs on which the teacher answers NaN, as far as they are in memory.

    Args:
        run_teacher: Takes inputs, gives the teacher's outputs; None looks at inputs alone.
        x: What `fit` was given; only NumPy arrays can be looked at.
        teacher_name: For the message.
        sample_weight: As `fit` was given it; what has no weight may be anything.
        count: How many of the first examples are looked at.
    """
    arrays = tree.flatten(x)
    if not arrays or not all(isinstance(a, np.ndarray) and len(a) for a in arrays):
        return
    rows = np.arange(len(arrays[0]))[:count]
    if isinstance(sample_weight, np.ndarray) and len(sample_weight) == len(arrays[0]):
        weights = sample_weight[rows].reshape(len(rows), -1)
        # Of positions some may be left out of an example that is not.
        rows = rows[(weights != 0).all(axis=1)]
    first = tree.map_structure(lambda a: a[rows], x)
    if not len(rows):
        return
    if not _all_finite(first):
        raise ValueError(
            f"`x` holds NaN or infinite values in its first {len(arrays[0][:count])} "
            "examples."
        )
    if run_teacher is not None and not _all_finite(run_teacher(first)):
        raise ValueError(
            f"`teacher` {teacher_name!r} answers with NaN or infinite values to the first "
            f"{len(arrays[0][:count])} examples of `x`. Are the inputs scaled as in its "
            "training?"
        )


def _may_mask(student):
    """Whether a layer makes a mask of Keras's."""
    return any(
        isinstance(x, keras.layers.Masking) or getattr(x, "mask_zero", False)
        for x in student._flatten_layers()
    )


def _all_finite(structure):
    tensors = [ops.convert_to_tensor(x) for x in tree.flatten(structure) if x is not None]
    is_float = keras.backend.is_float_dtype
    return all(
        bool(ops.all(ops.isfinite(x)))
        for x in tensors
        if is_float(keras.backend.standardize_dtype(x.dtype))
    )


def check_kept(outputs, needed):
    """The teacher's `Outputs` that a batch carries, if the losses need no others.

    Args:
        outputs: `Outputs`, as kept by `cache_teacher`.
        needed: Names of the teacher's tapped layers; None is its own outputs.

    Raises:
        ValueError: One of them was not kept.
    """
    kept = [*outputs.taps] + [None] * (outputs.own is not None)
    missing = [name for name in needed if name not in kept]
    if missing:
        names = {None: "the teacher's own outputs (None)"}
        raise ValueError(
            "`x` carries cached teacher outputs, and the losses need more: "
            f"{', '.join(names.get(x, repr(x)) for x in missing)}. Received: "
            f"{', '.join(names.get(x, repr(x)) for x in kept)}. Give cache_teacher, or "
            "with_teacher_outputs, all of them as `outputs`."
        )
    return outputs


def check_top_k(holds_top_k, terms):
    """Refuses answers of which the largest classes were kept, where others are compared.

    Args:
        holds_top_k: Whether a batch carries the teacher's own outputs so.
        terms: The `Term`s of a Distiller.

    Raises:
        ValueError: A loss does not compare a softmax of the classes, or compares logits
            of which a constant counts.
    """
    for term in terms if holds_top_k else ():
        if term.is_of_outputs and term.activation in ("sigmoid", None):
            raise ValueError(
                "`x` carries the largest classes of a softmax, as cache_teacher keeps them "
                f"with top_k, and {term.loss!r} compares other outputs. Leave `top_k` out."
            )
        # Logits of which a constant was taken off.
        is_of_logits = term.loss.on_logits and not term.loss.shift_invariant
        if term.is_of_outputs and is_of_logits:
            raise ValueError(
                "`x` carries the logarithms of the largest classes' probabilities, as "
                f"cache_teacher keeps them with top_k, and {term.loss!r} compares the "
                "logits themselves. Leave `top_k` out, or take 'kd'."
            )


def check_labels(y, loss, num_classes):
    """Refuses integer labels outside 0..num_classes-1, as far as they are in memory.

    Args:
        y: What `fit` was given; only NumPy arrays can be looked at.
        loss: The compiled loss; only sparse cross-entropy takes class numbers.
        num_classes: Size of the student's last axis, or None.
    """
    name = loss if isinstance(loss, str) else type(loss).__name__
    is_sparse = name in ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
    if not is_sparse or not isinstance(y, np.ndarray) or y.size == 0 or not num_classes:
        return
    ignored = ignored_class(loss)
    y = y if ignored is None else y[y != ignored]
    if y.size and (y.min() < 0 or y.max() >= num_classes):
        ignores = "" if ignored is None else f", or {ignored}, which the loss ignores"
        raise ValueError(
            f"`y` must hold labels in 0..{num_classes - 1}, one for each output of the "
            f"student{ignores}. Received: labels from {y.min()} to {y.max()}."
        )


def check_label_loss(loss, student, kinds):
    """Says that a loss on the labels takes logits where a student gives probabilities.

    Args:
        loss: As `compile` takes it; losses without Keras's `from_logits` are not looked at.
        student: The `keras.Model`, for its outputs' names.
        kinds: The `OutputKinds` of its own outputs.

    Raises:
        ValueError: It takes probabilities, and the student answers with negative numbers.
    """
    found = kinds.found.get(None)
    negative = kinds.shows_negative.get(None)
    if negative is None or kinds.is_said(None):
        return
    if isinstance(loss, dict):
        # Of a subclassed model Keras flattens a dict by its sorted keys.
        names = output_names(student) or sorted(loss)
        loss = [loss.get(name) for name in names]
    each = loss if isinstance(loss, (list, tuple)) else [loss]
    found = [found] * len(negative) if isinstance(found, str) else found
    if len(each) != len(negative):
        return
    for one, kind, is_negative in zip(each, found, negative, strict=True):
        takes_logits = _from_logits(one)
        if takes_logits is False and is_negative:
            raise ValueError(
                f"`student` {student.name!r} gives logits, some of them negative, and its "
                "loss on the labels takes probabilities. Give the loss from_logits=True, "
                "as in keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
                f"Received: loss={one!r}."
            )
        if takes_logits and kind == "probabilities":
            warnings.warn(
                f"`student` {student.name!r} gives probabilities, and its loss on the "
                "labels takes logits, so it is that of a second softmax. Give the loss "
                "from_logits=False, or leave the softmax out. Say student_outputs='logits' "
                "to silence this.",
                stacklevel=3,
            )


def _from_logits(loss):
    """Whether a loss takes logits; None where it does not say."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # Keras has a better message.
            return None
    if isinstance(loss, types.FunctionType):
        parameter = inspect.signature(loss).parameters.get("from_logits")
        return parameter and parameter.default
    return getattr(loss, "from_logits", None)


def check_loss_in_validation(loss, args, kwargs):
    """Refuses validation by the labels without a loss on them, before an epoch is trained.

    Args:
        loss: As `compile` was given it.
        args, kwargs: Of `keras.Model.fit`, after x and y.

    Raises:
        ValueError: There are validation data and no loss.
    """
    given = {"validation_split": args[4:5], "validation_data": args[5:6]}
    given = {k: kwargs.get(k, x[0] if x else None) for k, x in given.items()}
    if loss is None and (given["validation_split"] or given["validation_data"] is not None):
        raise ValueError(
            "`validation_data` are judged by the student's loss on the labels. Received: "
            "loss=None in compile. Give it one, or validation_distillation=True to the "
            "Distiller."
        )


def check_replicas(losses, count):
    """Refuses losses with a memory under a strategy of several replicas.

    Raises:
        ValueError: There is one; each replica would remember other examples.
    """
    for loss in losses if count > 1 else ():
        if getattr(loss, "has_state", False):
            raise ValueError(
                f"{type(loss).__name__} keeps a memory of the examples, which replicas "
                f"cannot share. Received: a strategy with {count} replicas. Train it on "
                "one device, or take another loss."
            )
