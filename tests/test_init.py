"""What `import keras_kd` gives its users."""

import doctest
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.recipes import zoo

PUBLIC = """
    CacheError DistillationChain Distiller MutualDistiller Stage TeacherFreeLoss augment
    born_again cache_teacher callbacks distill export load_distiller losses planner
    quantization_aware students teachers testing with_index with_teacher_inputs
    with_teacher_outputs
""".split()


def test_dir_shows_the_public_names_alone():
    assert dir(kd) == sorted(["__version__", *PUBLIC])
    assert len({id(getattr(kd, name)) for name in PUBLIC}) == len(PUBLIC)


def test_a_star_gives_the_public_names_alone():
    names = {}
    exec("from keras_kd import *", names)
    assert names.keys() - {"__builtins__"} == set(PUBLIC)


def test_other_names_are_none():
    with pytest.raises(AttributeError, match="'keras_kd' has no attribute 'Student'"):
        kd.Student


@pytest.fixture
def names(tmp_path, monkeypatch, mnist_sample):
    """What examples speak of without making it."""
    monkeypatch.chdir(tmp_path)
    train, test = ([x[:100] for x in arrays] for arrays in mnist_sample)
    models = ("teacher", "second", "ta", "student", "small", "large")
    made = {name: zoo.build("mnist_fc_32") for name in models}
    distiller = kd.Distiller(made["teacher"], made["student"], "kd", None, 0.95)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    own = {name: getattr(kd, name) for name in PUBLIC}
    own |= vars(keras.losses) | vars(kd.losses) | made
    return own | {
        "kd": kd,
        "keras": keras,
        "loss": loss,
        "distiller": distiller,
        "images": train[0],
        "labels": train[1],
        "train_images": train[0],
        "test_images": np.concatenate([test[0]] * 10),
        "test_labels": np.concatenate([test[1]] * 10),
        "train_ds": tf.data.Dataset.from_tensor_slices(tuple(train)).batch(50),
        "val_ds": tf.data.Dataset.from_tensor_slices(tuple(test)).batch(50),
    }


# Keras's `fit` tells everybody so who gives it a tf.data.Dataset.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
# That of `distill`, which its street's page has, too, is run in tests/distillation.
@pytest.mark.parametrize("name", [x for x in PUBLIC if x != "distill"])
def test_its_example_runs(name, names):
    text = inspect.getdoc(getattr(kd, name))
    assert "Example:" in text
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    if "export(" in "".join(blocks):
        # What is exported is trained, and answers as its 8-bit integers do.
        names["distiller"].fit(names["train_ds"].repeat(100), verbose=0)
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    module = inspect.getmodule(getattr(kd, name))
    tests = doctest.DocTestParser().get_doctest(
        text, names | vars(module), name, None, None
    )
    assert blocks or tests.examples
    assert doctest.DocTestRunner().run(tests).failed == 0
