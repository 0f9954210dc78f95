"""Several batches at a time, unless somebody looks at each."""

import keras
import numpy as np
import pytest

from keras_kd import Distiller, callbacks
from keras_kd.several_steps import choose_steps_per_execution

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class LooksAtBatches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


class LooksAtEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass


@pytest.mark.parametrize(
    "given, steps",
    [
        (None, 8),
        ([], 8),
        ([keras.callbacks.ModelCheckpoint("x.keras"), LooksAtEpochs()], 8),
        ([callbacks.StopOnBadLoss()], 8),
        ([LooksAtEpochs(), LooksAtBatches()], 1),
        (LooksAtBatches(), 1),
        ([keras.callbacks.LambdaCallback(on_train_batch_end=print)], 1),
        ([keras.callbacks.LambdaCallback(on_epoch_end=print)], 8),
        (keras.callbacks.CallbackList([LooksAtBatches()]), 1),
    ],
)
def test_several_batches_at_a_time_unless_somebody_looks_at_each(given, steps):
    assert choose_steps_per_execution(given) == steps


def test_who_looks_at_batches_sees_each_and_others_change_nothing(make_model, vectors):
    seen, weights = LooksAtBatches(), []
    for given in ([seen], None, [seen]):
        keras.utils.set_random_seed(0)
        distiller = Distiller(make_model(), make_model(), "kd")
        distiller.compile("sgd", LOSS, metrics=["accuracy"])
        seen.batches.clear()
        # 64 examples in 13 batches, which 8 does not divide.
        history = distiller.fit(
            *vectors, batch_size=5, callbacks=given, epochs=2, shuffle=False, verbose=0
        )
        assert distiller.steps_per_execution == (8 if given is None else 1)
        assert seen.batches == ([] if given is None else 2 * list(range(13)))
        logs = distiller.evaluate(*vectors, verbose=0, return_dict=True)
        weights.append(
            [history.history["loss"], logs["accuracy"], *distiller.student.get_weights()]
        )
    for other in weights[1:]:
        for value, expected in zip(other, weights[0], strict=True):
            np.testing.assert_array_equal(value, expected)


def test_the_choice_may_change_from_fit_to_fit(make_model, vectors):
    distiller = Distiller(make_model(), make_model(), "kd")
    distiller.compile("sgd", LOSS)
    seen = LooksAtBatches()
    for given in (None, [seen], None):
        distiller.fit(
            *vectors, batch_size=8, callbacks=given, validation_data=vectors, verbose=0
        )
    assert seen.batches == list(range(8))
    distiller.compile("sgd", LOSS, steps_per_execution=3)
    distiller.fit(*vectors, batch_size=8, callbacks=[seen], verbose=0)
    assert distiller.steps_per_execution == 3
