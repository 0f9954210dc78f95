"""Checkpoints give every bit back, or are refused."""

import json
import pickle
import zipfile

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses
from keras_kd.chain import checkpoint
from keras_kd.chain.checkpoint import CheckpointError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.npz"


def bits(variables):
    """What the variables hold, so that NaN and -0.0 count, too."""
    arrays = [keras.ops.convert_to_numpy(x) for x in variables]
    return [(x.shape, x.dtype.name, x.tobytes()) for x in arrays]


def one_of(dtype):
    """A variable of that type with all bits that there are, where they are few."""
    if dtype == "bool":
        return keras.Variable([True, False, True], dtype=dtype)
    if dtype in ("bfloat16", "float16"):
        values = np.arange(2**16, dtype="uint16")
    else:
        values = np.random.default_rng(0).integers(0, 2**32, 1000, dtype="uint32")
    native = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    values = values.view(dtype if dtype == "bfloat16" else native)
    return keras.Variable(values, dtype=dtype)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "bfloat16", "float16", "int32", "int64", "uint32", "bool"],
)
def test_every_bit_comes_back(path, dtype):
    scalar = keras.Variable(1, dtype=dtype)
    empty = keras.Variable(np.zeros((0, 3)), dtype=dtype)
    variables = [one_of(dtype), scalar, empty]
    before = bits(variables)
    checkpoint.save(path, variables, {})
    for variable in variables:
        variable.assign(keras.ops.zeros_like(variable))
    assert bits(variables)[:2] != before[:2]
    checkpoint.load(path, variables)
    assert bits(variables) == before


def test_the_state_comes_back(path):
    state = {"history": {"loss": [0.1, 1e-300, float("inf")]}, "more": [None, "ä"]}
    checkpoint.save(path, [], state)
    assert checkpoint.load(path, []) == state


def noisy(make_model, **arguments):
    model = make_model(**arguments)
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            model.layers[0],
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            model.layers[1],
        ]
    )


def distiller(make_model, optimizer, units=6):
    """One with all that has a state: projections, a schedule, dropout, statistics."""
    teacher, student = make_model(8, name="teacher"), noisy(make_model, units=units)
    taps = (teacher.layers[0].name, student.layers[0].name)
    weight = keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0)
    terms = ["kd", losses.FitNet(taps=taps)]
    model = Distiller(teacher, student, terms, [weight, 1.0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Tracing would take longer than the few steps.
    model.compile(optimizer(), loss, metrics=["accuracy"], run_eagerly=True)
    return model


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), dynamic_growth_steps=2
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(path, make_model, vectors, optimizer):
    x, y = (array[:32] for array in vectors)
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model = distiller(make_model, OPTIMIZERS[optimizer])
    model.fit(x, y, epochs=2, **fit)
    # Twice, as after each epoch: to look must change nothing.
    for _ in range(2):
        checkpoint.save(path, checkpoint.variables_of(model), {})
    model.fit(x, y, epochs=1, **fit)
    model.evaluate(x, y, verbose=0)
    wanted = bits(checkpoint.variables_of(model))

    other = distiller(make_model, OPTIMIZERS[optimizer])
    other.teacher.set_weights(model.teacher.get_weights())
    variables = checkpoint.variables_of(other)
    checkpoint.load(path, variables)
    other.fit(x, y, epochs=1, **fit)
    # Metrics, which are made by the first epoch, are not among them.
    assert bits(checkpoint.variables_of(other)) == wanted
    assert list(map(id, checkpoint.variables_of(other))) == list(map(id, variables))
    names = [variable.path for variable in variables]
    for part in ("schedule_step", "seed_generator_state", "moving_mean", "iteration"):
        assert any(part in name for name in names), part


def test_the_variables_are_those_that_training_changes(make_model):
    model = distiller(make_model, OPTIMIZERS["sgd"])
    found = list(map(id, checkpoint.variables_of(model)))
    student, (projection,) = model.student, model.loss_layers
    parts = [
        *student.weights,
        *(x.seed_generator.state for x in student.layers if "dropout" in x.name),
        *projection.weights,
        *model.optimizer.variables,
        model._schedule_step,
    ]
    assert sorted(found) == sorted(map(id, parts))


def test_of_a_model_that_is_no_distiller(make_model):
    model = noisy(make_model)
    model.compile(OPTIMIZERS["sgd"](), "mse", metrics=["accuracy"])
    variables = checkpoint.variables_of(model)
    assert len(variables) == len(model.weights) + 1 + len(model.optimizer.variables)


@pytest.fixture
def variables():
    """Few and small, so that the file is small."""
    seeds = keras.random.SeedGenerator(3).state
    return [keras.Variable([1.5, -2.0]), keras.Variable(0.5, dtype="bfloat16"), seeds]


def load_refused(path, variables, message):
    before = bits(variables)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(path, variables)
    assert f"checkpoint {path} is" in str(error.value)
    assert f"Remove the checkpoints (*.npz) in {path.parent}" in str(error.value)
    assert bits(variables) == before


def test_a_truncated_file_is_refused(path, variables):
    checkpoint.save(path, variables, {})
    content = path.read_bytes()
    for size in (0, 1, 2, 30, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        load_refused(path, variables, "is damaged")


def test_a_flipped_byte_is_refused_or_changes_nothing(path, variables):
    """Wherever it is: some bytes, such as a time of day, mean nothing."""
    checkpoint.save(path, variables, {"epoch": 3})
    content = path.read_bytes()
    wanted = bits(variables)
    refused = 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF if place % 2 else 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert checkpoint.load(path, variables) == {"epoch": 3}, place
        except CheckpointError:
            refused += 1
        assert bits(variables) == wanted, place
    assert refused > 0.2 * len(content)


@pytest.mark.parametrize("kind", ["text", "pickle", "array", "object array", "missing"])
def test_another_file_is_refused(path, variables, kind):
    checkpoint.save(path, variables, {})
    with np.load(path) as file:
        arrays = dict(file)
    if kind == "text":
        path.write_text("epoch,loss\n0,1.5\n")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(arrays))
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, arrays["00000"])
    elif kind == "object array":
        arrays["00000"] = arrays["00000"].astype(object)
        np.savez(path, **arrays)
        with np.load(path, allow_pickle=True) as file:
            np.testing.assert_array_equal(file["00000"], arrays["00000"])
    else:
        path.unlink()
    load_refused(path, variables, "is damaged")


