"""Training data of a chain: what goes through them again, and how often they were seen."""

import hashlib
import logging
import math
import random

import keras
import numpy as np

from keras_kd.chain.stage import named
from keras_kd.data.order import ShuffledBatches, is_dataset
from keras_kd.runs.descriptions import is_of_a_library

logger = logging.getLogger(__name__)

# Transformations that begin what is before them when they begin themselves.
_BEGIN_TOGETHER = frozenset(
    f"{x}Dataset"
    for x in (
        "_Batch", "_ParallelBatch", "_PaddedBatch", "_Rebatch", "_LegacyRebatch",
        "_Unbatch", "_Map", "_ParallelMap", "_Filter", "_Prefetch", "_Options", "_Take",
        "_Skip", "_Shard", "_AssertCardinality", "_Zip", "_Shuffle", "Examples",
        "Gathered",
    )
)  # fmt: skip
# A larger array of a PyDataset is taken for its examples, which stay as they are.
_LARGEST = 2**20


def check_data(chain, train_data, measured, run_dir, steps):
    """Refuses data that a chain cannot go through, or a run folder not go on with.

    Args:
        chain: A `keras_kd.DistillationChain`.
        train_data, run_dir, steps: As its `fit` takes them.
        measured: dict of argument to the data that are measured.

    Raises:
        ValueError: As `check_repeatable`; or training data share a shuffle with others.
    """
    check_repeatable(steps, train_data=train_data)
    check_repeatable(**measured)
    for stage in chain.stages:
        with named(stage):
            check_repeatable(steps, train_data=stage.train_data)
            data = train_data if stage.train_data is None else stage.train_data
            if run_dir is None or not stage.epochs or callable(data):
                continue
            if share_state(data, measured.values()):
                raise ValueError(
                    "`train_data` and `validation_data` or `test_data` share a shuffle, or "
                    "a generator that changes with each pass, so that measuring changes "
                    "what comes next in training, and a run folder could not be gone on "
                    "with. Shuffle the training data alone: data.shuffle(...) for one, "
                    "data for the others; and make a generator for each."
                )
    if run_dir is not None and any(map(comes_in_another_order, measured.values())):
        logger.warning(
            "Validation or test data come in another order each time. A run that is gone "
            "on with may differ from one that never stopped in what is measured, and so in "
            "the epoch that a stage chooses."
        )


def check_given(train_data):
    """Refuses training data that are None; a ValueError."""
    if train_data is None:
        raise ValueError(
            "`train_data` must be given, for all stages or for this one. Received: None; a "
            "function must return what it makes."
        )


def check_repeatable(steps=None, **data):
    """Refuses data that can be gone through once alone, or never to their end.

    Args:
        steps: `steps_per_epoch`, where that ends an epoch of data without an end.
        **data: By the argument's name; None is left out.

    Raises:
        ValueError: A generator or another iterator, or an endless `tf.data.Dataset`.
    """
    for name, value in data.items():
        problem = None
        if hasattr(value, "__next__"):
            problem = (
                "can be gone through once, and a chain does so in each epoch and for each "
                "model. Give tf.data.Dataset.from_generator(function, ...), which begins "
                "anew each time, or a keras.utils.PyDataset"
            )
        elif not steps and _is_endless(value):
            problem = (
                "has no end, so a pass would have none. Leave `repeat` out, or end it with "
                "take(steps)"
            )
            if name == "train_data":
                problem += ", or say `steps_per_epoch`"
        if problem:
            raise ValueError(f"`{name}` {problem}. Received: {value!r}.")


def _is_endless(data):
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return is_dataset(data) and int(data.cardinality()) == -1


