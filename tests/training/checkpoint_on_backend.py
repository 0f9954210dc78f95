"""What StudentCheckpoint saves, beside what it should; on other backends, too."""

import keras
import numpy as np

import keras_kd as kd

# Arguments of StudentCheckpoint, and whether more of the monitored metric is better.
CASES = {
    "each epoch": ({"filepath": "{epoch}.keras"}, None),
    "names with metrics": (
        {"filepath": "{epoch:02d}-{val_student_loss:.4f}-{accuracy:.3f}.keras"},
        None,
    ),
    "monitored, not the best alone": (
        {"filepath": "{epoch}.keras", "monitor": "val_accuracy"},
        None,
    ),
    "the best accuracy": (
        {"filepath": "best.keras", "monitor": "val_accuracy", "save_best_only": True},
        True,
    ),
    "all that were the best": (
        {"filepath": "{epoch}.keras", "monitor": "val_accuracy", "save_best_only": True},
        True,
    ),
    "the best of the Distiller's terms": (
        {"filepath": "{epoch}.keras", "monitor": "distillation_loss"}
        | {"save_best_only": True},
        False,
    ),
    "the best term in validation": (
        {"filepath": "{epoch}.keras", "monitor": "val_student_loss"}
        | {"save_best_only": True},
        False,
    ),
    "a mode": (
        {"filepath": "{epoch}.keras", "monitor": "val_student_loss", "mode": "max"}
        | {"save_best_only": True},
        True,
    ),
    "better than a threshold": (
        {"filepath": "{epoch}.keras", "monitor": "val_loss", "save_best_only": True}
        | {"initial_value_threshold": 1.05},
        False,
    ),
    "weights": ({"filepath": "{epoch}.weights.h5", "save_weights_only": True}, None),
    "some batches": ({"filepath": "{epoch}-{batch}.keras", "save_freq": 3}, None),
    "weights after some batches": (
        {"filepath": "{epoch}-{batch}.weights.h5", "save_freq": 3}
        | {"save_weights_only": True},
        None,
    ),
    "the best of some batches": (
        {"filepath": "{epoch}-{batch}-{loss:.3f}.keras", "save_freq": 2}
        | {"monitor": "accuracy", "save_best_only": True, "initial_value_threshold": 0.3},
        True,
    ),
}
# In which the weights are asked for at different times, or for different files.
ELSEWHERE = ("each epoch", "the best accuracy", "the best of the Distiller's terms")
ELSEWHERE += ("weights after some batches", "the best of some batches")
BATCHES, EPOCHS = 4, 3


def make_model(units):
    layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.layers.Input((4,)), *layers])


class Seen(keras.callbacks.Callback):
    """What a checkpoint may save: (epoch, batch or None, logs, the student's weights)."""

    def __init__(self):
        super().__init__()
        self.points = []

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._keep(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._keep(None, logs)

    def _keep(self, batch, logs):
        weights = [x.tolist() for x in self.model.student.get_weights()]
        self.points.append((self._epoch, batch, dict(logs), weights))


def expected_files(points, more_is_better, filepath, save_freq="epoch", **arguments):
    """As Keras's documentation has it."""
    if save_freq == "epoch":
        points = [x for x in points if x[1] is None]
    else:
        points = [x for x in points if x[1] is not None][save_freq - 1 :: save_freq]
    sign = 1 if more_is_better else -1
    best, files = arguments.get("initial_value_threshold"), {}
    for epoch, batch, logs, weights in points:
        if arguments.get("save_best_only"):
            value = logs[arguments["monitor"]]
            if best is not None and sign * value <= sign * best:
                continue
            best = value
        number = {} if batch is None else {"batch": batch + 1}
        files[filepath.format(epoch=epoch + 1, **number, **logs)] = weights
    return files


def read(path, student):
    """The weights in a file."""
    loaded = student
    if path.suffix == ".keras":
        loaded = keras.saving.load_model(path)
        assert type(loaded) is type(student) and not loaded.compiled
        assert [x.name for x in loaded.layers] == [x.name for x in student.layers]
    else:
        student.load_weights(path)
    return [x.tolist() for x in loaded.get_weights()]


def run(name, folder):
    """The files of a case, and those that there should be: name to weights."""
    keras.utils.set_random_seed(3)
    arguments, more_is_better = CASES[name]
    distiller = kd.Distiller(make_model(16), make_model(8), "kd")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * BATCHES, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    path = {"filepath": folder / arguments["filepath"]}
    seen = Seen()
    distiller.fit(
        x,
        y,
        batch_size=8,
        epochs=EPOCHS,
        validation_data=(x[::2], y[::2]),
        # It is the first to ask where the weights are.
        callbacks=[kd.callbacks.StudentCheckpoint(**(arguments | path)), seen],
        verbose=0,
    )
    return {
        "found": {x.name: read(x, distiller.student) for x in folder.iterdir()},
        "expected": expected_files(seen.points, more_is_better, **arguments),
    }


def tell(folder):
    """What `run` says of some cases, dict of a case's name to it."""
    told = {}
    for i, name in enumerate(ELSEWHERE):
        (folder / f"checkpoint_{i}").mkdir()
        told[name] = run(name, folder / f"checkpoint_{i}")
    return told
