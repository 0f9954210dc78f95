"""`crd` against the paper's formula and the authors' memory, in NumPy and float64."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses import ContrastiveRepresentation, contrastive_representation
from tests.losses.features import random_features
from tests.losses.logits import student_gradient

SHAPES = [((8, 6), (8, 6)), ((5, 100), (5, 3)), ((4, 2, 2, 5), (4, 3, 3, 2))]
# Few enough for loops.
SMALL = {"num_examples": 20, "feat_dim": 7, "negatives": 6, "temperature": 0.5}


def expected_of_scores(scores, num_examples):
    """ContrastLoss of one side: equation 18, example by example."""
    total = 0
    for row in np.exp(scores):
        noise = (len(row) - 1) / num_examples
        total -= np.log(row[0] / (row[0] + noise + 1e-7))
        total -= sum(np.log(noise / (p + noise + 1e-7)) for p in row[1:])
    return total / len(scores)


class Reference:
    """The loss in NumPy: maps and first memories from a loss, negatives told."""

    def __init__(self, loss):
        *maps, memory = loss.layers
        self.maps = [[np.float64(w) for w in layer.get_weights()] for layer in maps]
        self.memories = [
            np.float64(memory.teacher_memory),
            np.float64(memory.student_memory),
        ]
        self.z = None
        self.config = loss.get_config()

    def value(self, teacher, student, index, steps):
        """ContrastMemory and CRDLoss; `steps` from an example to its negatives."""
        count, temperature = self.config["num_examples"], self.config["temperature"]
        embeddings = []
        for x, (kernel, bias) in zip((teacher, student), self.maps, strict=True):
            embedding = x.reshape(len(x), -1) @ kernel + bias
            embeddings.append(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
        sides = []
        for embedding, memory in zip(embeddings, self.memories[::-1], strict=True):
            dots = [
                [v @ memory[i]] + [v @ memory[(i + step) % count] for step in steps]
                for v, i in zip(embedding, index, strict=True)
            ]
            sides.append(np.array(dots) / temperature)
        if self.z is None:
            self.z = [np.exp(x).mean() * count for x in sides]
        for embedding, memory in zip(embeddings, self.memories, strict=True):
            for v, i in zip(embedding, index, strict=True):
                momentum = self.config["momentum"]
                mixed = momentum * memory[i] + (1 - momentum) * v
                memory[i] = mixed / np.linalg.norm(mixed)
        logs = [x - np.log(z) for x, z in zip(sides, self.z, strict=True)]
        return sum(expected_of_scores(x, count) for x in logs)


def next_steps(loss):
    """From an example to its negatives, in the next call; drawn as the memory draws."""
    memory = loss.layers[-1]
    seed, draws = np.asarray(memory.draws)
    generator = keras.random.SeedGenerator(int(seed))
    generator.state.assign([seed, draws])
    shape = (loss.negatives,)
    return np.asarray(keras.random.randint(shape, 0, loss.num_examples, seed=generator))


def built(loss, *shapes):
    """The loss with layers whose weights are the same each time, and no zeros."""
    loss.build(*shapes)
    rng = np.random.default_rng(0)
    for layer in loss.layers[:-1]:
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return loss


@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (3, 101)], ids=str)
def test_value_of_scores(shape):
    teacher, student = np.random.default_rng(0).normal(-3, 2, size=(2, *shape))
    values = contrastive_representation(teacher, student, num_examples=30)
    assert values.shape == shape[:1]
    reference = sum(expected_of_scores(x, 30) for x in (teacher, student))
    np.testing.assert_allclose(np.mean(values), reference, rtol=1e-10)


def test_scores_of_any_size_are_finite():
    scores = np.float32([[-1e4, 1e4], [1e4, -1e4]])
    values = contrastive_representation(scores, scores, num_examples=30)
    # Twice the distance of the log odds, and next to nothing.
    np.testing.assert_allclose(values, [4e4, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_value_and_memory_over_some_batches(shapes):
    loss = built(ContrastiveRepresentation(**SMALL, momentum=0.3), *shapes)
    reference = Reference(loss)
    for seed in range(3):
        teacher, student = random_features(*shapes, seed=seed)
        # Some examples come back.
        index = np.random.default_rng(seed).permutation(9)[: len(teacher)]
        value = reference.value(teacher, student, index, next_steps(loss))
        found = loss.compute_loss(np.float32(teacher), np.float32(student), index=index)
        np.testing.assert_allclose(found, value, rtol=1e-5)
    memory = loss.layers[-1]
    for side, name in enumerate(("teacher_memory", "student_memory")):
        found = np.asarray(getattr(memory, name))
        np.testing.assert_allclose(found, reference.memories[side], atol=1e-5)
    np.testing.assert_allclose(np.exp(memory.log_z), reference.z, rtol=1e-5)


def test_defaults_are_the_authors():
    shapes = ((4, 6), (4, 3))
    loss = built(ContrastiveRepresentation(50), *shapes)
    assert loss.get_config() == {
        "num_examples": 50,
        "feat_dim": 128,
        "negatives": 16384,
        "temperature": 0.07,
        "momentum": 0.5,
        "seed": 0,
    }
    teacher, student = random_features(*shapes)
    value = Reference(loss).value(teacher, student, range(4), next_steps(loss))
    found = loss.compute_loss(teacher, student, index=np.arange(4))
    np.testing.assert_allclose(found, value, rtol=1e-5)


def test_the_first_memories_are_uniform():
    loss = built(ContrastiveRepresentation(2000, feat_dim=12), (None, 3), (None, 3))
    memory = loss.layers[-1]
    memories = [np.asarray(x) for x in (memory.teacher_memory, memory.student_memory)]
    for x in memories:
        # Between -1 / sqrt(12 / 3) and that.
        assert -0.5 <= x.min() < -0.499 and 0.499 < x.max() <= 0.5
        np.testing.assert_allclose([x.mean(), x.var()], [0, 1 / 12], atol=3e-3)
    assert abs(np.corrcoef(memories[0].ravel(), memories[1].ravel())[0, 1]) < 0.05


def test_negatives_are_new_in_each_batch_and_uniform_over_all_examples():
    loss = ContrastiveRepresentation(num_examples=10, negatives=5000, feat_dim=2)
    loss.build((None, 3), (None, 3))
    draws = []
    for _ in range(2):
        draws.append(next_steps(loss))
        loss.compute_loss(*random_features((2, 3), (2, 3)), index=[3, 4])
    assert np.mean(draws[0] == draws[1]) < 0.2
    counts = np.bincount((3 + draws[0]) % 10, minlength=10)
    # Six standard deviations of a count of 500.
    assert len(counts) == 10 and np.abs(counts - 500).max() < 130


def test_the_seed_gives_memory_and_negatives():
    teacher, student = random_features(*SHAPES[0])
    values, first = [], []
    for seed in (3, 3, 4):
        loss = built(ContrastiveRepresentation(**SMALL, seed=seed), *SHAPES[0])
        first.append(np.asarray(loss.layers[-1].teacher_memory))
        batches = (loss.compute_loss(teacher, student, index=range(8)) for _ in range(3))
        values.append(list(map(float, batches)))
    assert values[0] == values[1] and np.array_equal(first[0], first[1])
    assert not np.isclose(values[0], values[2], rtol=1e-4).any()
    assert not np.isclose(first[0], first[2]).any()


def test_gradient_reaches_student_and_both_maps():
    import tensorflow as tf

    teacher, student = map(np.float32, random_features((4, 6), (4, 3)))
    loss = built(ContrastiveRepresentation(**SMALL), (4, 6), (4, 3))
    trained = [v for layer in loss.layers for v in layer.trainable_variables]
    assert len(trained) == 4
    with tf.GradientTape() as tape:
        value = loss.compute_loss(teacher, student, index=np.arange(4))
    gradients = tape.gradient(value, [v.value for v in trained])
    assert all(np.abs(g).max() > 1e-4 for g in gradients)


def test_the_first_z_is_a_constant_to_the_gradient():
    teacher, student = random_features((4, 6), (4, 3))
    loss = Indexed((4, 6), (4, 3))
    steps = next_steps(loss.loss)
    first = Reference(loss.loss)
    first.value(teacher, student, range(4), steps)

    def value(student):
        reference = Reference(fresh.loss)
        reference.z = first.z
        return reference.value(teacher, student, range(4), steps)

    fresh = Indexed((4, 6), (4, 3))
    move = 1e-5 * np.random.default_rng(0).normal(size=(4, 3))
    gradient = student_gradient(loss, teacher, student)
    difference = value(student + move) - value(student - move)
    np.testing.assert_allclose(2 * np.sum(gradient * move), difference, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_small_batches(count):
    shapes = ((count, 6), (count, 3))
    loss = built(ContrastiveRepresentation(**SMALL), *shapes)
    teacher, student = random_features(*shapes)
    value = Reference(loss).value(teacher, student, range(count), next_steps(loss))
    found = loss.compute_loss(teacher, student, index=np.arange(count))
    np.testing.assert_allclose(found, value, rtol=1e-5)


def test_sample_weight_weighs_values():
    teacher, student = random_features((4, 6), (4, 3))
    weight, values = np.array([0.5, 0.0, 2.0, 1.0]), []
    for weights in [*np.eye(4), weight]:
        loss = built(ContrastiveRepresentation(**SMALL), (4, 6), (4, 3))
        # z is that of the first batch.
        loss.compute_loss(teacher, student, None, None, range(4))
        values.append(loss.compute_loss(teacher, student, None, weights, range(4)))
    np.testing.assert_allclose(values[-1], weight @ values[:-1], rtol=1e-5)


def test_what_has_no_weight_is_neither_remembered_nor_in_z():
    teacher, student = random_features((4, 6), (4, 3))
    found = []
    for count, weight in ((4, [1.0, 2.0, 0.0, 0.0]), (2, None)):
        loss = built(ContrastiveRepresentation(**SMALL), (4, 6), (4, 3))
        rows = teacher[:count], student[:count]
        loss.compute_loss(*rows, None, weight, range(count))
        found.append([np.asarray(w) for w in loss.layers[-1].get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


class Indexed:
    """A loss of a few examples, for helpers that know no index."""

    def __init__(self, *shapes):
        self.loss = built(ContrastiveRepresentation(**SMALL), *shapes)

    def compute_loss(self, teacher, student, y_true=None, sample_weight=None):
        index = np.arange(len(teacher))
        return self.loss.compute_loss(teacher, student, y_true, sample_weight, index)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_features(value):
    teacher = np.float32(random_features((4, 7), (4, 3))[0])
    student = np.full((4, 3), value, "float32")
    loss = Indexed((4, 7), (4, 3))
    for layer in loss.loss.layers[:-1]:
        # Zeros then have no direction.
        layer.bias.assign(np.zeros(7))
    assert np.isfinite(loss.compute_loss(teacher, student))
    assert np.isfinite(student_gradient(loss, teacher, student)).all()
    assert np.isfinite(loss.loss.layers[-1].student_memory).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_for_large_features(dtype):
    sides = [1e4 * np.eye(4), -1e4 * np.eye(4)[:, :3]]
    sides = [keras.ops.cast(x, dtype) for x in sides]
    loss = built(ContrastiveRepresentation(**SMALL), (4, 4), (4, 3))
    exact = [np.float64(keras.ops.cast(x, "float32")) for x in sides]
    value = Reference(loss).value(*exact, range(4), next_steps(loss))
    found = loss.compute_loss(*sides, index=range(4))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(float(found), value, rtol=1e-5)


def test_an_index_of_no_example():
    loss = ContrastiveRepresentation(**SMALL)
    for index in ([0, 20], [-1, 3]):
        assert np.isnan(loss.compute_loss(*random_features((2, 6), (2, 3)), index=index))


@pytest.mark.parametrize("index", [3, [1, 2, 3], [[1], [2]]], ids=str)
def test_an_index_of_another_shape(index):
    with pytest.raises(ValueError, match=r"`index` must hold one integer .* \(2,\); keras"):
        outputs = random_features((2, 6), (2, 3))
        ContrastiveRepresentation(**SMALL).compute_loss(*outputs, index=index)


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((4, 6), (1, 6)), r"same batch.*\(4, 6\).*\(1, 6\)"),
        (((4,), (4, 6)), r"takes outputs of shape \(batch, ..., size\).*\(4,\).*\(4, 6\)"),
        (((None, None, 6), (None, 6)), r"whose sizes are known.*\(None, None, 6\)"),
    ],
    ids=str,
)
def test_bad_shapes(shapes, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveRepresentation(**SMALL).build(*shapes)


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("num_examples", [0, 1.5, None, True], "must be an integer, 1 or greater"),
        ("feat_dim", [0, 1, 128.0, "128"], "must be an integer, 2 or greater"),
        ("negatives", [0, -1, None], "must be an integer, 1 or greater"),
        ("seed", [-1, None, 0.5], "must be an integer, 0 or greater"),
        ("temperature", [0, -0.07, "1", None], "must be a finite number greater than 0"),
        ("momentum", [-0.1, 1.1, None, float("nan")], "must be a number between 0 and 1"),
        ("taps", [[("a", "b"), ("c", "d")]], "compares one pair of outputs"),
    ],
)
def test_bad_arguments(name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message):
            ContrastiveRepresentation(**SMALL | {name: value})


def compiled(teacher, student, taps=("features", "features"), **arguments):
    loss = ContrastiveRepresentation(
        64, feat_dim=8, negatives=32, temperature=0.2, taps=taps
    )
    distiller = kd.Distiller(teacher, student, loss, **arguments)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), cross_entropy)
    return distiller


@pytest.fixture
def models(make_model):
    """A teacher of 9 features and a student of 5."""
    models = make_model(units=9, name="teacher"), make_model(units=5, name="student")
    for model in models:
        model.layers[0].name = "features"
    return models


def test_trains_in_a_distiller_without_labels(models, vectors):
    distiller = compiled(*models, taps=None, student_loss_weight=0.0)
    *maps, memory = distiller.distillation_losses[0].layers
    before = [w.copy() for x in (*maps, memory) for w in x.get_weights()]
    data = kd.with_index(vectors[0]).shuffle(64).batch(16)
    losses = distiller.fit(data, epochs=8, shuffle=False, verbose=0).history[
        "distillation_loss"
    ]
    assert losses[-1] < 0.9 * losses[0]
    after = [w for x in (*maps, memory) for w in x.get_weights()]
    assert not any(map(np.array_equal, before, after))
    # One draw a step, and every example remembered.
    assert np.asarray(memory.draws).tolist() == [0, 32]
    np.testing.assert_allclose(np.linalg.norm(memory.student_memory, axis=1), 1, rtol=1e-5)


def test_saved_and_loaded_it_goes_on_the_same(models, vectors, tmp_path):
    data = kd.with_index(vectors).batch(16)
    distiller = compiled(*models)
    distiller.fit(data, epochs=2, shuffle=False, verbose=0)
    distiller.save(tmp_path / "whole.keras")
    distiller.save(tmp_path / "part.keras", include_teacher=False)
    history = distiller.fit(data, epochs=2, shuffle=False, verbose=0).history
    for again in (
        keras.saving.load_model(tmp_path / "whole.keras"),
        kd.load_distiller(tmp_path / "part.keras", teacher=models[0]),
    ):
        assert again.fit(data, epochs=2, shuffle=False, verbose=0).history == history
        for x, y in zip(again.weights, distiller.weights, strict=True):
            np.testing.assert_array_equal(x, y)


def test_data_without_index(models, vectors):
    with pytest.raises(ValueError, match=r"needs each .* number .* keras_kd.with_index"):
        compiled(*models).fit(*vectors, verbose=0)


def test_validation_leaves_the_memory_alone(models, vectors):
    distiller = compiled(*models)
    memory = distiller.distillation_losses[0].layers[-1]
    distiller.evaluate(kd.with_index(vectors).batch(16), verbose=0)
    distiller.predict(kd.with_index(vectors).batch(16), verbose=0)
    assert np.asarray(memory.draws).tolist() == [0, 0]
    with pytest.raises(ValueError, match="remembers the training examples, and valid"):
        compiled(*models, validation_distillation=True)


def test_a_schedule_of_the_temperature_is_refused():
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 10, 2.0)
    with pytest.raises(ValueError, match="`temperature` must be a number: z is set once"):
        ContrastiveRepresentation(**SMALL | {"temperature": schedule})
