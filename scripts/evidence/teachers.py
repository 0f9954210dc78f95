"""What each kind of teacher is worth to a small student, as a Markdown table.

    python scripts/evidence/teachers.py
    python scripts/evidence/teachers.py --kinds forest,top_k --seeds 5

Data are those that come with scikit-learn. Three tenths are the test set, stratified; a
quarter of the rest is held out, and all that is chosen is chosen there, with a seed of its
own: the learning rate by the student alone, then the temperature by the distilled one.
The teacher has learned all other examples. Its student sees them without labels, and what
it learns is the teacher's alone; the student alone has the labels of a tenth of them, in as
many steps. Test examples are asked once, of the models that are done.

The step's cost is a pass over repeated training data that carry what the teacher said,
divided by a pass of Keras's own `fit` of the same student on the same labels, in batches of
256 and as many batches in a compiled call: the median of interleaved repeats. It is that of
a student of two layers of 800, as the one of MNIST; of a step of the table's own students a
call's fixed cost is most.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import click
import keras
import numpy as np
from kinds_of_teachers import KINDS, Data, loss_of, network, student_of

import keras_kd as kd
from keras_kd.tables import markdown_table
from keras_kd.training.batch import inputs_of
from keras_kd.training.several_steps import batches_at_a_time

RATES = (0.003, 0.01, 0.03)
TEMPERATURES = (1.0, 4.0)
CHOICE_SEED = 1000
# Hidden units of the student whose steps are timed.
TIMED = [800, 800]
# Of the training examples, by which the student alone learns.
LABELLED = 0.1


def right(outputs, labels):
    """The fraction of the answers that are right, of logits or of probabilities."""
    outputs = np.asarray(outputs)
    if outputs.shape[-1] == 1:
        return float(np.mean((outputs[:, 0] > 0) == labels))
    return float(np.mean(outputs.argmax(axis=1) == labels))


def score(student, part):
    return right(student.predict_on_batch(part[0]), part[1])


def passes_over(lesson, seed, epochs, share=1.0):
    """A share of the training examples in turn, in as many steps as epochs of all take."""
    every = len(lesson.data.train[1])
    count = max(1, round(share * every))
    examples = lesson.examples.take(count).shuffle(count, seed=seed)
    # One long epoch spares `fit` the ends of the others.
    return examples.repeat(round(epochs * every / count))


class Training:
    """A compiled model that trains a student from its beginning, as often as one likes.

    Args:
        lesson: A `Lesson`.
        epochs: Of a student.
        temperature: Of the distilled student; without it the student learns alone.
        student: Another than the data's.
    """

    def __init__(self, lesson, epochs, temperature=None, student=None):
        self.lesson, self.epochs = lesson, epochs
        self.student = student or student_of(lesson.data, lesson.units)
        self.model = self.student
        if temperature is not None:
            self.model = kd.Distiller(
                lesson.teacher,
                self.student,
                kd.losses.SoftTargets(temperature=temperature),
                student_loss_weight=0.0,
                task="binary" if lesson.units == 1 else "multiclass",
            )
        self.model.compile(
            keras.optimizers.Adam(),
            loss_of(lesson.units),
            steps_per_execution=batches_at_a_time([]),
        )

    def score(self, part, seed, rate):
        """The score on a part of the data after a training with that seed and rate."""
        keras.utils.set_random_seed(seed)
        self.student.set_weights(student_of(self.lesson.data, self.lesson.units).weights)
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.model.optimizer.learning_rate = rate
        share = LABELLED if self.model is self.student else 1.0
        examples = passes_over(self.lesson, seed, self.epochs, share)
        self.model.fit(self.batches(examples, 32), verbose=0)
        return score(self.student, part)

    def batches(self, examples, size):
        """Examples in batches, with what the teacher said if there is one to listen."""
        batches = examples.batch(size)
        if self.model is not self.student:
            return batches
        return batches.map(lambda x, y: (inputs_of(x), y)).prefetch(2)


class ChainTraining:
    """As `Training`, of a student behind an assistant that given outputs teach."""

    def __init__(self, lesson, epochs, temperature):
        self.lesson, self.epochs = lesson, epochs
        self._taught = {
            "distillation_losses": kd.losses.SoftTargets(temperature=temperature),
            "student_loss_weight": 0.0,
        }

    def score(self, part, seed, rate):
        keras.utils.set_random_seed(seed)
        data, units = self.lesson.data, self.lesson.units
        student = student_of(data, units)
        models = {"assistant": network(data, [32], units), "student": student}
        stages = [
            kd.Stage(name, x, 1, optimizer=keras.optimizers.Adam(rate), **self._taught)
            for name, x in models.items()
        ]
        examples = passes_over(self.lesson, seed, self.epochs).batch(32)
        kd.DistillationChain(None, stages).fit(examples, self.lesson.beside, verbose=0)
        return score(student, part)


def best(trials, score_of):
    """The first of the trials with the best score."""
    trials = list(trials)
    return trials[int(np.argmax([score_of(trial) for trial in trials]))]


def cost(lesson, temperature, steps, repeats, batch_size=256):
    """The step with what the teacher said over the step alone, the median of repeats."""
    times = -(-steps * batch_size // len(lesson.data.train[1]))
    passes = []
    for how in (temperature, None):
        wide = network(lesson.data, TIMED, lesson.units)
        training = Training(lesson, 1, how, student=wide)
        batches = training.batches(lesson.examples.repeat(times), batch_size)
        passes.append((training.model, batches.take(steps)))
    ratios = []
    for _ in range(repeats + 1):
        seconds = []
        for model, batches in passes:
            since = time.perf_counter()
            model.fit(batches, verbose=0)
            seconds.append(time.perf_counter() - since)
        ratios.append(seconds[0] / seconds[1])
    # The first was compiled.
    return statistics.median(ratios[1:])


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is done: epochs of a student, seeds, steps of a timed pass, its repeats."""

    epochs: int
    seeds: int
    steps: int
    repeats: int


