"""Examples read in batches, and joined with cached teacher outputs and their numbers."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow import nest

from keras_kd.data.examples import ExamplesDataset, Held, rows_in_turn, views_in_turn
from keras_kd.data.pairing import check_fixed_order, pairs
from keras_kd.data.rows import Rows, as_array, constant, gather
from keras_kd.training import batch as batches

# Streamed examples are joined with their outputs this many at a time.
_CHUNK = 64
# What TensorFlow says of examples that do not go in one batch.
_DIFFERENT_SHAPES = ("Cannot batch tensors", "Cannot add tensor to the batch")


class ArrayExamples:
    """Examples in memory.

    Args:
        data: x, (x, y) or (x, y, sample_weight) of NumPy arrays, each (examples, ...), or
            of tuples and dicts of them; y may be None. In place of an array there may be
            `keras_kd.data.rows.Rows`, which are read batch by batch.

    Attributes:
        count: How many examples there are.
        shapes: Of each array that the teacher takes of one example.
        are_apart: Whether that is something else than the student's x.

    Raises:
        ValueError: `data` is something else, or empty.
    """

    def __init__(self, data):
        if not isinstance(data, (tuple, dict, np.ndarray, Rows)):
            raise ValueError(
                "`dataset` must be a tf.data.Dataset of single examples x, (x, y) or "
                "(x, y, sample_weight), or NumPy arrays of the same in a tuple. "
                f"Received: {type(data).__name__}."
            )
        x, *labels = keras.utils.unpack_x_y_sample_weight(data)
        self._given = [part is not None for part in labels]
        labels = tuple(part for part in labels if part is not None)
        # tf.data would stack the arrays of a list.
        parts = tree.lists_to_tuples((x, labels))
        self._x, self._labels = tree.map_structure(as_array, parts)
        check_numbers([array.dtype for array in tree.flatten(self._x)])
        arrays = tree.flatten((self._x, self._labels))
        if len({array.shape[:1] for array in arrays} - {(0,)}) != 1 or not arrays[0].ndim:
            raise ValueError(
                "`dataset` must hold arrays with one row for each example, and at least "
                f"one example. Received: shapes {[array.shape for array in arrays]}."
            )
        self.count = len(arrays[0])
        self.are_apart = batches.has_teacher_inputs(self._x)
        self._taught = batches.teacher_inputs_of(self._x)
        self._x = batches.inputs_of(self._x)
        self.shapes = [array.shape[1:] for array in tree.flatten(self._taught)]

    def inputs(self, batch_size):
        """Yields what the teacher takes in batches, in order."""
        for start in range(0, self.count, batch_size):
            rows = slice(start, start + batch_size)
            yield tree.map_structure(lambda array: array[rows], self._taught)

    def join(self, outputs=None, views=1, augment=None, seed=0):
        """The examples with the teacher's outputs and their numbers, `ExamplesDataset`.

        Args:
            outputs: As `keras_kd.training.batch.encode` gives them, of arrays (views *
            count, ...):
                view 0 of all examples, then view 1, and so on. None joins none.
            views: How many views of each example there are.
            augment: `augment(inputs, indices, view, seed)` that makes them, or None.
            seed: Integer, for `augment`.
        """
        count = self.count
        outputs = {} if outputs is None else {"teacher_outputs": outputs}
        # The teacher has seen its own where its outputs are there.
        is_asked = self.are_apart and not outputs
        taught = {"teacher_inputs": self._taught} if is_asked else {}
        arrays = (self._x, self._labels, taught, outputs)
        tensors = nest.map_structure(constant, arrays)

        def make(arrays, rows, take):
            def taken(arrays, rows):
                return nest.map_structure(lambda array: take(array, rows), arrays)

            x, labels, taught, outputs = arrays
            indices = rows % count
            inputs = taken(x, indices)
            if augment is not None:
                inputs = augment(inputs, indices, rows // count, seed)
            carried = taken(outputs, rows) | taken(taught, indices)
            packed = batches.pack(inputs, index=indices, **carried)
            return _element(packed, taken(labels, indices), self._given)

        @tf.function
        def gather_rows(rows):
            return make(tensors, rows, gather)

        # Augmentation is TensorFlow's, whatever the backend.
        are_arrays = not any(isinstance(x, Rows) for x in nest.flatten(arrays))
        held = Held(arrays, make) if are_arrays and augment is None else None
        return ExamplesDataset(rows_in_turn(views, count), gather_rows, held)


class StreamedExamples:
    """Examples of a tf.data.Dataset, read one after another, never all of them at once.

    Args:
        dataset: A tf.data.Dataset of single examples.
        for_teacher: Whether it may carry what the teacher alone takes.

    Attributes:
        count: How many examples there are; None where tf.data does not know.
        shapes: Of each tensor that the teacher takes of one example; None where tf.data
            does not know.
        are_apart: Whether that is something else than the student's x.

    Raises:
        ValueError: `dataset` is empty or infinite, or not of x, (x, y) or
            (x, y, sample_weight) with x made of numbers.
    """

    def __init__(self, dataset, for_teacher=False):
        _check_dataset(dataset, for_teacher)
        parts = _split(dataset.element_spec)
        self._given = [not _is_none(spec) for spec in parts[1:]]
        self._dataset = dataset if all(self._given) else dataset.map(_without_none)
        cardinality = int(dataset.cardinality())
        self.count = cardinality if cardinality >= 0 else None
        self.are_apart = batches.has_teacher_inputs(parts[0])
        specs = nest.flatten(batches.teacher_inputs_of(parts[0]))
        self.shapes = [
            None if spec.shape.rank is None else tuple(spec.shape) for spec in specs
        ]

    def inputs(self, batch_size):
        """Yields what the teacher takes in batches, in order."""
        for examples in self._read(batch_size):
            yield batches.teacher_inputs_of(_split(examples)[0])

    def in_memory(self):
        """All examples as `ArrayExamples`.

        Raises:
            ValueError: They cannot be put in batches.
        """
        read = list(self._read(batch_size=1024))
        if not read:
            raise ValueError("`dataset` is empty.")
        whole = nest.map_structure(lambda *parts: np.concatenate(parts), *read)
        x, *labels = _split(whole)
        return ArrayExamples(_element(x, labels, self._given))

    def with_index(self):
        """The examples with their numbers, a tf.data.Dataset."""

        def add(index, example):
            x, *labels = _split(example)
            return _element(batches.pack(x, index=index), labels, self._given)

        check_fixed_order(self._dataset)
        return self._dataset.enumerate().map(add, num_parallel_calls=tf.data.AUTOTUNE)

    def beside(self, outputs, count):
        """The examples with given outputs and their numbers, a tf.data.Dataset.

        Args:
            outputs: As `keras_kd.training.batch.encode` gives them, arrays (count, ...).
            count: How many there are. Another number of examples stops the reading.
        """
        if self.count not in (None, count):
            raise ValueError(
                "`outputs` must have one row for each example. Received: "
                f"{count} rows for {self.count} examples."
            )
        check_fixed_order(self._dataset)
        with tf.device("CPU:0"):
            outputs = nest.map_structure(tf.constant, outputs)

        def add(index, example):
            x, *labels = _split(example)
            packed = batches.pack(x, _rows(outputs, index), index)
            return _element(packed, labels, self._given)

        counted = self._dataset.apply(tf.data.experimental.assert_cardinality(count))
        return counted.enumerate().map(add, num_parallel_calls=tf.data.AUTOTUNE)

    def beside_inputs(self, teacher_inputs):
        """The examples with what the teacher takes of each and their numbers.

        Args:
            teacher_inputs: A tf.data.Dataset of single ones, in the same order. Another
                number of them stops the reading.

        Returns:
            A tf.data.Dataset.
        """

        def add(index, pair):
            example, taught = pair
            x, *labels = _split(example)
            packed = batches.pack(x, index=index, teacher_inputs=taught)
            return _element(packed, labels, self._given)

        both = pairs(self._dataset, teacher_inputs)
        return both.enumerate().map(add, num_parallel_calls=tf.data.AUTOTUNE)

    def join(self, read_view, views, augment, seed, count):
        """The examples with the teacher's outputs and their numbers, a tf.data.Dataset.

        While it is iterated over, each example is compared with what the teacher saw.

        Args:
            read_view: Takes the view's number, an int64 scalar tensor, and gives a
                tf.data.Dataset of batches of any size: `fingerprints` of x, and the
                outputs as `keras_kd.training.batch.encode` gives them.
            views, augment, seed: As in `ArrayExamples.join`.
            count: How many examples there are.
        """

        def join_chunk(view, indices, examples, chunk):
            x, *labels = _split(examples)
            cached, outputs = chunk
            _assert_same(fingerprints(batches.teacher_inputs_of(x)), cached)
            inputs = batches.inputs_of(x)
            if augment is not None:
                inputs = augment(inputs, indices, tf.fill(tf.shape(indices), view), seed)
            packed = batches.pack(inputs, outputs, index=indices)
            return _element(packed, labels, self._given)

        def of_view(view):
            chunks = tf.data.Dataset.zip(
                tf.data.Dataset.range(count).batch(_CHUNK),
                self._dataset.batch(_CHUNK),
                read_view(view).rebatch(_CHUNK),
            )
            joined = chunks.map(
                lambda *chunk: join_chunk(view, *chunk), num_parallel_calls=tf.data.AUTOTUNE
            )
            counted = tf.data.experimental.assert_cardinality(count)
            return joined.unbatch().apply(counted)

        return views_in_turn(of_view, views, count)

    def _read(self, batch_size):
        """Yields batches of whole examples, as NumPy arrays."""
        batched = self._dataset.batch(batch_size).prefetch(1)
        try:
            yield from batched.as_numpy_iterator()
        except tf.errors.InvalidArgumentError as error:
            if not any(text in error.message for text in _DIFFERENT_SHAPES):
                raise
            raise ValueError(
                "`dataset` gives examples that differ in shape, so they cannot be put in "
                "batches. Crop or pad x, and pad labels of any length. "
                f"Received: {error.message}"
            ) from error


def fingerprints(inputs):
    """What tells the examples of a batch apart, in a graph: (batch, 8 * tensors), uint8."""
    return tf.concat([tf.fingerprint(x) for x in nest.flatten(inputs)], axis=-1)


def _rows(tensors, rows):
    return nest.map_structure(lambda tensor: gather(tensor, rows), tensors)


def _split(element):
    """x, y and sample weight of one example, as many as there are."""
    return element if isinstance(element, tuple) else (element,)


def _element(x, labels, given):
    """x, y and sample weight as one element.

    Args:
        x: Of one example, or of several.
        labels: Those of y and sample weight that there are.
        given: Whether there is y, and whether there is a sample weight.
    """
    labels = iter(labels)
    labels = [next(labels) if is_given else None for is_given in given]
    if labels[1:] and labels[0] is None and labels[1] is not None:
        # Keras's function leaves both out where there is no y.
        return x, *labels
    return keras.utils.pack_x_y_sample_weight(x, *labels)


def _is_none(spec):
    # TensorFlow keeps the class to itself.
    return type(spec).__name__ == "NoneTensorSpec"


def _without_none(*parts):
    return tuple(part for part in parts if part is not None)


def _assert_same(fingerprint, cached):
    tf.debugging.assert_equal(
        fingerprint,
        cached,
        "`dataset` gives other examples than the teacher saw, or in another order. It must "
        "give the same ones in the same order each time: shuffle what cache_teacher "
        "returns, and augment by its argument `augment`.",
    )


def _check_dataset(dataset, for_teacher):
    spec = dataset.element_spec
    parts = _split(spec)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "`dataset` must give single examples x, (x, y) or (x, y, sample_weight). "
            f"Received: elements {spec}."
        )
    x = parts[0]
    is_taken = for_teacher and batches.has_teacher_inputs(x)
    if batches.inputs_of(x) is not x and not is_taken:
        raise ValueError(
            "`dataset` carries the examples' numbers, or teacher outputs or inputs, "
            "already, as what with_index, cache_teacher, with_teacher_outputs and "
            "with_teacher_inputs return does. Give the examples themselves."
        )
    given = [parts[0], *(part for part in parts[1:] if not _is_none(part))]
    if not all(isinstance(x, tf.TensorSpec) for x in nest.flatten(given)):
        raise ValueError(
            "`dataset` must give dense tensors, each of one shape in all examples; pad "
            f"labels of any length. Received: elements {spec}."
        )
    check_numbers([x.dtype.as_numpy_dtype for x in nest.flatten(parts[0])])
    cardinality = int(dataset.cardinality())
    if cardinality in (0, tf.data.INFINITE_CARDINALITY):
        kind = "infinite; take(n) ends it" if cardinality else "empty"
        raise ValueError(f"`dataset` is {kind}.")


def check_numbers(dtypes, what="`dataset` must give numbers as x"):
    """Refuses text and objects, a ValueError; `what` begins the message."""
    # bfloat16 is a number although NumPy's kind of it is "V".
    if any(np.dtype(dtype).kind in "OSUMm" for dtype in dtypes):
        raise ValueError(
            f"{what}; do what makes them of text before. "
            f"Received: {', '.join(np.dtype(dtype).name for dtype in dtypes)}."
        )
