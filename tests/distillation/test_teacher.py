"""What a teacher is, and what its outputs mean."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.datasets.parts import Parts
from keras_kd.distillation.teacher import in_words, look_at, task_of

X = np.zeros((4, 3), "float32")


def dense(units, activation=None):
    layers = [keras.Input((3,)), keras.layers.Dense(units, activation=activation)]
    return keras.Sequential(layers, name="big")


def data(task, names=None):
    labels = None if task is None else np.zeros(4)
    return Parts((X, labels), None, (X, labels), names, "table", task)


CLASSES, THREE = data("multiclass", ("no", "yes")), data("multiclass", ("a", "b", "c"))
VALUES, NONE = data("regression"), data(None)


@pytest.mark.parametrize(
    "model, parts, said, task",
    [
        (dense(3), THREE, None, "multiclass"),
        (dense(2), CLASSES, None, "multiclass"),
        (dense(1), CLASSES, None, "binary"),
        (dense(1, "sigmoid"), CLASSES, None, "binary"),
        (dense(1), VALUES, None, "regression"),
        (dense(1), NONE, "regression", "regression"),
        (dense(4, "sigmoid"), NONE, None, "multilabel"),
        (dense(4, "softmax"), NONE, None, "multiclass"),
    ],
)
def test_the_task(model, parts, said, task):
    assert task_of(look_at(model), parts, model.output_shape[1:], said) == task


@pytest.mark.parametrize(
    "parts, answers, task", [(CLASSES, (1,), "binary"), (THREE, (3,), "multiclass")]
)
def test_of_a_function_the_labels_show_it(parts, answers, task):
    teacher = kd.teachers.from_function(lambda x: x, name="f", version="1")
    assert task_of(look_at(teacher), parts, answers) == task


@pytest.mark.parametrize(
    "model, parts, message",
    [
        (dense(1), NONE, "`task` must be said"),
        (dense(1, "sigmoid"), THREE, "one output, a yes or no, and the data have 3"),
        (dense(4, "sigmoid"), THREE, "task is 'multilabel', and the labels are of 'multi"),
    ],
)
def test_what_nothing_shows_or_does_not_fit(model, parts, message):
    with pytest.raises(ValueError, match=message):
        task_of(look_at(model), parts, model.output_shape[1:])


def test_what_it_costs():
    found = look_at(dense(5, "softmax"))
    # 15 weights and 5 biases in float32.
    assert (found.parameters, found.bytes, found.input_shape) == (20, 80, (3,))
    assert in_words(found).startswith("Teacher: big, multiclass, 3, 20 parameters, ")


@pytest.mark.parametrize(
    "teacher", [3, keras.Sequential([keras.layers.Dense(3)])], ids=["number", "unbuilt"]
)
def test_what_is_none(teacher):
    with pytest.raises(ValueError, match="`teacher` must be a keras.Model that is built"):
        look_at(teacher)


def test_a_file_with_classes_of_its_own(tmp_path, monkeypatch):
    """Its module is imported where its user names it, and nowhere else."""
    (tmp_path / "my_layers.py").write_text(
        "import keras\n\n\n@keras.saving.register_keras_serializable('mine')\n"
        "class Mine(keras.layers.Dense):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers

    keras.Sequential([keras.Input((3,)), my_layers.Mine(2)]).save(tmp_path / "t.keras")
    registered = keras.saving.get_custom_objects()
    kept = dict(registered)
    registered.clear()
    monkeypatch.delitem(__import__("sys").modules, "my_layers")
    try:
        with pytest.raises(ValueError, match="name the module.*`imports`"):
            look_at(tmp_path / "t.keras")
        found = look_at(tmp_path / "t.keras", imports="my_layers")
        assert found.parameters == 8
    finally:
        registered.update(kept)
