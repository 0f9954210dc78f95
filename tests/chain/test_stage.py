"""Stages: what is refused, and what a manifest says of them."""

import json

import keras
import numpy as np
import pytest

from keras_kd import DistillationChain, Distiller, Stage, losses
from keras_kd.chain.stage import measured_as

SCHEDULE = keras.optimizers.schedules.PolynomialDecay


@pytest.fixture
def stage(make_model):
    """Builds a stage; the same one each time, but for the names that Keras gives."""

    def make(model=None, **changes):
        keras.utils.set_random_seed(0)
        arguments = {"epochs": 3, "student": make_model(**(model or {}))}
        return Stage("ta", **(arguments | changes))

    return make


@pytest.fixture
def taught(stage):
    """The same, with an object or a list wherever it can be."""

    def make(**changes):
        arguments = {
            "distillation_losses": ["kd", losses.SoftTargets(2.0)],
            "distillation_loss_weights": [0.5, SCHEDULE(1.0, 8, 0.0)],
            "student_loss_weight": SCHEDULE(0.5, 8, 0.25),
            "optimizer": keras.optimizers.Adam(SCHEDULE(0.1, 8, 0.01)),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
            "patience": 2,
        }
        return stage(**(arguments | changes))

    return make


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": ""}, "`name` must be a non-empty string that can name a folder"),
        ({"name": 3}, "Received: name=3"),
        ({"name": "a/b"}, "Received: name='a/b'"),
        ({"name": "a\\b"}, r"Received: name='a\\\\b'"),
        ({"name": ".."}, "Received: name='..'"),
        ({"name": "."}, "Received: name='.'"),
        ({"name": "Report"}, "`name` is the name of something else in a run folder"),
        ({"student": "a.keras"}, "Stage 's': `student` must be a keras.Model"),
        ({"student": None}, "Received: None"),
        (
            {"epochs": -1},
            "Stage 's': `epochs` must be an integer, 0 or greater. Received: epochs=-1",
        ),
        ({"epochs": 1.5}, "Received: epochs=1.5"),
        ({"epochs": "12"}, "Received: epochs='12'"),
        ({"epochs": True}, "Received: epochs=True"),
        ({"epochs": None}, "Received: epochs=None"),
        ({"patience": 0}, "`patience` must be an integer, 1 or greater. Received: "),
        ({"patience": 2.0}, "Received: patience=2.0"),
        ({"patience": True}, "Received: patience=True"),
        ({"restore_best": "yes"}, "`restore_best` must be one of True, False"),
        ({"restore_best": np.array([])}, "`restore_best` must be one of True, False"),
        ({"monitor": 3}, "Stage 's': `monitor` must be the name of a metric"),
    ],
)
def test_bad_arguments(make_model, change, message):
    arguments = {"name": "s", "student": make_model(), "epochs": 1} | change
    with pytest.raises(ValueError, match=message):
        Stage(**arguments)


ALONE = "Stage 'ta' has no distillation losses, so it is trained on labels alone, and"
GIVEN = "Stage 'ta' has epochs=0, so its model is not trained, and"
LAST = "Stage 'ta' neither stops early nor restores its best epoch, and"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distillation_loss_weights": [1.0]}, f"{ALONE} `distillation_loss_weights`"),
        ({"student_loss_weight": 0.5}, f"{ALONE} `student_loss_weight`"),
        ({"student_loss_weight": SCHEDULE(1.0, 8)}, f"{ALONE} `student_loss_weight`"),
        ({"taught_by": "teacher"}, f"{ALONE} `taught_by` would have no effect"),
        (
            {"taught_by": ["teacher"], "student_loss_weight": 0.0},
            f"{ALONE} `student_loss_weight`, `taught_by` would",
        ),
        ({"epochs": 0, "distillation_losses": "kd"}, f"{GIVEN} `distillation_losses`"),
        ({"epochs": 0, "patience": 2}, f"{GIVEN} `patience`"),
        ({"epochs": 0, "restore_best": True}, f"{GIVEN} `restore_best`"),
        ({"epochs": 0, "train_data": ()}, f"{GIVEN} `train_data`"),
        ({"monitor": "val_accuracy"}, f"{LAST} `monitor` would have no effect"),
    ],
)
def test_what_would_have_no_effect_is_refused(stage, changes, message):
    with pytest.raises(ValueError, match=message):
        stage(**changes)


