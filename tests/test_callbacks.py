import numpy as np
import pytest

from keras_kd import Distiller
from keras_kd.callbacks import StopOnBadLoss


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


@pytest.mark.parametrize("steps, where", [(1, "batch 2"), (2, "batches to 2")])
def test_stops_fit(make_model, vectors, steps, where):
    x, y = vectors
    targets = np.eye(3)[y]
    targets[40] = np.nan
    distiller = Distiller(make_model(), make_model(), "kd")
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