def counted(dataset, epochs):
    """Data whose number of batches is not known, so that an epoch is always as long.

    Keras begins an iteration more, or not, as it gets to know that number.

    Args:
        dataset: What `fit` takes; other data, and data sets of known length, stay as
            they are.
        epochs: How many were gone through before.

    Returns:
        The data set, counting in `begun` how often an iteration over it has begun.
    """
    if not is_dataset(dataset) or int(dataset.cardinality()) >= 0:
        return dataset
    import tensorflow as tf

    class Counted(tf.data.Dataset):
        begun = _begun_in(epochs)

        def __init__(self):
            super().__init__(dataset._variant_tensor)

        @property
        def element_spec(self):
            return dataset.element_spec

        def _inputs(self):
            return [dataset]

        def __iter__(self):
            self.begun += 1
            return super().__iter__()

    return Counted()


def begin_epoch(data, epoch):
    """Makes data ready for an epoch, as they would be if all before had been gone through.

    Args:
        data: What `in_order` or `counted` gave.
        epoch: Counted from 0.
    """
    if isinstance(data, ShuffledBatches):
        data.epoch = epoch
    while getattr(data, "begun", math.inf) < _begun_in(epoch):
        iter(data)


def _begun_in(epochs):
    """How many iterations Keras's `fit` begins over a data set in so many epochs.

    On TensorFlow it begins one at the end of an epoch, too, and throws it away. (The tests
    see if that changes.)
    """
    return epochs * (2 if keras.backend.backend() == "tensorflow" else 1)


def skip_epochs(data, epochs, to_end=False, steps=None):
    """Makes data go on as if `fit` had gone through them so many epochs.

    Shuffles and views of a `tf.data.Dataset` advance when an iteration begins, so that only
    is repeated, unless what was read changes what comes: then all of it is read. Of a
    `PyDataset` `on_epoch_begin` and `on_epoch_end` are called. Other data have no such
    state, or none that could be known.

    Args:
        data: What `in_order` gave, or a `tf.data.Dataset`.
        epochs: How many.
        to_end: Whether that `fit` was over; else another one goes on with the next epoch.
        steps: `steps_per_epoch`: then all epochs are of one iteration, of which a `fit`
            that goes on takes what lies `order.behind` them.
    """
    if isinstance(data, keras.utils.PyDataset):
        _call_hooks(data, epochs, to_end)
    if not is_dataset(data):
        return
    if steps:
        taken = zip(range(epochs * steps), data, strict=False) if to_end else ()
        for _ in taken:
            pass
        return
    _, at_once = _state_of(data)
    # Elsewhere than on TensorFlow `fit` begins with a look at the first batch, to build
    # what was compiled; one that goes on does that itself.
    looks = to_end and epochs > 0 and keras.backend.backend() != "tensorflow"
    for _ in range(epochs + looks):
        iteration = iter(data)
        if at_once:
            next(iteration, None)
        else:
            for _ in iteration:
                pass
        for _ in range(_begun_in(1) - 1):
            iter(data)


def _call_hooks(data, epochs, to_end):
    if epochs == 0:
        return
    # Keras ends an epoch before the first; the `fit` that goes on does that itself.
    data.on_epoch_end()
    for epoch in range(epochs):
        begin_epoch(data, epoch)
        data.on_epoch_begin()
        if to_end or epoch < epochs - 1:
            data.on_epoch_end()


def share_state(data, others):
    """Whether going through one changes in which order the others come next."""
    own = _stateful(data)
    return any(own & _stateful(x) for x in others)


def doubts(data, steps=None):
    """Why training on the data might not go on as if it had never stopped: sentences.

    Args:
        data: What `in_order` gave.
        steps: `steps_per_epoch`, or None.
    """
    if isinstance(data, ShuffledBatches):
        if steps and _stateful(data):
            return [
                "with `steps_per_epoch` batches of its PyDataset are read ahead of what "
                "on_epoch_begin and on_epoch_end change"
            ]
        return [
            "its PyDataset is gone on with in the same order, but the same bits need that "
            "a batch hangs on its number alone, and on what on_epoch_begin and "
            "on_epoch_end do by a seed"
        ]
    if not is_dataset(data):
        return [f"what a {type(data).__name__} gives next cannot be known"]
    found = set()
    for node in walk(data):
        seeds = (getattr(node, "_seed", None), getattr(node, "_seed2", None))
        if type(node).__name__ == "_ShuffleDataset" and not any(map(_number, seeds)):
            found.add("its data are shuffled without a seed; give shuffle(..., seed=...)")
        if getattr(node, "_deterministic", None) == "false":
            found.add("its data come in any order (deterministic=False)")
        kinds = _operations(node)
        if kinds & {"PyFunc", "EagerPyFunc"}:
            found.add(
                "Python functions make its data (from_generator, numpy_function), which "
                "must give the same each time"
            )
        if "Unseeded" in kinds:
            found.add("its data are changed at random without a seed")
    if is_dataset(data) and data.options().deterministic is False:
        found.add("its data come in any order (deterministic=False)")
    return sorted(found)


