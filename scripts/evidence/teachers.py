"""What each kind of teacher is worth to a small student, as a Markdown table.

    python scripts/evidence/teachers.py
    python scripts/evidence/teachers.py --kinds forest,top_k --seeds 5

Data are those that come with scikit-learn. Three tenths are the test set, stratified; a
quarter of the rest is held out, and all that is chosen is chosen there, with a seed of its
own: the student's learning rate by the student alone, then temperature and weight of the
labels' loss by the distilled one, four trials each. Test examples are asked once, of the
models that are done.

The step's cost is a pass over repeated training data that carry what the teacher said,
divided by a pass of Keras's own `fit` of the same student on the same labels, both with as
many batches in a compiled call: the median of interleaved repeats.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from keras import layers
from sklearn import datasets, ensemble, linear_model, model_selection

import keras_kd as kd
from keras_kd.tables import markdown_table
from keras_kd.training.several_steps import batches_at_a_time

RATES = (0.001, 0.003, 0.01, 0.03)
SETTINGS = [(t, weight) for t in (1.0, 4.0) for weight in (0.1, 0.5)]
SPLIT_SEED, CHOICE_SEED = 0, 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts, each (x, y); the columns of a table are standardised."""

    name: str
    train: tuple
    validation: tuple
    test: tuple

    @classmethod
    @functools.cache
    def load(cls, name, limit=None):
        found = getattr(datasets, f"load_{name}")()
        x, y = found.data.astype("float32"), found.target.astype("int64")
        x = x.reshape(-1, 8, 8, 1) / 16 if name == "digits" else x

        def split(x, y, share):
            x, others, y, labels = model_selection.train_test_split(
                x, y, test_size=share, random_state=SPLIT_SEED, stratify=y
            )
            return (x, y), (others, labels)

        rest, test = split(x[:limit], y[:limit], 0.3)
        train, validation = split(*rest, 0.25)
        if name != "digits":
            mean, std = train[0].mean(axis=0), train[0].std(axis=0)
            parts = (train, validation, test)
            train, validation, test = (((x - mean) / std, y) for x, y in parts)
        return cls(name, train, validation, test)

    @property
    def flat(self):
        """The training part as scikit-learn takes it."""
        return flat(self.train[0]), self.train[1]


def flat(x):
    return np.reshape(x, (len(x), -1))


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a kind of teacher gives its student.

    Attributes:
        data: The `Data`, with the student's labels.
        teacher: What a Distiller takes: a model, or None.
        examples: Single training examples that carry what it said.
        answers: Takes x, gives the teacher's outputs; a student may have other teachers.
        units: Of the student's last layer.
        assistant: Whether the outputs teach an assistant, which teaches the student.
    """

    data: Data
    teacher: Any
    examples: Any
    answers: Any
    units: int
    assistant: bool = False


def network(data, hidden, units):
    """A dense network for the data's inputs."""
    shape = data.train[0].shape[1:]
    hidden = [layers.Dense(size, activation="relu") for size in hidden]
    return keras.Sequential(
        [keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(units)]
    )


def student_of(data, units):
    return network(data, [8] if data.name == "digits" else [4], units)


def loss_of(units):
    if units == 1:
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(model, data, epochs, rate=0.003):
    keras.utils.set_random_seed(SPLIT_SEED)
    model.compile(keras.optimizers.Adam(rate), loss_of(model.output_shape[-1]))
    model.fit(*data.train, batch_size=32, epochs=epochs, verbose=0)
    return model


@functools.cache
def large_network(data, epochs):
    keras.utils.set_random_seed(SPLIT_SEED)
    return trained(network(data, [128, 128], 10), data, epochs)


@functools.cache
def fitted_forest(data):
    trees = ensemble.RandomForestClassifier(300, random_state=SPLIT_SEED)
    return trees.fit(*data.flat)


def asked(data, teacher, answers, units, **more):
    """The lesson of a teacher that is asked once about each example."""
    examples = kd.cache_teacher(teacher, data.train, verbose=0)
    return Lesson(data, teacher, examples, answers, units, **more)


def function_of(predict, name, outputs="probabilities"):
    return kd.teachers.from_function(predict, name=name, version="1", outputs=outputs)


# One kind of teacher, one function: the table's words for it are its docstring's.


def forest(load, epochs, folder):
    """random forest of 300 trees, `from_function`"""
    data = load("digits")
    trees = fitted_forest(data)

    def predict(x):
        return trees.predict_proba(flat(x))

    return asked(data, function_of(predict, "forest"), predict, 10)


def boosting(load, epochs, folder):
    """gradient boosting, two columns for a student of one unit"""
    data = load("breast_cancer")
    boosted = ensemble.GradientBoostingClassifier(random_state=SPLIT_SEED)
    predict = boosted.fit(*data.flat).predict_proba
    return asked(data, function_of(predict, "boosting"), predict, 1)


