"""The default trains on several batches in one call, and shows it nowhere.

Each case runs twice, as `compile` has it by default and with `steps_per_execution=1`, which
is Keras's own loop; all that a user could see of the two is compared.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.chain.stage import _LabelsAlone
from keras_kd.training.callbacks import StopOnBadLoss, StudentCheckpoint
from keras_kd.training.compiled_steps import Groups
from keras_kd.training.several_steps import batches_at_a_time

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)
# Of 5 examples: 12 batches and one of 4, which no group of 8 divides.
EPOCH = 13
HOOKS = [
    f"on_{phase}_batch_{edge}"
    for phase in ("train", "test", "predict")
    for edge in ("begin", "end")
] + ["on_epoch_begin", "on_epoch_end"]


class LooksAtBatches(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class LooksAtEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass


class StopsEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


class SubclassWithItsOwnHook(StopOnBadLoss):
    def on_train_batch_begin(self, batch, logs=None):
        pass


class Imitation:
    """A callback only by its methods, of which it has any."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def dataset(shuffle=False):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = data.shuffle(64, seed=1) if shuffle else data
    return data.batch(5)


def of_unknown_length():
    return dataset().filter(lambda x, y: True)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return EPOCH

    def __getitem__(self, index):
        return X[5 * index : 5 * index + 5], Y[5 * index : 5 * index + 5]


def generator(count):
    for i in range(count):
        yield Batches()[i % EPOCH]


def with_a_bad_weight():
    """The loss of batch 11 is NaN."""
    weights = np.ones(64, "float32")
    weights[52] = np.nan
    return tf.data.Dataset.from_tensor_slices((X, Y, weights)).batch(5)


def fit(model, *data, **arguments):
    history = model.fit(*data, **({"verbose": 0, "shuffle": False} | arguments))
    return history.epoch, history.history


def in_an_epoch(folder):
    callbacks = keras.callbacks
    name = "{epoch}-{batch}"
    return [
        callbacks.ModelCheckpoint(
            folder / f"whole-{name}.weights.h5", save_weights_only=True, save_freq=10
        ),
        StudentCheckpoint(folder / f"student-{name}.keras", save_freq=3),
    ]


def rates(epoch, rate):
    return rate * 0.5


CASES = {
    "arrays": lambda model, folder: fit(
        model, X, Y, batch_size=5, epochs=2, shuffle=True
    ),
    "validation": lambda model, folder: fit(
        model, dataset(), validation_data=dataset(), epochs=3, validation_freq=2
    ),
    "validation_steps": lambda model, folder: fit(
        model, dataset(), validation_data=dataset().repeat(), validation_steps=3
    ),
    "validation_split": lambda model, folder: fit(
        model, X, Y, batch_size=5, validation_split=0.25, class_weight={0: 2, 1: 1, 2: 0}
    ),
    "steps_per_epoch": lambda model, folder: fit(
        model, dataset(shuffle=True).repeat(), steps_per_epoch=10, epochs=3
    ),
    "an epoch is a part of the data": lambda model, folder: fit(
        model, dataset(), steps_per_epoch=5, epochs=2
    ),
    "the data end in the last epoch": lambda model, folder: fit(
        model, dataset(), steps_per_epoch=10, epochs=2
    ),
    "generator": lambda model, folder: fit(
        model, generator(25), steps_per_epoch=12, epochs=2
    ),
    "PyDataset": lambda model, folder: fit(model, Batches(), epochs=2),
    "initial_epoch": lambda model, folder: fit(
        model, dataset(shuffle=True), initial_epoch=2, epochs=4
    ),
    "one after the other": lambda model, folder: [
        fit(model, dataset(shuffle=True)),
        model.train_on_batch(X[:7], Y[:7], return_dict=True),
        fit(model, dataset().repeat(), steps_per_epoch=9, callbacks=[LooksAtBatches()]),
        model.test_on_batch(X[:7], Y[:7], return_dict=True),
        fit(model, X, Y, batch_size=5, sample_weight=np.arange(64.0)),
    ],
    "evaluate": lambda model, folder: [
        model.evaluate(dataset().repeat(), steps=3, verbose=0, return_dict=True),
        model.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True),
        fit(model, dataset()),
        model.evaluate(dataset(), verbose=0, return_dict=True),
    ],
    "predict": lambda model, folder: [
        model.predict(dataset().repeat(), steps=3, verbose=0),
        model.predict(X, batch_size=5, verbose=0),
        model.predict_on_batch(X),
    ],
    "stopped before an epoch": lambda model, folder: fit(
        model, dataset(), epochs=3, callbacks=[StopsEpoch()]
    ),
    "epochs' callbacks": lambda model, folder: fit(
        model,
        dataset(),
        validation_data=dataset(),
        epochs=4,
        callbacks=[
            keras.callbacks.LearningRateScheduler(rates),
            keras.callbacks.ReduceLROnPlateau("loss", min_delta=9, patience=0),
            keras.callbacks.EarlyStopping("val_loss", mode="max", patience=2),
            keras.callbacks.CSVLogger(folder / "log.csv"),
            StudentCheckpoint(folder / "{epoch}-{val_loss:.4f}.keras"),
        ],
    ),
    "files in an epoch": lambda model, folder: fit(
        model, dataset(), epochs=2, callbacks=in_an_epoch(folder)
    ),
    "a loss that is no number": lambda model, folder: fit(
        model, with_a_bad_weight(), epochs=2
    ),
    "TerminateOnNaN": lambda model, folder: fit(
        model, with_a_bad_weight(), epochs=2, callbacks=[keras.callbacks.TerminateOnNaN()]
    ),
    "StopOnBadLoss": lambda model, folder: fit(
        model, with_a_bad_weight(), callbacks=[StopOnBadLoss()]
    ),
}


