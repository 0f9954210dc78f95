"""What two stages share: copied, or refused before the first step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import DistillationChain, Stage, losses

LAYERS = keras.layers


@pytest.fixture
def data(vectors):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(32)


@pytest.fixture
def make(make_model):
    """A small student whose hidden layer can be tapped."""

    def make(units=8):
        model = make_model(units)
        model.layers[0].name = "hidden"
        return model

    return make


def hint(**arguments):
    return losses.FitNet(taps=("hidden", "hidden"), **arguments)


class Remembering:
    """Another's loss that counts the batches."""

    def __init__(self):
        self.seen = []

    def compute_loss(self, teacher_outputs, student_outputs):
        self.seen.append(1)
        return keras.ops.mean(keras.ops.square(teacher_outputs - student_outputs))


@pytest.mark.parametrize(
    "make_loss",
    [
        hint,
        lambda: losses.SimKD(taps=("hidden", "hidden")),
        lambda: losses.ContrastiveRepresentation(64, feat_dim=4, negatives=4),
        lambda: losses.SoftTargets(2.0),
        Remembering,
        keras.distillation.LogitsDistillation,
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_loss_in_two_stages_is_one_for_each(make, make_loss, as_list):
    loss = make_loss()
    given = [loss, "kd"] if as_list else loss
    chain = DistillationChain(make(16), [Stage(x, make(), 1, given) for x in "ab"])
    taken = [chain.as_taught(stage)[0].distillation_losses for stage in chain.stages]
    taken = [x[0] if as_list else x for x in taken]
    assert len({id(x) for x in (loss, *taken)}) == 3
    assert {type(x) for x in taken} == {type(loss)}
    for stage, own in zip(chain.stages, taken, strict=True):
        stage = Stage(stage.name, stage.student, 1, own)
        stage.model_to_fit(chain.teacher)
    layers = [x.layers for x in taken if isinstance(x, losses.DistillationLoss)]
    if layers and layers[0]:
        (a, b), given = layers, loss.layers
        assert not {id(x) for x in a} & {id(x) for x in b} and not given
    if isinstance(loss, Remembering):
        assert taken[0].seen is not taken[1].seen


def test_a_loss_of_one_stage_is_trained_itself(make, data):
    """So that its user can take the projector, or the classifier, from it."""
    loss = losses.SimKD(taps=("hidden", "hidden"))
    teacher, student = make(16), make()
    chain = DistillationChain(teacher, [Stage("s", student, 1, loss)])
    (taken,) = (chain.as_taught(x)[0].distillation_losses for x in chain.stages)
    assert taken is loss
    chain.as_taught(chain.stages[0])[0].model_to_fit(teacher)
    reused = loss.reuse_classifier(teacher, student)
    assert reused.output_shape == (None, 3)
    # Again with the same student it goes on; another one would begin with its layers.
    chain.as_taught(chain.stages[0])
    other = DistillationChain(teacher, [Stage("s", make(), 1, loss)])
    with pytest.raises(ValueError, match="has layers that belong to another student"):
        other.as_taught(other.stages[0])


def test_a_loss_with_layers_in_two_stages_is_refused(make):
    loss = hint()
    loss.build((None, 16), (None, 8))
    stages = [Stage(x, make(), 1, loss) for x in "ab"]
    chain = DistillationChain(make(16), stages)
    with pytest.raises(ValueError, match="Give each stage a loss of its own"):
        chain.as_taught(stages[0])


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
OPTIMIZERS = {
    "schedule": lambda: keras.optimizers.SGD(SCHEDULE, momentum=0.9),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.03)),
    "averaging": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.7),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_in_two_stages_is_one_for_each(make, name):
    optimizer = OPTIMIZERS[name]()
    stages = [Stage(x, make(), 1, optimizer=optimizer) for x in "ab"]
    chain = DistillationChain(None, stages)
    taken = [chain.as_taught(stage)[0].optimizer for stage in stages]
    assert len({id(x) for x in (optimizer, *taken)}) == 3
    config = optimizer.get_config() | {"name": None}
    for own in taken:
        assert str(own.get_config() | {"name": None}) == str(config)
    alone = DistillationChain(None, stages[:1])
    assert alone.as_taught(stages[0])[0].optimizer is optimizer


def test_an_optimizer_within_two_others(make):
    inner = keras.optimizers.Adam(0.03)
    scaled = [keras.optimizers.LossScaleOptimizer(inner) for _ in "ab"]
    stages = [Stage(x, make(), 1, optimizer=o) for x, o in zip("ab", scaled, strict=True)]
    chain = DistillationChain(None, stages)
    taken = [chain.as_taught(x)[0].optimizer.inner_optimizer for x in stages]
    assert len({id(x) for x in (inner, *taken)}) == 3


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1


