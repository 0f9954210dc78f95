"""Two data sets of the same examples, read side by side."""

import tensorflow as tf


def pairs(examples, teacher_inputs):
    """A tf.data.Dataset of (example, what the teacher takes of it).

    Args:
        examples, teacher_inputs: `tf.data.Dataset`s of single elements in one order. Where
            one has more than the other, the reading stops with an error.

    Raises:
        ValueError: They are known to differ in number, or one is shuffled anew each time.
    """
    for dataset in (examples, teacher_inputs):
        check_fixed_order(dataset)
    counts = [int(x.cardinality()) for x in (examples, teacher_inputs)]
    if tf.data.UNKNOWN_CARDINALITY not in counts:
        if counts[0] != counts[1]:
            raise ValueError(
                "`teacher_inputs` must have one row for each example. Received: "
                f"{counts[1]} rows for {counts[0]} examples."
            )
        return tf.data.Dataset.zip(examples, teacher_inputs)
    # Their number stays unknown, or `fit` would not read so far as to see the ends.
    both = tf.data.Dataset.zip(_with_end(examples), _with_end(teacher_inputs)).map(_pair)
    return both.take_while(lambda is_end, *_: ~is_end).map(lambda _, x, y: (x, y))


def check_fixed_order(dataset):
    """Refuses a tf.data.Dataset that is shuffled anew each time it is read.

    Raises:
        ValueError: It is, so nothing can be put beside its elements by their order.
    """
    todo = [dataset]
    while todo:
        dataset = todo.pop()
        # TensorFlow keeps what a shuffled dataset is told to itself.
        if getattr(dataset, "_reshuffle_each_iteration", False):
            raise ValueError(
                "A tf.data.Dataset that is shuffled anew each time has no order by which "
                "anything could be put beside its examples. Shuffle what this function "
                "returns instead, or say reshuffle_each_iteration=False."
            )
        # What is kept of the first time comes in the same order again.
        if type(dataset).__name__ != "CacheDataset":
            todo += dataset._inputs()


def _with_end(dataset):
    """(is it the end, a tuple of the element), one more than there are."""
    end = dataset.take(1).map(lambda *element: (True, element))
    return dataset.map(lambda *element: (False, element)).concatenate(end)


def _pair(one, other):
    (is_end, x), (is_other_end, y) = one, other
    tf.debugging.assert_equal(
        is_end,
        is_other_end,
        "`teacher_inputs` and `examples` differ in number: one ended before the other.",
    )
    # An element that was no tuple came as one of length 1.
    return is_end, *(z[0] if len(z) == 1 else z for z in (x, y))
