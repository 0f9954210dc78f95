"""Images per second of each augmentation, on images of the size of MNIST's."""

import statistics
import time

import click
import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.augmentation import Deform, RandomLayers

OFF = dict(shift=0, rotation=0, scale=0, shear=0, elastic_alpha=0)


def augmentations():
    """Name to what is measured; None is the input pipeline alone."""
    alone = {
        name: Deform(**OFF | {name: value})
        for name, value in Deform().get_config().items()
        if name in OFF
    }
    layers = keras.layers
    keras_layers = {
        "RandomFlip": layers.RandomFlip(),
        "RandomRotation": layers.RandomRotation(0.03),
        "RandomTranslation": layers.RandomTranslation(0.07, 0.07),
        "RandomZoom": layers.RandomZoom(0.15),
    }
    each = {f"Keras's {name}": RandomLayers(x) for name, x in keras_layers.items()}
    together = RandomLayers(list(keras_layers.values()))
    return {
        "no augmentation": None,
        **alone,
        "all together": Deform(),
        **each,
        "these four together": together,
    }


def one_epoch(images, batch_size, augment):
    """A dataset that gathers whole batches and augments them, as for `fit`."""
    indices = tf.data.Dataset.range(len(images)).batch(batch_size)

    def gather(batch):
        x = tf.cast(tf.gather(images, batch), tf.float32) / 255.0
        return x if augment is None else augment(x, batch, view=0, seed=0)

    return indices.map(gather, num_parallel_calls=2).prefetch(2)


def images_per_second(dataset, count):
    start = time.perf_counter()
    for _ in dataset:
        pass
    return count / (time.perf_counter() - start)


@click.command(context_settings={"show_default": True})
@click.option("--images", "count", default=60_000, help="Number of images.")
@click.option("--batch-size", "batch_sizes", multiple=True, default=(256, 1024))
@click.option("--repeats", default=5, help="Interleaved passes; the median is shown.")
def main(count, batch_sizes, repeats):
    """Images per second of each augmentation, on images of the size of MNIST's."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype="uint8")
    images = tf.constant(pixels)
    for batch_size in batch_sizes:
        datasets = {
            name: one_epoch(images, batch_size, augment)
            for name, augment in augmentations().items()
        }
        rates = {name: [] for name in datasets}
        # The first pass is for tracing, and is not counted.
        for repeat in range(repeats + 1):
            for name, dataset in datasets.items():
                rate = images_per_second(dataset, count)
                rates[name] += [rate] if repeat else []
        click.echo(f"\nbatch size {batch_size}, median of {repeats} (lowest to highest)")
        for name, found in rates.items():
            click.echo(
                f"{name:26} {statistics.median(found):10,.0f} images/s "
                f"({min(found):,.0f} to {max(found):,.0f})"
            )


if __name__ == "__main__":
    main()