def test_what_has_an_effect_is_taken(stage):
    kd = {"distillation_losses": "kd"}
    stage(epochs=0)
    stage(**kd, distillation_loss_weights=[1.0], student_loss_weight=0.5, taught_by="a")
    for chooses in ({"patience": 1}, {"restore_best": True}):
        assert stage(**chooses, monitor="val_accuracy").chooses_epoch
    assert not stage().chooses_epoch
    assert stage(epochs=np.int64(3)).describe([])["epochs"] == 3


def test_the_model_to_fit(stage, make_model, vectors):
    alone = stage(metrics=("accuracy", "mae")).model_to_fit(None)
    assert not isinstance(alone, Distiller)
    assert isinstance(alone.optimizer, keras.optimizers.Adam)
    np.testing.assert_array_equal(alone(vectors[0]), alone.student(vectors[0]))
    teacher = make_model(16)
    distiller = stage(distillation_losses="kd").model_to_fit(teacher)
    assert isinstance(distiller, Distiller) and distiller.teacher is teacher
    assert distiller.student_loss_weight == 0.5
    weighted = stage(distillation_losses="kd", student_loss_weight=0.0)
    assert weighted.model_to_fit(teacher).student_loss_weight == 0.0
    assert not weighted.student.compiled


def test_a_description_is_json_and_the_same_each_time(taught):
    first, second = taught(), taught()
    assert first.student.layers[0].name != second.student.layers[0].name
    said = first.describe(["teacher"])
    assert json.loads(json.dumps(said)) == said
    assert second.describe(["teacher"]) == said
    # Nor does it change by being made ready, or by being told twice.
    first.model_to_fit(second.student)
    assert first.describe(["teacher"]) == said


def test_what_a_description_says(taught):
    said = taught().describe(["teacher", "ta"])
    assert said["name"] == "ta" and said["taught_by"] == ["teacher", "ta"]
    assert said["epochs"] == 3 and said["patience"] == 2
    assert said["losses"][0] == "kd"
    assert said["losses"][1]["class"] == "SoftTargets"
    assert said["losses"][1]["temperature"] == 2.0
    weight, schedule = said["loss_weights"]
    assert weight == 0.5
    assert schedule["class"] == "PolynomialDecay" and schedule["decay_steps"] == 8
    assert said["metrics"][0] == "accuracy" and said["metrics"][1]["k"] == 2