# Where the data do not say how long they are, Keras's optimizer counts a step more at the
# end of an epoch. So what is expected is trained on the same batches with a length; but the
# hooks, of which Keras calls one more, are those of the same data.
UNKNOWN_LENGTH = {
    "epochs": (
        lambda model, folder: fit(model, of_unknown_length(), epochs=2),
        lambda model, folder: fit(model, dataset(), epochs=2),
    ),
    "two groups": (
        lambda model, folder: fit(model, of_unknown_length().repeat(2).take(16)),
        lambda model, folder: fit(model, dataset().repeat(2).take(16)),
    ),
    "a generator": (
        lambda model, folder: fit(model, generator(11)),
        lambda model, folder: fit(model, dataset().take(11)),
    ),
    "the end in an epoch": (
        lambda model, folder: fit(model, of_unknown_length(), steps_per_epoch=10, epochs=2),
        lambda model, folder: fit(model, dataset(), steps_per_epoch=10, epochs=2),
    ),
}


def make_model(units=8):
    layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


def make_distiller():
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    return kd.Distiller(make_model(16), make_model(), "kd", [decay])


class OwnStep(kd.Distiller):
    """Its logs are not those of its metrics, so that Keras takes them as they are."""

    def train_step(self, data):
        logs = super().train_step(data)
        rows = tf.cast(tf.shape(data[0])[0], "float32")
        return {"loss": logs["loss"], "rows": rows, "each": tf.stack([rows, 2 * rows])}


MODELS = {
    "Distiller": make_distiller,
    "MutualDistiller": lambda: kd.MutualDistiller(
        {"one": make_model(), "other": make_model(6)}
    ),
    "labels alone": lambda: _LabelsAlone(make_model()),
    "own step": lambda: OwnStep(make_model(16), make_model(), "kd"),
}


def compiled(make, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = make()
    optimizer = compile_arguments.pop("optimizer", None)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **compile_arguments)
    return model


def plain(value):
    """Metrics as Python has them, of any structure."""
    return keras.tree.map_structure(lambda x: np.asarray(x).tolist(), value)


def watch(monkeypatch):
    """Calls of Keras's hooks, in a list; a callback that looked would change the choice."""
    seen = []

    def watched(name, hook):
        def call(self, number, logs=None):
            values = {k: v for k, v in (logs or {}).items() if k != "outputs"}
            seen.append((name, number, plain(values)))
            return hook(self, number, logs)

        return call

    for name in HOOKS:
        hook = getattr(keras.callbacks.CallbackList, name)
        monkeypatch.setattr(keras.callbacks.CallbackList, name, watched(name, hook))
    return seen


def files_of(folder):
    files = {}
    for path in sorted(folder.rglob("*.*")):
        if path.suffix == ".csv":
            files[path.name] = path.read_text()
        elif path.suffix == ".keras":
            files[path.name] = plain(keras.saving.load_model(path).get_weights())
        else:
            files[path.name] = None
    return files


def run(model, case, folder):
    """All that can be seen of a case."""
    keras.utils.set_random_seed(1)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = watch(monkeypatch)
        try:
            result = plain(case(model, folder))
        except FloatingPointError as error:
            result = str(error)
    weights = model.get_weights()
    return {
        "steps": int(model.optimizer.iterations),
        "result": result,
        "hooks": seen,
        "weights": [x.tolist() for x in weights],
        "optimizer": [np.asarray(x).tolist() for x in model.optimizer.variables],
        "files": files_of(folder),
        "steps_per_execution": model.steps_per_execution,
    }


def assert_same(found, expected):
    for name, value in expected.items():
        # Numbers that are none are equal here.
        assert str(found[name]) == str(value), name


