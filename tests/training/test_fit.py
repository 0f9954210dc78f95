"""Everything that `fit` has works on a Distiller as on any Keras model."""

import csv
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, losses
from keras_kd.training.callbacks import StudentCheckpoint

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def make_distiller(make_model):
    """A compiled Distiller whose two models always start from the same weights."""

    def make(optimizer="sgd", metrics=None, student=None, **compile_arguments):
        keras.utils.set_random_seed(0)
        teacher = make_model(units=16)
        distiller = Distiller(teacher, student or make_model(), losses.SoftTargets(2.0))
        metrics = ["accuracy"] if metrics is None else metrics
        distiller.compile(optimizer, LOSS, metrics=metrics, **compile_arguments)
        return distiller

    return make


def fitted(distiller, *data, **arguments):
    distiller.fit(*data, **({"shuffle": False, "verbose": 0} | arguments))
    return distiller.student.get_weights()


@pytest.fixture(scope="module")
def expected(make_distiller, vectors):
    """Weights after an epoch on arrays, in batches of 16."""
    return fitted(make_distiller(jit_compile=False), *vectors, batch_size=16)


def assert_same(weights, expected, rtol=1e-5):
    for got, want in zip(weights, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * (index + 1))
        return self.x[rows], self.y[rows]


def generator(x, y):
    for start in range(0, 64, 16):
        yield x[start : start + 16], y[start : start + 16]


@pytest.mark.filterwarnings("ignore:.*ran out of data")  # the generator, as it must
@pytest.mark.parametrize(
    "source",
    [
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        Batches,
        generator,
    ],
    ids=["tf.data", "PyDataset", "generator"],
)
def test_sources_of_data_all_train_the_same(make_distiller, vectors, expected, source):
    assert_same(fitted(make_distiller(), source(*vectors)), expected)


