"""A model trained in mixed precision, as it ships: in float32."""

import logging
import weakref

from keras_kd.distribution.distribute import without_strategy
from keras_kd.models.copies import copy_model
from keras_kd.models.sameness import is_mixed

logger = logging.getLogger("keras_kd")

# Models of which it was said that they stay as they are.
_told = weakref.WeakSet()


def in_float32(model):
    """The same model, its weights and other state copied, computing in float32.

    Mixed precision saves time in training; on a device without that precision, and in
    exported files, float32 is faster or alone possible. Weights are float32 in both.

    Args:
        model: A built `keras.Model`.

    Returns:
        A model of no `tf.distribute` strategy. `model` itself where it is one already, and
        no layer has a dtype policy of mixed precision, or where it cannot be copied by
        `keras_kd.models.copies.copy_model`; the logger "keras_kd" then says why, once.

    Raises:
        ValueError: The model is one of a strategy, and cannot be copied.
    """
    if not is_mixed(model):
        return without_strategy(model)
    try:
        return copy_model(model, in_float32=True)
    except ValueError as error:
        alone = without_strategy(model)
        if model not in _told:
            _told.add(model)
            logger.warning("%r stays in mixed precision. %s", model.name, error)
        return alone
