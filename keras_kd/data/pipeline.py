"""From a prepared data set to batches."""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import ops
from tensorflow import nest

from keras_kd.data.examples import Held, gathered, rows_in_turn
from keras_kd.data.idx import DATASETS, DataError
from keras_kd.data.rows import Rows, constant, gather
from keras_kd.data.sources import check_prepared, default_data_dir
from keras_kd.training.batch import pack


def load_arrays(name, split, data_dir=None):
    """One split of a prepared data set, whole, through `tfds.load`.

    Args:
        name: A key of `DATASETS`.
        split: "train" or "test".
        data_dir: TFDS's data folder. Defaults to TFDS's own.

    Returns:
        (images, labels): uint8 (n, height, width, 1) and int64 (n,), always in the same
        order.

    Raises:
        DataError: The data set is not prepared, or damaged.
    """
    data_dir = default_data_dir() if data_dir is None else data_dir
    check_prepared(DATASETS[name], data_dir)
    try:
        batch = tfds.load(
            name,
            split=split,
            data_dir=data_dir,
            batch_size=-1,
            as_supervised=True,
            download=False,
        )
    except tf.errors.OpError as error:
        raise DataError(
            f"{name} in {data_dir} cannot be read ({error.message}). Remove it and run: "
            f"keras-kd data prepare {name}"
        ) from error
    return tfds.as_numpy(batch)


def scale(images):
    """Bytes as float32 in [0, 1]; of an array, a tensor, or `Rows`."""
    if isinstance(images, Rows):
        return images.mapped(scale, "float32")
    if isinstance(images, np.ndarray):
        return images.astype("float32") / np.float32(255)
    cast = tf.cast if tf.is_tensor(images) else ops.cast
    return cast(images, "float32") / 255.0


def for_models(x):
    """What models take of a data set's examples: bytes in [0, 1], others as they are."""
    return scale(x) if x.dtype == np.uint8 else x


def batches(
    images,
    labels,
    batch_size,
    *,
    shuffle=False,
    seed=None,
    drop_remainder=False,
    views=1,
    augment=None,
    augment_seed=0,
    with_index=False,
):
    """Batches of examples, images in [0, 1], and labels, ready for `fit`.

    Args:
        images: uint8, (n, height, width, channels); an array, or `keras_kd.data.rows.Rows`.
            Of another type they are no images, and given as they are.
        labels: (n, ...); None where there are none.
        batch_size: Examples a batch, at least 1; at most n with `drop_remainder`.
        shuffle: Whether all examples are shuffled anew each epoch.
        seed: Integer that fixes the order of every epoch, or None.
        drop_remainder: Whether an incomplete last batch is left out.
        views, augment, augment_seed: As `keras_kd.cache_teacher` takes them (its `seed` is
            the last): the e-th iteration gives view e mod `views` of each image.
        with_index: Whether each image carries its number, as `keras_kd.with_index` has it.

    Returns:
        A `tf.data.Dataset` of (float32 images, labels), or of images alone.

    Raises:
        ValueError: Lengths differ, or `batch_size` is out of range.
    """
    count = len(images)
    if labels is not None and len(labels) != count:
        raise ValueError(
            "`images` and `labels` must be equally long. "
            f"Received: {count} images and {len(labels)} labels."
        )
    if batch_size < 1 or (drop_remainder and batch_size > count):
        raise ValueError(
            "`batch_size` must be at least 1 and, where the remainder is dropped, at most "
            f"the number of examples, {count}. Received: batch_size={batch_size}."
        )
    arrays = (images, None if labels is None else np.asarray(labels))
    tensors = nest.map_structure(lambda x: None if x is None else constant(x), arrays)
    # Shuffling indices and gathering whole batches keeps up with the smallest student;
    # shuffling the images one by one does not.
    rows = rows_in_turn(views, count)
    if shuffle:
        rows = rows.shuffle(count, seed=seed)

    def make(arrays, rows, take):
        images, labels = arrays
        indices = rows % count
        inputs = for_models(take(images, indices))
        if augment is not None:
            inputs = augment(inputs, indices, rows // count, augment_seed)
        if with_index:
            inputs = pack(inputs, index=indices)
        return inputs if labels is None else (inputs, take(labels, indices))

    batched = rows.batch(batch_size, drop_remainder=drop_remainder)
    are_arrays = isinstance(images, np.ndarray) and augment is None
    held = Held(arrays, make) if are_arrays else None
    return gathered(batched, lambda x: make(tensors, x, gather), held)
