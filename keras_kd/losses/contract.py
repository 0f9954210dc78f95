"""The checks of `keras_kd.testing`: each a function of a loss and a batch.

It returns None, or raises AssertionError, or what the loss raises. A batch is the arguments
of `compute_loss` by name, NumPy arrays of 9 examples.
"""

import copy
import json

import keras
import numpy as np
from keras import ops, tree

from keras_kd.losses.base import AdoptedLoss, as_distillation_loss
from keras_kd.losses.loss_calls import (
    OUTPUTS,
    compiled_ways,
    compute,
    expect,
    expect_equal,
    expect_finite,
    expect_refused,
    expect_shapes_refused,
    gradient_of,
    large,
    raised,
    rows,
    tensors,
    value_of,
)


def check_float32_scalar(loss, batch):
    """A float32 scalar, finite for outputs up to 1e4, and for 16 bits what it is for 32."""
    for dtype in ("float32", "bfloat16", "float16"):
        value = compute(loss, batch, dtype)
        seen = keras.backend.standardize_dtype(value.dtype), tuple(value.shape)
        what = f"{seen[0]} of shape {seen[1]} is returned for {dtype} outputs"
        expect(seen == ("float32", ()), what, "a scalar, float32")
        expect_finite(compute(loss, large(batch), dtype), f"{dtype} outputs up to 1e4")
        half = tensors(batch, dtype)
        full = tensors(half, "float32")
        # A student of mixed precision under a teacher of full precision.
        mixed = half | {"teacher_outputs": full["teacher_outputs"]}
        for inputs, what in ((half, "outputs"), (mixed, "student, float32 teacher")):
            value = value_of(loss, inputs, None)
            expect_equal(value, value_of(loss, full), f"{dtype} {what}", "float32 outputs")


def check_agreement(loss, batch):
    """Smallest where the outputs agree; zero there, if `zero_at_agreement`."""
    teacher, rng = batch["teacher_outputs"], np.random.default_rng(0)
    together = value_of(loss, batch | {"student_outputs": teacher})
    apart = value_of(loss, batch)
    seen = f"{together:.6g} where teacher and student agree"
    slack = 1e-6 * max(abs(apart), abs(together))
    if loss.zero_at_agreement:
        is_zero = abs(together) <= 1e-5 * abs(apart)
        expect(is_zero, seen, "zero, as zero_at_agreement = True promises")
    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        student = tree.map_structure(lambda x: rng.normal(x, scale), teacher)
        value = value_of(loss, batch | {"student_outputs": student})
        seen_off = f"{seen}, {value:.6g} where the student is off by about {scale}"
        expect(value >= together - slack, seen_off, "the smallest value where they agree")


def check_batch_order(loss, batch):
    """The order of the examples in the batch changes nothing."""
    batch = batch | {"sample_weight": np.linspace(0.5, 2.0, 9)}
    order = np.random.default_rng(0).permutation(9)
    values = value_of(loss, rows(batch, order)), value_of(loss, batch)
    expect_equal(*values, "the batch permuted", "the batch in order")


def check_zero_weight(loss, batch):
    """All ones are no sample_weight; what an example of weight zero holds is nothing."""
    ones = value_of(loss, batch | {"sample_weight": np.ones(9)})
    expect_equal(ones, value_of(loss, batch), "weights of one", "sample_weight=None")
    weight = {"sample_weight": np.array([1.0, 1, 0, 1, 1, 1, 1, 1])}
    values = [value_of(loss, rows(batch, [0, 1, i, *range(3, 8)]) | weight) for i in (2, 8)]
    expect_equal(*values, "an example of sample_weight 0", "another in its place")


def check_sample_weight(loss, batch):
    """A weighted mean: of its halves; an example of weight 2 counts twice in the sum."""
    eight = rows(batch, slice(8))
    halves = [value_of(loss, rows(batch, part)) for part in (slice(4), slice(4, 8))]
    whole = value_of(loss, eight)
    expect_equal(whole, sum(halves) / 2, "a batch", "the mean of its halves")
    weight = {"sample_weight": np.array([1.0, 1, 1, 2, 1, 1, 1, 1])}
    weighted = 8 * value_of(loss, eight | weight)
    repeated = 9 * value_of(loss, rows(batch, [0, 1, 2, 3, 3, 4, 5, 6, 7]))
    expect_equal(weighted, repeated, "8 * value with one weight 2", "9 * value, it twice")
    one = {"sample_weight": np.ones(1)}
    expect_refused(loss, batch | one, ["sample_weight", "(1,)"])


def check_shift_invariance(loss, batch):
    """A constant added to all logits of one model changes nothing."""
    for name in OUTPUTS:
        shifted = batch | {name: tree.map_structure(lambda x: x + 50.0, batch[name])}
        values = value_of(loss, shifted), value_of(loss, batch)
        expect_equal(*values, f"{name} + 50", f"{name} as they are")