def onnx(load, epochs, folder):
    """an ONNX file through onnxruntime"""
    import onnxruntime

    data = load("digits")
    path = folder / "teacher.onnx"
    # As many as the proof of a file needs.
    examples = np.resize(data.train[0], (1000, 8, 8, 1))
    kd.export(large_network(data, epochs), path, "onnx", examples=examples)
    session = onnxruntime.InferenceSession(path)
    (inputs,) = session.get_inputs()

    def predict(x):
        return session.run(None, {inputs.name: np.float32(x)})[0]

    return asked(data, function_of(predict, "onnx", "logits"), predict, 10)


def torch(load, epochs, folder):
    """a PyTorch module"""
    import torch

    data = load("digits")
    torch.manual_seed(SPLIT_SEED)
    wide = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    module = torch.nn.Sequential(torch.nn.Flatten(), *wide)
    optimizer = torch.optim.Adam(module.parameters(), 0.003)
    x, y = (torch.from_numpy(np.array(part)) for part in data.train)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()

    def predict(x):
        with torch.no_grad():
            return module(torch.from_numpy(np.array(x))).numpy()

    return asked(data, function_of(predict, "torch", "logits"), predict, 10)


def parquet(load, epochs, folder):
    """log-probabilities in a Parquet file, of logistic regression"""
    import pyarrow
    from pyarrow import parquet

    data = load("wine")
    regression = linear_model.LogisticRegression().fit(*data.flat)
    log_probs = regression.predict_log_proba(data.train[0])
    order = np.random.default_rng(SPLIT_SEED).permutation(len(log_probs))
    columns = {f"class {c}": log_probs[order, c] for c in range(log_probs.shape[1])}
    table = pyarrow.table(columns | {"index": order})
    parquet.write_table(table, folder / "answers.parquet")
    examples = kd.with_teacher_outputs(
        data.train, folder / "answers.parquet", kind="log_probs"
    )
    return Lesson(data, None, examples, regression.predict_proba, 3)


def top_k(load, epochs, folder):
    """the forest's three likeliest classes, in an .npz file"""
    data = load("digits")
    trees = fitted_forest(data)
    p = trees.predict_proba(data.flat[0])
    classes = np.argsort(-p, axis=1)[:, :3]
    values = np.take_along_axis(p, classes, axis=1)
    np.savez(folder / "answers.npz", values=values, classes=classes)
    with np.load(folder / "answers.npz") as kept:
        largest = kept["values"], kept["classes"]
    examples = kd.with_teacher_outputs(
        data.train, largest, kind="probabilities", num_classes=10
    )
    return Lesson(data, None, examples, lambda x: trees.predict_proba(flat(x)), 10)