@pytest.mark.parametrize(
    "arguments", [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}]
)
def test_ways_to_compile_all_train_the_same(
    make_distiller, vectors, expected, arguments
):
    weights = fitted(make_distiller(**arguments), *vectors, batch_size=16)
    assert_same(weights, expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_like_float32(make_distiller, make_model, vectors, policy):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    student = make_model()
    keras.config.set_dtype_policy("float32")
    same = make_model()
    same.set_weights(student.get_weights())
    distiller = make_distiller(student=student)
    scales = isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (policy == "mixed_float16")
    expected = fitted(make_distiller(student=same), *vectors)
    # 8 bits of mantissa: within 3 % of the largest weight.
    for got, want in zip(fitted(distiller, *vectors), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())


def optimizers():
    decay = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=8)
    return {
        "clipping": lambda: keras.optimizers.SGD(0.1, global_clipnorm=1e-3),
        "schedule": lambda: keras.optimizers.SGD(decay),
        "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        "EMA": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    }


@pytest.mark.parametrize("name", optimizers())
def test_optimizer_features_do_what_they_do_in_plain_training(make_model, vectors, name):
    keras.utils.set_random_seed(0)
    plain, student = make_model(), make_model()
    student.set_weights(plain.get_weights())
    plain.compile(optimizers()[name](), LOSS)
    expected = fitted_plain(plain, vectors)
    distiller = Distiller(make_model(), student, "kd", student_loss_weight=1.0)
    distiller.compile(optimizers()[name](), LOSS)
    assert_same(fitted(distiller, *vectors, batch_size=16), expected)


def fitted_plain(model, vectors):
    model.fit(*vectors, batch_size=16, shuffle=False, verbose=0)
    return model.get_weights()


def test_accumulation_waits_for_the_second_batch(make_distiller, vectors):
    x, y = vectors
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    distiller = make_distiller(optimizer)
    before = distiller.student.get_weights()
    distiller.train_on_batch(x[:32], y[:32])
    assert_same(distiller.student.get_weights(), before)
    distiller.train_on_batch(x[32:], y[32:])
    whole = make_distiller(keras.optimizers.SGD(0.1))
    whole.train_on_batch(x, y)
    assert_same(distiller.student.get_weights(), whole.student.get_weights())


def test_clipped_steps_are_short(make_distiller, vectors):
    distiller = make_distiller(keras.optimizers.SGD(1.0, global_clipnorm=1e-3))
    before = distiller.student.get_weights()
    distiller.train_on_batch(*vectors)
    moved = zip(distiller.student.get_weights(), before, strict=True)
    length = math.sqrt(sum(np.sum((new - old) ** 2) for new, old in moved))
    assert length == pytest.approx(1e-3, rel=1e-2)


def two_heads():
    first, second = keras.Input((4,)), keras.Input((4,))
    hidden = keras.layers.Concatenate()([first, second])
    outputs = [
        keras.layers.Dense(3, name="kind")(hidden),
        keras.layers.Dense(2, name="size")(hidden),
    ]
    return keras.Model([first, second], outputs)


def test_a_distillation_loss_for_each_output_of_a_model_with_two(vectors):
    x, y = vectors
    teacher, student = two_heads(), two_heads()
    kinds, sizes = (losses.SoftTargets(taps=(name, name)) for name in ("kind", "size"))
    distiller = Distiller(teacher, student, [kinds, sizes], [1.0, 0.5])
    distiller.compile(keras.optimizers.SGD(0.0), [LOSS, LOSS], metrics=[["accuracy"], []])
    history = distiller.fit([x, x], [y, y % 2], verbose=0).history
    parts = [
        float(losses.SoftTargets().compute_loss(teacher_output, student_output))
        for teacher_output, student_output in zip(teacher([x, x]), student([x, x]))
    ]
    expected = parts[0] + 0.5 * parts[1]
    assert history["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert "kind_accuracy" in history


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_one_output_of_several_can_be_left_alone(vectors):
    x, y = vectors
    student = two_heads()
    kinds = losses.SoftTargets(taps=("kind", "kind"))
    distiller = Distiller(two_heads(), student, kinds, student_loss_weight=0)
    distiller.compile("sgd")
    before = student.get_layer("size").get_weights()
    fitted(distiller, [x, x])
    assert_same(student.get_layer("size").get_weights(), before)


def test_keras_losses_for_several_outputs(vectors):
    x, y = vectors
    divergence = keras.losses.KLDivergence
    loss = keras.distillation.LogitsDistillation(2.0, loss=[divergence(), divergence()])
    distiller = Distiller(two_heads(), two_heads(), loss)
    distiller.compile("sgd", [LOSS, LOSS])
    history = distiller.fit([x, x], [y, y % 2], verbose=0).history
    assert history["distillation_loss"][0] > 0


def test_early_stopping_restores_the_best_student(make_distiller, vectors):
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, mode="max", restore_best_weights=True
    )
    distiller = make_distiller("adam")
    history = distiller.fit(
        *vectors, validation_data=vectors, epochs=9, callbacks=[stopping], verbose=0
    )
    # The loss falls, so by "max" the first epoch was the best.
    assert len(history.history["loss"]) == 2
    restored = distiller.evaluate(*vectors, verbose=0, return_dict=True)["loss"]
    assert restored == pytest.approx(history.history["val_loss"][0], rel=1e-5)


def test_reduce_lr_on_plateau(make_distiller, vectors):
    distiller = make_distiller(keras.optimizers.SGD(0.0))
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    distiller.optimizer.learning_rate = 1e-9
    distiller.fit(*vectors, epochs=3, callbacks=[plateau], verbose=0)
    assert float(distiller.optimizer.learning_rate) < 1e-9


def test_model_checkpoint_saves_the_distiller(make_distiller, vectors, tmp_path):
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)
    weights = fitted(make_distiller(), *vectors, callbacks=[checkpoint])
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, Distiller)
    assert_same(loaded.student.get_weights(), weights)


def test_student_checkpoint_saves_the_student_alone(make_distiller, vectors, tmp_path):
    path = tmp_path / "epoch{epoch}.keras"
    distiller = make_distiller()
    weights = fitted(distiller, *vectors, callbacks=[StudentCheckpoint(path)], epochs=2)
    student = keras.saving.load_model(tmp_path / "epoch2.keras")
    assert type(student) is type(distiller.student) and not student.compiled
    assert_same(student.get_weights(), weights)