def line_of(kind, load, effort, folder, alone):
    """One line of the table; `alone` keeps the students alone, by what they learn."""
    lesson = kind(load, effort.epochs, folder)
    data, seeds = lesson.data, range(effort.seeds)
    key = data.name, lesson.units
    if key not in alone:
        training = Training(lesson, effort.epochs)
        rate = best(RATES, lambda x: training.score(data.validation, CHOICE_SEED, x))
        scores = [training.score(data.test, seed, rate) for seed in seeds]
        alone[key] = rate, scores
    rate, scores_alone = alone[key]
    make = Training if lesson.beside is None else ChainTraining
    taught = {x: make(lesson, effort.epochs, x) for x in TEMPERATURES}
    temperature = best(
        TEMPERATURES, lambda x: taught[x].score(data.validation, CHOICE_SEED, rate)
    )
    scores = [taught[temperature].score(data.test, seed, rate) for seed in seeds]
    # Of a chain it is that of the stage that given outputs teach.
    ratio = cost(lesson, temperature, effort.steps, effort.repeats)
    return {
        "teacher": kind.__doc__,
        "data": data.name.replace("_", " "),
        "teacher (%)": f"{100 * right(lesson.answers(data.test[0]), data.test[1]):.1f}",
        "student (%)": spread(scores),
        "alone (%)": spread(scores_alone),
        "T": f"{temperature:.0f}",
        "cost of a step": f"{ratio:.2f}",
    }


def spread(scores):
    deviation = f" ± {100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{100 * np.mean(scores):.1f}{deviation}"


@click.command(help=__doc__.split("\n")[0])
@click.option("--kinds", default="", help="Names, with commas between. [default: all]")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default=48, show_default=True, help="Of a timed pass.")
@click.option("--repeats", default=5, show_default=True, help="Timed passes.")
@click.option("--examples", type=int, help="Of each data set. [default: all]")
def main(kinds, seeds, epochs, steps, repeats, examples):
    names = kinds.split(",") if kinds else list(KINDS)
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: one of {', '.join(KINDS)}.")
    effort = Effort(epochs, seeds, steps, repeats)
    load = functools.partial(Data.load, limit=examples)
    rows, alone = [], {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`shuffle=True` was passed")
        for name in names:
            try:
                rows.append(line_of(KINDS[name], load, effort, Path(folder), alone))
            except ModuleNotFoundError as error:
                click.echo(f"{name} is left out: {error}.", err=True)
    if not rows:
        raise click.ClickException("No kind of teacher could be asked.")
    click.echo(markdown_table(rows, numbers_from=2))


if __name__ == "__main__":
    main()