def preprocessed(load, epochs, folder):
    """a convolutional network of 32x32 RGB, `Preprocessed`"""
    data = load("digits")
    bigger = [
        layers.Resizing(32, 32),
        layers.Rescaling(2.0, offset=-1.0),
        lambda images: keras.ops.repeat(images, 3, axis=-1),
    ]

    def seen(images):
        for step in bigger:
            images = step(images)
        return keras.ops.convert_to_numpy(images)

    keras.utils.set_random_seed(SPLIT_SEED)
    network = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (16, 32):
        network.add(layers.Conv2D(filters, 3, 2, activation="relu"))
    network.add(layers.Flatten())
    network.add(layers.Dense(10))
    images, labels = data.train
    as_seen = dataclasses.replace(data, train=(seen(images), labels))
    trained(network, as_seen, max(1, epochs // 4))
    teacher = kd.teachers.Preprocessed(network, bigger, input_shape=(8, 8, 1))
    return asked(data, teacher, functools.partial(teacher.predict, verbose=0), 10)


def groups(load, epochs, folder):
    """a network of ten digits for even or odd, `GroupClasses`"""
    data = load("digits")
    parity = [(x, y % 2) for x, y in (data.train, data.validation, data.test)]
    grouped = Data(data.name, *parity)
    teacher = kd.teachers.GroupClasses(
        large_network(data, epochs), [range(0, 10, 2), range(1, 10, 2)]
    )
    return asked(grouped, teacher, functools.partial(teacher.predict, verbose=0), 2)


def together(load, epochs, folder):
    """the forest and a Keras model, `Ensemble`"""
    data = load("digits")
    trees = fitted_forest(data)
    inputs = keras.Input((8, 8, 1))
    function = function_of(lambda x: trees.predict_proba(flat(x)), "forest")
    member = keras.Model(inputs, function(inputs))
    # At the temperature at which it is measured; the student may be taught at another.
    teacher = kd.teachers.Ensemble(
        [member, large_network(data, epochs)], temperature=1.0, task="multiclass"
    )
    return asked(data, teacher, lambda x: np.asarray(teacher(x)), 10)


def chain(load, epochs, folder):
    """a chain of given outputs, an assistant and the student"""
    data = load("digits")
    trees = fitted_forest(data)
    p = trees.predict_proba(data.flat[0])
    examples = kd.with_teacher_outputs(data.train, p, kind="probabilities")
    answers = lambda x: trees.predict_proba(flat(x))  # noqa: E731
    return Lesson(data, None, examples, answers, 10, assistant=True)


# with_teacher_inputs: a kind of its own belongs here.
KINDS = {
    x.__name__: x
    for x in (
        forest,
        boosting,
        onnx,
        torch,
        parquet,
        top_k,
        preprocessed,
        groups,
        together,
        chain,
    )
}


def right(outputs, labels):
    """The fraction of the answers that are right, of logits or of probabilities."""
    outputs = np.asarray(outputs)
    if outputs.shape[-1] == 1:
        return float(np.mean((outputs[:, 0] > 0) == labels))
    return float(np.mean(outputs.argmax(axis=1) == labels))


def score(student, part):
    return right(student.predict(part[0], verbose=0), part[1])


def student_alone(lesson, seed, rate, epochs):
    keras.utils.set_random_seed(seed)
    student = student_of(lesson.data, lesson.units)
    student.compile(keras.optimizers.Adam(rate), loss_of(lesson.units))
    student.fit(*lesson.data.train, batch_size=32, epochs=epochs, verbose=0)
    return student


def distiller_of(lesson, student, rate, temperature, weight):
    distiller = kd.Distiller(
        lesson.teacher,
        student,
        kd.losses.SoftTargets(temperature=temperature),
        student_loss_weight=weight,
        task="binary" if lesson.units == 1 else "multiclass",
    )
    distiller.compile(keras.optimizers.Adam(rate), loss_of(lesson.units))
    return distiller


def distilled(lesson, seed, rate, temperature, weight, epochs):
    """The student, taught by the lesson's teacher or by an assistant between them."""
    keras.utils.set_random_seed(seed)
    student = student_of(lesson.data, lesson.units)
    examples = lesson.examples.shuffle(len(lesson.data.train[1]), seed=seed).batch(32)
    if not lesson.assistant:
        distiller = distiller_of(lesson, student, rate, temperature, weight)
        distiller.fit(examples, epochs=epochs, verbose=0)
        return student
    taught = {
        "distillation_losses": kd.losses.SoftTargets(temperature=temperature),
        "student_loss_weight": weight,
    }
    stages = [
        kd.Stage(name, model, epochs, optimizer=keras.optimizers.Adam(rate), **taught)
        for name, model in (
            ("assistant", network(lesson.data, [32], lesson.units)),
            ("student", student),
        )
    ]
    whole = kd.DistillationChain(None, stages)
    whole.fit(examples, lesson.data.validation, verbose=0)
    return student


def best(trials, train, part):
    """The first of the trials with the best score on a part of the training set."""
    scores = [score(train(trial), part) for trial in trials]
    return trials[int(np.argmax(scores))]


def cost(lesson, steps, repeats, batch_size=256):
    """The cached step over the step of Keras's `fit`, the median of the repeats."""
    student = student_of(lesson.data, lesson.units)
    distiller = distiller_of(lesson, student, 0.0, 4.0, 0.5)
    count = len(lesson.data.train[1])
    times = -(-steps * batch_size // count)
    cached = lesson.examples.repeat(times).batch(batch_size).take(steps)
    x, y = (np.tile(z, [times] + [1] * (z.ndim - 1)) for z in lesson.data.train)
    x, y = x[: steps * batch_size], y[: steps * batch_size]
    plain = student_of(lesson.data, lesson.units)
    plain.compile(
        keras.optimizers.Adam(0.0),
        loss_of(lesson.units),
        steps_per_execution=batches_at_a_time(steps),
    )
    passes = [
        lambda: distiller.fit(cached, verbose=0),
        lambda: plain.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0),
    ]
    ratios = []
    for _ in range(repeats + 1):
        seconds = []
        for one in passes:
            since = time.perf_counter()
            one()
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
    data, seeds, epochs = lesson.data, range(effort.seeds), effort.epochs
    key = data.name, lesson.units
    if key not in alone:
        rate = best(
            RATES,
            lambda rate: student_alone(lesson, CHOICE_SEED, rate, epochs),
            data.validation,
        )
        students = [student_alone(lesson, seed, rate, epochs) for seed in seeds]
        alone[key] = rate, [score(x, data.test) for x in students]
    rate, scores_alone = alone[key]
    setting = best(
        SETTINGS,
        lambda x: distilled(lesson, CHOICE_SEED, rate, *x, epochs),
        data.validation,
    )
    students = [distilled(lesson, seed, rate, *setting, epochs) for seed in seeds]
    temperature, weight = setting
    return {
        "teacher": kind.__doc__,
        "data": data.name.replace("_", " "),
        "teacher (%)": f"{100 * right(lesson.answers(data.test[0]), data.test[1]):.1f}",
        "student (%)": spread([score(x, data.test) for x in students]),
        "alone (%)": spread(scores_alone),
        "T, weight": f"{temperature:.0f}, {weight}",
        "cost of a step": f"{cost(lesson, effort.steps, effort.repeats):.2f}",
    }


def spread(scores):
    deviation = f" ± {100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{100 * np.mean(scores):.1f}{deviation}"


@click.command(help=__doc__.split("\n")[0])
@click.option("--kinds", default="", help="Names, with commas between. [default: all]")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=40, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default=200, show_default=True, help="Of a timed pass.")
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
        warnings.filterwarnings("ignore", "`task` is taken as")
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
