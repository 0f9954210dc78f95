"""What each output means, and what labels it takes."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.exporters import outputs
from keras_kd.exporters.outputs import Output

SPARSE = keras.losses.SparseCategoricalCrossentropy


def model_of(units=1, activation=None, loss=None, squeezed=False):
    x = keras.Input((4,))
    y = keras.layers.Dense(units, activation=activation, name="last")(x)
    model = keras.Model(x, keras.ops.squeeze(y, -1) if squeezed else y)
    if loss is not None:
        model.compile("sgd", loss)
    return model


def found(model, said=None, given=None, answers=None):
    answers = np.array([[-1.0, 2.0]]) if answers is None else answers
    (output,) = outputs.find_outputs(model, given or model, answers, said=said)
    return output


# (units, activation, loss, said): (task, in_probabilities).
FOUND = [
    ((3, None, None, None), ("multiclass", False)),
    ((3, "softmax", None, None), ("multiclass", True)),
    ((3, "sigmoid", None, None), ("multilabel", True)),
    ((3, None, "binary_crossentropy", None), ("multilabel", False)),
    ((3, None, "mse", None), ("regression", False)),
    ((3, None, None, "regression"), ("regression", False)),
    ((1, "sigmoid", None, None), ("binary", True)),
    ((1, None, keras.losses.BinaryCrossentropy(from_logits=True), None), ("binary", False)),
    ((1, None, None, "binary"), ("binary", False)),
    ((1, None, None, None), (None, False)),
    ((1, None, "mae", None), ("regression", False)),
]


@pytest.mark.parametrize("case, expected", FOUND)
def test_task_of_one_output(case, expected):
    units, activation, loss, said = case
    output = found(model_of(units, activation, loss), said)
    assert (output.task, output.in_probabilities) == expected
    assert output.name is None


@pytest.mark.parametrize("loss", [None, "mse", "binary_crossentropy"])
@pytest.mark.parametrize("said", [None, "binary"])
def test_one_number_for_each_example(loss, said):
    """Without an axis of units."""
    output = found(model_of(1, "sigmoid", loss, squeezed=True), said)
    of_loss = {None: None, "mse": "regression", "binary_crossentropy": "binary"}
    assert output.task == (said or of_loss[loss])


@pytest.mark.parametrize(
    "answers, loss, expected",
    [
        (np.array([0.1, 0.9]), None, True),
        (np.array([-0.1, 0.9]), None, False),
        (np.array([0.1, 0.9]), keras.losses.BinaryCrossentropy(from_logits=True), False),
        (np.array([0.1, 1.9]), keras.losses.BinaryCrossentropy(), True),
    ],
)
def test_where_the_last_layer_does_not_say_what_they_are(answers, loss, expected):
    """The loss does; and where there is none, what the model answers."""
    model = model_of(1, None, loss, squeezed=True)
    assert found(model, "binary", answers=answers).in_probabilities is expected


def test_the_loss_says_which_class_is_ignored():
    model = model_of(3, None, SPARSE(from_logits=True, ignore_class=255))
    assert found(model).ignore_class == 255
    assert found(model_of(3, None, SPARSE(from_logits=True))).ignore_class is None


def test_of_a_distiller_its_own_task():
    student, teacher = model_of(), model_of()
    distiller = kd.Distiller(teacher, student, "kd", task="binary")
    assert found(student, given=distiller).task == "binary"
    distiller = kd.Distiller(teacher, student, "kd")
    with pytest.warns(UserWarning, match="taken as 'binary'"):
        distiller.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    assert found(student, given=distiller).task == "binary"


@pytest.mark.parametrize(
    "model, said, message",
    [
        (model_of(3), "binry", "`task` must be one of 'multiclass'.*'binry'"),
        (model_of(3), "binary", "'binary' takes outputs of one unit.*`model` .* with 3"),
        (model_of(1), "multiclass", "takes outputs of two units or more"),
        (model_of(1, squeezed=True), "multiclass", "takes outputs of two units or more"),
        (model_of(3, "softmax"), "multilabel", "`model` .* ends in a softmax"),
        (
            model_of(9, "softmax", "binary_crossentropy"),
            None,
            "`loss` and the outputs of `model` .* contradict.*9 softmax.*binary_crossen",
        ),
        (model_of(3), {"a": "binary", "b": "binary"}, "`task` must be one of .*several"),
        (model_of(3), 3, "`task` must be one of .*Received: task=3"),
    ],
)
def test_contradictions(model, said, message):
    with pytest.raises(ValueError, match=message):
        found(model, said)


def several(structure, loss=None):
    x = keras.Input((4,))
    age = keras.layers.Dense(1, name="age_layer")(x)
    kind = keras.layers.Dense(3, name="kind_layer")(x)
    sick = keras.layers.Dense(1, activation="sigmoid", name="sick_layer")(x)
    parts = {"sick": sick, "age": age, "kind": kind}
    model = keras.Model(x, parts if structure == "dict" else list(parts.values()))
    if loss is not None:
        model.compile("sgd", loss)
    return model


@pytest.mark.parametrize("structure", ["dict", "list"])
@pytest.mark.parametrize("by", ["loss", "task", "nothing"])
def test_several_outputs(structure, by):
    names = ["sick", "age", "kind"]
    if structure == "list":
        names = [f"{x}_layer" for x in names]
    tasks = ["binary", "regression", "multiclass"]
    losses = ["binary_crossentropy", "mse", SPARSE(from_logits=True, ignore_class=9)]
    losses = losses if structure == "list" else dict(zip(names, losses, strict=True))
    model = several(structure, losses if by == "loss" else None)
    x = keras.Input((4,))
    gives, in_order = outputs.named(model, model(x))
    assert set(gives) == set(names) and in_order == (structure == "list")
    if in_order:
        assert list(gives) == names
    answers = dict.fromkeys(names, np.zeros((2, 3)))
    said = dict(zip(names, tasks, strict=True)) if by == "task" else None
    listed = outputs.find_outputs(keras.Model(x, gives), model, answers, in_order, said)
    by_name = {output.name: output for output in listed}
    expected = tasks if by != "nothing" else ["binary", None, "multiclass"]
    assert [by_name[name].task for name in names] == expected
    assert by_name[names[0]].ignore_class is None
    assert by_name[names[2]].ignore_class == (9 if by == "loss" else None)
    # One array goes to none of them; a list where there is an order; a dict by name.
    numbers = {"sick": np.zeros(5), "age": np.ones(5), "kind": np.arange(5)}
    own = by_name[names[2]]
    as_dict = dict(zip(names, numbers.values(), strict=True))
    np.testing.assert_array_equal(own.labels_in(as_dict), np.arange(5))
    assert own.labels_in({names[0]: np.zeros(5)}) is None and own.labels_in(None) is None
    if in_order:
        assert own.labels_in(list(numbers.values())) is numbers["kind"]
    for wrong in (np.zeros(5), [np.zeros(5)], *([list(numbers.values())] * (not in_order))):
        with pytest.raises(ValueError, match="labels in a dict by the outputs' names"):
            own.labels_in(wrong)


def test_a_task_of_an_output_that_is_not_there():
    model = several("dict")
    with pytest.raises(ValueError, match="`task` must be of the outputs .*'age'.*'agee'"):
        outputs.find_outputs(model, model, {}, False, {"agee": "regression"})


def test_what_is_wrong_is_said_of_its_output():
    model = several("dict")
    answers = dict.fromkeys(model.output, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`task` .*with 3 of the output 'kind'"):
        outputs.find_outputs(model, model, answers, False, {"kind": "binary"})


def test_names_of_outputs():
    x = keras.Input((4,))
    dense = keras.layers.Dense(2, name="shared")
    twice = keras.Model(x, [dense(x), dense(2 * x)])
    assert list(outputs.named(twice, twice.outputs)[0]) == ["output_0", "output_1"]
    nested = {"a": [dense(x), dense(-x)], "b": x}
    model = keras.Model(x, nested)
    assert set(outputs.named(model, nested)[0]) == {"a/0", "a/1", "b"}
    assert outputs.named(model, {"a": x}) == (x, True)


def test_are_probabilities():
    assert outputs.are_probabilities([[0.2, 0.8], [1.0, 0.0]])
    assert not outputs.are_probabilities([[0.2, 0.8], [1.0, 0.1]])
    assert not outputs.are_probabilities([[1.2, -0.2]])


NUMBERS = np.arange(6) % 3
YES = NUMBERS % 2


@pytest.mark.parametrize(
    "task, shape, labels, expected",
    [
        ("multiclass", (6, 3), NUMBERS, NUMBERS),
        ("multiclass", (6, 3), NUMBERS[:, None].astype("float32"), NUMBERS),
        ("multiclass", (6, 3), np.eye(3)[NUMBERS], NUMBERS),
        ("multiclass", (2, 3, 3), NUMBERS.reshape(2, 3), NUMBERS.reshape(2, 3)),
        ("multiclass", (2, 3, 1, 3), NUMBERS.reshape(2, 3, 1), NUMBERS.reshape(2, 3, 1)),
        ("multiclass", (2, 3, 3), np.eye(3)[NUMBERS.reshape(2, 3)], NUMBERS.reshape(2, 3)),
        ("binary", (6, 1), YES, YES[:, None]),
        ("binary", (6, 1), YES[:, None].astype(bool), YES[:, None]),
        ("binary", (6,), YES, YES),
        ("binary", (1, 2, 3, 1), YES.reshape(1, 2, 3), YES.reshape(1, 2, 3, 1)),
        ("multilabel", (2, 3), YES.reshape(2, 3), YES.reshape(2, 3)),
        ("regression", (6, 1), NUMBERS / 7, NUMBERS[:, None] / 7),
        (None, (2, 3), NUMBERS.reshape(2, 3), NUMBERS.reshape(2, 3)),
    ],
)
def test_labels_of_any_form(task, shape, labels, expected):
    output = Output(task=task)
    np.testing.assert_array_equal(output.check_labels(labels, shape), expected)
    assert output.check_labels(None, shape) is None


@pytest.mark.parametrize(
    "task, shape, labels, message",
    [
        ("multiclass", (6, 3), np.zeros((6, 4)), "one label for each answer"),
        ("multiclass", (6, 3), np.zeros(5), "one label for each answer"),
        ("multiclass", (6, 3), np.ones((6, 3)), "one label for each answer"),
        ("multiclass", (6, 3), NUMBERS - 1, r"in 0\.\.2.*'multiclass'.*Received: -1"),
        ("multiclass", (6, 3), NUMBERS + 1, r"in 0\.\.2.*Received: 3.*`ignore_class`"),
        ("multiclass", (6, 3), NUMBERS / 2, r"in 0\.\.2.*Received: 0\.5"),
        ("binary", (6, 1), np.zeros((6, 2)), "one label for each output, of shape"),
        ("binary", (6, 1), NUMBERS, "0 or 1, as its task 'binary'.*Received: 2"),
        ("multilabel", (6, 3), NUMBERS, r"one label for each output, of shape \('n', 3\)"),
        ("multilabel", (2, 3), NUMBERS.reshape(2, 3), "0 or 1.*Received: 2"),
        ("regression", (6, 1), np.zeros(5), "one label for each output.*5 of them for 6"),
        ("regression", (6, 1), np.full(6, np.nan), "finite numbers.*Received: nan"),
    ],
)
def test_labels_that_do_not_fit(task, shape, labels, message):
    with pytest.raises(ValueError, match=f"`examples` must have .*{message}"):
        Output(task=task).check_labels(labels, shape)
    with pytest.raises(ValueError, match="of the output 'age'"):
        Output("age", task=task).check_labels(labels, shape)


def test_the_ignored_label_is_a_label():
    labels = np.where(NUMBERS == 2, 255, NUMBERS)
    found = Output(ignore_class=255).check_labels(labels, (6, 3))
    np.testing.assert_array_equal(found, labels)
    with pytest.raises(ValueError, match=r"in 0\.\.2, or 7, which the loss ignores"):
        Output(ignore_class=7).check_labels(labels, (6, 3))