def digest(data):
    """SHA-256 of what a `PyDataset` may change in its hooks; None of other data.

    Args:
        data: What `in_order` gave.
    """
    if not isinstance(data, ShuffledBatches) or not _stateful(data):
        return None
    found = hashlib.sha256()
    for name, value in sorted(vars(data.data).items()):
        if isinstance(value, np.random.Generator):
            value = value.bit_generator.state
        elif isinstance(value, (random.Random, np.random.RandomState)):
            value = getattr(value, "getstate", getattr(value, "get_state", None))()
        elif isinstance(value, np.ndarray) and value.size <= _LARGEST:
            value = value.tobytes()
        elif not isinstance(value, (bool, int, float, str, list, tuple)):
            continue
        elif isinstance(value, (list, tuple)) and len(value) > _LARGEST:
            continue
        found.update(f"{name} {value!r}".encode())
    return found.hexdigest()


def comes_in_another_order(data):
    """Whether data, as far as is known, are not the same each time."""
    return bool(_stateful(data))


def _stateful(data):
    """Ids of what in the data has a state of its own."""
    if isinstance(data, ShuffledBatches):
        data = data.data
    if isinstance(data, keras.utils.PyDataset):
        hooks = (type(data).on_epoch_begin, type(data).on_epoch_end)
        return set() if all(map(is_of_a_library, hooks)) else {id(data)}
    return {id(x) for x in walk(data) if _has_state(x)} if is_dataset(data) else set()


def _state_of(dataset):
    """Whether a data set has a state, and if an iteration's beginning alone changes it."""
    below = [_state_of(x) for x in dataset._inputs()]
    has_state = _has_state(dataset)
    at_once = all(x for _, x in below)
    name = type(dataset).__name__
    if any(x for x, _ in below) and name not in (*_BEGIN_TOGETHER, "Counted"):
        at_once = False
    if has_state and name not in ("_ShuffleDataset", "_FlatMapDataset"):
        at_once = False
    if _operations(dataset) - {"AssignAddVariableOp", "Unseeded"}:
        at_once = False
    return has_state or any(x for x, _ in below), at_once


def _has_state(node):
    if type(node).__name__ == "_ShuffleDataset":
        return getattr(node, "_reshuffle_each_iteration", True) is not False
    return bool(_operations(node) - {"Unseeded"})


def _operations(node):
    """Kinds of operations in a data set's functions that give something else each time."""
    found = set()
    for function in node._functions():
        graph = getattr(getattr(function, "function", None), "graph", None)
        if graph is None:
            continue
        definition = graph.as_graph_def()
        inner = [x.node_def for x in definition.library.function]
        for part in [definition.node, *inner]:
            found |= {x for x in map(_kind, part) if x}
    return found


def _kind(node):
    changing = ("PyFunc", "EagerPyFunc", "AssignVariableOp", "AssignAddVariableOp")
    if node.op in changing or node.op.startswith("ShuffleDataset"):
        return node.op
    is_random = "Random" in node.op and not node.op.startswith("Stateless")
    if is_random and {"seed", "seed2"} <= set(node.attr):
        return None if node.attr["seed"].i or node.attr["seed2"].i else "Unseeded"
    return None


def walk(dataset):
    """Yields a data set and all that it is made of."""
    yield dataset
    for inner in dataset._inputs():
        yield from walk(inner)


def _number(value):
    return 0 if value is None else int(value)
