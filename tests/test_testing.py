"""The checks of a distillation loss: good losses pass, each broken one fails its own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd import testing
from keras_kd.losses import DistillationLoss, PerExampleLoss, SoftTargets, contract
from keras_kd.testing import check_distillation_loss, distillation_loss_checks


def failures(loss, make_inputs=None):
    """The failing checks' messages by name, without "check_"."""
    found = {}
    for check in distillation_loss_checks(loss, make_inputs):
        try:
            check()
        except AssertionError as error:
            found[check.name.removeprefix("check_")] = str(error)
    return found


def squares(teacher, student):
    return ops.mean(ops.square(teacher - student), axis=-1)


@keras.saving.register_keras_serializable("test_testing")
class Squares(PerExampleLoss):
    """A good loss: squared differences. The broken ones below change one thing each."""

    def __init_subclass__(cls):
        keras.saving.register_keras_serializable("test_testing")(cls)

    def call(self, teacher_outputs, student_outputs, y_true):
        return squares(teacher_outputs, student_outputs)


def test_a_good_loss_passes():
    check_distillation_loss(Squares())
    assert len(distillation_loss_checks(Squares())) == 18


# One value per example of (teacher, student, y_true), and the checks that it fails.
BROKEN_CALLS = {
    "overflows at large logits": (
        lambda teacher, student, _: squares(ops.exp(teacher / 100), ops.exp(student / 100)),
        {"float32_scalar", "student_gradient"},
    ),
    "zero nowhere": (
        lambda teacher, student, _: 1.0 + squares(teacher, student),
        {"agreement"},
    ),
    "position in the batch counts": (
        lambda teacher, student, _: ops.cumsum(squares(teacher, student)),
        # What has no weight is zeros before the loss sees it.
        {"batch_order", "sample_weight"},
    ),
    "labels matter": (
        lambda teacher, student, y_true: (
            squares(teacher, student) * (1.0 if y_true is None else 2.0)
        ),
        {"labels"},
    ),
    "no gradient": (
        lambda teacher, student, _: squares(teacher, ops.stop_gradient(student)),
        {"student_gradient", "gradient", "not_constant"},
    ),
    "half the gradient": (
        lambda teacher, student, _: ops.mean(
            (student - teacher) * ops.stop_gradient(student - teacher), axis=-1
        ),
        {"gradient"},
    ),
    "gradient of 0 / 0 at agreement": (
        lambda teacher, student, _: ops.sqrt(squares(teacher, student)),
        {"student_gradient", "flat_outputs"},
    ),
    "leaves the graph": (
        lambda teacher, student, _: squares(teacher, student) * np.asarray(student).ndim,
        {"graph"},
    ),
}

# What becomes of the batch's value, with (student, sample_weight).
BROKEN_VALUES = {
    "dtype of its inputs": (
        lambda value, student, _: ops.cast(value, student.dtype),
        {"float32_scalar"},
    ),
    "16 bits": (
        lambda value, student, _: ops.cast(ops.cast(value, student.dtype), value.dtype),
        {"float32_scalar"},
    ),
    "weights of one count": (
        lambda value, _, weight: value if weight is None else 2 * value,
        {"zero_weight", "sample_weight"},
    ),
    "over the sum of the weights": (
        lambda value, _, weight: value if weight is None else value / ops.mean(weight),
        {"sample_weight"},
    ),
    "root of the sum": (
        lambda value, student, _: ops.sqrt(value * size(student) + 1e-12) / size(student),
        {"sample_weight"},
    ),
    "not a number in a batch of one": (
        lambda value, student, _: value * (size(student) - 1) / (size(student) - 1),
        {"batch_of_one"},
    ),
    "unknown batch size is one": (
        lambda value, student, _: value * size(student) / (student.shape[0] or 1),
        {"graph", "unknown_sizes"},
    ),
}


def size(student):
    return ops.cast(ops.shape(student)[0], "float32")


class BrokenCall(Squares):
    def __init__(self, how):
        self.how = how

    def call(self, teacher_outputs, student_outputs, y_true):
        return BROKEN_CALLS[self.how][0](teacher_outputs, student_outputs, y_true)

    def get_config(self):
        return {"how": self.how}


