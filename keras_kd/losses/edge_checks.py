"""The checks of `keras_kd.testing` where a loss may be silently wrong: at the edges.

As those of `keras_kd.losses.contract`, functions of a loss and a batch.
"""

import numpy as np
from keras import ops, tree

from keras_kd.losses.loss_calls import (
    OUTPUTS,
    compute,
    expect,
    expect_equal,
    expect_finite,
    gradient_of,
    raised,
    rows,
    tensors,
    value_of,
)


def check_flat_outputs(loss, batch):
    """Value and gradient are finite where outputs are zero or constant, as ReLUs give."""
    teacher, student = (batch[name] for name in OUTPUTS)

    def filled(like, value):
        return tree.map_structure(lambda x: np.full_like(x, value), like)

    def relu(outputs):
        return tree.map_structure(lambda x: np.maximum(x, 0), outputs)

    nothing = filled(rows(student, slice(4)), 0)
    for what, teacher_outputs, student_outputs in (
        ("a student of zeros", teacher, filled(student, 0)),
        ("a teacher of zeros", filled(teacher, 0), student),
        ("zeros", filled(teacher, 0), filled(student, 0)),
        ("a constant student", teacher, filled(student, 1)),
        ("constants", filled(teacher, 1), filled(student, 1)),
        ("outputs of ReLUs", relu(teacher), relu(student)),
        (
            "some zeros",
            teacher,
            tree.map_structure(
                lambda x, y: np.concatenate([x, y]), nothing, rows(student, slice(4, 9))
            ),
        ),
    ):
        inputs = batch | dict(
            zip(OUTPUTS, (teacher_outputs, student_outputs), strict=True)
        )
        expect_finite(compute(loss, inputs), what)
        for x in gradient_of(loss, inputs):
            expect_finite(x, f"{what}, in the gradient")


def check_not_constant(loss, batch):
    """Of few classes, channels or places it has a gradient, or refuses them."""
    is_maps = all(x.ndim == 4 for x in tree.flatten(batch["student_outputs"]))
    places = [np.s_[:, :1, :1]] if is_maps else []
    for part in (np.s_[..., :1], np.s_[..., :2], *places):
        few = batch | {name: rows(batch[name], part) for name in OUTPUTS}
        if "y_true" in batch:
            few["y_true"] = batch["y_true"] % few[OUTPUTS[1]].shape[-1]
        # Layers of the loss may start where a ReLU has no gradient.
        found = [_value_and_change(loss, few) for _ in range(5 if loss.makes_layers else 1)]
        if None in found:
            continue
        value, change = max(found, key=lambda pair: pair[1])
        shape = tree.flatten(few["student_outputs"])[0].shape
        seen = f"{value:.6g}, of gradient {change:.2g} for outputs {shape}"
        expected = "a ValueError (see `least_classes`), or a gradient"
        expect(change > 1e-5 * abs(value) + 1e-9, seen, expected)


def _value_and_change(loss, batch):
    """The value, and how it changes with the student; None where it refuses the shapes."""
    if loss.makes_layers:
        # One without layers for another shape.
        loss = type(loss).from_config(loss.get_config())
    try:
        value, gradient = value_of(loss, batch), gradient_of(loss, batch)
    except ValueError as error:
        expect("Received" in str(error), raised(error), "what was received")
        return None
    student = tree.flatten(batch["student_outputs"])
    return value, sum(
        np.sum(np.abs(x * y)) for x, y in zip(student, gradient, strict=True)
    )


def check_evaluation(loss, batch):
    """With training=False it is finite, and no variable of its layers changes."""
    variables = [v for layer in loss.layers for v in layer.variables]
    before = [np.copy(ops.convert_to_numpy(v)) for v in variables]
    expect_finite(compute(loss, batch, training=False), "training=False")
    changed = [
        v.path
        for v, value in zip(variables, before, strict=True)
        if not np.array_equal(ops.convert_to_numpy(v), value)
    ]
    expect(not changed, f"{', '.join(changed)} changed", "no change where not training")


def check_unknown_sizes(loss, batch):
    """What is of a size that a graph does not know is not broadcast, either."""
    import tensorflow as tf

    def spec(x):
        # Layers are made for the sizes of an example; a width that may differ is known.
        known = x.ndim - 1 if loss.layers else int(loss.widths_may_differ and x.ndim > 1)
        shape = [None] * (x.ndim - known) + list(x.shape[x.ndim - known :])
        return tf.TensorSpec(shape, x.dtype)

    batch = batch | {"sample_weight": np.linspace(0.5, 2.0, 9)}
    specs = {
        name: tree.map_structure(lambda x: spec(x.numpy()), x)
        for name, x in tensors(batch).items()
    }
    compiled = tf.function(lambda x: compute(loss, x, None), autograph=False)
    try:
        compiled = compiled.get_concrete_function(specs)
    except Exception:  # Of layers that have to know: any.
        return
    student = batch["student_outputs"]
    shapes = [x.shape for x in tree.flatten(specs["student_outputs"])]
    # An axis that all of the student's outputs have.
    axes = [axis for axis in range(min(map(len, shapes))) if shapes[0][axis] is None]
    parts = [(slice(None),) * axis + (slice(1),) for axis in axes]
    cases = [batch | {"student_outputs": rows(student, part)} for part in parts]
    for case in (batch, *cases, batch | {"sample_weight": np.ones(1)}):
        shapes = [tree.flatten(x)[0].shape for x in case.values()]
        try:
            value = float(ops.convert_to_numpy(compiled(tensors(case))))
        except Exception:  # Of the backend: any.
            expect(case is not batch, f"shapes {shapes} are refused", "a value")
            continue
        try:
            expected = value_of(loss, case)
        except ValueError as error:
            expect(False, f"{value:.6g} for shapes {shapes}", raised(error))
        expect_equal(value, expected, f"sizes unknown, {shapes}", "sizes known")
