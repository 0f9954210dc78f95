"""What a step and a whole run of distillation cost, in five ways, on MNIST.

    (a) a plain eager gradient-tape loop with a live teacher
    (b) keras.distillation.Distiller
    (c) keras_kd.Distiller with a live teacher
    (d) keras_kd.Distiller with cached teacher outputs
    (e) `fit` of the student alone, on labels
    (f) the floor: the step's multiply-accumulates at the rate of a large matrix product

All are measured in one process, in turn, `--repeats` times; medians are shown. (b) is
compiled as Keras does by default, one batch at a time; (c) and (d) as ours do, and (e) with
the number of batches at a time that they choose, so that (d) / (e) is what the teacher
costs. (b) and (e) are also shown the other way.
"""

import json
import statistics
import time
from pathlib import Path

import click
import keras
import tensorflow as tf
from tabulate import tabulate

import keras_kd as kd
from keras_kd import data
from keras_kd.recipes import zoo
from keras_kd.recipes.model_files import load_model
from keras_kd.recipes.step_cost import products_a_second
from keras_kd.training.several_steps import batches_at_a_time

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TEMPERATURE = 4.0
# Of whole runs; (a) is extrapolated.
WAYS = ("(b)", "(c)", "(d)", "(d) in bfloat16")
# Stage, its teacher, and which dense layer has the same width in both.
STAGES = {
    "ta": ("mnist_ta", "mnist_teacher", 0),
    "student": ("mnist_student", "mnist_ta", -1),
}


class StepTimer(keras.callbacks.Callback):
    """Seconds per step of the last epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    # Not of each batch: then our `fit` would train on one at a time.
    def on_epoch_end(self, epoch, logs=None):
        self.seconds = (time.perf_counter() - self.begin) / self.params["steps"]


def logits_of_keras():
    divergence = keras.losses.KLDivergence()
    return keras.distillation.LogitsDistillation(TEMPERATURE, loss=divergence)


def features(teacher, student, which):
    dense = [
        [x.name for x in model.layers if isinstance(x, keras.layers.Dense)]
        for model in (teacher, student)
    ]
    return keras.distillation.FeatureDistillation("mse", *(x[which] for x in dense))


def compiled(model, steps_per_execution=1, **options):
    model.compile(
        keras.optimizers.Adam(0.001),
        LOSS,
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
        **options,
    )
    return model


def build(name, dtype_policy="float32"):
    keras.config.set_dtype_policy(dtype_policy)
    model = zoo.build(name)
    keras.config.set_dtype_policy("float32")
    return model


def fit_step_time(model, batches, steps):
    timer = StepTimer()
    # The first epoch fills buffers.
    arguments = {"steps_per_epoch": steps, "epochs": 2, "callbacks": [timer]}
    model.fit(batches, verbose=0, shuffle=False, **arguments)
    return timer.seconds


def eager_step_time(teacher, student, batches, steps):
    """(a): what the published experiment does, without tf.function."""
    optimizer = keras.optimizers.Adam(0.001)
    start = None
    for step, (x, y) in enumerate(batches.take(steps + 1)):
        if step == 1:
            start = time.perf_counter()
        soft = tf.nn.softmax(teacher(x, training=False) / TEMPERATURE)
        with tf.GradientTape() as tape:
            logits = student(x, training=True)
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            distilled = tf.nn.softmax_cross_entropy_with_logits(soft, logits / TEMPERATURE)
            loss = tf.reduce_mean(0.5 * hard + 0.5 * TEMPERATURE**2 * distilled)
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
    return (time.perf_counter() - start) / steps


def inference_time(teacher, batches, steps):
    @tf.function(reduce_retracing=True)
    def answer(x):
        return teacher(x, training=False)

    for step, (x, _) in enumerate(batches.take(steps + 1)):
        answer(x)
        if step == 0:
            start = time.perf_counter()
    return (time.perf_counter() - start) / steps


def training_macs(model):
    """Of one example's step: forward, gradients of weights, and of all inputs but x."""
    layers = [x for x in model.layers if x.weights]
    per_layer = [
        keras.ops.size(x.kernel)
        * (1 if len(x.output.shape) == 2 else x.output.shape[1] * x.output.shape[2])
        for x in layers
    ]
    return float(3 * sum(map(int, per_layer)) - int(per_layer[0]))


