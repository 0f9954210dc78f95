"""Cached answers are taken from their own teacher alone, wherever they are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import DistillationChain, Distiller, Stage, born_again, cache_teacher
from keras_kd.teachers import Ensemble, Several
from keras_kd.training import batch, whose_answers

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
QUIET = {"verbose": 0, "shuffle": False}
# All that there are; of a generator nobody knows.
TWO_STEPS = QUIET | {"steps_per_epoch": 2}


@pytest.fixture
def teacher(make_model):
    return make_model(units=5)


@pytest.fixture
def cached(teacher, vectors):
    return cache_teacher(teacher, vectors, verbose=0).batch(32)


@pytest.fixture
def distil(make_model):
    def make(teacher, **arguments):
        distiller = Distiller(teacher, make_model(), "kd", **arguments)
        distiller.compile("sgd", LOSS)
        return distiller

    return make


def as_generator(data, path):
    while True:
        yield from data


def saved(data, path):
    data.save(str(path))
    return tf.data.Dataset.load(str(path))


def zipped(data, path):
    numbered = tf.data.Dataset.zip(data, tf.data.Dataset.range(9))
    return numbered.map(lambda element, number: element)


def one_weight(data, path):
    return data.map(lambda x, y: (x, y, tf.ones_like(y, "float32")))


FORMS = pytest.mark.parametrize(
    "form", [lambda data, path: data, zipped, saved, as_generator, one_weight]
)


@FORMS
def test_data_in_any_form_know_their_teacher(
    teacher, cached, make_model, distil, tmp_path, form
):
    with pytest.raises(ValueError, match="cached answers of another model"):
        distil(make_model(units=5)).fit(form(cached, tmp_path / "a"), **TWO_STEPS)
    distil(teacher).fit(form(cached, tmp_path / "b"), **TWO_STEPS)


@tf.function
def own_loop(distiller, x, y):
    return distiller.compute_loss(x, y)


ENTRIES = {
    "fit": lambda d, data, x, y: d.fit(data, **QUIET),
    "validation": lambda d, data, x, y: d.fit(
        batch.inputs_of(x), y, validation_data=data, **QUIET
    ),
    "evaluate": lambda d, data, x, y: d.evaluate(data, verbose=0),
    "arrays": lambda d, data, x, y: d.fit(x, y, **QUIET),
    "train_on_batch": lambda d, data, x, y: d.train_on_batch(x, y),
    "test_on_batch": lambda d, data, x, y: d.test_on_batch(x, y),
    "compute_loss": lambda d, data, x, y: d.compute_loss(x, y),
    "run_teacher": lambda d, data, x, y: d.run_teacher(x),
    "own loop": lambda d, data, x, y: own_loop(d, x, y),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_another_teacher(
    teacher, cached, make_model, distil, entry
):
    x, y = tf.nest.map_structure(lambda t: t.numpy(), next(iter(cached)))
    with pytest.raises(ValueError, match="cached answers of another model"):
        other = distil(make_model(units=5), validation_distillation=True)
        ENTRIES[entry](other, cached, x, y)
    ENTRIES[entry](distil(teacher, validation_distillation=True), cached, x, y)


@pytest.mark.parametrize("form", [lambda data, path: data, as_generator])
def test_a_teacher_that_changed_after_the_step_was_traced(
    teacher, cached, vectors, distil, form
):
    distiller = distil(teacher)
    distiller.fit(form(cached, None), **TWO_STEPS)
    teacher.layers[0].bias.assign_add(np.ones(5))
    with pytest.raises(ValueError, match="or its own from before its weights changed"):
        distiller.fit(form(cached, None), **TWO_STEPS)
    anew = cache_teacher(teacher, vectors, verbose=0).batch(32)
    distiller.train_on_batch(*next(iter(anew)))
    distiller.fit(form(anew, None), **TWO_STEPS)


def test_a_teacher_in_the_place_of_another(teacher, cached, make_model, distil):
    distiller = distil(teacher)
    distiller.fit(cached, **QUIET)
    with pytest.raises(ValueError, match="`teacher` of a Distiller cannot be changed"):
        distiller.teacher = make_model(units=5)
    distiller.fit(cached, **QUIET)


def test_who_does_not_ask_the_teacher_takes_any(cached, make_model, distil):
    other = make_model(units=5)
    distil(other, student_loss_weight=1.0).fit(cached, **QUIET)
    distil(other).evaluate(cached, verbose=0)
    distil(other).predict(cached, verbose=0)


@pytest.mark.parametrize("join", [lambda x: Ensemble(x), lambda x: Several(dict(a=x[0]))])
def test_teachers_made_of_several(make_model, vectors, distil, join):
    models = [make_model(), make_model()]
    cached = cache_teacher(join(models), vectors, outputs=[None], verbose=0).batch(32)
    distil(join(models)).fit(cached, **QUIET)
    with pytest.raises(ValueError, match="cached answers of another model"):
        distil(join(models[::-1])).fit(cached, **QUIET)


def test_outputs_that_do_not_say_whose_they_are(teacher, cached, distil):
    def unnamed(x, y):
        inputs, (own, taps) = batch.unpack(x)
        return batch.pack(inputs, batch.encode(own, taps)), y

    with pytest.raises(ValueError, match="do not say whose they are.*cache_teacher"):
        distil(teacher).fit(cached.map(unnamed), **QUIET)


def test_weights_are_read_once_a_fit_and_not_for_live_data(
    teacher, cached, vectors, distil, monkeypatch
):
    read, teacher_id = [], whose_answers.teacher_id

    def count(model):
        read.append(model)
        return teacher_id(model)

    monkeypatch.setattr(whose_answers, "teacher_id", count)
    distiller = distil(teacher, validation_distillation=True)
    distiller.fit(*vectors, epochs=2, validation_data=vectors, **QUIET)
    assert not read
    distiller.fit(cached, epochs=3, validation_data=cached, **QUIET)
    assert len(read) == 1
    distiller.fit(cached, **QUIET)
    assert len(read) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda d, x, w: d.fit(x, sample_weight=w, **QUIET),
        lambda d, x, w: d.evaluate(x, sample_weight=w, verbose=0),
        lambda d, x, w: d.fit(x, validation_data=(x, None, w), **QUIET),
    ],
    ids=["fit", "evaluate", "validation"],
)
def test_weights_without_labels_are_not_dropped(teacher, vectors, distil, call):
    distiller = distil(teacher, student_loss_weight=0.0, validation_distillation=True)
    with pytest.raises(ValueError, match=r"without labels.*\(x, None, sample_weight\)"):
        call(distiller, vectors[0], np.ones(64, "float32"))


def test_training_and_validation_do_not_share_views(teacher, vectors, distil):
    views = {"views": 2, "augment": lambda inputs, indices, view, seed: inputs}
    cached = cache_teacher(teacher, vectors, verbose=0, **views)
    for data in (cached, cached.batch(32)):
        with pytest.raises(ValueError, match="`validation_data` is the data set `x`"):
            distil(teacher).fit(data, validation_data=data, **QUIET)


def test_the_labels_alone_need_no_answers(cached, make_model):
    model = Stage("alone", make_model(), 1).model_to_fit(None)
    assert "accuracy" in model.fit(cached, **QUIET).history


@pytest.fixture
def data(vectors):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(16)


@pytest.fixture
def make_chain(make_model):
    def make(**second):
        stages = [
            Stage("first", make_model(8), 1, "kd"),
            Stage("student", make_model(4), 1, "kd", **second),
        ]
        return DistillationChain(make_model(16), stages)

    return make


# What is made of a chain, and the first stage that has another teacher.
TAUGHT_BY_OTHERS = {
    "chain": (lambda x: x, "student"),
    "dense": (lambda x: DistillationChain(x.teacher, x.stages, dense=True), "first"),
    "born again": (lambda x: born_again(x.teacher, 2, 1), "generation_2"),
}


def untrained(chain):
    return [x.tobytes() for stage in chain.stages for x in stage.student.get_weights()]


@pytest.mark.parametrize("kind", TAUGHT_BY_OTHERS)
def test_answers_of_another_teacher_are_refused_before_the_first_step(
    make_chain, vectors, data, kind
):
    chain = make_chain()
    cached = cache_teacher(chain.teacher, vectors, verbose=0).batch(16)
    make, stage = TAUGHT_BY_OTHERS[kind]
    chain = make(chain)
    before = untrained(chain)
    with pytest.raises(ValueError, match=f"Stage '{stage}': .* as a function of the"):
        chain.fit(cached, data, verbose=0)
    assert untrained(chain) == before


@pytest.mark.parametrize("of", [{}, {"taught_by": "first"}])
def test_a_stage_with_answers_of_its_own_teacher_as_it_was(make_chain, vectors, data, of):
    chain = make_chain()
    first = chain.stages[0].student
    chain.stages[1] = Stage(
        "student",
        chain.stages[1].student,
        1,
        "kd",
        train_data=cache_teacher(first, vectors, verbose=0).batch(16),
        **of,
    )
    chain = DistillationChain(chain.teacher, chain.stages)
    before = untrained(chain)
    with pytest.raises(ValueError, match="the teacher is not trained yet"):
        chain.fit(data, data, verbose=0)
    assert untrained(chain) == before


def test_cached_answers_that_are_the_teachers_are_taken(make_chain, make_model, vectors):
    def of(teacher):
        return cache_teacher(teacher, vectors, verbose=0).batch(16)

    chain = make_chain(taught_by="teacher")
    # As validation data they are labelled examples like any.
    chain.fit(of(chain.teacher), of(chain.teacher), verbose=0)
    chain = make_chain()
    chain.fit(of, of(chain.teacher), verbose=0)
    given = make_model(5)
    stages = [
        Stage("alone", make_model(4), 1),
        Stage("given", given, 0),
        Stage("student", make_model(4), 1, "kd", taught_by="given"),
    ]
    chain = DistillationChain(None, stages)
    chain.fit(of(given), of(given), verbose=0)
    stages[-1].student_loss_weight = 1.0
    chain.fit(of(make_model(5)), of(given), verbose=0)


def test_validation_data_are_named(teacher, cached, distil, make_model, vectors):
    distiller = distil(make_model(units=7), validation_distillation=True)
    with pytest.raises(ValueError, match="^`validation_data` carries cached answers of an"):
        distiller.fit(*vectors, validation_data=cached, verbose=0)
    x, y = vectors
    weights = np.ones(len(x))
    with pytest.raises(ValueError, match="In `validation_data`, `sample_weight` is given"):
        distiller.fit(x, y, validation_data=(x, None, weights), verbose=0)
