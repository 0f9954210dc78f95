"""Looking changes nothing: of every loss, in a Distiller, to the last bit."""

import keras
import numpy as np
import pytest

from keras_kd import Distiller, losses, with_index
from tests.losses import instances

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6, 6, 2)).astype("float32")
Y = RNG.integers(3, size=16)


def make_model(width):
    """Maps, statistics and seeds that training moves, and logits."""
    return keras.Sequential(
        [
            keras.layers.Input((6, 6, 2)),
            keras.layers.Conv2D(width, 3, padding="same", name="maps0"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(width, 3, name="maps1"),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def make_distiller(name, **compiled):
    loss, arguments = instances.get(name), {}
    if isinstance(loss, losses.FeatureLoss):
        count = loss.most_pairs or 2
        arguments["taps"] = [(f"maps{i}", f"maps{i}") for i in range(count)]
        loss = losses.get(name, **arguments)
    student = make_model(5 if loss.widths_may_differ else 6)
    looks = not (loss.needs_index or loss.has_state)
    distiller = Distiller(make_model(6), student, loss, validation_distillation=looks)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # XLA's compilation would take longer than all else here.
    distiller.compile("adam", cross_entropy, **({"jit_compile": False} | compiled))
    return distiller


def bytes_of(*holders):
    variables = {id(v): v for holder in holders for v in holder.variables}
    return {k: keras.ops.convert_to_numpy(v).tobytes() for k, v in variables.items()}


@pytest.mark.parametrize("name", losses.names())
def test_evaluate_predict_and_export_change_nothing_and_fit_nothing_of_the_teacher(
    name, tmp_path
):
    distiller = make_distiller(name, run_eagerly=True)
    teacher = bytes_of(distiller.teacher)
    data = with_index((X, Y)).batch(8)
    distiller.fit(data, shuffle=False, verbose=0)
    assert bytes_of(distiller.teacher) == teacher
    holders = [distiller, distiller.optimizer, *distiller.loss_layers]
    before = bytes_of(*holders)
    assert len(before) > len(teacher)
    first = distiller.evaluate(data, verbose=0, return_dict=True)
    assert bytes_of(*holders) == before
    distiller.predict(X[:3], verbose=0)
    distiller.evaluate(X[:3], Y[:3], verbose=0)
    if name in ("kd", "simkd", "crd"):
        # Losses have no part in it, so three stand for all.
        distiller.export(tmp_path / "student", verbose=False)
    assert bytes_of(*holders) == before
    assert distiller.evaluate(data, verbose=0, return_dict=True) == first


@pytest.mark.parametrize("name", ["ab", "ofd", "reviewkd", "simkd"])
def test_in_validation_a_projection_runs_as_in_inference(name):
    """An example's value does not hang on the others, as it does in training."""
    # One stands for all compiled steps, which are made for each size of a batch.
    distiller = make_distiller(name, run_eagerly=name != "ab")
    distiller.fit(X, Y, batch_size=8, verbose=0)
    if name == "ofd":
        # Its margin is of the batch.
        (loss,) = distiller.distillation_losses
        loss.margin = -1.0

    def loss_of(*parts):
        logs = [distiller.evaluate(X[p], Y[p], verbose=0, return_dict=True) for p in parts]
        return np.mean([x["distillation_loss"] for x in logs])

    np.testing.assert_allclose(
        loss_of(slice(16)), loss_of(slice(8), slice(8, 16)), rtol=1e-5
    )


class Projects(losses.FeatureLoss):
    """A loss of another's, that knows nothing of `training`."""

    makes_layers = True
    zero_at_agreement = smallest_at_agreement = False

    def make_layers(self, teacher_shapes, student_shapes):
        layer = keras.layers.BatchNormalization()
        layer.build((None, *student_shapes[0][1:]))
        return [layer]

    def call(self, teacher_features, student_features):
        student = self.layers[0](student_features[0], training=True)
        return keras.ops.mean((student - teacher_features[0]) ** 2, axis=(1, 2, 3))


class ProjectsInEitherMode(Projects):
    takes_training = True

    def call(self, teacher_features, student_features, training):
        student = self.layers[0](student_features[0], training=training)
        return keras.ops.mean((student - teacher_features[0]) ** 2, axis=(1, 2, 3))


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_anothers_loss_goes_on_and_is_refused_where_looking_would_change_it():
    models = make_model(6), make_model(6)
    taps = {"taps": ("maps0", "maps0")}
    distiller = Distiller(*models, Projects(**taps), student_loss_weight=0.0)
    distiller.compile("sgd")
    assert np.isfinite(distiller.fit(X, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="Projects.* Set takes_training = True"):
        Distiller(*models, Projects(**taps), validation_distillation=True)
    loss = ProjectsInEitherMode(**taps)
    distiller = Distiller(
        *models, loss, student_loss_weight=0.0, validation_distillation=True
    )
    distiller.compile("sgd")
    distiller.fit(X, verbose=0)
    before = bytes_of(distiller)
    distiller.evaluate(X, verbose=0)
    assert bytes_of(distiller) == before


def test_a_loss_whose_layers_are_the_teachers_is_refused():
    teacher = make_model(6)
    loss = losses.SoftTargets()
    loss.layers = (teacher.layers[-1],)
    with pytest.raises(ValueError, match="layers of SoftTargets.*belong to `teacher`"):
        Distiller(teacher, make_model(5), loss)
