"""The checks of `keras_kd.testing`: each a function of a loss and a batch.

It returns None, or raises AssertionError, or what the loss raises. A batch is the arguments
of `compute_loss` by name, NumPy arrays of 9 examples.
"""

import contextlib
import copy
import json
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_kd.losses.base import AdoptedLoss, as_distillation_loss
from keras_kd.losses.ops import at_least_float32

OUTPUTS = ("teacher_outputs", "student_outputs")


def check_float32_scalar(loss, batch):
    """A float32 scalar, finite for outputs up to 1e4, and for 16 bits what it is for 32."""
    for dtype in ("float32", "bfloat16", "float16"):
        value = _compute(loss, batch, dtype)
        seen = keras.backend.standardize_dtype(value.dtype), tuple(value.shape)
        what = f"{seen[0]} of shape {seen[1]} is returned for {dtype} outputs"
        _expect(seen == ("float32", ()), what, "a scalar, float32")
        _expect_finite(_compute(loss, _large(batch), dtype), f"{dtype} outputs up to 1e4")
        half = tensors(batch, dtype)
        full = tensors(half, "float32")
        # A student of mixed precision under a teacher of full precision.
        mixed = half | {"teacher_outputs": full["teacher_outputs"]}
        for inputs, what in ((half, "outputs"), (mixed, "student, float32 teacher")):
            value = _value(loss, inputs, None)
            _expect_equal(value, _value(loss, full), f"{dtype} {what}", "float32 outputs")


def check_agreement(loss, batch):
    """Smallest where the outputs agree; zero there, if `zero_at_agreement`."""
    teacher, rng = batch["teacher_outputs"], np.random.default_rng(0)
    together = _value(loss, batch | {"student_outputs": teacher})
    apart = _value(loss, batch)
    seen = f"{together:.6g} where teacher and student agree"
    slack = 1e-6 * max(abs(apart), abs(together))
    if loss.zero_at_agreement:
        is_zero = abs(together) <= 1e-5 * abs(apart)
        _expect(is_zero, seen, "zero, as zero_at_agreement = True promises")
    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        student = tree.map_structure(lambda x: rng.normal(x, scale), teacher)
        value = _value(loss, batch | {"student_outputs": student})
        seen_off = f"{seen}, {value:.6g} where the student is off by about {scale}"
        _expect(value >= together - slack, seen_off, "the smallest value where they agree")


def check_batch_order(loss, batch):
    """The order of the examples in the batch changes nothing."""
    batch = batch | {"sample_weight": np.linspace(0.5, 2.0, 9)}
    order = np.random.default_rng(0).permutation(9)
    values = _value(loss, _rows(batch, order)), _value(loss, batch)
    _expect_equal(*values, "the batch permuted", "the batch in order")


def check_zero_weight(loss, batch):
    """All ones are no sample_weight; what an example of weight zero holds is nothing."""
    ones = _value(loss, batch | {"sample_weight": np.ones(9)})
    _expect_equal(ones, _value(loss, batch), "weights of one", "sample_weight=None")
    weight = {"sample_weight": np.array([1.0, 1, 0, 1, 1, 1, 1, 1])}
    values = [_value(loss, _rows(batch, [0, 1, i, *range(3, 8)]) | weight) for i in (2, 8)]
    _expect_equal(*values, "an example of sample_weight 0", "another in its place")


def check_sample_weight(loss, batch):
    """A weighted mean: of its halves; an example of weight 2 counts twice in the sum."""
    eight = _rows(batch, slice(8))
    halves = [_value(loss, _rows(batch, part)) for part in (slice(4), slice(4, 8))]
    _expect_equal(_value(loss, eight), sum(halves) / 2, "a batch", "the mean of its halves")
    weight = {"sample_weight": np.array([1.0, 1, 1, 2, 1, 1, 1, 1])}
    weighted = 8 * _value(loss, eight | weight)
    repeated = 9 * _value(loss, _rows(batch, [0, 1, 2, 3, 3, 4, 5, 6, 7]))
    _expect_equal(weighted, repeated, "8 * value with one weight 2", "9 * value, it twice")
    one = {"sample_weight": np.ones(1)}
    _expect_refused(loss, batch | one, ["sample_weight", "(1,)"])


def check_shift_invariance(loss, batch):
    """A constant added to all logits of one model changes nothing."""
    for name in OUTPUTS:
        shifted = batch | {name: tree.map_structure(lambda x: x + 50.0, batch[name])}
        values = _value(loss, shifted), _value(loss, batch)
        _expect_equal(*values, f"{name} + 50", f"{name} as they are")


