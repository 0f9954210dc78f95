"""Examples that lie on the device where a model is trained, and are gathered there.

A small student on a GPU waits for its batches, each copied from the host, and for Python.
So where the examples and what the teacher said of them fit, they are put there once; what
`fit` reads is the row numbers of each batch, in the order in which it would read them.
"""

import logging

import keras
import numpy as np
from keras import ops, tree

logger = logging.getLogger(__name__)

# Bytes on an accelerator; the memory of a CPU is where examples are already.
_MOST_BYTES = 2 * 2**30


class OnDevice:
    """Arrays on the device, of which batches are made by the numbers of rows.

    Args:
        dataset: A `keras_kd.data.examples.GatheredDataset`.

    Attributes:
        rows: A tf.data.Dataset, the row numbers of each batch.
        make: What makes a batch, as `keras_kd.data.examples.Held` has it.
        arrays: The structure of tensors.
        element_spec: Of a batch.
    """

    def __init__(self, dataset):
        self.rows, self.element_spec = dataset.rows, dataset.element_spec
        self._on_host, self.make = dataset.held
        with keras.device(_device()):
            self.arrays = tree.map_structure(
                lambda x: None if x is None else ops.convert_to_tensor(x), self._on_host
            )

    def batch(self, rows, arrays):
        """The batch of these rows, in a compiled step that is given `arrays`."""
        return self.make(arrays, rows, _take)

    def host_batch(self, rows):
        """The same as NumPy arrays, to be looked at."""
        return self.make(self._on_host, np.asarray(rows), lambda array, x: array[x])


def on_device(x, limit=None):
    """Puts the examples of `fit` on the device, if they fit.

    Args:
        x: What `fit` takes.
        limit: Most bytes. Defaults to 2 GiB on an accelerator, and none on a CPU.

    Returns:
        `OnDevice`, or None where they do not fit, or are no arrays in memory.
    """
    held = getattr(x, "held", None)
    if held is None:
        return None
    device = _device()
    if limit is None:
        limit = 0 if device.startswith("cpu") else _MOST_BYTES
    arrays = [array for array in tree.flatten(held.arrays) if array is not None]
    size = sum(array.nbytes for array in arrays)
    if size > limit:
        return None
    logger.info(
        "Examples: %s lie on the device %s, %.1f MB of at most %.1f MB.",
        f"{len(arrays[0]):,}",
        device,
        size / 1e6,
        limit / 1e6,
    )
    return OnDevice(x)


def check_limit(limit):
    """Refuses what is no number of bytes; a ValueError."""
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if limit is not None and not (is_number and limit >= 0):
        raise ValueError(
            "`device_bytes` must be None or a number of bytes >= 0, the most of examples "
            f"that `fit` puts on the device. Received: {limit!r}."
        )
    return limit


def _device():
    """Name of the first device, an accelerator where there is one, as Keras has it."""
    return keras.distribution.list_devices()[0]


def _take(array, rows):
    return ops.take(array, rows, axis=0)