def test_a_file_without_a_state_is_refused(path, variables):
    np.savez(path, **{"00000": np.zeros(2)})
    load_refused(path, variables, "is damaged .*state")


def rewritten(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


OTHERS = {
    "one more": lambda x: x.update({"00003": np.zeros(1, "float32")}),
    "one less": lambda x: x.pop("00002"),
    "shape": lambda x: x.update({"00000": x["00000"][:1]}),
    "last of another type": lambda x: x.update({"00002": x["00002"].view("int32")}),
    "float16 for bfloat16": lambda x: x.update({"00001": x["00001"].view("float16")}),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_does_not_fit_is_refused(path, variables, change):
    checkpoint.save(path, variables, {})
    rewritten(path, OTHERS[change])
    load_refused(path, variables, "is of another model or optimizer: it holds . arrays")


def test_another_model_and_another_optimizer_are_refused(path, make_model):
    written = distiller(make_model, OPTIMIZERS["sgd"])
    checkpoint.save(path, checkpoint.variables_of(written), {})
    for arguments in ({"optimizer": OPTIMIZERS["adam"]}, {"units": 7}):
        other = distiller(make_model, **({"optimizer": OPTIMIZERS["sgd"]} | arguments))
        load_refused(path, checkpoint.variables_of(other), "another model or optimizer")


def test_a_full_disk_leaves_the_checkpoint_before(path, variables, full_disk):
    checkpoint.save(path, variables, {"epoch": 1})
    large = [*variables, keras.Variable(np.zeros(10_000, "float32"))]
    with full_disk(), pytest.raises(OSError, match="File too large"):
        checkpoint.save(path, large, {"epoch": 2})
    assert list(path.parent.iterdir()) == [path]
    assert checkpoint.load(path, variables) == {"epoch": 1}


def test_the_file_is_what_numpy_reads(path, variables):
    """Anyone can look into it: no pickle, and the state as JSON."""
    checkpoint.save(path, variables, {"epoch": 1})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["00000", "00001", "00002", "state"]
        np.testing.assert_array_equal(file["00000"], np.array([1.5, -2.0], "float32"))
        assert json.loads(str(file["state"])) == {"epoch": 1}
    assert zipfile.ZipFile(path).testzip() is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["kernel", "moving_variance"])
def test_weights_that_are_not_finite_are_named(make_model, name, bad):
    model = distiller(make_model, OPTIMIZERS["sgd"])
    checkpoint.check_finite(model)
    variable = next(x for x in model.student.weights if x.name == name)
    value = np.array(variable)
    value.flat[-1] = bad
    variable.assign(value)
    with pytest.raises(FloatingPointError, match=f"{variable.path} is NaN or infinite"):
        checkpoint.check_finite(model)
