"""Chains whose data carry what their first teacher says, or takes; or with a function."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.chain.carried import Carried, outputs_id, without_teacher
from keras_kd.exporters import run_exports
from keras_kd.report.card import card
from keras_kd.report.write import write_report
from keras_kd.runs.manifest import RunError
from keras_kd.training import batch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
LOGITS = 3 * RNG.normal(size=(60, 3)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)


def carrying(rows, logits=LOGITS, **how):
    return kd.with_teacher_outputs((X[rows], Y[rows]), logits[rows], **how)


def train_data(logits=LOGITS):
    return carrying(slice(40), logits).shuffle(40, seed=1).batch(16)


def of_test_part(logits=LOGITS):
    return carrying(slice(40, None), logits).batch(8)


PLAIN = X[40:], Y[40:]


@pytest.fixture
def make_chain(make_model):
    def make(teacher=None, dense=False, **second):
        keras.utils.set_random_seed(0)
        stages = [
            kd.Stage("ta", make_model(8), 2, "kd"),
            kd.Stage("student", make_model(4), 2, "kd", **second),
        ]
        return kd.DistillationChain(teacher, stages, dense=dense)

    return make


def function_teacher(version="1", bias=0.0):
    answers = {tuple(x): z for x, z in zip(X, LOGITS + bias, strict=True)}
    zero = np.zeros(3, "float32")
    return kd.teachers.from_function(
        lambda x: np.stack([answers.get(tuple(row), zero) for row in np.asarray(x)]),
        name="table",
        version=version,
    )


def weights_of(result):
    return [w for x in result.students.values() for w in x.get_weights()]


def assert_same(one, other):
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def log_softmax(z):
    z = z.astype("float64")
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_the_students_are_those_of_a_function_that_says_the_same(make_chain):
    """And those of stages that are each given what is theirs."""
    given = make_chain().fit(train_data(), PLAIN, verbose=0)
    plain = tf.data.Dataset.from_tensor_slices((X[:40], Y[:40]))
    plain = plain.shuffle(40, seed=1).batch(16)
    assert_same(given, make_chain(function_teacher()).fit(plain, PLAIN, verbose=0))


def test_later_stages_may_be_cached(make_chain):
    def make(teacher):
        if teacher is None:
            return train_data()
        kept = kd.cache_teacher(teacher, (X[:40], Y[:40]), verbose=0, dtype="float32")
        return kept.shuffle(40, seed=1).batch(16)

    cached = make_chain().fit(make, PLAIN, verbose=0)

    def make_live(teacher):
        plain = tf.data.Dataset.from_tensor_slices((X[:40], Y[:40]))
        plain = plain.shuffle(40, seed=1).batch(16)
        return train_data() if teacher is None else plain

    live = make_chain().fit(make_live, PLAIN, verbose=0)
    for a, b in zip(weights_of(cached), weights_of(live), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_given_outputs_have_their_line(make_chain):
    result = make_chain().fit(train_data(), of_test_part(), verbose=0)
    teacher, ta, _ = result.models
    answers = LOGITS[40:].argmax(axis=1)
    assert (teacher.model, teacher.taught_by) == ("teacher", "given")
    assert teacher.errors == np.sum(answers != Y[40:])
    assert (teacher.parameters, teacher.macs, teacher.file_bytes) == (None, None, None)
    theirs = log_softmax(LOGITS[40:])
    ours = log_softmax(np.array(result.students["ta"](X[40:])))
    fidelity = ta.evaluation.fidelity
    assert fidelity.agreement == np.mean(ours.argmax(axis=1) == answers)
    wanted = np.sum(np.exp(theirs) * (theirs - ours), axis=1).mean()
    assert fidelity.kl == pytest.approx(wanted, rel=1e-4)
    assert "| teacher | given" in result.table() and "unknown" in result.table()


def test_it_is_said_where_they_cannot_have_one(make_chain, caplog):
    result = make_chain().fit(train_data(), PLAIN, verbose=0)
    assert [x.model for x in result.models] == ["ta", "student"]
    ta, student = (x.evaluation.fidelity for x in result.models)
    assert ta is None and student.agreement is not None
    assert sum("have no line in the table" in x for x in caplog.messages) == 1


def test_a_run_folder(make_chain, tmp_path):
    """Gone on with, reported, carded; other outputs are refused."""
    folder = tmp_path / "run"
    first = make_chain().fit(train_data(), of_test_part(), run_dir=folder, verbose=0)
    again = make_chain().fit(train_data(), of_test_part(), run_dir=folder, verbose=0)
    assert_same(first, again)
    assert [x.to_dict() for x in first.models] == [x.to_dict() for x in again.models]
    assert not (folder / "teacher" / "model.keras").exists()
    for data, where in (
        ((train_data(LOGITS + 1), of_test_part()), "outputs > ta"),
        ((train_data(), of_test_part(LOGITS + 1)), "outputs > test_data"),
        (((X, Y), of_test_part()), "outputs > ta"),
    ):
        with pytest.raises(RunError, match=f"another run(.|\n)*{where}"):
            make_chain().fit(*data, run_dir=folder, verbose=0)
    text = write_report(folder)[1].read_text()
    assert "those of “teacher” are unknown" in re.sub(r"\s+", " ", text)
    assert "ta was taught by teacher" in card(folder, "ta")
    with pytest.raises(ValueError, match="'teacher' .* no model to make a card of"):
        card(folder, "teacher")


def test_a_run_folder_without_their_line(make_chain, tmp_path):
    folder = tmp_path / "run"
    make_chain().fit(train_data(), PLAIN, run_dir=folder, verbose=0)
    result = make_chain().fit(train_data(), PLAIN, run_dir=folder, verbose=0)
    assert [x.model for x in result.models] == ["ta", "student"]
    assert "ta" in write_report(folder)[1].read_text()


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", ["ta", "student"])
def test_an_interrupted_run_is_gone_on_with(make_chain, stopped, tmp_path):
    whole = make_chain().fit(train_data(), of_test_part(), verbose=0)
    how = {"run_dir": tmp_path / "run", "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        make_chain().fit(
            train_data(),
            of_test_part(),
            callbacks=lambda stage: [Stop()] if stage.name == stopped else [],
            **how,
        )
    with pytest.raises(RunError):
        make_chain().fit(train_data(LOGITS + 1), of_test_part(), **how)
    assert_same(whole, make_chain().fit(train_data(), of_test_part(), **how))


def test_a_function_of_data_is_asked_for_the_same_outputs(make_chain, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        make_chain().fit(
            lambda _: train_data(), PLAIN, folder, verbose=0, callbacks=[Stop()]
        )
    with pytest.raises(RunError, match="gives other teacher outputs"):
        make_chain().fit(lambda _: train_data(LOGITS + 1), PLAIN, folder, verbose=0)
    make_chain().fit(lambda _: train_data(), PLAIN, folder, verbose=0)


def test_a_function_in_a_run_folder(make_chain, tmp_path):
    """No file holds it, and nothing asks for one."""
    folder, data = tmp_path / "run", (X[:40], Y[:40])
    result = make_chain(function_teacher()).fit(data, PLAIN, run_dir=folder, verbose=0)
    assert result.models[0].parameters is None
    assert json.loads((folder / "teacher/metrics.json").read_text())["parameters"] is None
    assert not (folder / "teacher" / "model.keras").exists()
    assert_same(result, make_chain(function_teacher()).fit(data, PLAIN, folder, verbose=0))
    with pytest.raises(RunError, match="teacher > architecture"):
        make_chain(function_teacher("2")).fit(data, PLAIN, run_dir=folder, verbose=0)
    write_report(folder)


@pytest.mark.slow
def test_the_students_of_a_run_are_exported(make_chain, tmp_path, monkeypatch):
    """The given outputs have no file. One format tells of all."""
    make_chain().fit(train_data(), of_test_part(), run_dir=tmp_path / "run", verbose=0)
    monkeypatch.setattr(run_exports, "KINDS", [("onnx", None)])
    examples = np.resize(X, (1000, 4)), np.resize(Y, 1000)
    exports = run_exports.export_run(tmp_path / "run", examples, examples[0])
    assert [x.model for x in exports.files] == ["ta", "student"]


@pytest.mark.filterwarnings("error:Whether the outputs")
@pytest.mark.parametrize("kind", ["preprocessed", "groups", "ensemble", "function"])
def test_other_teachers_with_run_folders(make_chain, make_model, kind, tmp_path):
    data, folder = (X[:40], Y[:40]), tmp_path / "run"

    def make():
        keras.utils.set_random_seed(9)
        member, inputs = make_model(16), keras.Input((4,))
        asks = keras.Model(inputs, function_teacher()(inputs))
        scale = keras.layers.Rescaling(0.5)
        return {
            "preprocessed": lambda: kd.teachers.Preprocessed(member, scale, (4,)),
            "groups": lambda: kd.teachers.GroupClasses(asks, range(3)),
            "ensemble": lambda: kd.teachers.Ensemble([asks, member]),
            "function": lambda: asks,
        }[kind]()

    # All earlier models teach, where they can be asked.
    one = make_chain(make(), dense=True).fit(data, PLAIN, run_dir=folder, verbose=0)
    two = make_chain(make(), dense=True).fit(data, PLAIN, run_dir=folder, verbose=0)
    assert_same(one, two)
    assert (one.models[0].parameters is None) == (kind != "preprocessed")


def test_baselines_of_the_same_data(make_model):
    """The given outputs teach whoever names them; the labels alone teach the others."""
    stages = [
        kd.Stage("ta", make_model(8), 1, "kd"),
        kd.Stage("direct", make_model(4), 1, "kd", taught_by="teacher"),
        kd.Stage("alone", make_model(4), 1),
    ]
    result = kd.DistillationChain(None, stages).fit(train_data(), PLAIN, verbose=0)
    assert [x.taught_by for x in result.models] == ["teacher", "teacher", "labels"]
    assert "distillation_loss" in result.histories["direct"]


def test_what_cannot_be(make_chain, make_model):
    with pytest.raises(ValueError, match="'student' would be taught .* and by 'ta'.*dense"):
        make_chain(dense=True)
    with pytest.raises(ValueError, match="name one of them in `taught_by`"):
        make_chain(taught_by=["teacher", "ta"])
    with pytest.raises(ValueError, match="'ta': .* no teacher: teacher=None.*outputs made"):
        make_chain().fit((X, Y), PLAIN, verbose=0)
    with pytest.raises(ValueError, match="'ta': .* no teacher: teacher=None"):
        make_chain().fit(lambda _: (X, Y), PLAIN, verbose=0)
    kept = kd.cache_teacher(make_model(), (X, Y), verbose=0).batch(8)
    with pytest.raises(ValueError, match="cache_teacher kept .*Give the chain that model"):
        make_chain().fit(kept, PLAIN, verbose=0)
    with pytest.raises(ValueError, match="'student': .*given outputs.*taught by 'ta'"):
        make_chain(train_data=train_data()).fit(train_data(), PLAIN, verbose=0)
    with pytest.raises(ValueError, match="needs DistillationChain\\(None"):
        make_chain(make_model()).fit(train_data(), PLAIN, verbose=0)
    for teacher in (None, function_teacher()):
        with pytest.raises(ValueError, match="`teacher` must be a keras.Model, whose"):
            kd.born_again(teacher, 2, 1)


def test_what_is_taken_out_and_what_tells_it():
    data = carrying(slice(40)).shuffle(40, seed=0).batch(8).prefetch(1)
    x, _ = next(iter(without_teacher(data)))
    assert set(x) == {"keras_kd.inputs", "keras_kd.index"}
    plain = tf.data.Dataset.from_tensor_slices((X, Y))
    assert without_teacher(plain) is plain and without_teacher((X, Y)) == (X, Y)
    unlabelled = kd.with_teacher_outputs(X, LOGITS).batch(8)
    assert batch.teacher_of(next(iter(without_teacher(unlabelled)))) is None
    known = outputs_id(data)
    assert known == outputs_id(carrying(slice(40)).repeat().take(3).batch(2))
    streamed = tf.data.Dataset.from_tensor_slices((X[:40], Y[:40]))
    streamed = kd.with_teacher_outputs(streamed, LOGITS[:40])
    assert known == outputs_id(streamed.map(lambda *x: x).batch(2))
    assert known != outputs_id(carrying(slice(40), LOGITS + 1))
    both = carrying(slice(40)).batch(8).concatenate(carrying(slice(20)).batch(8))
    assert outputs_id(both).split() != [known] and known in outputs_id(both)
    assert outputs_id(plain) is None and outputs_id((X, Y)) is None


def test_what_data_carry():
    carried = Carried(of_test_part(), "test_data")
    assert carried.shape == (3,)
    np.testing.assert_array_equal(np.concatenate([x[0] for x in carried]), LOGITS[40:])
    outputs, labels, _ = next(iter(carried))
    np.testing.assert_array_equal(carried.model()(outputs), LOGITS[40:48])
    assert Carried(PLAIN, "test_data").shape is None
    layers = kd.with_teacher_outputs((X, Y), {"hidden": LOGITS}).batch(8)
    assert Carried(layers, "test_data").shape is None


SOUND = RNG.normal(size=(60, 5, 2)).astype("float32")


def listener(seed=7):
    """A teacher of other inputs than the students'."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((5, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers, name="listener")