class BrokenValue(BrokenCall):
    def call(self, teacher_outputs, student_outputs, y_true):
        return squares(teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        outputs = teacher_outputs, student_outputs
        value = super().compute_loss(*outputs, y_true, sample_weight)
        return BROKEN_VALUES[self.how][0](value, student_outputs, sample_weight)


class MixesDtypes(Squares):
    """TensorFlow adds no float16 to float32."""

    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        teacher_outputs = teacher_outputs + 0.0 * ops.ravel(student_outputs)[0]
        return super().compute_loss(teacher_outputs, student_outputs, y_true, **kwargs)


class MinimalElsewhere(Squares):
    zero_at_agreement = False

    def call(self, teacher_outputs, student_outputs, y_true):
        return squares(teacher_outputs + 0.1, student_outputs)


class IgnoresWeights(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        return super().compute_loss(teacher_outputs, student_outputs, y_true)


@keras.saving.register_keras_serializable("test_testing")
class Normalises(PerExampleLoss):
    """Moves averages whether it is training or not, unless it declares the argument."""

    makes_layers = uses_batch_statistics = True
    zero_at_agreement = smallest_at_agreement = False

    def build(self, teacher_shape, student_shape):
        super().build(teacher_shape, student_shape)
        if not self.layers:
            self.layers = (keras.layers.BatchNormalization(dtype="float32"),)
            self.layers[0].build((None, student_shape[-1]))

    def call(self, teacher_outputs, student_outputs, y_true):
        self.build(teacher_outputs.shape, student_outputs.shape)
        return squares(teacher_outputs, self.layers[0](student_outputs, training=True))


@keras.saving.register_keras_serializable("test_testing")
class NormalisesInTraining(Normalises):
    takes_training = True

    def call(self, teacher_outputs, student_outputs, y_true, training):
        self.build(teacher_outputs.shape, student_outputs.shape)
        layer = self.layers[0]
        return squares(teacher_outputs, layer(student_outputs, training=training))


class RootOfZero(Squares):
    """No gradient of the length of zeros."""

    def call(self, teacher_outputs, student_outputs, y_true):
        lengths = [
            ops.sqrt(ops.sum(ops.square(x), axis=-1))
            for x in (teacher_outputs, student_outputs)
        ]
        return ops.square(lengths[0] - lengths[1])


class ConstantOfOne(Squares):
    """The squares of softmaxes, which are 1 for one class."""

    shift_invariant = True

    def call(self, teacher_outputs, student_outputs, y_true):
        return squares(ops.softmax(teacher_outputs), ops.softmax(student_outputs))


class BroadcastsUnknown(Squares):
    def compute_loss(
        self, teacher_outputs, student_outputs, y_true=None, sample_weight=None
    ):
        self.checked(teacher_outputs, student_outputs)
        outputs = teacher_outputs, student_outputs
        values = squares(*(ops.cast(x, "float32") for x in outputs))
        weights = 1.0 if sample_weight is None else sample_weight
        return ops.mean(values * ops.cast(weights, values.dtype))


def test_a_loss_that_moves_its_layers_where_it_does_not_train():
    assert "evaluation" in failures(Normalises())
    assert "evaluation" not in failures(NormalisesInTraining())


class NoSuchInvariance(Squares):
    shift_invariant = True


class Broadcasts(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None, **_):
        teacher_outputs = ops.cast(teacher_outputs, "float32")
        student_outputs = ops.cast(student_outputs, "float32")
        values = squares(teacher_outputs, student_outputs)
        return ops.mean(values if sample_weight is None else values * sample_weight)


class RepeatsOneExample(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        if student_outputs.shape[0] == 1:
            student_outputs = ops.repeat(student_outputs, teacher_outputs.shape[0], axis=0)
        return super().compute_loss(teacher_outputs, student_outputs, y_true, **kwargs)


class RepeatsOneClass(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        if student_outputs.shape[-1] == 1:
            student_outputs = ops.repeat(student_outputs, teacher_outputs.shape[1], axis=1)
        return super().compute_loss(teacher_outputs, student_outputs, y_true, **kwargs)


class RefusesWithoutSaying(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        if tuple(teacher_outputs.shape) != tuple(student_outputs.shape):
            raise ValueError("Bad shapes.")
        return super().compute_loss(teacher_outputs, student_outputs, y_true, **kwargs)


class RefusesOneInSilence(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        if teacher_outputs.shape[0] == student_outputs.shape[0] == 1:
            raise ValueError("No.")
        return super().compute_loss(teacher_outputs, student_outputs, y_true, **kwargs)


class LabelsNotMissed(Squares):
    needs_labels = True

    def compute_loss(self, teacher_outputs, student_outputs, y_true=None, **kwargs):
        return super().compute_loss(teacher_outputs, student_outputs, 0, **kwargs)


class ForgetsItsPower(Squares):
    def __init__(self, power=2.0):
        self.power = power

    def call(self, teacher_outputs, student_outputs, y_true):
        return ops.mean(ops.abs(teacher_outputs - student_outputs) ** self.power, axis=-1)

    def get_config(self):
        return {}


class KeepsItsPowerElsewhere(Squares):
    def __init__(self, power=2.0):
        self._power = power


class ConfigGrows(Squares):
    def __init__(self, note=""):
        self.note = note

    def get_config(self):
        return {"note": self.note + "!"}


@pytest.mark.parametrize(
    "loss, names",
    [
        *((BrokenCall(how), names) for how, (_, names) in BROKEN_CALLS.items()),
        *((BrokenValue(how), names) for how, (_, names) in BROKEN_VALUES.items()),
        (MixesDtypes(), {"float32_scalar"}),
        (MinimalElsewhere(), {"agreement"}),
        (IgnoresWeights(), {"zero_weight", "sample_weight"}),
        (NoSuchInvariance(), {"shift_invariance"}),
        (RootOfZero(), {"flat_outputs"}),
        (ConstantOfOne(), {"not_constant"}),
        (BroadcastsUnknown(), {"sample_weight", "unknown_sizes"}),
        (Broadcasts(), {"batch_sizes", "widths", "sample_weight"}),
        (RepeatsOneExample(), {"batch_sizes"}),
        (RepeatsOneClass(), {"widths"}),
        (RefusesWithoutSaying(), {"batch_sizes", "widths"}),
        (RefusesOneInSilence(), {"batch_of_one"}),
        (LabelsNotMissed(), {"labels"}),
        (ForgetsItsPower(3.0), {"config"}),
        (KeepsItsPowerElsewhere(3.0), {"config"}),
        (ConfigGrows(), {"config"}),
    ],
    ids=lambda x: repr(x) if isinstance(x, DistillationLoss) else "",
)
def test_a_broken_loss_fails_its_checks_and_no_other(loss, names):
    assert set(failures(loss)) == names


class Random(Squares):
    def call(self, teacher_outputs, student_outputs, y_true):
        return squares(teacher_outputs, student_outputs) + keras.random.uniform(())


class CountsItsCalls(Squares):
    calls = 0

    def call(self, teacher_outputs, student_outputs, y_true):
        self.calls += 1
        return squares(teacher_outputs, student_outputs) * self.calls


class NotScalar(Squares):
    def compute_loss(self, teacher_outputs, student_outputs, **_):
        return squares(teacher_outputs, student_outputs)


def test_a_loss_that_is_no_scalar():
    message = failures(NotScalar())["float32_scalar"]
    assert "float32 of shape (9,) is returned" in message


@pytest.mark.parametrize("loss", [Random(), CountsItsCalls()], ids=repr)
def test_a_loss_that_differs_from_call_to_call(loss):
    assert "repeated_call" in failures(loss)


def test_all_failures_are_reported_together():
    with pytest.raises(AssertionError) as caught:
        check_distillation_loss(IgnoresWeights())
    first, second = str(caught.value).splitlines()
    assert first.startswith("check_zero_weight[IgnoresWeights()]: ")
    assert "Seen: " in first and "Expected: the same value." in first
    assert second.startswith("check_sample_weight[IgnoresWeights()]: ")


def test_expected_failures_pass():
    reasons = {"check_zero_weight": "no weights", "check_sample_weight": "no weights"}
    check_distillation_loss(IgnoresWeights(), expected_failures=reasons)


def test_an_expected_failure_that_passes_is_said():
    message = r"check_config\[Squares\(\)\]: passes. Expected: 'not saved'"
    with pytest.raises(AssertionError, match=message):
        check_distillation_loss(Squares(), expected_failures={"check_config": "not saved"})


@pytest.mark.parametrize("name", ["check_everything", "check_shift_invariance"])
def test_expected_failures_of_no_check(name):
    message = f"takes names of this loss's checks: check_float32.* Received: '{name}'"
    with pytest.raises(ValueError, match=message):
        check_distillation_loss(Squares(), expected_failures={name: "?"})


def test_no_loss_at_all():
    with pytest.raises(ValueError, match="A distillation loss is an object with"):
        check_distillation_loss(3)


def test_checks_are_named_after_the_loss():
    names = list(map(str, distillation_loss_checks(SoftTargets(2.0))))
    assert "check_sample_weight[SoftTargets(temperature=2.0, form='kl')]" in names
    assert "check_shift_invariance[SoftTargets(temperature=2.0, form='kl')]" in names


LOGITS = keras.distillation.LogitsDistillation
DIVERGENCE = keras.losses.KLDivergence
CROSS_ENTROPY = keras.losses.CategoricalCrossentropy
# What a loss fails that looks at no shapes, as Keras's own do.
BROADCASTS = {"batch_sizes", "widths"}


@pytest.mark.parametrize(
    "loss, names",
    [
        # Its default is a divergence of logits, not of probabilities: negative at times.
        (LOGITS(), {"float32_scalar", "agreement"}),
        (LOGITS(loss=DIVERGENCE()), {"float32_scalar"}),
        # Logits as the target of a cross-entropy, and a gradient that is not its own.
        (LOGITS(loss=CROSS_ENTROPY(True)), {"float32_scalar", "agreement", "gradient"}),
        (keras.distillation.FeatureDistillation("mse"), {"float32_scalar"}),
    ],
    ids=["default", "KLDivergence", "CategoricalCrossentropy", "features"],
)
def test_losses_of_keras_ignore_weights(loss, names):
    assert set(failures(loss)) == names | {"zero_weight"}


def test_the_default_of_keras_is_not_invariant_to_shifts():
    other = distillation_loss_checks(LOGITS())[0]
    check = testing.Check(contract.check_shift_invariance, other.loss, other.batch)
    with pytest.raises(AssertionError, match=r"\(teacher_outputs \+ 50\) and"):
        check()


@keras.saving.register_keras_serializable("test_testing")
class Similarities(DistillationLoss):
    """How alike the examples are, over two layers: a relation of the batch's examples."""

    taps = (("conv1", "conv1"), ("conv2", "conv2"))

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None, **_):
        pairs = zip(map(likeness, teacher_outputs), map(likeness, student_outputs))
        gaps = sum(ops.square(teacher - student) for teacher, student in pairs)
        if sample_weight is not None:
            gaps = gaps * sample_weight * sample_weight[:, None]
        return ops.mean(gaps)


def likeness(features):
    features = ops.cast(features, "float32")
    features = ops.reshape(features, (ops.shape(features)[0], -1))
    features = features / (1e-3 + ops.sqrt(ops.sum(features**2, axis=-1, keepdims=True)))
    return features @ ops.transpose(features)


def make_features(batch_size, seed):
    rng = np.random.default_rng(seed)
    shapes = [(batch_size, 4, 4, 3), (batch_size, 6)]
    teacher, student = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    return teacher, student, None


def test_a_loss_on_the_features_of_two_layers():
    loss = Similarities()
    assert set(failures(loss, make_features)) == BROADCASTS
    names = [check.name for check in distillation_loss_checks(loss, make_features)]
    assert "check_sample_weight" not in names
    reasons = {f"check_{name}": "compares any widths" for name in BROADCASTS}
    check_distillation_loss(loss, expected_failures=reasons, make_inputs=make_features)


class AbsoluteDifference:
    """A foreign object, with the two arguments that it needs."""

    def compute_loss(self, teacher_outputs, student_outputs):
        return ops.mean(ops.abs(teacher_outputs - student_outputs))


def test_a_foreign_loss():
    found = failures(AbsoluteDifference())
    message = found.pop("config")
    assert message.startswith("check_config[AbsoluteDifference]: Config to JSON and back")
    assert "must implement the `get_config()`" in message
    assert set(found) == {"float32_scalar", "zero_weight"} | BROADCASTS


def test_pytest_is_not_needed():
    assert "pytest" not in vars(testing)
