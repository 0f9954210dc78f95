"""The processes that train one model together, and what they tell each other."""

import contextlib
import hashlib
import logging
import sys

import keras
import numpy as np

logger = logging.getLogger(__name__)

# What TensorFlow says of the global seed where none was set.
_NO_SEED = 87654321


class WorkerError(ConnectionError):
    """Another worker of the cluster is gone, did not come, or has failed."""


class Workers:
    """The processes that train one model together; one where there is no cluster.

    Args:
        strategy: A `tf.distribute.Strategy`, or None.

    Raises:
        ValueError: There is one, and Keras is on another backend than TensorFlow.

    Attributes:
        count: How many there are.
        index: The number of this one, from 0.
        is_chief: Whether this one writes files.
    """

    def __init__(self, strategy=None):
        if strategy is not None:
            # TensorFlow's default one is none.
            with strategy.scope():
                check_no_strategy()
        self._strategy, self.count, self.index = strategy, 1, 0
        self._sum = None
        resolver = strategy and strategy.cluster_resolver
        if resolver is not None and resolver.cluster_spec():
            jobs = resolver.cluster_spec().as_dict()
            # "chief" comes before "worker" in TensorFlow, too.
            order = [(job, i) for job in sorted(jobs) for i in range(len(jobs[job]))]
            self.count = len(order)
            if self.count > 1:
                self.index = order.index((resolver.task_type, resolver.task_id))
        self.is_chief = self.index == 0

    @classmethod
    def of(cls, model):
        """Those that train a `keras.Model`, by the scope in which it was made."""
        return cls(strategy_of(model))

    def any(self, here=False):
        """Whether it is so on any worker. Waits for all of them.

        Raises:
            WorkerError: One of them is gone.
        """
        if self.count == 1:
            return bool(here)
        return float(self._summed(float(here))) > 0

    def differ(self, told):
        """Whether a text is another one on some worker. Waits for all of them.

        Raises:
            WorkerError: One of them is gone.
        """
        if self.count == 1:
            return False
        digest = hashlib.sha256(told.encode()).digest()
        bits = np.unpackbits(np.frombuffer(digest, "uint8")).astype("float32")
        sums = np.asarray(self._summed(bits))
        return bool(np.any((sums > 0) & (sums < self._strategy.num_replicas_in_sync)))

    def _summed(self, numbers):
        """The sum over all replicas of what each worker gives."""
        import tensorflow as tf

        if self._sum is None:
            # Traced once for a shape, in the same order on all of them.
            self._sum = tf.function(
                lambda x: self._strategy.run(_sum_over_replicas, args=(x,))
            )
        with gone_workers_told(self):
            told = self._sum(tf.constant(numbers))
            return self._strategy.experimental_local_results(told)[0]

    def wait(self):
        """Waits until all workers are here.

        Raises:
            WorkerError: One of them is gone.
        """
        self.any()

    def after_chief(self, action):
        """The result of `action`, which the chief runs first and the others after it.

        Raises:
            WorkerError: It failed on the chief, or a worker is gone.
        """
        if self.is_chief:
            try:
                result = action()
            except Exception:
                self.any(True)
                raise
            self.any()
            return result
        if self.any():
            raise WorkerError("Worker 0, the chief, has failed; its own message says why.")
        return action()


def check_backend(asked):
    """Refuses what is TensorFlow's alone where Keras runs on another backend.

    Args:
        asked: What it is, for the message.

    Raises:
        ValueError: Keras runs on another backend.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return
    repair = "or leave it out"
    if backend == "jax":
        repair = "or give keras.distribution.set_distribution a DataParallel"
    raise ValueError(
        f"Keras is on {backend}, and {asked} trains on TensorFlow alone: every process "
        f"would train by itself, on one device. Set KERAS_BACKEND=tensorflow, {repair}."
    )


def check_no_strategy():
    """Refuses a strategy's scope that Keras's backend does not look at; a ValueError."""
    # Whoever is in one has loaded TensorFlow.
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and tensorflow.distribute.has_strategy():
        check_backend("a `tf.distribute` strategy")


def strategy_of(model):
    """The `tf.distribute.Strategy` in whose scope a model was made, or None."""
    # Keras's on TensorFlow; its public property gives a default one instead of None.
    return getattr(model, "_distribute_strategy", None)


def scope_of(model):
    """A context in which variables are made for the strategy of a model, if it has one."""
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def global_seed():
    """TensorFlow's, which `keras.utils.set_random_seed` sets; None where it was not set."""
    import tensorflow as tf

    seed, _ = tf.compat.v1.random.get_seed(1)
    return None if seed == _NO_SEED else seed


def say_if_seeds_differ(workers):
    """Warns where what is drawn at random is not the same on all workers."""
    if workers.count == 1:
        return
    seed = global_seed()
    if workers.differ(str(seed)) or seed is None:
        logger.warning(
            "The workers have no common seed: what they draw, such as first weights and an "
            "order of the data, hangs on each of them, so that the run cannot be repeated, "
            "and a shuffle without a seed gives some examples twice and others not. Call "
            "keras.utils.set_random_seed with the same number on all of them."
        )


class gone_workers_told:
    """A context in which TensorFlow's words for a lost worker become a `WorkerError`."""

    def __init__(self, workers):
        self._workers = workers

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or self._workers.count == 1:
            return
        import tensorflow as tf

        lost = (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.FailedPreconditionError,
            tf.errors.InternalError,
        )
        if isinstance(error, lost):
            raise WorkerError(
                "Another worker is gone, or cannot be reached. Start all workers again; "
                "with a run folder they go on after the last whole epoch. TensorFlow says: "
                f"{_reason(error)}"
            ) from error


def _reason(error):
    """The line of TensorFlow's words that says what happened."""
    lines = [x.strip() for x in str(error).splitlines()]
    # What comes first of an error in a graph, and then whose code it was.
    generic = ("Graph execution error", "Detected at", "File ")
    lines = [x for x in lines if x and not x.startswith(generic)]
    return (lines or [type(error).__name__])[0][:300]


def _sum_over_replicas(value):
    import tensorflow as tf

    # An argument of a function has no device yet, which TensorFlow asks for.
    value = tf.identity(value)
    return tf.distribute.get_replica_context().all_reduce("SUM", value)