def with_sound(rows, sound=SOUND):
    return kd.with_teacher_inputs((X[rows], Y[rows]), sound[rows])


def heard(rows=slice(40)):
    return with_sound(rows).shuffle(40, seed=1).batch(16)


def test_the_first_teacher_alone_takes_its_own_inputs(make_chain, tmp_path):
    """The students are those of a chain that is given the answers to them."""
    teacher = listener()
    answers = np.array(teacher(SOUND))
    given = make_chain().fit(train_data(answers), PLAIN, verbose=0)
    test = with_sound(slice(40, None)).batch(8)
    live = make_chain(teacher).fit(heard(), test, tmp_path / "run", verbose=0)
    for a, b in zip(weights_of(live), weights_of(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    first, ta, student = live.models
    right = np.mean(answers[40:].argmax(axis=1) == Y[40:])
    assert first.model == "teacher" and first.accuracy == pytest.approx(right)
    own = np.array(live.students["ta"](X[40:])).argmax(axis=1)
    agree = np.mean(own == answers[40:].argmax(axis=1))
    assert ta.evaluation.fidelity.agreement == pytest.approx(agree)
    assert student.evaluation.fidelity.teacher == "ta"
    again = make_chain(teacher).fit(heard(), test, tmp_path / "run", verbose=0)
    assert_same(live, again)
    write_report(tmp_path / "run")


def test_a_function_of_the_teacher_may_cache_its_answers(make_chain):
    def make(model):
        examples = with_sound(slice(40))
        if model.name == "listener":
            examples = kd.cache_teacher(model, examples, dtype="float32", verbose=0)
        # Those behind the first get it, too, and see the examples alone.
        return examples.shuffle(40, seed=1).batch(16)

    test = with_sound(slice(40, None)).batch(8)
    cached = make_chain(listener()).fit(make, test, verbose=0)
    live = make_chain(listener()).fit(lambda _: heard(), test, verbose=0)
    for a, b in zip(weights_of(cached), weights_of(live), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_without_its_inputs_in_the_test_data_it_has_no_line(make_chain, caplog):
    result = make_chain(listener()).fit(heard(), PLAIN, verbose=0)
    assert [x.model for x in result.models] == ["ta", "student"]
    assert result.models[0].evaluation.fidelity is None
    assert "`validation_data` carries no inputs for it" in caplog.text


def test_inputs_of_one_shape_are_not_taken_for_the_teachers(make_model, make_chain):
    """Two tokenisers, say: nothing but the data tells that the inputs differ."""
    teacher, other = make_model(8), X[:, ::-1].copy()
    keras.utils.set_random_seed(3)
    data = kd.with_teacher_inputs((X[:40], Y[:40]), other[:40]).batch(16)
    test = kd.with_teacher_inputs((X[40:], Y[40:]), other[40:]).batch(8)
    right = np.mean(np.array(teacher(other[40:])).argmax(axis=1) == Y[40:])
    for train in (data, lambda _: data):
        result = make_chain(teacher).fit(train, test, verbose=0)
        assert result.models[0].accuracy == pytest.approx(right)
    with pytest.raises(ValueError, match="the teacher was measured on the student's"):
        make_chain(teacher).fit(lambda _: data, PLAIN, verbose=0)


@pytest.mark.parametrize(
    ("dense", "data", "message"),
    [
        (True, None, "the stage has 2: 'teacher', 'ta'"),
        (False, lambda: (X[:40], Y[:40]), "Stage 'ta'.*must take the inputs"),
        (False, lambda: with_sound(slice(40), SOUND[:, :3]).batch(8), "of shape.*3, 2"),
    ],
    ids=["dense", "without", "shape"],
)
def test_what_the_teacher_cannot_take_is_told_before_training(
    make_model, dense, data, message
):
    ta, student = make_model(8), make_model(4)
    teacher = make_model(5) if dense else listener()
    data = kd.with_teacher_inputs((X, Y), X).batch(8) if dense else data()
    stages = [kd.Stage("ta", ta, 1, "kd"), kd.Stage("student", student, 1, "kd")]
    before = ta.get_weights()
    with pytest.raises(ValueError, match=message):
        kd.DistillationChain(teacher, stages, dense=dense).fit(data, PLAIN, verbose=0)
    for a, b in zip(before, ta.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_student_of_other_inputs_than_its_assistant_is_told_at_once(make_model):
    ta = make_model(8)
    other = keras.Sequential([keras.Input((9,)), keras.layers.Dense(3)])
    stages = [kd.Stage("ta", ta, 1, "kd"), kd.Stage("student", other, 1, "kd")]
    before = ta.get_weights()
    for data in ((X[:40], Y[:40]), lambda _: (X[:40], Y[:40])):
        with pytest.raises(ValueError, match="Stage 'student'"):
            kd.DistillationChain(make_model(5), stages).fit(data, PLAIN, verbose=0)
    for a, b in zip(before, ta.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class AsPyDataset(keras.utils.PyDataset):
    """A data set's batches as a user's own class gives them."""

    def __init__(self, dataset):
        super().__init__()
        self._batches = list(dataset.as_numpy_iterator())

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        return self._batches[index]


OTHER = X[:, ::-1].copy()


def other_inputs(rows=slice(40)):
    """Inputs for the teacher of the students' shape, and of another meaning."""
    return kd.with_teacher_inputs((X[rows], Y[rows]), OTHER[rows])


def test_arrays_are_as_a_dataset(make_model, make_chain):
    teacher, test = make_model(8), other_inputs(slice(40, None)).batch(8)
    packed = batch.pack(X[:40], teacher_inputs=OTHER[:40])
    arrays = make_chain(teacher).fit((packed, Y[:40]), test, verbose=0)
    # The chain makes batches of arrays by its seed: so are those of what is given apart.
    stages = make_chain(teacher).stages
    stages[1].train_data = X[:40], Y[:40]
    apart = kd.DistillationChain(teacher, stages)
    assert_same(arrays, apart.fit((packed, Y[:40]), test, verbose=0))
    answers = np.array(teacher(OTHER[40:])).argmax(axis=1)
    assert arrays.models[0].accuracy == pytest.approx(np.mean(answers == Y[40:]))


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_what_cannot_be_taken_out_is_told_before_training(make_model, make_chain, what):
    teacher = make_model(8) if what == "inputs" else None
    data = other_inputs() if what == "inputs" else carrying(slice(40))
    data, chain = AsPyDataset(data.batch(8)), make_chain(teacher)
    before = chain.stages[0].student.get_weights()
    with pytest.raises(ValueError, match="Stage 'student'.*cannot be taken out"):
        chain.fit(data, PLAIN, verbose=0)
    for a, b in zip(before, chain.stages[0].student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Of a stage under the first teacher there is nothing to be taken out.
    one = kd.DistillationChain(teacher, chain.stages[:1])
    assert one.fit(data, PLAIN, verbose=0).models[-1].model == "ta"


def cached(model, rows=slice(40)):
    return kd.cache_teacher(model, other_inputs(rows), dtype="float32", verbose=0).batch(8)


def test_kept_answers_to_its_own_inputs_are_no_answers_to_the_students(
    make_model, make_chain, caplog
):
    teacher = make_model(8)

    def make(model):
        return cached(model) if model is teacher else (X[:40], Y[:40])

    with pytest.raises(ValueError, match="Stage 'ta'.*measured on the student's"):
        make_chain(teacher).fit(make, PLAIN, verbose=0)
    with pytest.raises(ValueError, match="Stage 'student'.*the examples alone"):
        test = other_inputs(slice(40, None)).batch(8)
        make_chain(teacher).fit(cached, test, verbose=0)
    # Neither do kept answers stand for inputs when it is measured.
    one = kd.DistillationChain(teacher, make_chain(teacher).stages[:1])
    result = one.fit(cached(teacher), cached(teacher, slice(40, None)), verbose=0)
    assert [x.model for x in result.models] == ["ta"]
    assert "carries no inputs for it" in caplog.text
