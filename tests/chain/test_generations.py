"""Born-again generations, and their ensemble in the result."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import born_again, losses


@pytest.fixture
def data(vectors):
    return tf.data.Dataset.from_tensor_slices(vectors).batch(16)


def softmax(model, x):
    return np.exp(keras.ops.log_softmax(model.predict(x, verbose=0)))


def test_generations_and_their_ensemble(make_model, vectors, data, tmp_path):
    x, y = vectors
    teacher = make_model()
    chain = born_again(
        teacher, 2, epochs=1, optimizer=keras.optimizers.SGD(0.1), student_loss_weight=0.25
    )
    first, second = chain.stages
    configs = [json.loads(json.dumps(x.get_config())) for x in (first.student, teacher)]
    assert configs[0]["layers"] == configs[1]["layers"]
    assert not np.allclose(first.student.get_weights()[0], second.student.get_weights()[0])
    assert first.distillation_losses.temperature == 1.0
    assert first.optimizer is not second.optimizer
    assert float(second.optimizer.learning_rate) == pytest.approx(0.1)

    result = chain.fit(data, data, run_dir=tmp_path / "run", verbose=0)
    assert [(row.model, row.taught_by) for row in result.models] == [
        ("teacher", "given"),
        ("generation_1", "teacher"),
        ("generation_2", "generation_1"),
        ("ensemble", "generations"),
    ]
    mean = (softmax(first.student, x) + softmax(second.student, x)) / 2
    ensemble = result.students["ensemble"]
    np.testing.assert_allclose(softmax(ensemble, x), mean, rtol=1e-4)
    assert result.models[-1].errors == np.sum(mean.argmax(axis=1) != y)
    again = keras.saving.load_model(tmp_path / "run" / "ensemble" / "model.keras")
    np.testing.assert_allclose(softmax(again, x), mean, rtol=1e-4)
    assert (tmp_path / "run" / "results.md").read_text() == result.table() + "\n"
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["models"]
    assert rows[-1]["model"] == "ensemble" and rows[-1]["file_bytes"] > 0


def test_each_generation_has_losses_of_its_own(make_model):
    chain = born_again(make_model(), 2, 1, [losses.FitNet(), "kd"])
    first, second = (stage.distillation_losses for stage in chain.stages)
    assert first[0] is not second[0] and first[1] == second[1] == "kd"
    assert [stage.optimizer for stage in chain.stages] == ["adam", "adam"]


@pytest.mark.parametrize("generations", [0, 1.5, "2"])
def test_bad_counts(make_model, generations):
    with pytest.raises(ValueError, match="`generations` must be an integer, 1 or greater"):
        born_again(make_model(), generations, epochs=1)
