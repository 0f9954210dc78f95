"""Chains of stages, on a sample of real MNIST and on vectors."""

import csv
import json

import keras
import numpy as np
import pytest

from keras_kd import DistillationChain, Stage, cache_teacher, losses
from keras_kd.recipes import zoo


@pytest.fixture
def train_data(vectors):
    return batched(*vectors, 16)


def batched(x, y, batch_size):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)


def test_teacher_ta_student_on_mnist(mnist_sample, tmp_path):
    """The main job in small: every model learns, and the run folder tells it."""
    (x, y), (x_test, y_test) = mnist_sample
    train_data, test_data = batched(x, y, 40), batched(x_test, y_test, 50)
    teacher = zoo.build("mnist_ta")
    DistillationChain(None, [Stage("t", teacher, 4)]).fit(train_data, test_data, verbose=0)
    kd = losses.SoftTargets(4.0)
    chain = DistillationChain(
        teacher,
        [
            Stage("ta", zoo.cnn((4, 8), 0.0), 4, distillation_losses=kd),
            Stage("student", zoo.fully_connected((32,)), 6, distillation_losses=kd),
            Stage("alone", zoo.fully_connected((32,)), 6),
        ],
    )
    run_dir = tmp_path / "run"
    result = chain.fit(train_data, test_data, run_dir=run_dir, verbose=0)

    models = {x.model: x for x in result.models}
    assert {name: x.taught_by for name, x in models.items()} == {
        "teacher": "given",
        "ta": "teacher",
        "student": "ta",
        "alone": "labels",
    }
    assert all(x.accuracy > 0.6 and x.examples == 100 for x in models.values())
    assert models["student"].parameters == 784 * 32 + 32 + 32 * 10 + 10

    for name in ("ta", "student", "alone"):
        with (run_dir / name / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        history = result.histories[name]["val_accuracy"]
        assert [float(row["val_accuracy"]) for row in rows] == history
        assert history[-1] == pytest.approx(models[name].accuracy, abs=1e-6)
    saved = keras.saving.load_model(run_dir / "student" / "model.keras")
    logits = saved.predict(x_test, verbose=0)
    assert np.sum(logits.argmax(1) != y_test) == models["student"].errors
    served = keras.layers.TFSMLayer(
        run_dir / "student" / "saved_model", call_endpoint="serve"
    )
    np.testing.assert_allclose(served(x_test), logits, rtol=1e-4, atol=1e-4)

    assert (run_dir / "results.md").read_text() == result.table() + "\n"
    stored = json.loads((run_dir / "results.json").read_text())["models"]
    errors = [row["evaluation"]["errors"] for row in stored]
    assert errors == [x.errors for x in result.models]
    assert stored[0]["file_bytes"] == (run_dir / "teacher/model.keras").stat().st_size


def test_the_next_teacher_is_the_last_distilled_student(
    make_model, train_data, monkeypatch
):
    teacher, a, b, alone = (make_model(name=x) for x in ("teacher", "a", "b", "alone"))
    stages = [
        Stage("first", a, 1, distillation_losses="kd"),
        Stage("alone", alone, 1),
        Stage("second", b, 1, distillation_losses="kd"),
    ]
    taught = []
    model_to_fit = Stage.model_to_fit

    def spy(stage, teacher):
        taught.append((teacher and teacher.name, stage.student.name))
        return model_to_fit(stage, teacher)

    monkeypatch.setattr(Stage, "model_to_fit", spy)
    DistillationChain(teacher, stages).fit(train_data, train_data, verbose=0)
    assert taught == [("teacher", "a"), (None, "alone"), ("a", "b")]


def test_training_data_may_hang_on_the_teacher(make_model, vectors):
    teachers = []

    def train_data(teacher):
        teachers.append(teacher)
        if teacher is None:
            return batched(*vectors, 16)
        return cache_teacher(teacher, vectors, verbose=0).batch(16)

    teacher, first, second, alone = (make_model() for _ in range(4))
    stages = [
        Stage("first", first, epochs=1, distillation_losses="kd"),
        Stage("alone", alone, epochs=1),
        Stage("second", second, epochs=1, distillation_losses="kd"),
    ]
    chain = DistillationChain(teacher, stages)
    chain.fit(train_data, batched(*vectors, 16), verbose=0)
    assert teachers == [teacher, None, first]


def test_schedules_start_again_with_each_stage(make_model, train_data):
    weight = keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0)
    stages = [
        Stage(
            name,
            make_model(),
            epochs=2,
            distillation_losses="kd",
            student_loss_weight=weight,
            optimizer=keras.optimizers.SGD(0.0),
        )
        for name in ("a", "b")
    ]
    chain = DistillationChain(make_model(), stages)
    histories = chain.fit(train_data, train_data, verbose=0).histories
    for name in ("a", "b"):
        terms = {key: np.array(x) for key, x in histories[name].items()}
        labels, teacher = terms["student_loss"], terms["distillation_loss"]
        weights = (terms["total_loss"] - teacher) / (labels - teacher)
        # 4 steps an epoch; batches differ a little in their losses.
        np.testing.assert_allclose(weights, [0.8125, 0.3125], atol=0.1)


