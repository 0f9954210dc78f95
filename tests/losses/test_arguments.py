"""NumPy's numbers and arrays where numbers, texts and lists are taken."""

import inspect
import json

import keras
import numpy as np
import pytest

from keras_kd import Distiller, MutualDistiller, TeacherFreeLoss, losses, teachers
from keras_kd.losses.arguments import check_positive, is_finite_number
from tests.losses import instances

SCHEDULES = keras.optimizers.schedules
# Arguments that Keras checks.
KERAS = "name", "reduction"


def as_numpy(value):
    """The ways in which NumPy has a value."""
    array = np.array(value)
    if isinstance(value, float):
        return [np.float32(value), np.float64(value), array]
    return [array[()], array]


def defaults(make):
    """Arguments with a number, a text or a flag for a default."""
    parameters = inspect.signature(make).parameters.values()
    return {
        x.name: x.default
        for x in parameters
        if isinstance(x.default, (bool, int, float, str)) and x.name not in KERAS
    }


@pytest.mark.parametrize("name", losses.names())
def test_each_argument_of_each_loss(name):
    expected = instances.get(name).get_config()
    needed = {k: x for k, x in instances.REQUIRED.items() if k in expected}
    for argument, default in defaults(losses.LOSSES[name]).items():
        for value in as_numpy(default):
            loss = losses.get(name, **needed, **{argument: value})
            config = loss.get_config()
            assert type(config[argument]) is type(expected[argument])
            assert config[argument] == pytest.approx(expected[argument])
            json.dumps(config)


@pytest.mark.parametrize("name", defaults(TeacherFreeLoss))
def test_each_argument_of_the_teacher_free_loss(name):
    for value in as_numpy(defaults(TeacherFreeLoss)[name]):
        config = TeacherFreeLoss(**{name: value}).get_config()
        json.dumps(config)


@pytest.mark.parametrize(
    "taps", [("a", "b"), [("a", "b"), ("c", "d")], [("a", "b"), np.array(["c", "d"])]]
)
def test_taps(taps):
    loss = losses.FitNet(taps=np.array(taps))
    assert loss.taps == losses.FitNet(taps=list(map(list, loss.taps))).taps
    assert {type(x) for pair in loss.taps for x in pair} == {str}
    json.dumps(loss.get_config())


def test_margins():
    loss = losses.FeatureOverhaul(margin=np.array([[-1.0, -2.0], [-1.0, -3.0]]))
    assert loss.margin == [[-1.0, -2.0], [-1.0, -3.0]]
    assert losses.FeatureOverhaul(margin=[np.float32(-1.0), np.array([-2.0])]).margin == [
        -1.0,
        [-2.0],
    ]


def test_a_distiller(make_model):
    distiller = Distiller(
        make_model(),
        make_model(),
        np.array(["kd", "logit_mse"]),
        np.array([1, 2]),
        np.array(0.5),
        validation_distillation=np.bool_(True),
    )
    assert distiller.distillation_loss_weights == (1.0, 2.0)
    assert distiller.student_loss_weight == 0.5
    assert distiller.validation_distillation is True
    json.dumps(distiller.get_config())


def test_an_ensemble(make_model):
    kinds = np.array(["logits", "logits"])
    models = [make_model(), make_model()]
    ensemble = teachers.Ensemble(models, np.array([1, 3]), np.float32(2.0), kinds)
    config = ensemble.get_config()
    assert (config["weights"], config["temperature"]) == ([1.0, 3.0], 2.0)
    json.dumps(config)
    with pytest.raises(ValueError, match="`weights` must hold one finite number"):
        teachers.Ensemble(models, [True, False])


@pytest.mark.parametrize(
    "make, plain",
    [
        (
            lambda: SCHEDULES.PiecewiseConstantDecay(
                np.array([1, 2]), np.array([1.0, 2, 3])
            ),
            {"boundaries": [1, 2], "values": [1.0, 2.0, 3.0]},
        ),
        (
            lambda: SCHEDULES.CosineDecay(np.float64(3), np.int64(5), np.float64(0.5)),
            {"initial_learning_rate": 3.0, "decay_steps": 5, "alpha": 0.5},
        ),
    ],
)
def test_a_schedule(make_model, tmp_path, make, plain):
    models = [make_model(), make_model()]
    loss = losses.SoftTargets(temperature=make())
    distiller = Distiller(*models, loss, [make()], student_loss_weight=0.1)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    for schedule in (
        again.distillation_losses[0].temperature,
        *again.distillation_loss_weights,
    ):
        assert plain.items() <= schedule.get_config().items()
    mutual = MutualDistiller([make_model(name="a"), make_model(name="b")], "kd", [make()])
    json.dumps(mutual.get_config())


def test_a_schedule_of_whole_numbers_of_numpy_is_refused():
    schedule = SCHEDULES.ExponentialDecay(np.int64(3), 5, 0.9)
    with pytest.raises(ValueError, match="a schedule of whole numbers"):
        losses.SoftTargets(temperature=schedule)


@pytest.mark.parametrize(
    "value", [1e39, 10**400, 1e19, float("inf"), float("nan"), True, "1"]
)
def test_what_float32_does_not_hold_is_no_finite_number(value):
    assert not is_finite_number(value)
    with pytest.raises(ValueError, match="`beta` must be a finite number"):
        losses.DKD(beta=value)


@pytest.mark.parametrize("value", [1e10, 1e-10])
def test_a_temperature_whose_square_float32_does_not_hold(value):
    with pytest.raises(ValueError, match="`temperature` .* from 1e-09 to 1e.09. Received"):
        losses.SoftTargets(temperature=value)
    # Other numbers are not squared.
    assert check_positive("margin", value) == value


@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_flag_is_true_or_false(make_model, value):
    with pytest.raises(ValueError, match="`validation_distillation` must be one of True"):
        Distiller(make_model(), make_model(), "kd", validation_distillation=value)
    with pytest.raises(ValueError, match="`from_logits` must be one of True, False"):
        TeacherFreeLoss(from_logits=value)
