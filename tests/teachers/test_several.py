"""Several models as one teacher, each tapped by a path of its own."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import teachers

X = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


def test_outputs_are_those_of_the_models(make_model):
    models = {"a": make_model(name="same"), "b.c": make_model(name="same", num_classes=5)}
    several = teachers.Several(models)
    for outputs, model in zip(several(X), models.values(), strict=True):
        np.testing.assert_allclose(outputs, model(X), rtol=1e-6)
    assert several.taps == {"a": "a/same", "b.c": "b.c/same"}


def test_it_runs_in_inference_mode():
    noisy = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.5)])
    outputs = teachers.Several({"noisy": noisy})(X, training=True)
    np.testing.assert_array_equal(outputs, X)


def test_losses_tap_a_model_and_a_layer_inside(make_model, vectors, tmp_path):
    models = {"a": make_model(units=6), "b": make_model(units=7)}
    hidden = models["b"].layers[0].name
    several = teachers.Several(models)
    student = make_model()
    losses = [
        kd.losses.SoftTargets(2.0, taps=(several.taps["a"], None)),
        kd.losses.FitNet(taps=(f"{several.taps['b']}/{hidden}", student.layers[0].name)),
    ]
    distiller = kd.Distiller(several, student, losses)
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", labels)
    bridge = losses[1].layers[0]
    assert bridge.kernel.shape == (8, 7)
    x = vectors[0]
    expected = kd.losses.SoftTargets(2.0).compute_loss(models["a"](x), student(x))
    bridged = bridge(student.layers[0](x))
    expected += np.mean(np.square(models["b"].layers[0](x) - bridged))
    history = distiller.fit(*vectors, batch_size=64, verbose=0).history
    assert history["distillation_loss"] == pytest.approx([float(expected)], rel=1e-5)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert again.teacher.taps == several.taps
    for outputs, other in zip(again.teacher(X), several(X), strict=True):
        np.testing.assert_array_equal(outputs, other)


def test_a_softmax_at_the_end_of_one_is_seen(make_model):
    soft = keras.Sequential([make_model(), keras.layers.Softmax()])
    soft.build((None, 4))
    several = teachers.Several({"a": make_model(), "soft": soft})
    kd.Distiller(
        several, make_model(), kd.losses.SoftTargets(taps=(several.taps["a"], None))
    )
    loss = kd.losses.SoftTargets(taps=(several.taps["soft"], None))
    with pytest.warns(UserWarning, match="`teacher` 'several' ends in a softmax"):
        kd.Distiller(several, make_model(), loss)


def of_inputs(size):
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "models, message",
    [
        (lambda make: [make()], "`models` must be a dict of models"),
        (lambda make: {"b c": make()}, "letters, digits and _.- alone. Received: 'b c'"),
        (lambda make: {}, "at least one keras.Model"),
        (lambda make: {"a": "b"}, r"`models\[0\]` must be a keras.Model.*'b'"),
        (
            lambda make: {"a": make(), "b": of_inputs(6)},
            r"inputs of the same shapes. Received: \(None, 4\), \(None, 6\)",
        ),
    ],
)
def test_models_that_are_no_teachers_together(make_model, models, message):
    with pytest.raises(ValueError, match=message):
        teachers.Several(models(make_model))
