"""What scripts/benchmarks/methods.py trains each distillation loss with."""

import collections
import functools
import inspect
import itertools
import time

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd import data
from keras_kd.recipes import zoo
from keras_kd.recipes.model_files import load_model

BATCH_SIZE, HELD_OUT, LABELLED = 256, 5_000, 1_000
STUDENTS = {"fc": "mnist_student", "cnn": "mnist_small_cnn"}
LABELS = ("all", "1000")
SEARCH_SEED = 1_000
ALONE = "alone"

# What multiplies each loss in its authors' (else RepDistiller's) training; 1 where it is
# the loss's own scale. A trial multiplies it again.
WEIGHTS = collections.defaultdict(lambda: 1.0) | {
    "logit_std": 9.0,
    "ttm": 45.0,
    "fitnet": 100.0,
    "at": 1000.0,
    "nst": 50.0,
    "fsp": 50.0,
    "ft": 200.0,
    "pkt": 30_000.0,
    "sp": 3000.0,
    "cc": 0.02,
    "crd": 0.8,
}
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (2.0, 4.0, 8.0)

# The teacher's layers; the student's are the hidden layer before the logits, and the CNN's
# convolutions.
HIDDEN, MAPS = "hidden1", ("pool1", "pool2")
ON_HIDDEN = ("fitnet", "ab", "vid", "simkd", "pkt", "sp", "cc", "crd")

# On maps where there are any. One pair is the deepest.
ON_ONE_MAP = ("fitnet", "ab", "vid", "simkd", "at", "nst", "ft", "ofd")
ON_TWO_MAPS = ("fsp", "reviewkd")


def taps_of(method, student_name, student):
    """The `taps` of a loss; None for the models' own outputs."""
    if student_name == "cnn" and method in ON_TWO_MAPS:
        return list(zip(MAPS, ("conv1", "conv2"), strict=True))
    if student_name == "cnn" and method in ON_ONE_MAP:
        return [(MAPS[-1], "conv2")]
    return [(HIDDEN, student.layers[-2].name)] if method in ON_HIDDEN else None


def methods_for(student_name):
    """The losses that this student has layers for, the student alone first."""
    maps_only = set(ON_ONE_MAP + ON_TWO_MAPS) - set(ON_HIDDEN)
    names = [x for x in kd.losses.names() if student_name == "cnn" or x not in maps_only]
    return [ALONE, *names]


def arguments_of(method):
    return inspect.signature(kd.losses.LOSSES[method]).parameters


def needs_labels(method):
    return method == ALONE or kd.losses.LOSSES[method].needs_labels


def trials_of(method, count):
    """The settings to try: the authors' own, then some drawn from the grid."""
    has_temperature = "temperature" in arguments_of(method) and method != "crd"
    grid = list(itertools.product(FACTORS, TEMPERATURES if has_temperature else (None,)))
    drawn = np.random.default_rng(SEARCH_SEED).permutation(len(grid))
    settings = [(1.0, None), *(grid[i] for i in drawn)]
    return [{"factor": x, "temperature": t} for x, t in settings[:count]]


def loss_of(method, taps, temperature, num_examples):
    """The loss of these taps; a temperature of None is its own default."""
    arguments = {"taps": taps} if taps else {}
    if temperature is not None:
        arguments["temperature"] = temperature
    if method == "crd":
        # A quarter of the authors' negatives, of a data set as large as theirs.
        arguments |= {"num_examples": num_examples, "negatives": 4096}
    return kd.losses.get(method, **arguments)


def labelled_cross_entropy(y_true, logits):
    """Mean over the labelled examples; -1 is no label."""
    y_true = keras.ops.reshape(y_true, (-1,))
    mask = keras.ops.cast(y_true >= 0, logits.dtype)
    losses = keras.losses.sparse_categorical_crossentropy(
        keras.ops.maximum(y_true, 0), logits, from_logits=True
    )
    # Keras divides by the batch.
    share = keras.ops.mean(mask)
    return losses * keras.ops.cast(mask / share, losses.dtype)


class Bench:
    """The data, the teacher, and what it says of the data, each made once.

    Args:
        cache: Folder for the teacher's outputs.
    """

    def __init__(self, cache):
        self._cache = cache
        self._teacher = load_model("mnist/teacher")
        images, labels = data.load_arrays("mnist", "train")
        order = np.random.default_rng(SEARCH_SEED).permutation(len(labels))
        held_out, training = order[:HELD_OUT], order[HELD_OUT:]
        per_class = [training[labels[training] == c][: LABELLED // 10] for c in range(10)]
        labelled = np.concatenate(per_class)
        # The labelled ones come first.
        rest = training[~np.isin(training, labelled)]
        self._rows = np.concatenate([labelled, rest])
        self._images, self._labels = images, labels
        self._held_out = data.scale(images[held_out]), labels[held_out]
        images, labels = data.load_arrays("mnist", "test")
        self._test = data.scale(images), labels

    @functools.lru_cache
    def _examples(self, names):
        """Training examples with the teacher's outputs of these layers."""
        folder = self._cache / "-".join(map(str, names))
        examples = data.scale(self._images[self._rows]), self._labels[self._rows]
        return kd.cache_teacher(
            self._teacher, examples, folder, outputs=list(names), verbose=0
        )

    def _batches(self, names, labels, only_labelled, seed):
        examples = self._examples(names)
        count = len(self._rows)
        steps = count // BATCH_SIZE
        if labels == "all":
            return examples.shuffle(count, seed=seed).batch(BATCH_SIZE, drop_remainder=True)
        few = examples.take(LABELLED).shuffle(LABELLED, seed=seed).repeat()
        if only_labelled:
            return few.batch(BATCH_SIZE).take(steps)
        half = BATCH_SIZE // 2
        others = examples.skip(LABELLED).shuffle(count - LABELLED, seed=seed)

        def both(labelled, others):
            x, y = tf.nest.map_structure(
                lambda *parts: tf.concat(parts, axis=0), labelled, others
            )
            return x, tf.concat([y[:half], -tf.ones_like(y[half:])], axis=0)

        pairs = tf.data.Dataset.zip(
            few.batch(half), others.batch(half, drop_remainder=True)
        )
        return pairs.map(both).take(steps).prefetch(2)

    def train(self, method, student_name, labels, settings, epochs, seed):
        """Trains one student; accuracy on held-out and test images, seconds per epoch."""
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy("mixed_bfloat16")
        student = zoo.build(STUDENTS[student_name])
        keras.config.set_dtype_policy("float32")
        taps = None if method == ALONE else taps_of(method, student_name, student)
        names = tuple(pair[0] for pair in taps) if taps else (None,)
        batches = self._batches(names, labels, needs_labels(method), seed)
        if method == ALONE:
            distiller = kd.Distiller(self._teacher, student, "kd", student_loss_weight=1)
        else:
            loss = loss_of(method, taps, settings["temperature"], len(self._rows))
            weight = WEIGHTS[method] * settings["factor"]
            distiller = kd.Distiller(self._teacher, student, loss, weight)
        distiller.compile(keras.optimizers.Adam(0.001), labelled_cross_entropy)
        timer = EpochTimer()
        distiller.fit(batches, epochs=epochs, verbose=0, shuffle=False, callbacks=[timer])
        held_out, test = (
            float(np.mean(np.argmax(student.predict(x, 1000, verbose=0), axis=-1) == y))
            for x, y in (self._held_out, self._test)
        )
        keras.backend.clear_session()
        # The first epoch has the tracing in it.
        return {"held_out": held_out, "test": test, "seconds": min(timer.seconds)}


class EpochTimer(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)
