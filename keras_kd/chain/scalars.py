"""Metrics as TensorBoard reads them: an event file that follows the epochs."""

import contextlib
import errno
import shutil

from keras_kd.files import disk_full, no_room


class Scalars:
    """Writes one value a metric and epoch into a folder of TensorBoard events.

    What is in the folder is replaced by the given history, so that a run that goes on has
    each epoch once.

    Args:
        folder: Where to; None writes nothing.
        history: dict of metric name to a list of values, of the epochs before.
    """

    def __init__(self, folder, history):
        self._folder, self._history = folder, history

    def __enter__(self):
        self._writer = None
        if self._folder:
            import tensorflow as tf

            shutil.rmtree(self._folder, ignore_errors=True)
            with self._errors_of_the_system():
                self._writer = tf.summary.create_file_writer(str(self._folder))
            lengths = map(len, self._history.values())
            for epoch in range(max(lengths, default=0)):
                self.write(epoch, {k: x[epoch] for k, x in self._history.items()})
        return self

    def write(self, epoch, values):
        if self._writer is None:
            return
        import tensorflow as tf
        from tensorflow.core.framework.summary_pb2 import SummaryMetadata

        # tf.summary.scalar does the same, but needs the package tensorboard.
        metadata = SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        metadata.data_class = 1  # DATA_CLASS_SCALAR
        with self._writer.as_default():
            for name, value in values.items():
                value = tf.cast(value, tf.float32)
                tf.summary.write(f"epoch_{name}", value, epoch, metadata)
        with self._errors_of_the_system():
            self._writer.flush()

    @contextlib.contextmanager
    def _errors_of_the_system(self):
        """Makes an OSError of TensorFlow's kinds, with the folder's path."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            number = no_room(error)
            if number is not None:
                raise disk_full(number, self._folder) from error
            raise OSError(
                errno.EIO, f"TensorBoard's events cannot be written: {error.message}",
                str(self._folder),
            ) from error

    def __exit__(self, *error):
        if self._writer is not None:
            self._writer.close()
