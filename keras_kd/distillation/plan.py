"""How long to train, on how many views, so that it is done in time."""

import dataclasses
import functools
import time

import numpy as np

from keras_kd.data.pipeline import for_models
from keras_kd.models.given_outputs import asks_a_function

# Of the time that is given: for the teacher's answers, at most; and for what comes after
# the training, files and reports.
_TEACHER_SHARE, _AFTER_SHARE = 0.4, 0.1
_MOST_VIEWS, _MOST_EPOCHS = 8, 300
# In fewer epochs a small student does not learn by heart what it sees, and changed images
# hold it up: of Fashion-MNIST, in six, 88.8 % of the validation images against 90.9.
_EPOCHS_FOR_VIEWS = 30
# What images, or views of them, and what a teacher says of them, may take in memory.
MOST_BYTES = 1e9
# Beside training: validation after each epoch, checkpoints.
_AROUND_A_STEP = 1.15
_TIMED_STEPS = 8
# Seconds of a step below which so many times as many are timed, too.
_SHORT, _MORE = 0.05, 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the students of one call are trained.

    Attributes:
        batch_size: Examples a step.
        views: How many augmented views of each image; 0 without augmentation.
        stored: Whether these are kept in memory.
        epochs: Of the student.
        epochs_alone: Of the one on labels alone.
        minutes: What it is expected to take.
    """

    batch_size: int
    views: int
    stored: bool
    epochs: int
    epochs_alone: int
    minutes: float

    def in_words(self, baseline):
        """A line that says it."""
        views = f"{self.views} views of each image, " if self.views else ""
        alone = f", {self.epochs_alone} of the same student alone" if baseline else ""
        return (
            f"Training: {views}{self.epochs} epochs in batches of {self.batch_size}"
            f"{alone}; about {max(self.minutes, 0.1):.2g} min"
        )


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds, as measured in the first moments.

    Attributes:
        teacher: Of its answer to one example.
        step: Of one step of the student.
        view: Of one augmented view.
    """

    teacher: float
    step: float
    view: float


def batch_size_for(count):
    """Examples a step, a power of two, so that an epoch has some fifty steps."""
    return int(np.clip(2 ** int(np.log2(max(count / 50, 1))), 8, 256))


def measure(teacher, student, x, batch_size, augment=None):
    """Times a teacher and a student on this machine, each after a first call.

    Args:
        teacher, student: Built `keras.Model`s that take `for_models(x)`; the student is
            a copy that is trained here and thrown away.
        x: Training examples, an array or `Rows`.
        batch_size: Of the student.
        augment: What makes views, or None.

    Returns:
        `Costs`.
    """
    # As `cache_teacher` asks.
    few = for_models(x[: min(len(x), 256)])
    ask = teacher.predict_on_batch
    if asks_a_function(teacher):
        ask = functools.partial(teacher, training=False)
    ask(few[:32])
    parts = [few[i : i + 32] for i in range(0, len(few), 32)]
    of_teacher = _seconds(lambda: list(map(ask, parts)))
    rows = np.arange(_TIMED_STEPS * batch_size) % len(few)
    batches = few[rows]
    targets = np.zeros((len(batches), *student.output_shape[1:]), "float32")
    student.compile("adam", "mean_squared_error")
    fit = {"batch_size": batch_size, "verbose": 0, "shuffle": False}
    student.fit(batches, targets, **fit)
    of_call = _seconds(lambda: student.fit(batches, targets, **fit))
    of_step = of_call / _TIMED_STEPS
    if of_step < _SHORT and _MORE * batches.nbytes < MOST_BYTES:
        # Most of that is what a call of `fit` takes beside its steps.
        more = [np.concatenate([x] * _MORE) for x in (batches, targets)]
        of_calls = _seconds(lambda: student.fit(*more, **fit))
        of_step = max(of_calls - of_call, 0.1 * of_calls) / ((_MORE - 1) * _TIMED_STEPS)
    of_view = 0.0
    if augment is not None:
        indices = np.arange(len(few))
        augment(few, indices, 0, 0)
        of_view = _seconds(lambda: augment(few, indices, 1, 0)) / len(few)
    return Costs(of_teacher / len(few), of_step, of_view)


def make_plan(costs, count, example_bytes, output_bytes, *, minutes, epochs, baseline):
    """The `Plan` for so many training examples.

    Args:
        costs: `Costs`.
        count: Training examples.
        example_bytes, output_bytes: Of one example, and of the teacher's answer to it.
        minutes: For all of it; None where epochs are given.
        epochs: Instead of `minutes`.
        baseline: Whether the student is trained on labels alone, too, half as long.
    """
    batch_size = batch_size_for(count)
    steps = max(count // batch_size, 1)
    epoch = _AROUND_A_STEP * steps * costs.step
    a_view = count * (costs.teacher + costs.view)
    views = int(min(_MOST_VIEWS, MOST_BYTES / (count * max(example_bytes, output_bytes))))
    seconds = None if minutes is None else 60 * minutes * (1 - _AFTER_SHARE)
    if seconds is not None:
        views = min(views, int(_TEACHER_SHARE * seconds / a_view))

    def epochs_with(views):
        return _epochs(epochs, seconds, max(views, 1) * a_view, epoch, baseline)

    if costs.view == 0 or epochs_with(views) < _EPOCHS_FOR_VIEWS:
        views = 0
    epochs = epochs_with(views)
    views = min(views, epochs)
    half = max(epochs // 2, 1)
    trained = epochs + (half if baseline else 0)
    expected = (max(views, 1) * a_view + trained * epoch) / 60 / (1 - _AFTER_SHARE)
    stored = views > 0 and views * count * example_bytes <= MOST_BYTES
    return Plan(batch_size, views, stored, epochs, half, expected)


def _epochs(said, seconds, before, epoch, baseline):
    """As many as are said; or as are left time for, of half as many alone, too."""
    if said is not None:
        return said
    left = max(seconds - before, 0)
    return int(np.clip(left / (epoch * (1.5 if baseline else 1)), 1, _MOST_EPOCHS))


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
