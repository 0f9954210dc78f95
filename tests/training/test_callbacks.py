
import keras
import numpy as np
import pytest

from keras_kd import Distiller
from keras_kd.training.callbacks import StopOnBadLoss, StudentCheckpoint
from tests.training import checkpoint_on_backend


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("term", ["student_loss", "distillation_loss"])
def test_names_the_term_the_epoch_and_the_batch(term, bad):
    callback = StopOnBadLoss()
    callback.on_epoch_begin(1)
    good = {"student_loss": 1.0, "distillation_loss": 2.0, "loss": 1.5}
    callback.on_train_batch_end(0, good)
    with pytest.raises(
        FloatingPointError, match=rf"^{term} is {bad} in epoch 2, batch 7\. Usual causes"
    ):
        callback.on_train_batch_end(6, good | {term: bad, "loss": bad})


@pytest.mark.parametrize("steps, where", [(1, "batch 2"), (2, "batches 1 to 2")])
def test_stops_fit(make_model, vectors, steps, where):
    x, y = vectors
    targets = np.eye(3)[y]
    targets[40] = np.nan
    distiller = Distiller(make_model(), make_model(), "kd", task="multiclass")
    distiller.compile("sgd", "mse", steps_per_execution=steps)
    with pytest.raises(FloatingPointError, match=f"student_loss is nan .* {where}"):
        distiller.fit(
            x,
            targets,
            batch_size=32,
            shuffle=False,
            callbacks=[StopOnBadLoss()],
            verbose=0,
        )


def assert_files(told):
    # An option that saves nothing would be right whatever is saved.
    assert told["expected"] and told["found"].keys() == told["expected"].keys()
    for name, weights in told["expected"].items():
        for found, expected in zip(told["found"][name], weights, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", checkpoint_on_backend.CASES)
def test_student_checkpoint_takes_what_model_checkpoint_does(name, tmp_path):
    assert_files(checkpoint_on_backend.run(name, tmp_path))


def test_a_metric_whose_direction_is_not_known_needs_a_mode(make_model, vectors, tmp_path):
    distiller = Distiller(make_model(), make_model(), "kd", task="multiclass")
    own = keras.metrics.MeanMetricWrapper(lambda y, p: p[:, 0], name="own")
    distiller.compile("sgd", "mse", metrics=[own])
    best = StudentCheckpoint(tmp_path / "x.keras", "own", save_best_only=True)
    with pytest.raises(ValueError, match="StudentCheckpoint.*monitor=own.*mode='max'"):
        distiller.fit(vectors[0], np.eye(3)[vectors[1]], callbacks=[best], verbose=0)


def test_student_checkpoint_takes_no_model_that_calls_a_layer_so(vectors, tmp_path):
    class Own(keras.Sequential):
        student = "a name of its own"

    model = Own([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    callback = StudentCheckpoint(tmp_path / "best.keras")
    with pytest.raises(ValueError, match="StudentCheckpoint goes with a Distiller"):
        model.fit(vectors[0], vectors[0][:, :3], callbacks=[callback], verbose=0)