def test_students_stay_plain_models(make_model, train_data):
    stages = [Stage("alone", make_model(), 1)]
    result = DistillationChain(None, stages).fit(train_data, train_data, verbose=0)
    assert not result.students["alone"].compiled


def test_table(make_model, train_data):
    stages = [Stage("student", make_model(units=8), 1, distillation_losses="kd")]
    chain = DistillationChain(make_model(units=16), stages)
    lines = chain.fit(train_data, train_data, verbose=0).table().splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header == [
        "model", "taught by", "accuracy (%)", "errors in 64", "parameters", "MACs",
        "file (kB)", "seconds",
    ]  # fmt: skip
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["teacher", "student"]
    assert len({len(line) for line in lines}) == 1, "columns line up"


def test_an_error_names_the_stage(make_model, train_data):
    optimizer = keras.optimizers.SGD(1e30)
    chain = DistillationChain(
        None, [Stage("small", make_model(), 1, optimizer=optimizer)]
    )
    with pytest.raises(FloatingPointError, match="^Stage 'small': loss is .* in epoch 1"):
        chain.fit(train_data, train_data, verbose=0)


def test_a_stage_may_have_training_data_of_its_own(make_model, vectors):
    x, y = vectors
    taught = []

    def train_data(teacher):
        taught.append(teacher)
        return batched(x[:16], y[:16], 16)

    def adam():
        return keras.optimizers.Adam()

    teacher, models = make_model(), [make_model() for _ in range(3)]
    stages = [
        Stage("all", models[0], 1, "kd", optimizer=adam()),
        Stage("few", models[1], 1, "kd", train_data=train_data, optimizer=adam()),
        Stage("half", models[2], 1, train_data=batched(x, y, 32), optimizer=adam()),
    ]
    data = batched(x, y, 16)
    DistillationChain(teacher, stages).fit(data, data, verbose=0)
    assert taught == [models[0]]
    assert [int(stage.optimizer.iterations) for stage in stages] == [4, 1, 2]


def test_without_validation_data_nothing_is_measured_after_an_epoch(make_model, vectors):
    def chain(**stage):
        return DistillationChain(None, [Stage("s", make_model(), 2, **stage)])

    data = batched(*vectors, 16)
    result = chain().fit(data, None, verbose=0, test_data=data)
    assert not any(name.startswith("val") for name in result.histories["s"])
    assert result.models[0].examples == 64
    with pytest.raises(ValueError, match="`validation_data` or `test_data` is needed"):
        chain().fit(data, None, verbose=0)
    with pytest.raises(ValueError, match="'s' chooses .* Received: validation_data=None"):
        chain(restore_best=True).fit(data, None, verbose=0, test_data=data)


def test_bad_chains(make_model):
    model, other = make_model(), make_model()
    with pytest.raises(ValueError, match="at least one Stage"):
        DistillationChain(model, [])
    with pytest.raises(ValueError, match="Received more than once: 'a'"):
        DistillationChain(None, [Stage("a", model, 1), Stage("a", other, 1)])
    with pytest.raises(ValueError, match="Received more than once: 'teacher'"):
        DistillationChain(model, [Stage("teacher", other, 1)])
    with pytest.raises(ValueError, match="One model stands in two places"):
        DistillationChain(model, [Stage("a", model, 1)])
    taught = {"distillation_losses": "kd"}
    stage = Stage("s", make_model(), 1, **taught, taught_by="tta")
    with pytest.raises(ValueError, match="\\(teacher, ta\\).*'tta'. Did you mean 'ta'"):
        DistillationChain(model, [Stage("ta", other, 1), stage])
    with pytest.raises(ValueError, match="must name models before it .*Received: <Seq"):
        DistillationChain(model, [Stage("s", other, 1, **taught, taught_by=model)])
    for names in ([], ["teacher", "teacher"]):
        with pytest.raises(ValueError, match="one model or more, each once"):
            DistillationChain(model, [Stage("s", other, 1, **taught, taught_by=names)])
    with pytest.raises(ValueError, match="no effect with dense=True"):
        stage = Stage("s", other, 1, **taught, taught_by="teacher")
        DistillationChain(model, [stage], dense=True)