def smoothed(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


class WithoutConfig:
    """As a function, but one that Keras cannot write down."""

    def __call__(self, y_true, y_pred):
        return smoothed(y_true, y_pred)


CHANGES = {
    "epochs": {"epochs": 4},
    "another loss": {"distillation_losses": ["dkd", losses.SoftTargets(2.0)]},
    "temperature": {"distillation_losses": ["kd", losses.SoftTargets(3.0)]},
    "order": {"distillation_losses": [losses.SoftTargets(2.0), "kd"]},
    "weight": {"distillation_loss_weights": [0.75, SCHEDULE(1.0, 8, 0.0)]},
    "weight's schedule": {"distillation_loss_weights": [0.5, SCHEDULE(1.0, 9, 0.0)]},
    "no weights": {"distillation_loss_weights": None},
    "labels' weight": {"student_loss_weight": 0.5},
    "labels' schedule": {"student_loss_weight": SCHEDULE(0.5, 8, 0.5)},
    "optimizer": {"optimizer": "adam"},
    "another optimizer": {"optimizer": keras.optimizers.AdamW(SCHEDULE(0.1, 8, 0.01))},
    "learning rate": {"optimizer": keras.optimizers.Adam(SCHEDULE(0.2, 8, 0.01))},
    "labels' loss": {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
    },
    "metrics": {"metrics": ["accuracy"]},
    "metric": {"metrics": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3)]},
    "patience": {"patience": 3},
    "restore": {"restore_best": True},
    "monitor": {"monitor": "val_accuracy"},
    "task": {"task": "multiclass"},
    "width": {"model": {"units": 9}},
    "regularizer": {"model": {"kernel_regularizer": "l2"}},
    "precision": {"model": {"dtype": "mixed_bfloat16"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_description_differs_if_one_thing_differs(taught, change):
    assert taught(**CHANGES[change]).describe([]) != taught().describe([])


def test_its_task_is_the_distillers(make_model):
    """Of logits that are trained by a squared error nobody else could know it."""
    how = {"distillation_losses": "kd", "loss": keras.losses.MeanSquaredError()}
    with pytest.raises(ValueError, match="no meaning for the task 'regression'"):
        Stage("s", make_model(), 1, **how).model_to_fit(make_model())
    stage = Stage("s", make_model(), 1, **how, task="multiclass")
    assert stage.model_to_fit(make_model()).task == "multiclass"
    with pytest.raises(ValueError, match="Stage 's': `task` must be None or one of 'multi"):
        Stage("s", make_model(), 1, task="ranking")


@pytest.mark.parametrize("distilled", [True, False])
def test_its_loss_and_metric_are_the_tasks(distilled):
    """Of logits a half is no even chance."""
    how = {"distillation_losses": "kd"} if distilled else {}
    stage = Stage("s", ends_in(1), 1, task="binary", **how)
    assert stage.loss.from_logits and stage.metrics[0].name == "accuracy"
    metric = stage.metrics[0]
    metric.update_state([[1.0], [1.0], [0.0]], [[0.2], [0.9], [-0.3]])
    assert float(metric.result()) == 1
    with_sigmoid = Stage("s", ends_in(3, "sigmoid"), 1, **how)
    assert not with_sigmoid.loss.from_logits
    # Keras takes "accuracy" of several units for that of one class.
    (metric,) = with_sigmoid.metrics
    metric.update_state([[1.0, 1.0, 0.0]], [[0.6, 0.9, 0.7]])
    assert float(metric.result()) == pytest.approx(2 / 3)
    values = Stage("s", ends_in(2), 1, task="regression", **how)
    assert isinstance(values.loss, keras.losses.MeanSquaredError)
    assert values.metrics == ("mean_absolute_error",)
    assert Stage("s", ends_in(1), 1, task="regression", metrics=["mse"]).metrics == ["mse"]
    assert Stage("s", ends_in(2), 1).loss.from_logits


def ends_in(units, activation=None):
    layers = [keras.layers.Input((3,)), keras.layers.Dense(units, activation)]
    return keras.Sequential(layers)


def test_how_its_student_is_measured():
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)
    found = Stage("s", ends_in(4), 1, loss=cross_entropy).measured_as()
    assert found == {"task": "multiclass", "ignore_class": 255}
    assert Stage("s", ends_in(1), 1, loss="mse").measured_as()["task"] == "regression"
    # The teacher shows what a linear student's numbers are.
    taught = Stage("s", ends_in(3), 1, "logit_mse", loss="mse")
    assert taught.measured_as(ends_in(3, "sigmoid"))["task"] == "multilabel"
    # What a task contradicts Keras trains on labels alone.
    crossed = Stage("s", ends_in(4, "softmax"), 1, loss="binary_crossentropy")
    assert crossed.measured_as()["task"] == "multiclass"


def test_numbers_of_numpy_are_numbers(taught):
    def said(weight):
        return taught(student_loss_weight=weight).describe([])["student_loss_weight"]

    assert said(np.float32(0.5)) == said(0.5) == 0.5
    assert said(np.float32(0.25)) == 0.25


def test_inner_optimizers_count(stage):
    def said(rate):
        inner = keras.optimizers.SGD(rate)
        scaled = keras.optimizers.LossScaleOptimizer(inner)
        return stage(optimizer=scaled).describe([])

    assert said(0.1) == said(0.1) != said(0.2)


def test_functions_and_objects_have_a_name(stage):
    def said(loss):
        return stage(loss=loss).describe([])["loss"]

    module = smoothed.__module__
    assert said(smoothed)["function"] == f"{module}.smoothed"
    assert "<lambda>" in said(lambda y_true, y_pred: 0.0)["function"]
    assert said(WithoutConfig())["class"] == f"{module}.WithoutConfig"
    # Two of one name are told by their code: see test_descriptions.
    assert said(lambda y, p: 0.0) != said(lambda y, p: 1.0)
    by_output = said({"a": "mse", "b": keras.losses.CategoricalCrossentropy(True, 0.1)})
    assert by_output["a"] == "mse" and by_output["b"]["label_smoothing"] == 0.1


def test_other_weights_at_the_beginning_show(stage, make_model):
    first, second = stage(), stage(student=make_model())
    said, other = first.describe([]), second.describe([])
    assert said["initial_weights"] != other["initial_weights"]
    assert said["architecture"] == other["architecture"]
    second.student.set_weights(first.student.get_weights())
    assert second.describe([]) == said


def test_a_student_without_weights_cannot_be_described():
    student = keras.Sequential([keras.layers.Dense(3)], name="late")
    stage = Stage("s", student, 1)
    with pytest.raises(ValueError, match="Stage 's': with a run folder .* model 'late'"):
        stage.describe([])
    student.build((None, 4))
    stage.describe([])


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_the_loss_ignores_counts_in_no_accuracy(column, weighted):
    loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)
    (metric,) = Stage("s", ends_in(3), 1, loss=loss).metrics
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(4, 5, 3)), rng.integers(0, 3, (4, 5))
    y[rng.uniform(size=y.shape) < 0.4] = 255
    weights = rng.uniform(size=4) if weighted else None
    metric.update_state(y[..., None] if column else y, z, weights)
    counts = (y != 255) * (1 if weights is None else weights[:, None])
    wanted = np.sum(counts * (z.argmax(-1) == y)) / np.sum(counts)
    assert float(metric.result()) == pytest.approx(wanted, rel=1e-5)
    assert metric.name == "accuracy"
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert again.ignore_class == 255


