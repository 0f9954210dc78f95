"""What the teacher alone takes of each example, put beside it."""

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd.cache.examples import ArrayExamples, StreamedExamples, check_numbers
from keras_kd.data.pairing import check_fixed_order
from keras_kd.training.batch import pack

_NUMBERS = "`teacher_inputs` must be numbers"


def with_teacher_inputs(examples, teacher_inputs):
    """Puts beside each example what the teacher takes instead of it.

    For a teacher of another tokeniser, another sensor, or the whole picture of which the
    student gets a part. Where Keras layers make the teacher's inputs of the student's,
    `keras_kd.teachers.Preprocessed` needs no second set. `keras_kd.Distiller` gives each
    model its own, and `keras_kd.cache_teacher` the teacher its own once. The student, and
    the file that it is saved or exported to, know nothing of it.

    Args:
        examples: Single examples, before `shuffle` and `batch`, in a fixed order: x, (x, y)
            or (x, y, sample_weight), x the student's. Either NumPy arrays (examples, ...)
            in a tuple, or a finite tf.data.Dataset.
        teacher_inputs: One for each example, in the same order, as the teacher takes them:
            an array (examples, ...), a tuple or a dict of such, or a tf.data.Dataset of
            single ones.

    Returns:
        A tf.data.Dataset of single examples whose x carries the teacher's inputs, to
        shuffle, batch and `fit`, or to give to `cache_teacher`.

    Raises:
        ValueError: They differ in number, or are of another form; a tf.data.Dataset is
            shuffled anew each time, or carries teacher outputs or inputs already.

    Example:

    >>> import numpy as np
    >>> small, large, labels = np.zeros((5, 2)), np.zeros((5, 9)), np.ones(5)
    >>> train_ds = with_teacher_inputs((small, labels), large)
    >>> for x, y in train_ds.batch(5):
    ...     print(sorted(x), y.shape)
    ['keras_kd.index', 'keras_kd.inputs', 'keras_kd.teacher_inputs'] (5,)
    """
    is_dataset = isinstance(teacher_inputs, tf.data.Dataset)
    if is_dataset:
        specs = tf.nest.flatten(teacher_inputs.element_spec)
        dtypes = [x.dtype.as_numpy_dtype for x in specs if hasattr(x, "dtype")]
        check_numbers(dtypes, _NUMBERS)
    if isinstance(examples, tf.data.Dataset):
        if not is_dataset:
            teacher_inputs = tf.data.Dataset.from_tensor_slices(_arrays(teacher_inputs))
        return StreamedExamples(examples).beside_inputs(teacher_inputs)
    teacher_inputs = _read(teacher_inputs) if is_dataset else _arrays(teacher_inputs)
    counts = {len(array) for array in tree.flatten(teacher_inputs)}
    count = ArrayExamples(examples).count
    if counts != {count}:
        raise ValueError(
            "`teacher_inputs` must have one row for each example. Received: "
            f"{' and '.join(map(str, sorted(counts)))} rows for {count} examples."
        )
    x, *labels = examples if isinstance(examples, tuple) else (examples,)
    return ArrayExamples((pack(x, teacher_inputs=teacher_inputs), *labels)).join()


def _read(dataset):
    """A data set's elements as arrays."""
    check_fixed_order(dataset)
    rows = list(dataset.as_numpy_iterator())
    if not rows:
        raise ValueError("`teacher_inputs` are empty.")
    try:
        return tree.map_structure(lambda *x: np.stack(x), *rows)
    except ValueError as error:
        raise ValueError(
            "`teacher_inputs` differ in shape. Pad them; or give the examples, too, as a "
            "tf.data.Dataset, and put both in batches by padded_batch."
        ) from error


def _arrays(teacher_inputs):
    # tf.data would stack the arrays of a list.
    arrays = tree.map_structure(np.asarray, tree.lists_to_tuples(teacher_inputs))
    flat = tree.flatten(arrays)
    if not flat or not all(array.ndim for array in flat):
        raise ValueError(
            "`teacher_inputs` must be arrays (examples, ...), a tuple or a dict of them, "
            "or a tf.data.Dataset of single ones. Received: "
            f"{type(teacher_inputs).__name__}."
        )
    check_numbers([array.dtype for array in flat], _NUMBERS)
    return arrays