@pytest.fixture(scope="module")
def distillers():
    """One by default and one of Keras's loop, and what makes them as they were."""
    models = [compiled(make_distiller), compiled(make_distiller, steps_per_execution=1)]
    for model in models:
        model.optimizer.build(model.trainable_variables)
    states = [[np.array(x) for x in _state(model)] for model in models]

    def fresh():
        for model, state in zip(models, states, strict=True):
            for variable, value in zip(_state(model), state, strict=True):
                variable.assign(value)
        return models

    return fresh


def _state(model):
    return [*model.weights, *model.optimizer.variables]


@pytest.mark.filterwarnings("ignore:.*ran out of data")  # of some cases, as it should
@pytest.mark.filterwarnings("ignore:Can save best model only")
@pytest.mark.parametrize("name", CASES)
def test_the_default_is_as_keras_with_one_step(distillers, tmp_path, name):
    found, expected = (
        run(model, CASES[name], tmp_path / str(i))
        for i, model in enumerate(distillers())
    )
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", UNKNOWN_LENGTH)
def test_every_step_is_that_of_a_batch(distillers, tmp_path, name):
    case, of_known_length = UNKNOWN_LENGTH[name]
    expected = run(distillers()[1], of_known_length, tmp_path / "expected")
    hooks = run(distillers()[1], case, tmp_path / "hooks")["hooks"]
    # Then as if somebody looked at each batch.
    for how, each in {"grouped": case, "looked at": looking(case)}.items():
        found = run(distillers()[0], each, tmp_path / how)
        assert [x[:2] for x in found["hooks"]] == [x[:2] for x in hooks], how
        assert_same(found | {"hooks": None}, expected | {"hooks": None})


def looking(case):
    def looked_at(model, folder):
        # Of the class, so that it is as for any `fit`.
        fit_of_class = type(model).fit
        look = {"callbacks": [LooksAtBatches()]}
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(
                type(model), "fit", lambda *args, **kw: fit_of_class(*args, **kw | look)
            )
            return case(model, folder)

    return looked_at


def several(model, folder):
    fits = [
        fit(model, dataset().repeat(), steps_per_epoch=10, epochs=2),
        fit(model, dataset(), validation_data=dataset()),
    ]
    return fits, model.evaluate(dataset().repeat(), steps=3, verbose=0)


@pytest.mark.parametrize("kind", list(MODELS)[1:])
def test_so_it_is_for_all_that_is_trained(tmp_path, kind):
    found, expected = (
        run(compiled(MODELS[kind], **arguments), several, tmp_path / str(i))
        for i, arguments in enumerate([{}, {"steps_per_execution": 1}])
    )
    assert_same(found, expected)


def schedule_average_and_accumulation():
    decay = keras.optimizers.schedules.CosineDecay(0.5, 20)
    return keras.optimizers.SGD(decay, use_ema=True, gradient_accumulation_steps=3)


def few(model, folder):
    return fit(model, dataset().take(3), validation_data=dataset().take(2), epochs=2)


@pytest.mark.parametrize(
    "how, case",
    [
        (lambda: {"run_eagerly": True}, few),
        (lambda: {"optimizer": schedule_average_and_accumulation()}, several),
    ],
    ids=["run_eagerly", "optimizer"],
)
def test_so_it_is_however_it_is_compiled(tmp_path, how, case):
    found, expected = (
        run(compiled(make_distiller, **arguments, **how()), case, tmp_path / str(i))
        for i, arguments in enumerate([{}, {"steps_per_execution": 1}])
    )
    assert_same(found, expected)


def test_so_it_is_for_a_model_saved_and_loaded(distillers, tmp_path):
    models = []
    for model in distillers():
        model.save(tmp_path / "saved.keras")
        models.append(keras.saving.load_model(tmp_path / "saved.keras"))
    found, expected = (
        run(model, CASES["steps_per_epoch"], tmp_path / str(i))
        for i, model in enumerate(models)
    )
    assert_same(found, expected)


def test_so_it_is_on_cached_data(tmp_path):
    def case(model, folder):
        cached = kd.cache_teacher(model.teacher, (X, Y), verbose=0)
        cached = cached.shuffle(64, seed=0).repeat().batch(5)
        return fit(model, cached, steps_per_epoch=10, epochs=2)

    found, expected = (
        run(compiled(make_distiller, **arguments), case, tmp_path / str(i))
        for i, arguments in enumerate([{}, {"steps_per_execution": 1}])
    )
    assert_same(found, expected)