def check_batch_sizes(loss, batch):
    """A batch of several against one of 1 is refused rather than broadcast."""
    for name in OUTPUTS:
        _expect_shapes_refused(loss, batch | {name: _rows(batch[name], slice(1))})


def check_widths(loss, batch):
    """Outputs of another width, or without batch, are refused rather than broadcast."""
    for part in (np.s_[..., :1], np.s_[..., :-1], 0):
        student = _rows(batch["student_outputs"], part)
        _expect_shapes_refused(loss, batch | {"student_outputs": student})


def check_other_width(loss, batch):
    """Outputs of another width have a value of their own; without batch, are refused."""
    student = batch["student_outputs"]
    # It may make layers for the other width.
    loss = copy.copy(loss)
    value = _compute(loss, batch | {"student_outputs": _rows(student, np.s_[..., :-1])})
    _expect_finite(value, "a student of another width")
    _expect_shapes_refused(loss, batch | {"student_outputs": _rows(student, 0)})


def check_config(loss, batch):
    """Config to JSON and back gives a loss of equal config and equal value."""
    loss = loss.loss if isinstance(loss, AdoptedLoss) else loss
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    _expect(text == again, f"the loss of config {text} comes back with {again}", "the same")
    if as_distillation_loss(loss).layers:
        _value(restored, batch)
        for layer, other in zip(restored.layers, loss.layers, strict=True):
            layer.set_weights(other.get_weights())
    values = [_value(as_distillation_loss(x), batch) for x in (restored, loss)]
    _expect_equal(*values, "the loss from its config", "the loss itself")


def check_repeated_call(loss, batch):
    """The same batch has the same value again: no randomness, no undeclared state."""
    other = _rows(batch, slice(4))
    first, _, again = (_value(loss, x) for x in (batch, other, batch))
    _expect(first == again, f"{first!r} in one call, {again!r} in a later", "equal values")


def check_batch_of_one(loss, batch):
    """A batch of one has a finite value, or is refused in so many words."""
    try:
        value = _compute(loss, _rows(batch, slice(1)))
    except ValueError as error:
        _expect("batch" in str(error), raised(error), "a value, or 'batch' in the message")
    else:
        _expect_finite(value, "a batch of one")


def check_labels(loss, batch):
    """Missing labels are refused if `needs_labels`; else labels change nothing."""
    unlabelled = {name: x for name, x in batch.items() if name != "y_true"}
    if loss.needs_labels:
        _expect_refused(loss, unlabelled, ["label"])
    else:
        _expect_equal(_value(loss, unlabelled), _value(loss, batch), "no labels", "labels")


def check_student_gradient(loss, batch):
    """The gradient reaches the student; finite for large and for equal outputs, too."""
    # Of the teacher nothing is asked: the Distiller stops gradients into its outputs.
    agreeing = batch | {"student_outputs": batch["teacher_outputs"]}
    for x in _student_gradient(loss, batch):
        _expect(np.any(x), "the gradient of the student's outputs is zero", "a gradient")
    for inputs, what in ((_large(batch), "outputs up to 1e4"), (agreeing, "equal outputs")):
        for x in _student_gradient(loss, inputs):
            _expect_finite(x, f"{what}, in the gradient")


