"""A cache folder filled with a teacher's answers, checked, and read."""

import collections
import itertools

import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd.cache.examples import fingerprints
from keras_kd.cache.files import CacheFolder, examples_name, output_name
from keras_kd.models.fingerprints import ExamplesFingerprint
from keras_kd.runs.versions import versions

# A shard has at most so many examples and bytes; the number of examples is a power of two.
SHARD_EXAMPLES = 4096
SHARD_BYTES = 2**26
# Answers may differ by so much of the largest one on another machine.
_SAME_ANSWER = 0.05


def all_answers(answers, examples, views, batch_size, progress):
    """The answers to all examples, in memory.

    Args:
        answers: `TeacherAnswers`.
        examples: `ArrayExamples`.
        views: How many views of each example.
        batch_size: How many examples at once.
        progress: A tqdm bar that counts examples.

    Returns:
        list of arrays (views * examples, ...), view by view.
    """
    arrays = _empty(answers, views, examples.count)
    first = 0
    for inputs in examples.inputs(batch_size):
        rows = slice(first, first + len(tree.flatten(inputs)[0]))
        for view in range(views):
            for array, values in zip(arrays, answers(inputs, first, view), strict=True):
                array[view, rows] = values
        progress.update(rows.stop - first)
        first = rows.stop
    return _view_by_view(arrays)


class CachedAnswers:
    """A teacher's answers in a folder.

    Args:
        path: Of the folder.
        answers: `TeacherAnswers`.
        examples: `ArrayExamples` or `StreamedExamples`.
        settings, former: dicts of JSON values; what must be the same for the cache to be
            reused, and what earlier versions wrote of the same.
        views: How many views of each example.
        batch_size: How many examples the teacher sees at once, a power of two.

    Raises:
        CacheError: What is there is damaged, or was made with other settings.
    """

    def __init__(self, path, answers, examples, settings, former, views, batch_size):
        self._answers = answers
        self._examples = examples
        self._views = views
        size = _shard_examples(answers.outputs, views)
        self._batch_size = min(batch_size, size)
        self._batches_per_shard = size // self._batch_size
        settings, former = ({**x, "shard_examples": size} for x in (settings, former))
        self._folder = CacheFolder(path, settings, former)

    @property
    def count(self):
        """How many examples there are."""
        return sum(shard["examples"] for shard in self._folder.shards)

    def fill(self, progress):
        """Runs the teacher over the shards that are not there, or checks those that are.

        Args:
            progress: A tqdm bar that counts examples.

        Raises:
            CacheError: The examples are others than those of the cache, or it is damaged.
            OSError: The disk is full, or the like.
        """
        if self._folder.shards is not None:
            self._check_examples(progress)
            return
        batches = self._examples.inputs(self._batch_size)
        shards = []
        while (shard := self._fill_shard(batches, len(shards), progress)) is not None:
            shards.append(shard)
        self._folder.finish(shards, notes=versions())

    def fill_part(self, part, parts, progress):
        """Runs the teacher over every so-many-th shard, while others fill the others.

        Args:
            part: Number of this part, from 0.
            parts: How many there are.
            progress: A tqdm bar that counts examples.

        Raises:
            CacheError, OSError: As `fill`.
        """
        if self._folder.shards is not None:
            return
        batches = self._examples.inputs(self._batch_size)
        for number in itertools.count():
            if number % parts == part:
                if self._fill_shard(batches, number, progress) is None:
                    return
            # All of them are taken, of which there may be none.
            elif not list(itertools.islice(batches, self._batches_per_shard)):
                return

    def check_answers(self, first_batch):
        """Compares the cache with the teacher's answers to the first examples.

        Raises:
            CacheError: They differ. What its configuration does not show does it here.
        """
        for output, values in enumerate(self._answers(first_batch, first=0, view=0)):
            cached = self._folder.read(0, output_name(0, 0, output))
            count = min(len(values), len(cached))
            if not _is_close(values[:count], cached[:count]):
                raise self._folder.refusal(
                    "the teacher answers the first examples differently now, with the same "
                    "weights. Was the code of its layers changed?"
                )

    def read_all(self):
        """The whole cache: list of arrays (views * examples, ...), view by view.

        Raises:
            CacheError: A file is damaged.
        """
        arrays = _empty(self._answers, self._views, self.count)
        first = 0
        for number, shard in enumerate(self._folder.shards):
            rows = slice(first, first + shard["examples"])
            for view, output in np.ndindex(self._views, len(arrays)):
                name = output_name(number, view, output)
                arrays[output][view, rows] = self._folder.read(number, name)
            first = rows.stop
        return _view_by_view(arrays)

    def verify(self):
        """Reads every file; raises a CacheError if one is damaged."""
        self._folder.verify()

    def read_view(self, view):
        """One view as a tf.data.Dataset, shard by shard.

        Args:
            view: int64 scalar tensor.

        Returns:
            Dataset of batches: what tells the examples (`cache.examples.fingerprints`),
            and their outputs as `keras_kd.training.batch.encode` gives them.
        """
        outputs = self._answers.outputs
        width = 8 * len(self._examples.shapes)
        dtypes = [tf.uint8] + [tf.as_dtype(output["dtype"]) for output in outputs]
        shapes = [(None, width)] + [(None, *output["shape"]) for output in outputs]

        def read_numpy(number, view):
            names = [output_name(number, view, output) for output in range(len(outputs))]
            names = [examples_name(number), *names]
            return [self._folder.read(number, name) for name in names]

        def read(number):
            arrays = tf.numpy_function(read_numpy, [number, view], dtypes)
            told, *arrays = map(tf.ensure_shape, arrays, shapes)
            return told, self._answers.to_batch(arrays)

        # The next shard is read while this one is used.
        return tf.data.Dataset.range(len(self._folder.shards)).map(read).prefetch(1)

    def _fill_shard(self, batches, number, progress):
        """Takes a shard's batches from an iterator; the shard, or None at the end."""
        known = self._folder.known_shard(number)
        fingerprint = ExamplesFingerprint()
        arrays = collections.defaultdict(list)
        first = number * self._batches_per_shard * self._batch_size
        for inputs in itertools.islice(batches, self._batches_per_shard):
            if known is None:
                arrays[examples_name(number)].append(fingerprints(inputs).numpy())
                for view in range(self._views):
                    values = self._answers(inputs, first + fingerprint.examples, view)
                    for output, array in enumerate(values):
                        arrays[output_name(number, view, output)].append(array)
            fingerprint.update(tree.flatten(inputs))
            progress.update(len(tree.flatten(inputs)[0]))
        told = fingerprint.result()
        if known is None and fingerprint.examples:
            whole = {name: np.concatenate(parts) for name, parts in arrays.items()}
            return self._folder.write_shard(number, told, whole)
        if known is not None and _told(known) != told:
            reason = _examples_difference([_told(known)], [told], f" in shard {number}")
            raise self._folder.refusal(reason)
        return known

    def _check_examples(self, progress):
        batches = self._examples.inputs(self._batch_size)
        found = []
        while True:
            fingerprint = ExamplesFingerprint()
            for inputs in itertools.islice(batches, self._batches_per_shard):
                fingerprint.update(tree.flatten(inputs))
            if not fingerprint.examples:
                break
            progress.update(fingerprint.examples)
            found.append(fingerprint.result())
        cached = list(map(_told, self._folder.shards))
        if found != cached:
            raise self._folder.refusal(_examples_difference(cached, found))


