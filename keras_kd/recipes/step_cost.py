"""What a step of a recipe's stages is made of: milliseconds of its parts."""

import dataclasses
import statistics
import tempfile
import time

import keras
from keras import ops, tree

from keras_kd.evaluation.profile import profile
from keras_kd.recipes import data as recipe_data
from keras_kd.recipes.run import give_data, models_and_data
from keras_kd.tables import markdown_table
from keras_kd.training.distiller import Distiller

# Batches that data are read of, and times that each part is timed.
_BATCHES, _REPEATS = 20, 10


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Milliseconds of a stage's step on this machine, each the median of ten.

    Attributes:
        stage: Its name.
        batch_size: Examples.
        data: Of reading a batch; while a step runs the next ones are read beside it.
        teacher: Of its answers; 0 where they are cached, None on labels alone.
        forward: Of the student.
        losses: Of all of them.
        backward: Of the gradients.
        rest: Of the optimizer and the metrics.
        step: Of all but the data.
        rate: Multiply-accumulates of the student's passes, two more backward than forward,
            by the step's time and by the rate of a large matrix product. None where they
            are not known.
    """

    stage: str
    batch_size: int
    data: float
    teacher: float | None
    forward: float
    losses: float
    backward: float
    rest: float
    step: float
    rate: float | None


def step_costs(recipe, data_dir=None):
    """Times the step of each stage that is trained, none of which is.

    Teachers that are stages themselves answer untrained.

    Args:
        recipe: A `keras_kd.recipes.recipe.Recipe`.
        data_dir: TFDS's data folder.

    Returns:
        A list of `StepCost`.

    Raises:
        ValueError: Keras is on another backend than TensorFlow; or as
            `keras_kd.recipes.run.run`.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The parts of a step are timed on TensorFlow alone. Received: Keras on "
            f"{keras.backend.backend()}."
        )
    _, chain, parts = models_and_data(recipe, data_dir)
    sections = [x for x in recipe.stage if x.epochs]
    train = parts.train
    if not any(x.examples or x.classes for x in sections):
        # So that no teacher has to answer more.
        count = _BATCHES * max(map(recipe.batch_size_of, sections), default=0)
        train = tree.map_structure(lambda x: None if x is None else x[:count], train)
    with tempfile.TemporaryDirectory(prefix="keras_kd-") as folder:
        train_data = recipe_data.TrainData(recipe, train, folder)
        give_data(recipe, chain, train_data, dataclasses.replace(parts, train=train))
        return [_of_stage(chain, stage) for stage in chain.stages if stage.epochs]


def as_table(costs):
    """A Markdown table of `StepCost`s."""
    rows = [
        {
            "stage": x.stage,
            "batch": x.batch_size,
            "data": f"{x.data:.2f}",
            "teacher": "-" if x.teacher is None else f"{x.teacher:.2f}",
            "student forward": f"{x.forward:.2f}",
            "losses": f"{x.losses:.2f}",
            "backward": f"{x.backward:.2f}",
            "optimizer, metrics": f"{x.rest:.2f}",
            "step (ms)": f"{x.step:.2f}",
            "of the peak": "-" if x.rate is None else f"{100 * x.rate:.0f} %",
        }
        for x in costs
    ]
    return markdown_table(rows, numbers_from=1)


def _of_stage(chain, stage):
    import tensorflow as tf

    stage, teacher = chain.as_taught(stage)
    model = stage.model_to_fit(teacher)
    data = stage.train_data(teacher).repeat().take(_BATCHES)
    batch = next(iter(data))
    start = time.perf_counter()
    for _ in data:
        pass
    read = 1000 * (time.perf_counter() - start) / _BATCHES
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    is_taught = isinstance(model, Distiller) and model.student_loss_weight != 1
    answers = model.run_teacher(x) if is_taught else None
    given = {"teacher": answers} if is_taught else {}

    def forward():
        return model(x, training=True)

    def loss():
        return model.compute_loss(x, y, forward(), weights, **given)

    def backward():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, model.trainable_variables)

    asked = _milliseconds(lambda: tuple(model.run_teacher(x))) if is_taught else None
    passes = [_milliseconds(call) for call in (forward, loss, backward)]
    step = _milliseconds(lambda: model.train_step(batch))
    size = int(ops.shape(tree.flatten(x)[0])[0])
    macs = profile(stage.student).pure_macs
    rate = None
    if macs is not None:
        rate = 3 * macs * size / (step / 1000) / products_a_second(model.compute_dtype)
    return StepCost(
        stage.name,
        size,
        read,
        asked,
        passes[0],
        max(passes[1] - passes[0], 0.0),
        max(passes[2] - passes[1], 0.0),
        max(step - passes[2] - (asked or 0.0), 0.0),
        step,
        rate,
    )


def _milliseconds(call):
    """Of a compiled call, without the first."""
    import tensorflow as tf

    # Nothing of it is left out, and one number is waited for.
    def total():
        found = [x for x in tree.flatten(call()) if x is not None]
        return tf.add_n([tf.reduce_sum(tf.cast(x, "float32")) for x in found])

    compiled = tf.function(total, autograph=False)
    compiled()
    found = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        float(compiled())
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def products_a_second(dtype, size=1024):
    """Multiply-accumulates a second of a product of two large square matrices."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((size, size)), dtype)
    return size**3 / (_milliseconds(lambda: tf.matmul(a, a)) / 1000)
