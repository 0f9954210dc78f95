"""Run by test_backends: a small distillation on Keras's backend, told as JSON.

    KERAS_BACKEND=jax python tests/training/train_on_backend.py FOLDER
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import keras_kd as kd
from keras_kd import teachers
from keras_kd.training import batch

BATCH_SIZE, STEPS = 8, 10
# Read inside the compiled step, at the optimizer's iterations.
TEMPERATURE = keras.optimizers.schedules.PolynomialDecay(8.0, STEPS, 2.0)
WEIGHT = keras.optimizers.schedules.CosineDecay(0.3, STEPS, 0.1)


class BatchLosses(keras.callbacks.Callback):
    """The loss of each batch; Keras's logs hold the mean of those so far."""

    def __init__(self):
        super().__init__()
        self.values, self._sum = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        self.values.append(total - self._sum)
        self._sum = total


def make_model(seed, units, regularizer=None):
    """A classifier of vectors of 4; its weights come from NumPy, on any backend."""
    layers = [
        keras.layers.Input((4,)),
        keras.layers.Dense(units, use_bias=False, kernel_regularizer=regularizer),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(6, activation="relu", name="hidden"),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers, name=f"model_{seed}")
    rng = np.random.default_rng(seed)
    # Not negative, as BatchNormalization's variances are among them.
    model.set_weights([rng.uniform(0, 0.9, size=w.shape) for w in model.get_weights()])
    return model


def make_data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(BATCH_SIZE * STEPS, 4)).astype("float32")
    weights = rng.uniform(0.5, 2.0, size=len(x)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1), weights


def make_distiller(teacher, student):
    losses = [
        kd.losses.SoftTargets(TEMPERATURE),
        keras.distillation.FeatureDistillation("mse", "hidden", "hidden"),
    ]
    distiller = kd.Distiller(
        teacher, student, losses, [1.0, WEIGHT], validation_distillation=True
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return distiller


def as_bytes(model):
    return [w.tobytes() for w in model.get_weights()]


def train(distiller):
    x, y, weights = make_data()
    losses = BatchLosses()
    distiller.fit(
        x,
        y,
        sample_weight=weights,
        validation_data=(x, y),
        batch_size=BATCH_SIZE,
        shuffle=False,
        verbose=0,
        callbacks=[losses],
    )
    return losses.values


def come_back(distiller, teacher, folder):
    """Whether files with and without the teacher give a Distiller that goes on alike."""
    distiller.save(folder / "with.keras")
    distiller.save(folder / "without.keras", include_teacher=False)
    loaded = [
        keras.saving.load_model(folder / "with.keras"),
        kd.load_distiller(folder / "without.keras", teacher=teacher),
    ]
    expected = train(distiller)
    return [bool(np.allclose(train(x), expected, atol=1e-5)) for x in loaded]


def remember(teacher, student, folder):
    """Whether a loss with a memory changes it, and goes on from a file as without."""
    x, *_ = make_data()
    loss = kd.losses.ContrastiveRepresentation(len(x), feat_dim=4, negatives=8)
    distiller = kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(0.01))
    memory = loss.layers[-1]
    before = memory.get_weights()

    def fit(distiller):
        # What `with_index` does, without TensorFlow.
        numbered = batch.pack(x, index=np.arange(len(x)))
        arguments = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
        return distiller.fit(numbered, **arguments).history["distillation_loss"]

    first = fit(distiller)
    changed = [not np.allclose(*w) for w in zip(before, memory.get_weights(), strict=True)]
    distiller.save(folder / "memory.keras")
    again = fit(keras.saving.load_model(folder / "memory.keras"))
    return {
        "changed": changed,
        "draws": int(memory.get_weights()[-1][1]),
        "losses": first + fit(distiller),
        "from_file": again,
    }


def frozen(teacher, student):
    """What is said to a student that has nothing to train."""
    student.trainable = False
    distiller = kd.Distiller(teacher, student, "kd", student_loss_weight=0.0)
    distiller.compile("sgd")
    try:
        distiller.fit(make_data()[0], verbose=0)
    except ValueError as error:
        return str(error)


def fail(teacher):
    """Whether a step that fails leaves all weights behind; it is seen in the step alone."""
    student = make_model(seed=3, units=5)
    distiller = kd.Distiller(teacher, student, "kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, kept = as_bytes(student) + as_bytes(teacher), []
    x, y, _ = make_data()
    for call in (distiller.fit, distiller.evaluate):
        try:
            call(((a, y[:8]) for a in [x[:8, :3]]), verbose=0)
        except Exception:  # Each backend has its own.
            kept.append(as_bytes(student) + as_bytes(teacher) == before)
    distiller.fit(x, y, verbose=0)
    return kept


class Looks(keras.callbacks.Callback):
    """Whether examples lie on the device, without a look at a batch."""

    def on_epoch_begin(self, epoch, logs=None):
        # `model` would, on JAX, have its weights put back.
        self.found = self._model._on_device is not None


def fitted_on_device(teacher, device_bytes, bad=None):
    """All that training leaves, with examples on the device or not.

    Args:
        bad: Number of an example whose weight is NaN, which stops it; or None.
    """
    # One more than batches of 2 have: a group of 32 on JAX, of 8 on TensorFlow, and others.
    x, y, weights = (part[:79] for part in make_data())
    if bad is not None:
        weights[bad] = np.nan
    student = make_model(seed=4, units=5)
    distiller = kd.Distiller(teacher, student, "kd")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, metrics=["accuracy"], device_bytes=device_bytes)
    data = kd.with_index((x, y, weights)).shuffle(79, seed=1).batch(2)
    looks, stopped, history = Looks(), None, {}
    try:
        callbacks = [looks, kd.callbacks.StopOnBadLoss()]
        given = {"epochs": 2, "verbose": 0, "shuffle": False, "callbacks": callbacks}
        fit = distiller.fit(data.prefetch(1), **given)
        history = fit.history
    except FloatingPointError as error:
        stopped = str(error)
    return {
        "on_device": looks.found,
        "stopped": stopped,
        "history": history,
        "steps": int(distiller.optimizer.iterations),
        "weights": [w.tolist() for w in student.get_weights()],
    }


def tell(folder):
    x, y, _ = make_data()
    teacher = make_model(seed=1, units=16)
    student = make_model(seed=2, units=5, regularizer=keras.regularizers.L2(0.01))
    distiller = make_distiller(teacher, student)
    before = as_bytes(teacher)
    told = {
        "backend": keras.backend.backend(),
        "losses": train(distiller),
        "student": [w.tolist() for w in student.get_weights()],
        "evaluate": distiller.evaluate(x, y, verbose=0, return_dict=True),
        "predict": distiller.predict(x, verbose=0).tolist(),
        "ensemble": teachers.Ensemble([teacher, student], [2, 1], 3.0)
        .predict(x, verbose=0)
        .tolist(),
        "files_come_back": come_back(distiller, teacher, folder),
    }
    told["memory"] = remember(teacher, student, folder)
    told["frozen"] = frozen(teacher, student)
    told["kept"] = fail(teacher)
    told["on_device"] = [
        [fitted_on_device(teacher, most, bad) for most in (0, 1e6)] for bad in (None, 60)
    ]
    told["teacher_unchanged"] = as_bytes(teacher) == before
    return told


if __name__ == "__main__":
    # One process for both, as it takes longer to begin than to train.
    import checkpoint_on_backend

    told = tell(Path(sys.argv[1]))
    told["checkpoints"] = checkpoint_on_backend.tell(Path(sys.argv[1]))
    print(json.dumps(told))
