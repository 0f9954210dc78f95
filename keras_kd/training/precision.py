"""In which precision a model trains, and as it ships: in float32."""

import functools
import logging
import platform
import weakref
from pathlib import Path

import keras

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


def chosen_policy(dtype_policy):
    """A dtype policy, of which "auto" is the one that trains the fastest here.

    That is mixed_bfloat16 on an accelerator, and with TensorFlow on a processor that has
    instructions for it; elsewhere it takes as long as float32 or many times that, so it is
    float32, and the logger "keras_kd" says why, once.

    Args:
        dtype_policy: A name that Keras knows, or "auto".
    """
    if dtype_policy != "auto":
        return dtype_policy
    reason = None if _has_accelerator() else _why_not_bfloat16()
    if reason:
        _say_float32(reason)
    return "float32" if reason else "mixed_bfloat16"


def _why_not_bfloat16():
    """Why a processor is not to compute in bfloat16; None where it is."""
    if keras.backend.backend() != "tensorflow":
        return f"{keras.backend.backend()} on a processor gains nothing by bfloat16"
    if not _has_bfloat16_instructions():
        return "the processor is not known to have instructions for bfloat16"
    return None


def _has_bfloat16_instructions(cpuinfo="/proc/cpuinfo"):
    """As Linux says; other systems are taken to have none."""
    # The kernel's word. NumPy's own is private and has other names in each version.
    path = Path(cpuinfo)
    if platform.system() != "Linux" or not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    # "Features" on ARM.
    flags = [x.split(":", 1)[1].split() for x in lines if x.startswith(("flags", "Feat"))]
    wanted = {"avx512_bf16", "amx_bf16", "bf16"}
    return bool(flags) and all(wanted & set(x) for x in flags)


def _has_accelerator():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # Starts no device.
        return any(x.device_type != "CPU" for x in tf.config.list_physical_devices())
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


@functools.cache
def _say_float32(reason):
    logger.warning("Training in float32, as %s. Another dtype_policy can be given.", reason)