def test_the_metric_is_the_tasks_where_a_loss_is_given():
    (metric,) = Stage("s", ends_in(3, "sigmoid"), 1, loss="binary_crossentropy").metrics
    metric.update_state([[1.0, 1.0, 0.0]], [[0.6, 0.9, 0.7]])
    assert float(metric.result()) == pytest.approx(2 / 3)
    assert Stage("s", ends_in(1), 1, loss="mse").metrics == ("mean_absolute_error",)
    # What a user gives is the user's.
    own = Stage("s", ends_in(1), 1, loss="mse", metrics=["mse"])
    assert own.metrics == ["mse"]


def test_a_given_stage_is_measured_as_what_it_teaches():
    student = Stage("s", ends_in(1), 1, "kd", task="binary")
    chain = DistillationChain(None, [Stage("g", ends_in(1), 0), student])
    assert measured_as(chain)["g"]["task"] == "binary"


@pytest.mark.parametrize(
    "teacher, loss",
    [
        ((1, "sigmoid"), keras.losses.BinaryCrossentropy),
        ((2, "softmax"), keras.losses.BinaryCrossentropy),
        ((1, None), None),
    ],
)
def test_the_teacher_shows_what_one_linear_unit_means(teacher, loss):
    stage = Stage("s", ends_in(1), 1, "kd")
    if loss is None:
        message = "Stage 's': what the one output of `student` means cannot be told"
        with pytest.raises(ValueError, match=message):
            DistillationChain(ends_in(*teacher), [stage])
    else:
        DistillationChain(ends_in(*teacher), [stage])
        assert isinstance(stage.loss, loss) and stage.loss.from_logits


def test_a_softmax_is_no_logits():
    assert not Stage("s", ends_in(3, "softmax"), 1).loss.from_logits
