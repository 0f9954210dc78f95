"""What all losses share."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd import Distiller, losses
from keras_kd.losses.base import PerExampleLoss, as_distillation_loss
from keras_kd.losses.layer_pairs import as_layer_pairs
from keras_kd.losses.weights import weighted_mean


class RightClassLogit(PerExampleLoss):
    """Difference of the labelled class's logits: a loss of a user's own."""

    needs_labels = True

    def call(self, teacher_outputs, student_outputs, y_true):
        right = ops.one_hot(y_true, teacher_outputs.shape[-1], dtype="float64")
        return ops.sum(right * (teacher_outputs - student_outputs), axis=-1)


def test_a_loss_of_ones_own_gets_labels():
    teacher, student = np.array([[3.0, 1.0], [0.0, 5.0]]), np.zeros((2, 2))
    value = RightClassLogit().compute_loss(teacher, student, y_true=np.array([0, 1]))
    assert float(value) == (3.0 + 5.0) / 2


def test_missing_labels_are_an_error():
    with pytest.raises(ValueError, match="RightClassLogit needs labels"):
        RightClassLogit().compute_loss(np.zeros((2, 2)), np.zeros((2, 2)))


def test_weighted_mean_of_sequences():
    values = ops.convert_to_tensor([[1.0, 3.0], [5.0, 7.0]])
    assert float(weighted_mean(values)) == 4.0
    assert float(weighted_mean(values, np.array([1.0, 0.0]))) == (1.0 + 3.0) / 4


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("more", [(), (3,), (1, 5)])
def test_weights_of_examples(shape, more):
    values = np.random.default_rng(0).normal(size=(4, *more))
    weights = np.array([0.0, 1.0, 2.0, 3.0])
    expected = np.mean([w * v for w, v in zip(weights, values, strict=True)])
    found = weighted_mean(ops.convert_to_tensor(values), weights.reshape(shape))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("column", [(), (1,)])
@pytest.mark.parametrize("shape", [(4, 3), (1, 5), (4, 2, 3)])
def test_weights_of_values(shape, column):
    values, weights = np.random.default_rng(0).normal(size=(2, *shape))
    given = weights.reshape(*shape, *column)
    found = weighted_mean(ops.convert_to_tensor(values), given)
    np.testing.assert_allclose(found, np.mean(values * weights), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 1, 1, 1), (4, 2, 1), (4, 1, 3)])
def test_weights_that_stand_for_an_axis(shape):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(4, 2, 3)), rng.random(shape)
    each = np.broadcast_to(weights.reshape(shape[:3]), values.shape)
    found = weighted_mean(ops.convert_to_tensor(values), weights)
    np.testing.assert_allclose(found, np.mean(values * each), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 3), (4, 2, 3, 1)])
def test_weights_of_positions_where_an_example_has_one_value(shape):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=4), rng.random(shape)
    # As if each position had the example's value.
    each = np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape)
    found = weighted_mean(ops.convert_to_tensor(values), weights)
    np.testing.assert_allclose(found, np.mean(each * weights), rtol=1e-6)


def test_what_has_no_weight_is_nothing_be_it_nan():
    values = ops.convert_to_tensor([float("nan"), 3.0])
    assert float(weighted_mean(values, np.array([0.0, 2.0]))) == 3.0
    assert np.isnan(weighted_mean(values, np.array([1.0, 2.0])))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 4), (4, 2), (4, 3, 2), (4, 1, 3)])
def test_weights_are_not_broadcast(shape):
    with pytest.raises(ValueError, match="one weight for each example"):
        weighted_mean(ops.ones((4, 3)), np.ones(shape))


def test_an_adopted_loss_of_keras_does_not_broadcast():
    loss = as_distillation_loss(keras.distillation.LogitsDistillation())
    with pytest.raises(ValueError, match="must have the same shape"):
        loss.compute_loss(ops.ones((4, 3)), ops.ones((1, 3)))


@pytest.mark.parametrize("structure", [list, lambda x: dict(enumerate(x))])
def test_several_outputs_need_taps(structure):
    two = structure([ops.ones((2, 3)), ops.ones((2, 3))])
    message = "one output of each model, and the teacher has several.*taps="
    with pytest.raises(ValueError, match=message):
        RightClassLogit().compute_loss(two, ops.ones((2, 3)), y_true=np.zeros(2))


TEACHER, STUDENT = np.random.default_rng(0).normal(size=(2, 8, 5)).astype("float32")


@pytest.mark.parametrize(
    "loss",
    [
        keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence()),
        keras.distillation.FeatureDistillation("mse"),
    ],
)
def test_losses_of_keras_are_taken_as_they_are(loss):
    adopted = as_distillation_loss(loss)
    expected = float(loss.compute_loss(TEACHER, STUDENT))
    assert float(adopted.compute_loss(TEACHER, STUDENT)) == expected
    assert as_distillation_loss(adopted) is adopted


def test_layers_of_keras_losses_become_taps():
    loss = keras.distillation.FeatureDistillation("mse", "conv4", "conv2")
    assert as_distillation_loss(loss).taps == (("conv4", "conv2"),)
    last = keras.distillation.FeatureDistillation("mse")
    assert as_distillation_loss(last).taps == ()


def test_keras_losses_do_not_broadcast():
    loss = as_distillation_loss(keras.distillation.FeatureDistillation("mse"))
    with pytest.raises(ValueError, match=r"FeatureDistillation compares .*\(None, 1\)"):
        loss.build((None, 8), (None, 1))


class Foreign:
    """A loss that knows nothing of this package."""

    def compute_loss(self, teacher_outputs, student_outputs, y_true, **kwargs):
        return ops.mean(ops.abs(teacher_outputs - student_outputs)) + ops.sum(y_true)


def test_foreign_losses_get_what_they_take():
    value = as_distillation_loss(Foreign()).compute_loss(
        TEACHER, STUDENT, y_true=np.float32([2.0])
    )
    assert float(value) == pytest.approx(np.abs(TEACHER - STUDENT).mean() + 2.0)


def test_sample_weight_that_a_foreign_loss_ignores_is_said():
    with pytest.warns(UserWarning, match="Foreign ignores sample_weight"):
        as_distillation_loss(Foreign()).compute_loss(
            TEACHER, STUDENT, y_true=0.0, sample_weight=np.ones(8)
        )


def test_a_loss_that_is_no_scalar_is_an_error():
    class PerExample:
        def compute_loss(self, teacher_outputs, student_outputs):
            return ops.mean(ops.convert_to_tensor(student_outputs), axis=-1)

    with pytest.raises(ValueError, match=r"must return a scalar. Received: shape \(8,\)"):
        as_distillation_loss(PerExample()).compute_loss(TEACHER, STUDENT)


@pytest.mark.parametrize(
    "taps, pairs",
    [
        (None, ()),
        ((), ()),
        (("a", "b"), (("a", "b"),)),
        ((None, "b"), ((None, "b"),)),
        ([("a", "b"), ["c", "d/e"]], (("a", "b"), ("c", "d/e"))),
    ],
)
def test_taps_become_pairs(taps, pairs):
    assert as_layer_pairs(taps) == pairs


@pytest.mark.parametrize(
    "taps", ["ab", ("a",), ("a", "b", "c"), [("a", 3)], 3, [("", "b")]]
)
def test_taps_that_are_no_pairs(taps):
    with pytest.raises(ValueError, match="`taps` must be a pair of layer names"):
        as_layer_pairs(taps)


KL = keras.losses.KLDivergence()
CONSTANT_OF_ONE = [
    *(losses.get(name) for name in ("ttm", "dist", "dkd", "nkd", "wsl")),
    losses.SoftTargets(activation="softmax"),
    *(losses.get(name) for name in ("logit_std", "pkt", "cc")),
    losses.RelationalKnowledge(distance_weight=0.0),
    losses.ContrastiveRepresentation(64),
    keras.distillation.LogitsDistillation(loss=KL),
    keras.distillation.LogitsDistillation(loss="categorical_crossentropy"),
    keras.distillation.FeatureDistillation(loss="cosine_similarity"),
]


@pytest.mark.parametrize("loss", CONSTANT_OF_ONE, ids=lambda x: type(x).__name__)
def test_of_one_number_a_constant_loss_is_refused_before_the_first_step(loss, make_model):
    models = [make_model(num_classes=1) for _ in range(2)]
    with pytest.raises(ValueError, match="it is the same whatever .*Received: .*None, 1"):
        Distiller(*models, loss)


@pytest.mark.parametrize("name", ["logit_mse", "sp", "rkd"])
def test_of_one_number_others_are_taken(name, make_model):
    Distiller(make_model(num_classes=1), make_model(num_classes=1), name)


@pytest.mark.parametrize(
    "loss", [losses.LogitStd(), losses.DIST(gamma=0.0), losses.DKD(alpha=0.0)], ids=repr
)
def test_of_two_classes_too_if_only_their_order_would_count(loss, make_model):
    models = [make_model(num_classes=2) for _ in range(2)]
    with pytest.raises(ValueError, match="logits of three or more classes"):
        Distiller(*models, loss)


@pytest.mark.parametrize(
    "name, weights",
    [
        ("dkd", {"alpha": 0, "beta": 0}),
        ("dist", {"beta": 0, "gamma": 0}),
        ("rkd", {"distance_weight": 0, "angle_weight": 0}),
    ],
)
def test_weights_that_are_all_zero_are_refused(name, weights):
    first, second = weights
    with pytest.raises(ValueError, match=f"One of `{first}`, `{second}` must be greater"):
        losses.get(name, **weights)


class Powers(PerExampleLoss):
    """Of a user who wrote no `get_config`."""

    def __init__(self, power=2.0, taps=None):
        super().__init__(taps)
        self.power = power

    def call(self, teacher_outputs, student_outputs, y_true):
        return ops.mean(ops.abs(teacher_outputs - student_outputs) ** self.power, axis=-1)


def test_a_config_is_the_arguments_of_the_constructor():
    assert RightClassLogit().get_config() == {}
    loss = Powers(3.0, ("a", "b"))
    assert loss.get_config() == {"power": 3.0, "taps": [["a", "b"]]}
    assert repr(Powers.from_config(loss.get_config())) == repr(loss)


def test_an_argument_that_is_kept_nowhere_is_named():
    loss = Powers()
    del loss.power
    with pytest.raises(NotImplementedError, match="`get_config.*its argument `power`"):
        loss.get_config()
    assert repr(loss) == "Powers(...)"


class HandsOn(Powers):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale


class AnyNumber(Powers):
    def __init__(self, *powers):
        super().__init__()
        self.powers = powers


class OfTheClass(Powers):
    scale = 1.0

    def __init__(self, scale=2.0):
        super().__init__(scale)


class NotTheArgument(Powers):
    def __init__(self, scale=2.0):
        super().__init__(scale)

    @property
    def scale(self):
        return 1.0


class Doubles(Powers):
    def __init__(self, power=2.0):
        super().__init__(2 * power)


class Crosses(Powers):
    def __init__(self, one=1.0, other=2.0):
        super().__init__()
        self.one, self.other = other, one


@pytest.mark.parametrize(
    "loss",
    [
        HandsOn(2.0, power=5.0),
        AnyNumber(1.0, 2.0),
        OfTheClass(9.0),
        NotTheArgument(9.0),
        Doubles(),
        Crosses(3.0, 4.0),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_config_that_would_make_another_loss_is_refused(loss):
    with pytest.raises(NotImplementedError, match="must implement `get_config"):
        loss.get_config()


def test_a_config_is_what_the_loss_is_now():
    loss = Powers(3.0)
    loss.power = 4.0
    assert loss.get_config() == {"power": 4.0}


def test_what_has_no_weight_comes_as_zeros_and_a_class():
    class Keeps(PerExampleLoss):
        needs_labels = True

        def call(self, teacher_outputs, student_outputs, y_true):
            self.given = teacher_outputs, student_outputs, y_true
            return ops.sum(teacher_outputs * student_outputs, axis=-1)

    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    weight = np.ones((3, 4))
    weight[0], weight[1, 2] = 0.0, 0.0
    is_left = weight > 0
    expected = np.sum((teacher * student)[is_left]) / 12
    teacher[~is_left] = np.nan
    labels = np.where(is_left, 3, 255)
    for y_true in (labels, labels[..., None]):
        for given in (weight, weight[..., None]):
            loss = Keeps()
            found = loss.compute_loss(teacher, student, y_true, given)
            assert float(found) == pytest.approx(expected, rel=1e-6)
            for x in loss.given[:2]:
                assert not np.any(np.asarray(x)[~is_left])
            kept = np.asarray(loss.given[2]).reshape(3, 4)
            np.testing.assert_array_equal(kept, np.where(is_left, 3, 0))
