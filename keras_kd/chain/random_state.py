"""What is drawn without a generator of its own: Keras's, Python's and NumPy's state.

And PyTorch's where Keras is on it, by which its Dropout draws.
"""

import hashlib
import random

import keras
import numpy as np

from keras_kd.distribution.workers import global_seed


def get_states():
    """The global random states, a dict of arrays."""
    version, words, gauss = random.getstate()
    del version
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "keras": keras.ops.convert_to_numpy(_global_generator().state),
        "python": np.array(words, "uint32"),
        "python_gauss": np.array(np.nan if gauss is None else gauss, "float64"),
        "numpy": keys,
        "numpy_more": np.array([position, has_gauss, cached], "float64"),
        **_torch_states(),
    }


def set_states(states):
    """Sets the global random states to what `get_states` gave."""
    _global_generator().state.assign(states["keras"])
    gauss = float(states["python_gauss"])
    words = tuple(map(int, states["python"]))
    random.setstate((3, words, None if np.isnan(gauss) else gauss))
    position, has_gauss, cached = map(float, states["numpy_more"])
    np.random.set_state(
        ("MT19937", states["numpy"], int(position), int(has_gauss), cached)
    )
    # A checkpoint of an earlier version has none.
    if _is_on_torch() and "torch" in states:
        import torch

        torch.set_rng_state(torch.tensor(states["torch"]))
        devices = [x for x in states if x.startswith("torch_")]
        for i in range(len(devices)):
            torch.cuda.set_rng_state(torch.tensor(states[f"torch_{i}"]), i)


def digest():
    """SHA-256 of the global random states."""
    found = hashlib.sha256()
    for name, array in sorted(get_states().items()):
        found.update(name.encode() + array.tobytes())
    return found.hexdigest()


def begin(start, number):
    """Seeds all of them for one stage, by nothing but where the run began.

    What a stage draws must not hang on which stages before it were trained in this process.

    Args:
        start: As `digest` gave it when the run began.
        number: The stage's.
    """
    content = hashlib.sha256(f"{start} {number}".encode()).digest()
    seed = int.from_bytes(content[:4], "big")
    # Made here for the first time, it draws its seed from Python's.
    state = _global_generator().state
    random.seed(seed)
    np.random.seed(seed)
    if _is_on_torch():
        import torch

        torch.manual_seed(seed)
    state.assign(keras.ops.cast([seed % 2**31, 0], state.dtype))


def _is_on_torch():
    return keras.backend.backend() == "torch"


def _torch_states():
    """PyTorch's own, and of each of its devices; a dict of arrays."""
    if not _is_on_torch():
        return {}
    import torch

    of_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = {f"torch_{i}": x.numpy() for i, x in enumerate(of_devices)}
    return {"torch": torch.get_rng_state().numpy()} | states


def begin_data():
    """Makes the next data set without a seed of its own the same, whatever was made before.

    TensorFlow counts such seeds on from its global seed, if one was set; that stays.
    """
    import tensorflow as tf

    if (seed := global_seed()) is not None:
        tf.random.set_seed(seed)


def _global_generator():
    # Keras's public functions draw from it, but do not give it.
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator()
