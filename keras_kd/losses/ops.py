"""Tensor operations that losses share: `keras.ops` alone, so any backend runs them."""

import keras
from keras import ops

# log(p) of a probability that underflowed to zero; the smallest normal float32 is 1e-38.
_SMALLEST = 1e-37


def at_least_float32(x):
    """`x` as a tensor, half precision raised to float32 and float64 left as it is.

    Sums of exponentials lose too many digits in 16 bits.
    """
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")


def fits_shape(shape, other):
    """Whether two shapes agree, where an unknown dimension (None) agrees with any."""
    return len(shape) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )


def of_shape(x, shape):
    """`x`, if it is of that shape, where not all sizes are known before the model runs.

    The shapes fit as far as they are known. Where the others turn out to differ the model
    stops, and nothing is broadcast.

    Args:
        x: A tensor.
        shape: Integers and integer tensors, as `ops.shape` gives them.
    """
    sizes = ops.shape(x)
    if all(isinstance(size, int) for size in (*sizes, *shape)):
        return x
    # No slice can be of -2. TensorFlow would leave out a reshape to that size.
    sizes = [
        one if isinstance(one, int) and isinstance(other, int)
        else ops.where(ops.equal(one, other), one, -2)
        for one, other in zip(sizes, shape, strict=True)
    ]
    return ops.slice(x, [0] * len(sizes), sizes)


def of_one_shape(x, y):
    """Two tensors, if they are of one shape, as `of_shape`."""
    return x, of_shape(y, ops.shape(x))


def log_softmax(logits, temperature=1.0):
    """Logarithm of `softmax(logits / temperature)` over the last axis.

    Taken in log space: finite for any finite logits, and unchanged by a constant added
    to all of them.

    Args:
        logits: (..., num_classes), raw, no softmax.
        temperature: T > 0.

    Returns:
        (..., num_classes), float32 (float64 for float64 logits).
    """
    return ops.log_softmax(at_least_float32(logits) / temperature, axis=-1)


def log_probabilities(probabilities):
    """Logits of given probabilities: softmax(log(p) / T) is p, softened."""
    return ops.log(ops.maximum(at_least_float32(probabilities), _SMALLEST))


def log_odds(probabilities):
    """Logits of given probabilities, log(p) - log(1 - p): sigmoid(log_odds(p)) is p.

    Small p keep all their digits; how near p is to 1 is as its own precision has it.
    """
    p = at_least_float32(probabilities)
    # The largest below 1, of which the other's logarithm is finite.
    epsilon = 1.2e-16 if keras.backend.standardize_dtype(p.dtype) == "float64" else 6e-8
    # Near 1 it is taken off without rounding, and near 0 its logarithm is next to nothing.
    return ops.log(ops.maximum(p, _SMALLEST)) - ops.log(1 - ops.minimum(p, 1 - epsilon))


def of_units(logits, units):
    """Logits of one unit as those of two classes, and the other way round.

    Args:
        logits: (..., 1), each a z, or (..., 2), each (a, b).
        units: 2 makes (0, z) of z; 1 makes b - a of (a, b). The second class is the yes.
    """
    if units == 2:
        return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
    return logits[..., 1:] - logits[..., :1]


def kl_divergence(teacher_log_probs, student_log_probs):
    """`sum_c p_c * (log p_c - log q_c)` over the last axis, p the teacher's.

    Never negative: rounding alone can put it a hair below zero.
    """
    p, q = ops.exp(teacher_log_probs), ops.exp(student_log_probs)
    per_class = p * (teacher_log_probs - student_log_probs)
    # q - p sums to zero, and to what rounding made of it: at high temperatures, where the
    # divergence is small, float32 keeps two digits more.
    return ops.maximum(ops.sum(per_class + (q - p), axis=-1), 0.0)


def cross_entropy(teacher_log_probs, student_log_probs):
    """`-sum_c p_c * log q_c` over the last axis, p the teacher's."""
    return -ops.sum(ops.exp(teacher_log_probs) * student_log_probs, axis=-1)


def log_sigmoids(logits, temperature=1.0):
    """Logarithms of `sigmoid(logits / temperature)` and of 1 minus it.

    Taken in log space: finite for any finite logits.

    Args:
        logits: (...), raw, no sigmoid.
        temperature: T > 0.

    Returns:
        A pair of (...), float32 (float64 for float64 logits).
    """
    logits = at_least_float32(logits) / temperature
    return ops.log_sigmoid(logits), ops.log_sigmoid(-logits)


def bernoulli_kl(teacher, student):
    """`p * (log p - log q) + (1 - p) * (log(1 - p) - log(1 - q))`, p the teacher's.

    Never negative: rounding alone can put it a hair below zero.

    Args:
        teacher, student: As `log_sigmoids` gives them.
    """
    divergence = sum(
        ops.exp(x) * (x - y) + (ops.exp(y) - ops.exp(x))
        for x, y in zip(teacher, student, strict=True)
    )
    return ops.maximum(divergence, 0.0)


