"""Teachers of other kinds: an ensemble, and a SavedModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import teachers

X = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


def softmax64(logits):
    exp = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def saying(logits, last=None, dtype=None):
    """A model whose weights give these logits for an input of 1."""
    dense = keras.layers.Dense(len(logits), use_bias=False, dtype=dtype)
    layers = [keras.layers.Input((1,)), dense]
    model = keras.Sequential(layers + ([last] if last else []), name="same")
    dense.set_weights([np.array([logits])])
    return model


def answer(teacher):
    return np.array(teacher(np.ones((1, 1), "float32")))[0]


def fitted(teacher, student, vectors, **arguments):
    distiller = kd.Distiller(teacher, student, "kd", student_loss_weight=0, **arguments)
    distiller.compile(keras.optimizers.SGD(0.1))
    distiller.fit(vectors[0], shuffle=False, epochs=2, verbose=0)
    return distiller


# An ensemble.


@pytest.mark.parametrize("weights", [None, [2, 1, 1], [0.0, 0.3, 0.3]])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_ensemble_is_the_mean_of_softened_probabilities(make_model, weights, temperature):
    models = [make_model(name="same") for _ in range(3)]
    ensemble = teachers.Ensemble(models, weights, temperature)
    softened = [softmax64(np.array(model(X)) / temperature) for model in models]
    expected = np.average(softened, axis=0, weights=weights)
    np.testing.assert_allclose(softmax64(ensemble(X) / temperature), expected, rtol=1e-5)
    assert ensemble.output_shape == (None, 3)


def test_default_temperature_is_that_of_soft_targets(make_model):
    ensemble = teachers.Ensemble([make_model()])
    assert ensemble.get_config()["temperature"] == kd.losses.SoftTargets().temperature


def test_ensemble_of_extreme_logits():
    opposed = [saying([1e4, -1e4, 0.0]), saying([-1e4, 1e4, 0.0])]
    logits = answer(teachers.Ensemble(opposed, temperature=1.0))
    # Classes 0 and 1 half each; class 2 is exp(-1e4) of either.
    np.testing.assert_allclose(logits, [np.log(0.5), np.log(0.5), -1e4], rtol=1e-5)


def test_ensemble_of_half_precision_is_averaged_in_float32():
    # 2000 classes of equal logits: in float16 their exponentials' sum has no digits left.
    models = [saying([10.0] + [0.0] * 2000, dtype="float16") for _ in range(2)]
    logits = answer(teachers.Ensemble(models, temperature=1.0))
    expected = np.log(softmax64([10.0] + [0.0] * 2000))
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, expected, rtol=1e-4)


@pytest.fixture
def mixed_policy():
    """Sets Keras's global policy while called."""
    yield lambda: keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_dtype_policy("float32")


def test_ensemble_keeps_the_models_own_precision(make_model, mixed_policy):
    model = make_model()
    expected = softmax64(model(X))
    mixed_policy()
    ensemble = teachers.Ensemble([model], temperature=1.0)
    np.testing.assert_allclose(softmax64(ensemble(X)), expected, rtol=1e-5)


def test_probabilities_are_averaged_as_they_are():
    logits = [saying([2.0, 0.0, -1.0]), saying([0.0, 3.0, 0.0])]
    soft = saying([2.0, 0.0, -1.0], keras.layers.Softmax())
    expected = answer(teachers.Ensemble(logits))
    with pytest.warns(UserWarning, match="`models` 'same' end in a softmax"):
        found = answer(teachers.Ensemble([soft, logits[1]]))
    said = teachers.Ensemble([soft, logits[1]], outputs=["probabilities", "logits"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(answer(said), expected, rtol=1e-5)


def test_outputs_that_are_said_hold_for_all():
    soft = [saying(x, keras.layers.Softmax()) for x in ([1.0, 0.0], [0.0, 2.0])]
    probabilities = np.mean([answer(model) for model in soft], axis=0)
    said = teachers.Ensemble(soft, temperature=1.0, outputs="probabilities")
    np.testing.assert_allclose(np.exp(answer(said)), probabilities, rtol=1e-5)
    wrong = teachers.Ensemble(soft, temperature=1.0, outputs="logits")
    assert np.abs(np.exp(answer(wrong)) - probabilities).max() > 0.01


def test_a_model_of_weight_zero_does_not_run():
    broken = saying([np.nan, np.nan])
    logits = answer(teachers.Ensemble([saying([1.0, 0.0]), broken], [1, 0]))
    np.testing.assert_allclose(logits[0] - logits[1], 1.0, rtol=1e-5)


def test_ensemble_runs_in_inference_mode(make_model):
    noisy = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.5)])
    noisy.add(make_model())
    ensemble = teachers.Ensemble([noisy])
    np.testing.assert_array_equal(ensemble(X, training=True), ensemble(X))