class Forgets(keras.optimizers.SGD):
    """Its configuration leaves out what it was made with."""

    def __init__(self, *args, more=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.more = more


def excluding():
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.parametrize(
    "make_optimizer, message",
    [
        (lambda: keras.optimizers.SGD(Rate()), "`optimizer`: one object stands in two"),
        (lambda: Forgets(0.1, more=2.0), "another description.*of its own"),
        (excluding, "leaves weights out of the weight decay"),
    ],
)
def test_what_cannot_be_copied_is_refused(make, make_optimizer, message):
    optimizer = make_optimizer()
    stages = [Stage(x, make(), 1, optimizer=optimizer) for x in "ab"]
    chain = DistillationChain(None, stages)
    with pytest.raises(ValueError, match=message):
        chain.as_taught(stages[0])
    alone = DistillationChain(None, stages[:1])
    assert alone.as_taught(stages[0])[0].optimizer is optimizer


@keras.saving.register_keras_serializable(package="test_own_objects")
class Moving(keras.losses.Loss):
    """A loss with a state."""

    def __init__(self, name="moving"):
        super().__init__(name=name)
        self.count = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    def get_config(self):
        return {"name": self.name}


def test_a_loss_on_the_labels_with_a_state(make):
    moving, still = Moving(), keras.losses.SparseCategoricalCrossentropy(True)
    for loss, is_copied in ((moving, True), (still, False)):
        stages = [Stage(x, make(), 1, loss=loss) for x in "ab"]
        chain = DistillationChain(None, stages)
        taken = [chain.as_taught(x)[0].loss for x in stages]
        assert (taken[0] is not taken[1] and taken[0] is not loss) == is_copied


def test_one_of_each_in_two_stages_trains_as_two_of_each(make, data):
    """To the bit: loss, optimizer and metric."""

    def parts():
        top = keras.metrics.SparseTopKCategoricalAccuracy(2)
        return hint(), keras.optimizers.Adam(0.05), top

    def fit(shared):
        keras.utils.set_random_seed(1)
        models, one = [make(16), make(), make()], parts()
        stages = [
            Stage(name, model, 2, loss, optimizer=optimizer, metrics=[metric])
            for name, model, (loss, optimizer, metric) in (
                ("a", models[1], one),
                ("b", models[2], one if shared else parts()),
            )
        ]
        result = DistillationChain(models[0], stages).fit(data, data, verbose=0)
        return result.histories, [x.get_weights() for x in models]

    (history, weights), (wanted, wanted_weights) = fit(True), fit(False)
    # Projections are drawn from Keras's random state, in the same order.
    assert history == wanted
    for found, expected in zip(weights, wanted_weights, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


class Counting(keras.layers.Layer):
    """Counts its steps, whatever `trainable` says."""

    def build(self, shape):
        self.steps = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x, training=None):
        if training:
            self.steps.assign_add(1.0)
        return x


def on(*layers):
    model = keras.Sequential([keras.Input((4,)), *layers, LAYERS.Dense(3)])
    return model


def frozen(layer):
    layer.trainable = False
    return layer


def normalization():
    layer = LAYERS.Normalization()
    layer.adapt(np.eye(4))
    return layer


SHARED = {
    "dense": (lambda: LAYERS.Dense(4), "kernel"),
    "statistics": (lambda: LAYERS.BatchNormalization(center=False, scale=False), "moving"),
    "counter": (Counting, "steps|counting"),
    "nested": (lambda: keras.Sequential([keras.Input((4,)), LAYERS.Dense(4)]), "kernel"),
    "frozen": (lambda: frozen(LAYERS.Dense(4)), None),
    "frozen statistics": (lambda: frozen(LAYERS.BatchNormalization()), None),
    "adapted": (normalization, None),
    "dropout": (lambda: LAYERS.Dropout(0.5), None),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("place", ["both stages", "teacher", "given", "alone"])
def test_a_layer_in_two_models(make, data, monkeypatch, kind, place):
    make_layer, changed = SHARED[kind]
    layer = make_layer()
    first, second = on(layer), on(layer)
    kd = None if place == "alone" else "kd"
    stages = [Stage("a", first, 1, kd), Stage("b", second, 1, kd)]
    teacher = make()
    if place == "given":
        stages[0] = Stage("a", first, 0)
    if place == "teacher":
        # With a stage between, so that no Distiller sees both.
        teacher, stages = first, [Stage("a", make(), 1, "kd"), stages[1]]
    before = first.get_weights() + second.get_weights()
    monkeypatch.setattr("keras_kd.chain.run._ChainRun.fit", lambda *args: "trained")
    if changed is None:
        chain = DistillationChain(teacher, stages)
        assert chain.fit(data, data, verbose=0) == "trained"
        return
    # Of a teacher and its student the chain says it when it is made.
    said = "(would (change weights|train variables)|state training changes)"
    with pytest.raises(ValueError, match=f"{said}.* .*({changed})"):
        DistillationChain(teacher, stages).fit(data, data, verbose=0)
    for a, b in zip(before, first.get_weights() + second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_without_weights_yet(make, data):
    layer = LAYERS.Dense(4)
    students = [keras.Sequential([layer, LAYERS.Dense(3)]) for _ in "ab"]
    stages = [Stage(x, y, 1) for x, y in zip("ab", students, strict=True)]
    with pytest.raises(ValueError, match=f"shares with 'b': {layer.name}"):
        DistillationChain(None, stages).fit(data, data, verbose=0)


def test_a_frozen_layer_that_moves_all_the_same(make, data):
    layer = frozen(Counting())
    stages = [Stage(x, on(layer), 1) for x in "ab"]
    with pytest.raises(ValueError, match="Stage 'a': training changed .*steps|variable"):
        DistillationChain(None, stages).fit(data, data, verbose=0)