def test_student_checkpoint_keeps_the_best(make_distiller, vectors, tmp_path):
    path = tmp_path / "best.weights.h5"
    best = StudentCheckpoint(
        path, monitor="loss", mode="max", save_best_only=True, save_weights_only=True
    )
    distiller = make_distiller("adam")
    expected = fitted(distiller, *vectors, callbacks=[best])
    fitted(distiller, *vectors, epochs=3, initial_epoch=1, callbacks=[best])
    distiller.student.load_weights(path)
    assert_same(distiller.student.get_weights(), expected)


def test_student_checkpoint_needs_a_distiller(make_model, vectors, tmp_path):
    model = make_model()
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="StudentCheckpoint goes with a Distiller"):
        model.fit(*vectors, callbacks=[StudentCheckpoint(tmp_path / "x.keras")])


class StopsAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise KeyboardInterrupt


def test_backup_and_restore_goes_on_where_it_stopped(make_distiller, vectors, tmp_path):
    backup = keras.callbacks.BackupAndRestore
    expected = fitted(make_distiller("adam"), *vectors, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        callbacks = [backup(tmp_path / "backup"), StopsAfter(2)]
        fitted(make_distiller("adam"), *vectors, epochs=4, callbacks=callbacks)
    again = make_distiller("adam")
    assert_same(
        fitted(again, *vectors, epochs=4, callbacks=[backup(tmp_path / "backup")]), expected
    )


def test_csv_logger_and_tensorboard_have_the_terms(make_distiller, vectors, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    fitted(make_distiller(), *vectors, callbacks=[logger, board])
    with open(tmp_path / "log.csv") as file:
        row = next(csv.DictReader(file))
    terms = {"loss", "student_loss", "distillation_loss", "total_loss", "accuracy"}
    assert terms <= set(row)
    events = next((tmp_path / "board" / "train").glob("events*")).read_bytes()
    assert b"epoch_distillation_loss" in events


def test_swapped_ema_weights_are_the_students(make_distiller, vectors):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    distiller = make_distiller(optimizer)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fitted(distiller, *vectors, callbacks=[swap], validation_data=vectors, epochs=2)


def test_class_weight_and_sample_weight_agree(make_distiller, vectors):
    x, y = vectors
    by_class = {0: 2.0, 1: 0.0, 2: 1.0}
    by_sample = np.array([by_class[label] for label in y], "float32")
    expected = fitted(make_distiller(), x, y, sample_weight=by_sample)
    assert_same(fitted(make_distiller(), x, y, class_weight=by_class), expected)


def test_rows_without_weight_do_not_matter(make_distiller, vectors):
    x, y = vectors
    weight = np.repeat([1.0, 0.0], 32).astype("float32")
    expected = fitted(make_distiller(), x, y, sample_weight=weight, batch_size=64)
    x = np.concatenate([x[:32], 100 * x[32:]])
    assert_same(
        fitted(make_distiller(), x, y, sample_weight=weight, batch_size=64), expected
    )


def test_the_teachers_regularisation_is_not_the_students(make_model, vectors):
    teacher = make_model(
        kernel_regularizer=keras.regularizers.L2(100.0),
        activity_regularizer=keras.regularizers.L2(100.0),
    )
    distiller = Distiller(teacher, make_model(), "kd", student_loss_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    history = distiller.fit(*vectors, verbose=0).history
    assert history["loss"][0] == pytest.approx(history["student_loss"][0], rel=1e-6)


def test_activity_regularisation_of_the_student_counts_once(make_model, vectors):
    student = make_model(activity_regularizer=keras.regularizers.L2(0.1))
    distiller = Distiller(make_model(), student, "kd")
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    history = distiller.fit(*vectors, batch_size=64, verbose=0).history
    student(vectors[0])
    terms = (history["student_loss"][0] + history["distillation_loss"][0]) / 2
    expected = terms + float(sum(student.losses))
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert float(sum(student.losses)) > 0
