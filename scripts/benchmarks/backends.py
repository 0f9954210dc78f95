"""What a step of distillation from a cache costs beside Keras's plain `fit`, on a backend.

    KERAS_BACKEND=jax python scripts/benchmarks/backends.py

The same student and the same MNIST images: batches travel by tf.data, or are gathered of
examples that lie on the device, where that can be.
Measured in one process, in turn, each round beginning with the other one; medians, and the
median of the rounds' ratios.
"""

import statistics

import click
import keras
from speed import TEMPERATURE, compiled, fit_step_time, ratio
from tabulate import tabulate

import keras_kd as kd
from keras_kd import data
from keras_kd.recipes import zoo
from keras_kd.recipes.model_files import load_model
from keras_kd.training.batch import inputs_of
from keras_kd.training.several_steps import batches_at_a_time

# Bytes of examples on the device, where all are to lie.
ALL = 2**40


def measure(student, train, batch_size, repeats, steps):
    """Seconds per step, dict of way to list."""
    teacher = load_model("mnist/ta")
    images, labels = data.scale(train[0]), train[1]
    cached = kd.cache_teacher(teacher, (images, labels), dtype="float32", verbose=0)
    # Both gather whole batches in the same way.
    plain, cached = (
        x.shuffle(len(images), seed=0).repeat().batch(batch_size, drop_remainder=True)
        for x in (kd.with_index((images, labels)), cached)
    )
    plain = plain.map(lambda x, y: (inputs_of(x), y))

    def distiller(device_bytes):
        loss = kd.losses.SoftTargets(TEMPERATURE)
        model = kd.Distiller(teacher, zoo.build(student), loss)
        return compiled(model, None, device_bytes=device_bytes)

    # As many batches in a call as a Distiller chooses; only on TensorFlow it does.
    is_tensorflow = keras.backend.backend() == "tensorflow"
    at_a_time = batches_at_a_time(None) if is_tensorflow else 1
    ways = {
        "plain": (compiled(zoo.build(student), at_a_time), plain),
        "cached": (distiller(0), cached),
    }
    if keras.backend.backend() != "torch":
        ways["on device"] = (distiller(ALL), cached)
    found = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        names = list(ways) if repeat % 2 else list(ways)[::-1]
        for way in names:
            seconds = fit_step_time(*ways[way], steps if repeat else 2)
            # The first round compiles, and is not counted.
            found[way] += [seconds] * bool(repeat)
    return found


@click.command(context_settings={"show_default": True}, help=__doc__.split("\n")[0])
@click.option("--student", "students", multiple=True, default=("mnist_student",))
@click.option("--batch-size", default=256, type=click.IntRange(min=1))
@click.option("--repeats", default=7, type=click.IntRange(min=1))
@click.option("--steps", default=50, help="In each round.", type=click.IntRange(min=1))
@click.option("--examples", default=15_000, help="Of the training images.")
@click.option("--data-dir", default=None, help="TFDS's folder.")
def main(students, batch_size, repeats, steps, examples, data_dir):
    data.prepare("mnist", data_dir)
    train = data.load_arrays("mnist", "train", data_dir)
    train = tuple(x[:examples] for x in train)
    rows = []
    for student in students:
        keras.utils.set_random_seed(0)
        found = measure(student, train, batch_size, repeats, steps)
        medians = {way: 1000 * statistics.median(x) for way, x in found.items()}
        rows.append(
            {
                "backend": keras.backend.backend(),
                "student": student,
                "plain fit (ms a step)": f"{medians['plain']:.2f}",
                "cached (ms a step)": f"{medians['cached']:.2f}",
                "cached / plain": f"{ratio(found['cached'], found['plain']):.3f}",
            }
        )
        if "on device" in found:
            of_device = ratio(found["on device"], found["cached"])
            rows[-1] |= {
                "on the device (ms a step)": f"{medians['on device']:.2f}",
                "on the device / cached": f"{of_device:.3f}",
            }
    click.echo(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