def ways(stage, teachers, batches, cached):
    """Name to a function of the number of steps that returns seconds per step."""
    student_name, teacher_name, which = STAGES[stage]
    teacher = teachers[teacher_name]
    # What the Distiller chooses by itself.
    chosen = batches_at_a_time(None)

    def student(dtype_policy="float32"):
        return build(student_name, dtype_policy)

    def ours(losses, *policy):
        return kd.Distiller(teacher, student(*policy), losses)

    def theirs(losses):
        return keras.distillation.Distiller(teacher, student(), losses)

    def with_features(make):
        # The names of layers, which differ from model to model, are in the loss.
        model = student()
        return make(teacher, model, features(teacher, model, which))

    kd_loss, keras_loss = kd.losses.SoftTargets(TEMPERATURE), logits_of_keras()
    bfloat16 = "mixed_bfloat16"
    models = {
        "(b) keras.distillation": (theirs(keras_loss), batches, 1),
        f"(b) {chosen} batches at a time": (theirs(keras_loss), batches, chosen),
        "(c) live teacher": (ours(kd_loss), batches, None),
        "(d) cached teacher": (ours(kd_loss), cached, None),
        "(d) in bfloat16": (ours(kd_loss, bfloat16), cached, None),
        "(e) no teacher, Keras's default": (student(), batches, 1),
        "(e) no teacher": (student(), batches, chosen),
        "(e) in bfloat16": (student(bfloat16), batches, chosen),
        "(b) feature loss": (with_features(keras.distillation.Distiller), batches, 1),
        "(c) feature loss": (with_features(kd.Distiller), batches, None),
    }

    def fitter(model, batches, steps_per_execution):
        model = compiled(model, steps_per_execution)
        return lambda steps: fit_step_time(model, batches, steps)

    eager = student()
    return {
        "(a) eager loop": lambda n: eager_step_time(
            teacher, eager, batches, max(n // 4, 3)
        ),
        **{name: fitter(*settings) for name, settings in models.items()},
        "teacher's inference": lambda n: inference_time(teacher, batches, n),
    }


def measure_steps(stage, batch_size, train, teachers, repeats, steps):
    """Milliseconds per step, name to the median over interleaved repeats."""
    images, labels = data.scale(train[0]), train[1]
    teacher = teachers[STAGES[stage][1]]
    rows = 60_000 // 4
    subset = (images[:rows], labels[:rows])
    batches = data.batches(
        train[0], labels, batch_size, shuffle=True, seed=0, drop_remainder=True
    ).repeat()
    cached = kd.cache_teacher(teacher, subset, dtype="float32", verbose=0)
    cached = cached.shuffle(rows, seed=0).repeat().batch(batch_size, drop_remainder=True)
    found, rates = {}, {"float32": [], "bfloat16": []}
    functions = ways(stage, teachers, batches, cached)
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            seconds = function(steps if repeat else 3)
            # The first round is for tracing, and is not counted.
            found.setdefault(name, []).extend([seconds] * bool(repeat))
        for dtype, values in rates.items():
            values += [products_a_second(dtype, size=2048)] * bool(repeat)
    medians = {name: 1000 * statistics.median(x) for name, x in found.items()}
    macs = batch_size * training_macs(zoo.build(STAGES[stage][0]))
    for dtype, values in rates.items():
        medians[f"(f) floor in {dtype}"] = 1000 * macs / statistics.median(values)
    inference_and_plain = zip(found["teacher's inference"], found["(e) no teacher"])
    # What is compared was measured side by side: ratios first, then their median.
    pairs = {
        "(d) / (e)": (found["(d) cached teacher"], found["(e) no teacher"]),
        "(d) / (e), bfloat16": (found["(d) in bfloat16"], found["(e) in bfloat16"]),
        "(c) / (teacher's inference + (e))": (
            found["(c) live teacher"],
            list(map(sum, inference_and_plain)),
        ),
        "(c) / (b)": (found["(c) live teacher"], found["(b) keras.distillation"]),
        "(c) / (b), feature loss": (found["(c) feature loss"], found["(b) feature loss"]),
        "(a) / (d)": (found["(a) eager loop"], found["(d) cached teacher"]),
        "(a) / (d) in bfloat16": (found["(a) eager loop"], found["(d) in bfloat16"]),
    }
    ratios = {name: ratio(*values) for name, values in pairs.items()}
    for dtype, plain in (("float32", "(e) no teacher"), ("bfloat16", "(e) in bfloat16")):
        ratios[f"(f) / (e), {dtype}"] = medians[f"(f) floor in {dtype}"] / medians[plain]
    return medians, ratios


def ratio(values, others):
    return statistics.median(x / y for x, y in zip(values, others, strict=True))


def whole_run(way, train, test, epochs, batch_size, seed=0):
    """Seconds, and accuracies, of both stages and all that belongs to them."""
    keras.utils.set_random_seed(seed)
    teacher = load_model("mnist/teacher")
    live = data.batches(*train, batch_size, shuffle=True, seed=seed, drop_remainder=True)
    policy = "mixed_bfloat16" if "bfloat16" in way else "float32"
    accuracies, start = {}, time.perf_counter()
    for stage in STAGES:
        student = build(STAGES[stage][0], policy)
        batches = live
        if way == "(b)":
            model = keras.distillation.Distiller(teacher, student, logits_of_keras())
        else:
            model = kd.Distiller(teacher, student, kd.losses.SoftTargets(TEMPERATURE))
        if way.startswith("(d)"):
            examples = (data.scale(train[0]), train[1])
            cached = kd.cache_teacher(teacher, examples, dtype="float32", verbose=0)
            batches = cached.shuffle(len(train[0]), seed=seed)
            batches = batches.batch(batch_size, drop_remainder=True)
        # (b) as Keras compiles by default, ours as it chooses.
        compiled(model, 1 if way == "(b)" else None).fit(
            batches, validation_data=test, epochs=epochs, verbose=0, shuffle=False
        )
        compiled(student)
        accuracies[stage] = student.evaluate(test, verbose=0, return_dict=True)["accuracy"]
        teacher = student
    return time.perf_counter() - start, accuracies


def eager_run_seconds(teachers, train, epochs, batch_size, steps=200):
    """(a), extrapolated from some steps of each stage; evaluation left out."""
    live = data.batches(*train, batch_size, shuffle=True, seed=0, drop_remainder=True)
    total = 0.0
    for student_name, teacher_name, _ in STAGES.values():
        student = zoo.build(student_name)
        seconds = eager_step_time(teachers[teacher_name], student, live, steps)
        total += seconds * epochs * (len(train[0]) // batch_size)
    return total


def plot(results, path):
    """Step times as bars, one panel for each stage and batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(3.2 * len(results), 3.4))
    for axis, (title, medians) in zip(axes, results.items(), strict=True):
        left_out = ("feature", "at a time", "default")
        names = [x for x in medians if not any(y in x for y in left_out)]
        names.sort()
        values = [medians[name] for name in names]
        colours = ["tab:orange" if x[:3] in ("(c)", "(d)") else "tab:gray" for x in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        axis.set(title=title, xlabel="ms per step")
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def show(columns):
    rows = [
        {"": name} | {title: f"{column[name]:.3g}" for title, column in columns.items()}
        for name in next(iter(columns.values()))
    ]
    click.echo("\n" + tabulate(rows, headers="keys", tablefmt="pipe") + "\n")


@click.command(context_settings={"show_default": True}, help=__doc__.split("\n")[0])
@click.option("--repeats", default=5, help="Interleaved passes; the median is shown.")
@click.option("--steps", default=20, help="Steps of batch size 256 in each pass.")
@click.option("--batch-size", "batch_sizes", multiple=True, default=(256, 1024))
@click.option("--epochs", default=12, help="Of a whole run; 0 leaves the whole runs out.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), default=None)
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=None)
def main(repeats, steps, batch_sizes, epochs, plot_path, json_path):
    data.prepare("mnist", None)
    train, test = (data.load_arrays("mnist", split) for split in ("train", "test"))
    keras.utils.set_random_seed(0)
    teachers = {
        "mnist_teacher": load_model("mnist/teacher"),
        "mnist_ta": load_model("mnist/ta"),
    }
    medians, ratios = {}, {}
    for stage in STAGES:
        for batch_size in batch_sizes:
            title = f"{stage}, {batch_size}"
            count = max(steps * 256 // batch_size, 4)
            medians[title], ratios[title] = measure_steps(
                stage, batch_size, train, teachers, repeats, count
            )
    click.echo("Milliseconds per step")
    show(medians)
    click.echo("Ratios")
    show(ratios)
    runs = {}
    if epochs:
        eager = eager_run_seconds(teachers, train, epochs, batch_size=256)
        runs["(a)"] = {"seconds": eager}
        tests = data.batches(*test, 1000)
        for way in WAYS:
            seconds, accuracies = whole_run(way, train, tests, epochs, batch_size=256)
            runs[way] = {"seconds": seconds} | accuracies
            click.echo(f"whole run {way}: {seconds:.0f} s, {accuracies}")
        for way in ("(a)", "(b)", "(c)"):
            for ours in WAYS[2:]:
                times = runs[way]["seconds"] / runs[ours]["seconds"]
                click.echo(f"{way} takes {times:.2f} times as long as {ours}")
    if plot_path:
        plot(medians, plot_path)
    if json_path:
        found = {"milliseconds": medians, "ratios": ratios, "runs": runs}
        json_path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