def test_ensemble_of_models_with_several_inputs():
    def make():
        inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((3,), name="a")}
        x = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    models = [make(), make()]
    x = {"a": X[:, :3], "b": X[:, :2]}
    expected = np.mean([softmax64(model(x)) for model in models], axis=0)
    ensemble = teachers.Ensemble(models, temperature=1.0)
    np.testing.assert_allclose(softmax64(ensemble(x)), expected, rtol=1e-5)


def test_ensemble_teaches_its_mean(make_model, vectors):
    models, student = [make_model(), make_model()], make_model()
    before = [v.tobytes() for model in models for v in model.get_weights()]
    distiller = kd.Distiller(
        teachers.Ensemble(models, temperature=2.0),
        student,
        kd.losses.SoftTargets(2.0),
        student_loss_weight=0,
        validation_distillation=True,
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    p = np.mean([softmax64(np.array(m(vectors[0])) / 2.0) for m in models], axis=0)
    q = softmax64(np.array(student(vectors[0])) / 2.0)
    expected = 4.0 * np.sum(p * np.log(p / q), axis=1).mean()
    before_fit = distiller.evaluate(vectors[0], verbose=0, return_dict=True)
    assert before_fit["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    distiller.fit(vectors[0], epochs=3, verbose=0)
    after_fit = distiller.evaluate(vectors[0], verbose=0, return_dict=True)
    assert after_fit["distillation_loss"] < expected
    assert [v.tobytes() for model in models for v in model.get_weights()] == before


def test_ensemble_is_saved_inside_a_distiller(make_model, vectors, tmp_path):
    soft = keras.Sequential([make_model(), keras.layers.Softmax()])
    soft.build((None, 4))
    with pytest.warns(UserWarning, match="softmax"):
        ensemble = teachers.Ensemble([make_model(), soft], [2, 1], temperature=3.0)
    distiller = fitted(ensemble, make_model(), vectors)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras", safe_mode=True)
    for name in ("weights", "temperature", "outputs"):
        assert again.teacher.get_config()[name] == ensemble.get_config()[name]
    np.testing.assert_array_equal(again.teacher(X), ensemble(X))
    for each in (distiller, again):
        each.fit(vectors[0], shuffle=False, verbose=0)
    np.testing.assert_array_equal(again(X), distiller(X))


def test_cloned_ensemble_has_fresh_weights(make_model):
    ensemble = teachers.Ensemble([make_model(), make_model()])
    clone = keras.models.clone_model(ensemble)
    assert not np.allclose(clone(X), ensemble(X))
    clone.set_weights(ensemble.get_weights())
    np.testing.assert_array_equal(clone(X), ensemble(X))


def test_the_student_may_not_be_in_the_ensemble(make_model):
    student = make_model()
    ensemble = teachers.Ensemble([student, make_model()])
    with pytest.raises(ValueError, match="would train variables that belong to `teacher`"):
        kd.Distiller(ensemble, student, "kd")


class Subclassed(keras.Model):
    def call(self, x):
        return x


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [keras.layers.Dense(3)(inputs) for _ in range(2)])


def of_inputs(size):
    return keras.Sequential([keras.layers.Input((size,)), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "models, message",
    [
        (lambda make: [], r"at least one keras.Model. Received: \[\]"),
        (lambda make: make(), "`models` must be a list"),
        (lambda make: [make(), "a"], r"`models\[1\]` must be a keras.Model.*'a'.*str"),
        (lambda make: [keras.Sequential([])], r"`models\[0\]` must have symbolic inputs"),
        (lambda make: [Subclassed(name="mine")], "'mine', which is unbuilt or subclassed"),
        (lambda make: [make(), two_outputs()], r"`models\[1\]` must have one output"),
        (
            lambda make: [make(), make(num_classes=5)],
            r"outputs of the same shapes. Received: \(None, 3\), \(None, 5\)",
        ),
        (
            lambda make: [make(), of_inputs(6)],
            r"inputs of the same shapes. Received: \(None, 4\), \(None, 6\)",
        ),
    ],
)
def test_models_that_are_no_ensemble(make_model, models, message):
    with pytest.raises(ValueError, match=message):
        teachers.Ensemble(models(make_model))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": [1]}, r"`weights` must hold .* each of the 2 models.*=\[1\]"),
        ({"weights": [1, -1]}, "`weights` must hold one finite number >= 0"),
        ({"weights": [1, float("nan")]}, "`weights` must"),
        ({"weights": [1, float("inf")]}, "`weights` must"),
        ({"weights": [0, 0]}, "not all zeros"),
        ({"weights": ["1", 1]}, "`weights` must"),
        ({"weights": 1}, "`weights` must"),
        ({"temperature": 0}, "`temperature` must be a finite number greater than 0"),
        ({"temperature": "hot"}, "`temperature` must .* Received: temperature='hot'"),
        ({"outputs": "logit"}, "`outputs` must be None, 'logits'.*outputs='logit'"),
        ({"outputs": ["logits"]}, "one for each of the 2 models"),
    ],
)
def test_bad_arguments_of_an_ensemble(make_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        teachers.Ensemble([make_model(), make_model()], **arguments)


# A SavedModel.


class Graph(tf.Module):
    """A SavedModel without variables; its signatures will have names of its functions."""

    kernel = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    def answer(self, x):
        return x @ self.kernel

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    def parts(self, x):
        return {"first": x[:, :2], "last": x[:, 1:]}

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    def no_signature(self, x):
        return x


@pytest.fixture
def graph_path(tmp_path):
    graph = Graph()
    path = tmp_path / "graph"
    signatures = {"answer": graph.answer, "parts": graph.parts}
    tf.saved_model.save(graph, path, signatures=signatures)
    return path


@pytest.mark.parametrize("call_endpoint", ["serving_default", "serve"])
def test_an_exported_model_answers_as_before(make_model, tmp_path, call_endpoint):
    model = make_model()
    model.export(tmp_path / "m", verbose=False)
    teacher = teachers.from_saved_model(tmp_path / "m", call_endpoint)
    np.testing.assert_allclose(teacher(X), model(X), rtol=1e-5, atol=1e-6)
    assert (teacher.input_shape, teacher.output_shape) == ((None, 4), (None, 3))


def test_an_exported_model_teaches_as_before(make_model, vectors, tmp_path):
    model, student = make_model(units=16), make_model()
    model.export(tmp_path / "m", verbose=False)
    teacher = teachers.from_saved_model(tmp_path / "m")
    start, before = student.get_weights(), [v.tobytes() for v in teacher.get_weights()]
    taught = fitted(teacher, student, vectors).student.get_weights()
    assert [v.tobytes() for v in teacher.get_weights()] == before != []
    student.set_weights(start)
    expected = fitted(model, student, vectors).student.get_weights()
    for a, b in zip(taught, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_graph_without_variables_teaches(make_model, vectors, graph_path):
    teacher = teachers.from_saved_model(graph_path, "answer")
    np.testing.assert_allclose(teacher(X), X @ Graph.kernel, rtol=1e-5, atol=1e-6)
    assert not teacher.weights
    student = make_model()
    start = student.get_weights()[0]
    fitted(teacher, student, vectors)
    assert np.abs(student.get_weights()[0] - start).max() > 1e-3


def test_any_other_teacher_needs_weights(make_model):
    empty = keras.Sequential([keras.layers.Input((4,)), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="has no weights, so it was never trained"):
        kd.Distiller(empty, make_model(), "kd")


def test_one_of_several_outputs(graph_path):
    teacher = teachers.from_saved_model(graph_path, "parts", output="last")
    np.testing.assert_array_equal(teacher(X), X[:, 1:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("parts",), "`output` must name one of .* 'parts' in .*graph: 'first', 'last'"),
        (("parts", "second"), "Received: output='second'"),
        (("ask",), "'ask'.*`call_endpoint`.*'answer', 'parts'"),
        (("no_signature",), "must name a signature of .*graph: 'answer', 'parts'"),
    ],
)
def test_a_signature_or_output_that_is_not_there(graph_path, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        teachers.from_saved_model(graph_path, *arguments)


def test_no_saved_model(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        teachers.from_saved_model(tmp_path / "nothing")


def test_several_inputs_are_a_dict(tmp_path):
    inputs = [keras.Input((3,), name="b"), keras.Input((4,), name="a")]
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    model.export(tmp_path / "m", verbose=False)
    teacher = teachers.from_saved_model(tmp_path / "m")
    expected = np.concatenate([X[:, :3], X], axis=1)
    np.testing.assert_array_equal(teacher({"a": X, "b": X[:, :3]}), expected)


def test_a_saved_model_keeps_its_own_dtypes(make_model, mixed_policy, tmp_path):
    model = make_model()
    model.export(tmp_path / "m", verbose=False)
    mixed_policy()
    teacher = teachers.from_saved_model(tmp_path / "m")
    np.testing.assert_allclose(teacher(X), model(X), rtol=1e-5, atol=1e-6)


def test_a_saved_model_of_probabilities(make_model, vectors, tmp_path):
    model, student = make_model(), make_model()
    soft = keras.Sequential([model, keras.layers.Softmax()])
    soft.build((None, 4))
    soft.export(tmp_path / "soft", verbose=False)
    start = student.get_weights()
    expected = fitted(model, student, vectors)(X)
    student.set_weights(start)
    teacher = teachers.from_saved_model(tmp_path / "soft")
    found = fitted(teacher, student, vectors, teacher_outputs="probabilities")(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_model_in_an_ensemble(make_model, tmp_path):
    models = [make_model(), make_model()]
    models[0].export(tmp_path / "m", verbose=False)
    expected = teachers.Ensemble(models)(X)
    again = teachers.from_saved_model(tmp_path / "m")
    found = teachers.Ensemble([again, models[1]])(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_safe_mode_says_how_to_save_without_the_saved_model(
    make_model, vectors, graph_path, tmp_path
):
    teacher = teachers.from_saved_model(graph_path, "parts", output="last")
    distiller = fitted(teacher, make_model(), vectors)
    distiller.save(tmp_path / "with.keras")
    with pytest.raises(ValueError, match="(?s)safe_mode=False.*include_teacher=False"):
        keras.saving.load_model(tmp_path / "with.keras")
    again = keras.saving.load_model(tmp_path / "with.keras", safe_mode=False)
    np.testing.assert_array_equal(again.teacher(X), teacher(X))


def test_a_distiller_is_saved_without_its_saved_model(
    make_model, vectors, graph_path, tmp_path
):
    teacher = teachers.from_saved_model(graph_path, "answer")
    distiller = fitted(teacher, make_model(), vectors)
    distiller.save(tmp_path / "d.keras", include_teacher=False)
    again = kd.load_distiller(tmp_path / "d.keras", teacher=teacher)
    for each in (distiller, again):
        each.fit(vectors[0], shuffle=False, verbose=0)
    np.testing.assert_array_equal(again(X), distiller(X))


def sigmoid64(z):
    return 1 / (1 + np.exp(-np.asarray(z, "float64")))


@pytest.mark.parametrize("units, task", [(1, "binary"), (3, "multilabel")])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_each_a_yes_or_no_of_its_own(units, task, activation):
    """The mean of the softened sigmoids; a softmax of one would be 1 whatever it is."""
    last = activation and keras.layers.Activation(activation)
    both = [2.0, -1.0, 0.5][:units], [-3.0, 1.5, 0.1][:units]
    models = [saying(x, last) for x in both]
    ensemble = teachers.Ensemble(models, [2, 1], 4.0, "probabilities" if last else "logits",
                                 task=None if last else task)  # fmt: skip
    softened = [sigmoid64(np.array(x) / 4) for x in both]
    expected = np.average(softened, axis=0, weights=[2, 1])
    np.testing.assert_allclose(sigmoid64(answer(ensemble) / 4), expected, rtol=1e-5)


def test_values_are_averaged():
    models = [saying([2.0]), saying([8.0])]
    ensemble = teachers.Ensemble(models, [2, 1], task="regression")
    np.testing.assert_allclose(answer(ensemble), [4.0], rtol=1e-6)


def test_one_unit_without_more_must_be_said():
    with pytest.raises(ValueError, match="`task` must be said of models of one unit"):
        teachers.Ensemble([saying([2.0]), saying([8.0])])
    with pytest.raises(ValueError, match="`task` must be one of 'multiclass'"):
        teachers.Ensemble([saying([2.0])], task="ranking")


def test_its_task_is_kept(tmp_path):
    models = [saying([2.0]), saying([-1.0])]
    ensemble = teachers.Ensemble(models, task="binary")
    ensemble.save(tmp_path / "e.keras")
    again = keras.saving.load_model(tmp_path / "e.keras")
    np.testing.assert_array_equal(answer(again), answer(ensemble))
    # Files of earlier versions have no task, and are of classes.
    assert "task" not in teachers.Ensemble([saying([2.0, 1.0])]).get_config()
