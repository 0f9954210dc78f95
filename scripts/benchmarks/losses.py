"""What a step with each loss costs, as times the step of the student alone, on MNIST.

The students, taps and weights are those of methods.py, the teacher's outputs are cached.
Every measurement of a loss has one of the student alone beside it, in the same process;
the ratio's median over `--repeats` is shown, and the medians in milliseconds. The ratio of
processor time, of all cores, is little touched by what else the machine does.
"""

import statistics
import time

import click
import keras
import numpy as np
from method_training import (
    ALONE,
    BATCH_SIZE,
    STUDENTS,
    WEIGHTS,
    labelled_cross_entropy,
    loss_of,
    methods_for,
    taps_of,
)
from speed import build, fit_step_time
from tabulate import tabulate
from tqdm import tqdm

import keras_kd as kd
from keras_kd import data
from keras_kd.recipes.model_files import load_model

# As many as methods.py trains on, for losses that remember each example.
NUM_EXAMPLES = 55_000


class Steps:
    """Seconds of a step with a loss, on a few batches that are kept in memory.

    Args:
        examples: A pair of images and labels.
        batch_size: Of a step.
    """

    def __init__(self, examples, batch_size):
        self._examples, self._batch_size = examples, batch_size
        self._teacher = load_model("mnist/teacher")
        self._batches = {}

    def of(self, method, student_name):
        """A function of a number of steps: seconds of each, and of processors for all.

        The student computes in bfloat16, as in methods.py.
        """
        student = build(STUDENTS[student_name], "mixed_bfloat16")
        taps = None if method == ALONE else taps_of(method, student_name, student)
        names = tuple(pair[0] for pair in taps) if taps else (None,)
        if method == ALONE:
            distiller = kd.Distiller(self._teacher, student, "kd", student_loss_weight=1)
        else:
            loss = loss_of(method, taps, None, NUM_EXAMPLES)
            distiller = kd.Distiller(self._teacher, student, loss, WEIGHTS[method])
        distiller.compile(keras.optimizers.Adam(0.001), labelled_cross_entropy)
        batches = self._cached(names)

        def seconds(steps):
            start = time.process_time()
            each = fit_step_time(distiller, batches, steps)
            return each, time.process_time() - start

        return seconds

    def _cached(self, names):
        if names not in self._batches:
            cached = kd.cache_teacher(
                self._teacher, self._examples, outputs=list(names), verbose=0
            )
            batches = cached.batch(self._batch_size, drop_remainder=True)
            self._batches[names] = batches.cache().repeat()
        return self._batches[names]


def measure(steps, student_name, methods, repeats, count):
    """Method to its milliseconds, those of the student alone beside it, and ratios."""
    alone = steps.of(ALONE, student_name)
    alone(count)
    found = {}
    for method in tqdm(methods, student_name):
        step = steps.of(method, student_name)
        # The first is for tracing.
        step(2)
        pairs = [(step(count), alone(count)) for _ in range(repeats)]
        found[method] = {
            "ms": 1000 * statistics.median(x[0] for x, _ in pairs),
            "alone (ms)": 1000 * statistics.median(y[0] for _, y in pairs),
            "times alone": statistics.median(x[0] / y[0] for x, y in pairs),
            "of processors": statistics.median(x[1] / y[1] for x, y in pairs),
        }
        keras.backend.clear_session()
    return found


@click.command(context_settings={"show_default": True}, help=__doc__.split("\n")[0])
@click.option("--repeats", default=5, help="Interleaved passes; medians are shown.")
@click.option("--steps", default=20, help="Steps in each pass.")
@click.option("--student", "students", multiple=True, default=tuple(STUDENTS))
@click.option("--loss", "losses", multiple=True, help="Only these. [default: all]")
def main(repeats, steps, students, losses):
    data.prepare("mnist", None)
    images, labels = data.load_arrays("mnist", "train")
    rows = slice(4 * BATCH_SIZE)
    keras.utils.set_random_seed(0)
    examples = data.scale(images[rows]), np.asarray(labels[rows])
    measured = Steps(examples, BATCH_SIZE)
    for student_name in students:
        methods = [x for x in methods_for(student_name)[1:] if not losses or x in losses]
        found = measure(measured, student_name, methods, repeats, steps)
        rows = [{f"loss, {student_name}": name} | x for name, x in found.items()]
        click.echo("\n" + tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3g"))


if __name__ == "__main__":
    main()