def check_gradient(loss, batch):
    """The gradient equals central differences, along random directions."""
    try:
        dtype, value = None, _compute(loss, batch, None)
    except Exception:  # Of the backend: a loss need not take float64.
        dtype, value = "float32", _compute(loss, batch)
    is_double = keras.backend.standardize_dtype(value.dtype) == "float64"
    # In float32 not smaller for rounding, not larger for the kinks of a ReLU in `layers`.
    step, tolerance, rounding = (1e-6, 1e-5, 1e-15) if is_double else (1e-3, 2e-2, 3e-7)
    gradient = _student_gradient(loss, batch, dtype)
    norm = np.sqrt(sum(map(np.vdot, gradient, gradient)))
    allowed = tolerance * norm + rounding * abs(float(value)) / step
    student = batch["student_outputs"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        move = tree.map_structure(lambda x: rng.normal(scale=step, size=x.shape), student)
        slope = sum(map(np.vdot, gradient, tree.flatten(move))) / step
        up = batch | {"student_outputs": tree.map_structure(np.add, student, move)}
        down = batch | {"student_outputs": tree.map_structure(np.subtract, student, move)}
        difference = (_value(loss, up, dtype) - _value(loss, down, dtype)) / (2 * step)
        seen = f"{slope:.8g} along a random direction, {difference:.8g} by differences"
        _expect(abs(slope - difference) <= allowed, seen, "the same gradient")


def check_graph(loss, batch):
    """Compiled, the value is what it is eagerly, whatever the size of the batch."""
    batch = batch | {"sample_weight": np.linspace(0.5, 2.0, 9)}
    compiled = _compiled(lambda tensors: _compute(loss, tensors, None), batch)
    for how, function in compiled.items():
        for part in (batch, _rows(batch, slice(5))):
            value = float(ops.convert_to_numpy(function(tensors(part))))
            _expect_equal(value, _value(loss, part), how, "eagerly")


def _rows(batch, index):
    return tree.map_structure(lambda x: x[index], batch)


def _large(batch):
    outputs = {name: batch[name] for name in OUTPUTS}
    return batch | tree.map_structure(lambda x: x * 1e4 / np.max(np.abs(x)), outputs)


def tensors(batch, dtype="float32"):
    """The arrays as tensors, floats cast to `dtype`; as they are where it is None."""
    tensors = tree.map_structure(ops.convert_to_tensor, batch)
    if dtype is None:
        return tensors
    is_float = keras.backend.is_float_dtype
    return tree.map_structure(
        lambda x: ops.cast(x, dtype) if is_float(x.dtype) else x, tensors
    )


def _compute(loss, batch, dtype="float32"):
    with warnings.catch_warnings():
        # That a foreign loss ignores weights is said by the checks themselves.
        warnings.filterwarnings("ignore", ".*ignores sample_weight", UserWarning)
        with _same_state(loss):
            return ops.convert_to_tensor(loss.compute_loss(**tensors(batch, dtype)))


@contextlib.contextmanager
def _same_state(loss):
    """Puts a declared state back: the checks compare values that start from the same."""
    layers = loss.layers if loss.has_state else ()
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    # JAX's arrays never change, and a copy would belong to the function that is traced.
    is_jax = keras.backend.backend() == "jax"
    before = [ops.convert_to_tensor(v) if is_jax else ops.copy(v) for v in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def _value(loss, batch, dtype="float32"):
    return float(ops.convert_to_numpy(at_least_float32(_compute(loss, batch, dtype))))


def _student_gradient(loss, batch, dtype="float32"):
    """Gradient with respect to the student's outputs, a list of arrays."""
    batch = tensors(batch, dtype)
    student = batch["student_outputs"]

    def value(student):
        return _compute(loss, batch | {"student_outputs": student}, None)

    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(_without_state(value))(student)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(student)
            result = value(student)
        gradient = tape.gradient(result, student, unconnected_gradients="zero")
    return [ops.convert_to_numpy(x) for x in tree.flatten(gradient)]


def _without_state(function):
    """The function, which leaves the moments of a loss's batch normalisations as they are.

    JAX must not see a variable change.
    """

    def stateless(x):
        with keras.StatelessScope():
            return function(x)

    return stateless


def _compiled(function, batch):
    """A function of tensors like a batch's, in each way that the backend compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return {"jax.jit": jax.jit(_without_state(function))}
    import tensorflow as tf

    def spec(x):
        return tf.TensorSpec((None, *x.shape[1:]), x.dtype)

    def graph(**options):
        # Called without its signature, TensorFlow would warn of retracing.
        compiled = tf.function(function, autograph=False, **options)
        return compiled.get_concrete_function(tree.map_structure(spec, tensors(batch)))

    return {"tf.function": graph(), "jit_compile=True": graph(jit_compile=True)}


def raised(error):
    return f"{type(error).__name__} is raised: {error}"


def _expect(holds, seen, expected):
    if not holds:
        raise AssertionError(f"{seen}. Expected: {expected}.")


def _expect_equal(value, other, what, than):
    # Rounding of float32 makes less of a difference; a wrong value far more.
    is_equal = abs(value - other) <= 1e-4 * max(abs(value), abs(other)) + 1e-7
    _expect(is_equal, f"{value:.6g} ({what}) and {other:.6g} ({than})", "the same value")


def _expect_finite(values, what):
    values = ops.convert_to_numpy(ops.cast(values, "float32"))
    _expect(np.all(np.isfinite(values)), f"{values} for {what}", "finite values")


def _expect_refused(loss, batch, words):
    shapes = {name: tree.flatten(x)[0].shape for name, x in batch.items()}
    try:
        seen = f"the value {_value(loss, batch):.6g}"
    except Exception as error:  # Of the backend: any.
        seen = raised(error)
        if isinstance(error, ValueError) and all(word in str(error) for word in words):
            return
    expected = f"a ValueError that says {' and '.join(map(repr, words))}"
    _expect(False, f"{seen} for inputs of shapes {shapes}", expected)


def _expect_shapes_refused(loss, batch):
    shapes = [str(tree.flatten(batch[name])[0].shape) for name in OUTPUTS]
    if shapes[0] != shapes[1]:
        _expect_refused(loss, batch, ["student_outputs", *shapes])