def check_batch_sizes(loss, batch):
    """A batch of several against one of 1 is refused rather than broadcast."""
    for name in OUTPUTS:
        expect_shapes_refused(loss, batch | {name: rows(batch[name], slice(1))})


def check_widths(loss, batch):
    """Outputs of another width, or without batch, are refused rather than broadcast."""
    for part in (np.s_[..., :1], np.s_[..., :-1], 0):
        student = rows(batch["student_outputs"], part)
        expect_shapes_refused(loss, batch | {"student_outputs": student})


def check_other_width(loss, batch):
    """Outputs of another width have a value of their own; without batch, are refused."""
    student = batch["student_outputs"]
    # It may make layers for the other width.
    loss = copy.copy(loss)
    value = compute(loss, batch | {"student_outputs": rows(student, np.s_[..., :-1])})
    expect_finite(value, "a student of another width")
    expect_shapes_refused(loss, batch | {"student_outputs": rows(student, 0)})


def check_config(loss, batch):
    """Config to JSON and back gives a loss of equal config and equal value."""
    loss = loss.loss if isinstance(loss, AdoptedLoss) else loss
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    expect(text == again, f"the loss of config {text} comes back with {again}", "the same")
    if as_distillation_loss(loss).layers:
        value_of(restored, batch)
        for layer, other in zip(restored.layers, loss.layers, strict=True):
            layer.set_weights(other.get_weights())
    values = [value_of(as_distillation_loss(x), batch) for x in (restored, loss)]
    expect_equal(*values, "the loss from its config", "the loss itself")


def check_repeated_call(loss, batch):
    """The same batch has the same value again: no randomness, no undeclared state."""
    other = rows(batch, slice(4))
    first, _, again = (value_of(loss, x) for x in (batch, other, batch))
    expect(first == again, f"{first!r} in one call, {again!r} in a later", "equal values")


def check_batch_of_one(loss, batch):
    """A batch of one has a finite value, or is refused in so many words."""
    try:
        value = compute(loss, rows(batch, slice(1)))
    except ValueError as error:
        expect("batch" in str(error), raised(error), "a value, or 'batch' in the message")
    else:
        expect_finite(value, "a batch of one")


def check_labels(loss, batch):
    """Missing labels are refused if `needs_labels`; else labels change nothing."""
    unlabelled = {name: x for name, x in batch.items() if name != "y_true"}
    if loss.needs_labels:
        expect_refused(loss, unlabelled, ["label"])
    else:
        values = value_of(loss, unlabelled), value_of(loss, batch)
        expect_equal(*values, "no labels", "labels")


def check_student_gradient(loss, batch):
    """The gradient reaches the student; finite for large and for equal outputs, too."""
    # Of the teacher nothing is asked: the Distiller stops gradients into its outputs.
    agreeing = batch | {"student_outputs": batch["teacher_outputs"]}
    for x in gradient_of(loss, batch):
        expect(np.any(x), "the gradient of the student's outputs is zero", "a gradient")
    for inputs, what in ((large(batch), "outputs up to 1e4"), (agreeing, "equal outputs")):
        for x in gradient_of(loss, inputs):
            expect_finite(x, f"{what}, in the gradient")


def check_gradient(loss, batch):
    """The gradient equals central differences, along random directions."""
    try:
        dtype, value = None, compute(loss, batch, None)
    except Exception:  # Of the backend: a loss need not take float64.
        dtype, value = "float32", compute(loss, batch)
    is_double = keras.backend.standardize_dtype(value.dtype) == "float64"
    # In float32 not smaller for rounding, not larger for the kinks of a ReLU in `layers`.
    step, tolerance, rounding = (1e-6, 1e-5, 1e-15) if is_double else (1e-3, 2e-2, 3e-7)
    gradient = gradient_of(loss, batch, dtype)
    norm = np.sqrt(sum(map(np.vdot, gradient, gradient)))
    allowed = tolerance * norm + rounding * abs(float(value)) / step
    student = batch["student_outputs"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        move = tree.map_structure(lambda x: rng.normal(scale=step, size=x.shape), student)
        slope = sum(map(np.vdot, gradient, tree.flatten(move))) / step
        up = batch | {"student_outputs": tree.map_structure(np.add, student, move)}
        down = batch | {"student_outputs": tree.map_structure(np.subtract, student, move)}
        difference = (value_of(loss, up, dtype) - value_of(loss, down, dtype)) / (2 * step)
        seen = f"{slope:.8g} along a random direction, {difference:.8g} by differences"
        expect(abs(slope - difference) <= allowed, seen, "the same gradient")


def check_graph(loss, batch):
    """Compiled, the value is what it is eagerly, whatever the size of the batch."""
    batch = batch | {"sample_weight": np.linspace(0.5, 2.0, 9)}
    compiled = compiled_ways(lambda tensors: compute(loss, tensors, None), batch)
    for how, function in compiled.items():
        for part in (batch, rows(batch, slice(5))):
            value = float(ops.convert_to_numpy(function(tensors(part))))
            expect_equal(value, value_of(loss, part), how, "eagerly")