def bernoulli_cross_entropy(teacher, student):
    """`-p * log q - (1 - p) * log(1 - q)`, p the teacher's; as `bernoulli_kl`."""
    return -sum(ops.exp(x) * y for x, y in zip(teacher, student, strict=True))


def label_mask(y_true, logits):
    """Where each example's labelled class is.

    Args:
        y_true: Integer labels, one for each row of logits, with or without a last axis of
            1; or one-hot labels of the logits' shape, of which the largest is taken.
        logits: (batch, ..., num_classes), two classes or more.

    Returns:
        (batch, ..., num_classes), bool.

    Raises:
        ValueError: `y_true` has another shape.
    """
    y_true = ops.convert_to_tensor(y_true)
    rows, received = tuple(logits.shape[:-1]), tuple(y_true.shape)
    num_classes = logits.shape[-1]
    if len(received) == len(rows) + 1 and received[-1] is None:
        # Whether one-hot or not is known only when the model runs.
        is_column = ops.equal(ops.shape(y_true)[-1], 1)
        largest = ops.argmax(y_true, axis=-1)
        y_true = ops.where(is_column, ops.cast(y_true[..., 0], largest.dtype), largest)
    elif fits_shape(received, (*rows, 1)):
        y_true = ops.squeeze(y_true, axis=-1)
    elif fits_shape(received, (*rows, num_classes)):
        y_true = ops.argmax(y_true, axis=-1)
    elif not fits_shape(received, rows):
        raise ValueError(
            "`y_true` must hold one label for each row of logits, or one-hot labels of "
            f"their shape. Received: y_true of shape {received}, logits of shape "
            f"{tuple(logits.shape)}."
        )
    y_true = ops.cast(y_true, "int32")
    y_true = of_shape(y_true, ops.shape(logits)[:-1])
    return ops.one_hot(y_true, num_classes, dtype="bool")


def where_labelled(mask, values):
    """`values`, NaN where the label is none of the classes: of such there is no loss."""
    return ops.where(ops.any(mask, axis=-1), values, float("nan"))


def at_label(mask, values):
    """`values` at the labelled class, (batch, ...): of (batch, ..., num_classes)."""
    return ops.sum(ops.where(mask, values, 0.0), axis=-1)


def without_label(mask, logits):
    """Logits in which the labelled class has no probability.

    Not minus infinity, of which a gradient makes 0 * inf.
    """
    return ops.where(mask, -1e30, logits)


def norm(x, axis=-1):
    """Euclidean norm over one axis, whose gradient at the zero vector is zero, not NaN."""
    square = ops.sum(ops.square(x), axis=axis)
    is_zero = ops.equal(square, 0.0)
    return ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, square)))


def flat(features):
    """(batch, ...) as (batch, size), float32 (float64 for float64 features)."""
    features = at_least_float32(features)
    return ops.reshape(features, (ops.shape(features)[0], -1))


def unit_vectors(x):
    """The vectors in the last axis divided by their length; zeros stay zeros."""
    # One division a vector, and its gradient: of each number both take longer.
    return x * ops.expand_dims(ops.divide_no_nan(1.0, norm(x)), axis=-1)


def times_axis(matrix, features, axis):
    """Weighted sums along one axis of maps: row i of the matrix makes place i.

    A product of matrices: cut into rows and put together, maps take several times as long.

    Args:
        matrix: Lists of numbers, (new, old).
        features: (batch, height, width, channels).
        axis: 1 or 2, of length `old`.
    """
    matrix = ops.convert_to_tensor(matrix, dtype=features.dtype)
    if axis == 2:
        return ops.matmul(matrix, features)
    _, height, width, channels = ops.shape(features)
    rows = ops.reshape(features, (-1, height, width * channels))
    return ops.reshape(ops.matmul(matrix, rows), (-1, matrix.shape[0], width, channels))


def column_products(x, y):
    """Products of all columns of one matrix with all of another, for each example.

    Its own gradient transposes x, which takes longer than the products.

    Args:
        x: (batch, rows, columns).
        y: (batch, rows, other columns).

    Returns:
        (batch, columns, other columns).
    """

    @ops.custom_gradient
    def products(x, y):
        def gradient(*args, upstream=None):
            # PyTorch alone passes it by keyword.
            upstream = args[0] if upstream is None else upstream
            return ops.matmul(y, _transposed(upstream)), ops.matmul(x, upstream)

        return ops.matmul(_transposed(x), y), gradient

    return products(x, y)


def _transposed(x):
    return ops.transpose(x, (0, 2, 1))
