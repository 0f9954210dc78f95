"""Run by test_distribute: the same distillations on one device and on two, as JSON.

python tests/distribution/train_on_replicas.py
"""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.distribution.distribute import without_strategy

# Of the training data; the last batch of the validation data is smaller than two replicas.
EXAMPLES, BATCH_SIZE, VALIDATION, EPOCHS = 64, 16, 33, 2


def two_devices():
    (cpu,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make_data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(EXAMPLES, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1), rng.uniform(0.5, 2, EXAMPLES).astype("float32")


def make_model(seed, units, normalizes=False):
    layers = [
        keras.layers.Input((4,)),
        keras.layers.Dense(units, "relu", kernel_regularizer="l2", name="hidden"),
        *[keras.layers.BatchNormalization(momentum=0.5)] * normalizes,
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0, 0.9, size=w.shape) for w in model.get_weights()])
    return model


def distiller(losses, *weights):
    models = make_model(1, 16), make_model(2, 8)
    return kd.Distiller(*models, losses, *weights, validation_distillation=True)


def several_losses():
    """Ours, Keras's own, a projection that trains along, and schedules."""
    decay = keras.optimizers.schedules.PolynomialDecay(8.0, 8, 2.0)
    losses = [
        kd.losses.SoftTargets(decay),
        keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence()),
        kd.losses.FitNet(taps=("hidden", "hidden")),
    ]
    model = distiller(losses, [1.0, 0.7, 0.3])
    rng = np.random.default_rng(3)
    for x in losses[2].layers[0].weights:
        x.assign(rng.uniform(0, 0.3, size=x.shape))
    return model


MODELS = {
    "several": several_losses,
    "cached": lambda: distiller("kd"),
    "alone": lambda: kd.Stage("x", make_model(2, 8), 1).model_to_fit(None),
}


def batches(name):
    x, y, weights = make_data()
    examples = (x, y) if name == "alone" else (x, y, weights)
    if name == "cached":
        # The distiller's teacher, made again.
        examples = kd.cache_teacher(make_model(1, 16), examples, verbose=0)
    else:
        examples = tf.data.Dataset.from_tensor_slices(examples)
    return examples.shuffle(EXAMPLES, seed=1).batch(BATCH_SIZE, drop_remainder=True)


def train(name, strategy):
    x, y, _ = make_data()
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = MODELS[name]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, weighted_metrics=["accuracy"])
    held_out = tf.data.Dataset.from_tensor_slices((x[:VALIDATION], y[:VALIDATION]))
    history = model.fit(
        batches(name),
        validation_data=held_out.batch(BATCH_SIZE),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
    ).history
    return {
        "history": history,
        "evaluate": model.evaluate(x, y, batch_size=21, verbose=0, return_dict=True),
        "on_batch": model.test_on_batch(x, y, return_dict=True),
        "student": [w.tolist() for w in model.student.get_weights()],
        "iterations": int(model.optimizer.iterations.numpy()),
    }


def normalize(strategy):
    """Whether both replicas keep the same moving averages, and what they are."""
    x, y, _ = make_data()
    with strategy.scope():
        student = make_model(2, 8, normalizes=True)
        model = kd.Distiller(make_model(1, 16, normalizes=True), student, "kd")
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    taught_by = [w.tobytes() for w in model.teacher.get_weights()]
    hidden = student.layers[0](x)
    model.fit(x, y, batch_size=EXAMPLES, verbose=0, shuffle=False)
    mean = student.layers[1].moving_mean
    values = [value.numpy().tolist() for value in mean.value.values]
    # The last batch has one example, so a replica has none.
    model.fit(x[:33], y[:33], batch_size=32, verbose=0, shuffle=False)
    return {
        "mean": values,
        "after_a_small_batch": [value.numpy().tolist() for value in mean.value.values],
        "before": np.mean(hidden, axis=0).tolist(),
        "teacher_unchanged": taught_by
        == [w.tobytes() for w in model.teacher.get_weights()],
        "alone": bool(
            np.allclose(
                without_strategy(student).predict_on_batch(x), student(x), atol=1e-6
            )
        ),
    }


def refusals(strategy):
    x, y, _ = make_data()
    with strategy.scope():
        memory = kd.losses.ContrastiveRepresentation(EXAMPLES, feat_dim=4, negatives=8)
        models = [
            kd.Distiller(make_model(1, 16), make_model(2, 8), memory),
            kd.MutualDistiller([make_model(1, 16), make_model(2, 8)], "kd"),
        ]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for model in models:
            model.compile("sgd", loss)
    messages = []
    for model in models:
        try:
            model.fit(x, y, verbose=0)
        except ValueError as error:
            messages.append(str(error))
    return messages


def main():
    strategy = two_devices()
    told = {name: [train(name, x) for x in (None, strategy)] for name in MODELS}
    told["normalized"] = normalize(strategy)
    told["refused"] = refusals(strategy)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