def _shard_examples(outputs, views):
    """How many examples make a shard, a power of two."""
    row = sum(
        int(np.prod(output["shape"])) * np.dtype(output["dtype"]).itemsize
        for output in outputs
    )
    size = SHARD_EXAMPLES
    while size > 1 and size * row * views > SHARD_BYTES:
        size //= 2
    return size


def _empty(answers, views, count):
    return [
        np.empty((views, count, *output["shape"]), output["dtype"])
        for output in answers.outputs
    ]


def _view_by_view(arrays):
    return [array.reshape(-1, *array.shape[2:]) for array in arrays]


def _told(shard):
    return {key: shard[key] for key in ("examples", "data", "data_in_any_order")}


def _examples_difference(cached, found, where=""):
    """Why two lists of shards' fingerprints differ, as a sentence."""
    before, now = (sum(shard["examples"] for shard in x) for x in (cached, found))
    if before != now:
        return f"`dataset` had {before} examples{where}. Received: {now}."
    before, now = (
        sum(int(shard["data_in_any_order"], 16) for shard in x) % 2**256
        for x in (cached, found)
    )
    if before == now:
        return "`dataset` gives the same examples in another order."
    return "`dataset` gives other examples."


def _is_close(values, cached):
    if values.dtype.kind != "f":
        # Numbers of classes: close log-probabilities may change places.
        return True
    values, cached = np.float32(values), np.float32(cached)
    # Leaves dropped classes out.
    size = np.abs(values[values > -1e4]).max(initial=0)
    return np.allclose(values, cached, rtol=0, atol=_SAME_ANSWER * size)
