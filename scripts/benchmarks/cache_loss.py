"""What float16 and top-k change in the soft-targets loss at 1,000 classes.

    python scripts/benchmarks/cache_loss.py

A teacher and a smaller student are trained for a moment on made-up data: 1,000 classes in
50 groups that resemble each other, as the breeds of dogs do in ImageNet. For each way to
keep the teacher's outputs, the loss (KL) and its gradient with respect to the student's
logits are compared with those of the teacher's own outputs in float32.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_kd.cache.cache import cache_teacher
from keras_kd.losses import SoftTargets
from keras_kd.training import batch

GROUPS, CLASSES, FEATURES, SEED = 50, 1000, 64, 0
WAYS = [{"dtype": "float16"}] + [
    {"top_k": k, "rest": rest} for k in (5, 20, 100) for rest in ("even", "drop")
]


def make_data(count):
    """x (count, FEATURES) float32 and labels (count,)."""
    rng = np.random.default_rng(SEED)
    groups = rng.normal(size=(GROUPS, FEATURES))
    own = 0.3 * rng.normal(size=(CLASSES, FEATURES))
    centres = np.repeat(groups, CLASSES // GROUPS, axis=0) + own
    y = rng.integers(CLASSES, size=count)
    noise = 0.7 * rng.normal(size=(count, FEATURES))
    return (centres[y] + noise).astype("float32"), y


def train(units, epochs, x, y):
    """A model of one hidden layer, trained for some epochs."""
    hidden = layers.Dense(units, activation="relu")
    model = keras.Sequential([layers.Input((FEATURES,)), hidden, layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=256, epochs=epochs, verbose=0)
    return model


def loss_and_gradient(teacher_logits, student_logits, temperature):
    """The loss (a number) and its gradient, (examples, CLASSES)."""
    student_logits = tf.convert_to_tensor(student_logits)
    with tf.GradientTape() as tape:
        tape.watch(student_logits)
        loss = SoftTargets(temperature).compute_loss(teacher_logits, student_logits)
    return float(loss), tape.gradient(loss, student_logits).numpy()


def main():
    keras.utils.set_random_seed(SEED)
    x, y = make_data(60_000)
    x, y, x_test, y_test = x[:-2000], y[:-2000], x[-2000:], y[-2000:]
    teacher, student = train(512, 10, x, y), train(64, 3, x, y)
    logits = student(x_test)
    _, accuracy = teacher.evaluate(x_test, y_test, verbose=0)
    top = np.sort(keras.ops.softmax(teacher(x_test)), axis=-1)[:, ::-1].mean(axis=0)
    masses = ", ".join(f"{top[:k].sum():.3f}" for k in (1, 5, 20, 100))
    print(f"Teacher: {accuracy:.1%} right; mass of its top 1, 5, 20, 100: {masses}\n")
    print("| kept | T | loss | its error | gradient's error | bytes an example |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        dataset = cache_teacher(teacher, x_test, verbose=0, **way)
        packed = next(iter(dataset.batch(len(x_test))))
        outputs = packed["keras_kd.teacher_outputs"]
        size = sum(np.asarray(a[0]).nbytes for a in tf.nest.flatten(outputs))
        kept = batch.unpack(packed)[1][0]
        for temperature in (1.0, 4.0):
            exact, gradient = loss_and_gradient(teacher(x_test), logits, temperature)
            loss, other = loss_and_gradient(kept, logits, temperature)
            error = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
            name = " ".join(map(str, way.values()))
            print(
                f"| {name} | {temperature:.0f} | {loss:.4f} | {loss / exact - 1:+.2%} | "
                f"{error:.2%} | {size} |"
            )


if __name__ == "__main__":
    main()