def test_so_it_is_under_a_strategy_but_for_metrics_within_an_epoch(tmp_path):
    runs = []
    for i, arguments in enumerate([{}, {"steps_per_execution": 1}]):
        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            model = compiled(make_distiller, **arguments)
        runs.append(run(model, several, tmp_path / str(i)))
    for seen in runs:
        seen["hooks"] = [
            (name, number, None if name == "on_train_batch_end" else logs)
            for name, number, logs in seen["hooks"]
        ]
    assert_same(*runs)


def test_steps_before_an_error_in_the_data_are_whole(distillers):
    def read(i, batch):
        with tf.control_dependencies([tf.debugging.Assert(i < 11, ["no such picture"])]):
            return tf.identity(batch[0]), batch[1]

    model, other = distillers()
    with pytest.raises(tf.errors.InvalidArgumentError, match="no such picture"):
        fit(model, dataset().enumerate().map(read))
    fit(other, dataset().take(11))
    for found, expected in zip(_state(model), _state(other), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "given, most",
    [
        (None, 8),
        ([], 8),
        ([keras.callbacks.ModelCheckpoint("x.keras"), LooksAtEpochs()], 8),
        ([keras.callbacks.BackupAndRestore("x"), keras.callbacks.TensorBoard("x")], 8),
        ([keras.callbacks.ProgbarLogger(), keras.callbacks.TerminateOnNaN()], 8),
        ([StopOnBadLoss(), StudentCheckpoint("x.keras")], 8),
        ([keras.callbacks.LambdaCallback(on_epoch_end=print)], 8),
        ([LooksAtEpochs(), LooksAtBatches()], 1),
        ([[LooksAtEpochs()], [LooksAtBatches()]], 1),
        (LooksAtBatches(), 1),
        (Imitation(), 1),
        (SubclassWithItsOwnHook(), 1),
        ([keras.callbacks.ModelCheckpoint("x.keras", save_freq=100)], 1),
        ([StudentCheckpoint("x.keras", save_freq=100)], 1),
        ([keras.callbacks.BackupAndRestore("x", save_freq=100)], 1),
        ([keras.callbacks.TensorBoard("x", update_freq=100)], 1),
        ([keras.callbacks.TensorBoard("x", profile_batch=(2, 3))], 1),
        ([keras.callbacks.TensorBoard("x", write_steps_per_second=True)], 1),
        ([keras.callbacks.LambdaCallback(on_train_batch_end=print)], 1),
        (keras.callbacks.CallbackList([LooksAtEpochs()]), 1),
    ],
)
def test_several_batches_at_a_time_unless_somebody_looks_at_each(given, most):
    assert batches_at_a_time(given) == most


def test_who_makes_something_of_each_batchs_metrics_needs_them():
    given = [keras.callbacks.TerminateOnNaN()]
    assert batches_at_a_time(given, metrics_of_each=False) == 1
    assert batches_at_a_time([StopOnBadLoss()], metrics_of_each=False) == 8


def counted_groups(monkeypatch):
    """How many calls of the compiled function there were, in a list of one."""
    calls, made = [0], Groups.__init__

    def init(self, *args):
        made(self, *args)
        group = self._group

        def counted(*args):
            calls[0] += 1
            return group(*args)

        self._group = counted

    monkeypatch.setattr(Groups, "__init__", init)
    return calls


def test_the_default_does_train_on_several_in_one_call(monkeypatch):
    calls = counted_groups(monkeypatch)
    model = compiled(make_distiller)
    for given, more in ((None, 2), ([LooksAtBatches()], 13), ([StopOnBadLoss()], 2)):
        before = calls[0]
        fit(model, dataset(), callbacks=given)
        assert calls[0] - before == more


@pytest.mark.parametrize("steps, where", [(None, "batch 11"), (4, "batches 9 to 12")])
def test_a_bad_loss_is_said_to_be_where_it_is(steps, where):
    model = compiled(make_distiller, steps_per_execution=steps)
    with pytest.raises(FloatingPointError, match=f"is nan in epoch 1, {where}[.]"):
        fit(model, with_a_bad_weight(), callbacks=[StopOnBadLoss()])


def test_under_a_strategy_it_is_among_those_read_together():
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = compiled(make_distiller)
    # The metrics are read after batches 1, 9 and 13, the last.
    with pytest.raises(FloatingPointError, match="in epoch 1, batches 10 to 13[.]"):
        fit(model, with_a_bad_weight(), callbacks=[StopOnBadLoss()])


def test_what_compile_was_told_is_kept(tmp_path):
    model = compiled(make_distiller, steps_per_execution=3)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    fit(model, dataset(), callbacks=[look])
    assert seen == [2, 5, 8, 11, 14] and model.steps_per_execution == 3
    model.save(tmp_path / "saved.keras")
    assert keras.saving.load_model(tmp_path / "saved.keras").steps_per_execution == 3