def test_branches_several_teachers_and_a_given_model(make_model, train_data):
    """Each is taught by whom it names; a given model is not trained, and teaches."""
    models = {x: make_model() for x in ("teacher", "given", "a", "b", "both", "of_alone")}
    alone, given = make_model(), models["given"]
    before = [x.copy() for x in given.get_weights()]
    stages = [
        Stage("given", given, 0),
        Stage("a", models["a"], 1, "kd"),
        Stage("b", models["b"], 1, "kd", taught_by="given"),
        Stage("alone", alone, 1),
        Stage("of_alone", models["of_alone"], 1, "kd", taught_by="alone"),
        Stage("both", models["both"], 1, "kd", taught_by=["teacher", "b"]),
    ]
    chain = DistillationChain(models["teacher"], stages)
    result = chain.fit(train_data, train_data, verbose=0)
    assert [(x.model, x.taught_by) for x in result.models] == [
        ("teacher", "given"),
        ("given", "given"),
        ("a", "given"),
        ("b", "given"),
        ("alone", "labels"),
        ("of_alone", "alone"),
        ("both", "teacher, b"),
    ]
    for kept, weight in zip(before, given.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)
    assert "given" not in result.histories
    row = result.models[1]
    assert row.seconds is None and row.epochs is None
    _, teacher = chain.as_taught(stages[-1])
    assert len(teacher.taps) == 2


def test_the_epoch_is_chosen_by_other_data_than_the_table(make_model, vectors):
    x, y = vectors
    train, validation, test = (batched(x[i::3], y[i::3], 8) for i in range(3))

    def chain():
        return DistillationChain(None, [Stage("s", make_model(), 4, restore_best=True)])

    with pytest.raises(ValueError, match="'s' chooses its epoch by `validation_data`"):
        chain().fit(train, validation, verbose=0)
    with pytest.raises(ValueError, match="Received: the same for both"):
        chain().fit(train, validation, verbose=0, test_data=validation)
    result = chain().fit(train, validation, verbose=0, test_data=test)
    (row,) = result.models
    losses_ = result.histories["s"]["val_loss"]
    assert row.best_epoch == np.argmin(losses_) + 1
    student = result.students["s"]
    student.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert student.evaluate(validation, verbose=0) == pytest.approx(min(losses_), rel=1e-5)
    predicted = student.predict(x[2::3], verbose=0).argmax(axis=1)
    assert row.errors == np.sum(predicted != y[2::3])


def with_normalization(x):
    norm = keras.layers.Normalization(dtype="float32")
    norm.adapt(x)
    return keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(3)])


def with_lookup(x):
    lookup = keras.layers.IntegerLookup()
    lookup.adapt(x.astype("int64"))
    parts = [lookup, keras.layers.Embedding(200, 4), keras.layers.Flatten()]
    inputs = keras.Input((4,), dtype="int64")
    return keras.Sequential([inputs, *parts, keras.layers.Dense(3)])


def with_lambda(x):
    double = keras.layers.Lambda(lambda x: np.pi * x / 100, output_shape=(4,))
    return keras.Sequential([keras.Input((4,)), double, keras.layers.Dense(3)])


@pytest.mark.filterwarnings("ignore:.*lambda")
@pytest.mark.parametrize("make", [with_normalization, with_lookup, with_lambda])
def test_what_a_chain_measures_and_returns_is_what_it_trained(make, vectors, tmp_path):
    x, y = vectors
    x = np.round(1000 * x / 10 + 100)
    x = x.astype("int64" if make is with_lookup else "float32")
    keras.config.set_dtype_policy("mixed_bfloat16")
    student = make(x)
    keras.config.set_dtype_policy("float32")
    data = batched(x, y, 16)
    stage = Stage("student", student, 3, "kd", optimizer=keras.optimizers.Adam(0.05))
    result = DistillationChain(make(x), [stage]).fit(
        data, data, run_dir=None if make is with_lambda else tmp_path / "run", verbose=0
    )
    shipped = result.students["student"]
    trained, ours = (np.float32(m.predict(x, verbose=0)) for m in (student, shipped))
    np.testing.assert_allclose(ours, trained, atol=0.05 * np.abs(trained).max())
    assert result.models[-1].errors == np.sum(ours.argmax(axis=1) != y)
    assert {z.dtype_policy.name for z in shipped._flatten_layers()} == {"float32"}


@keras.saving.register_keras_serializable("test_chain")
class InPython(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.reshape(tf.py_function(lambda x: x, [x], x.dtype), (-1, 4))


def test_macs_that_are_unknown_are_said_to_be(vectors, train_data):
    student = keras.Sequential([keras.Input((4,)), InPython(), keras.layers.Dense(3)])
    chain = DistillationChain(None, [Stage("student", student, 1)])
    result = chain.fit(train_data, train_data, verbose=0)
    assert result.models[0].macs is None and "| unknown |" in " ".join(
        result.table().split()
    )


@pytest.mark.parametrize("metrics", [(), [], None])
def test_a_stage_without_labels(vectors, train_data, make_model, metrics):
    import tensorflow as tf

    unlabelled = tf.data.Dataset.from_tensor_slices(vectors[0]).batch(16)
    student = make_model()
    arguments = {"student_loss_weight": 0.0, "metrics": metrics}
    stage = Stage("student", student, 2, "kd", **arguments)
    before = student.get_weights()
    result = DistillationChain(make_model(), [stage]).fit(unlabelled, train_data, verbose=0)
    assert "accuracy" not in result.histories["student"]
    changed = zip(before, student.get_weights(), strict=True)
    assert all(np.any(a != b) for a, b in changed)


def test_labelled_arrays_are_examples_labels_and_weights(vectors, train_data, make_model):
    """The student, of whom weights of 0 let nothing be learned, is as it was."""
    x, y = vectors
    ones, zeros = np.ones(len(x)), np.zeros(len(x))
    for weights, moves in ((), True), ((ones,), True), ((zeros,), False):
        student = make_model()
        before = student.get_weights()
        stage = Stage("student", student, 1)
        chain = DistillationChain(None, [stage])
        result = chain.fit((x, y, *weights), train_data, verbose=0)
        moved = np.any(before[0] != student.get_weights()[0])
        assert moved == moves
        assert len(result.histories["student"]["accuracy"]) == 1


class Subclassed(keras.Model):
    """Whose input shapes nobody knows before it runs."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def free_size():
    """Images of any size."""
    inputs = keras.Input((None, None, 1))
    maps = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, keras.layers.Dense(3)(pooled))


def test_what_cannot_be_counted_stops_no_chain(make_model, train_data, tmp_path, caplog):
    student = Subclassed()
    student(np.zeros((1, 4)))
    stage = Stage("s", student, 1, "kd", metrics="accuracy")
    result = DistillationChain(make_model(), [stage]).fit(
        train_data, train_data, tmp_path, verbose=0
    )
    assert "val_accuracy" in result.histories["s"]
    assert result.models[1].macs is None and result.models[1].parameters == 4 * 3 + 3
    assert "The multiply-accumulates of 'subclassed" in caplog.text
    assert "unknown" in (tmp_path / "results.md").read_text()


def test_images_of_any_size(tmp_path):
    x = np.random.default_rng(0).random((16, 6, 6, 1)).astype("float32")
    data = batched(x, np.arange(16) % 3, 8)
    chain = DistillationChain(free_size(), [Stage("s", free_size(), 1, "kd")])
    result = chain.fit(data, data, tmp_path, verbose=0)
    assert [x.macs for x in result.models] == [None, None]


def test_images_of_several_sizes(tmp_path):
    import tensorflow as tf

    def batches():
        draw = np.random.default_rng(0)
        for size in (6, 9):
            yield draw.random((8, size, size, 1)).astype("float32"), np.arange(8) % 3

    specs = tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int64)
    train, test = (
        tf.data.Dataset.from_generator(batches, output_signature=specs).apply(
            tf.data.experimental.assert_cardinality(2)
        )
        for _ in range(2)
    )
    chain = DistillationChain(free_size(), [Stage("s", free_size(), 1, "kd")])
    chain.fit(train, test, tmp_path, verbose=0)
    assert not (tmp_path / "s" / "disagreements.npz").exists()


# Keras's words for it, which do not say what to do.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("losses", ["kd", None])
def test_no_batches_to_train_on(make_model, train_data, losses):
    chain = DistillationChain(make_model(), [Stage("s", make_model(), 1, losses)])
    with pytest.raises(ValueError, match="Stage 's': `train_data` holds no batches, so"):
        chain.fit(train_data.take(0), train_data, verbose=0)
