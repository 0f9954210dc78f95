"""What Keras's own Distiller gets wrong, and ours right: the same script for both.

Each script returns whether all is well. It must fail with `keras.distillation` and pass
with `keras_kd`: so a version of Keras that repairs a point is noticed here, and the table
in the README stays true.
"""

import keras
import numpy as np
import pytest

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOGITS = np.array([[4.0, 0.0, 1.0], [0.0, 2.0, 1.0]], "float32")


class BuiltIn:
    """Keras's own names."""

    Distiller = keras.distillation.Distiller

    @staticmethod
    def soft_targets():
        return keras.distillation.LogitsDistillation(temperature=2.0)

    @staticmethod
    def feature_loss(teacher_layer, student_layer):
        return keras.distillation.FeatureDistillation("mse", teacher_layer, student_layer)


class Ours(BuiltIn):
    """The same script with one import changed."""

    Distiller = kd.Distiller

    @staticmethod
    def soft_targets():
        return kd.losses.SoftTargets(temperature=2.0)


def never_negative(library, make_model, vectors):
    values = [
        float(library.soft_targets().compute_loss(LOGITS, scale * LOGITS))
        for scale in (-1.0, 0.5, 2.0, 3.0)
    ]
    return min(values) >= 0


def unchanged_by_a_constant(library, make_model, vectors):
    loss = library.soft_targets()
    value = float(loss.compute_loss(LOGITS, -LOGITS))
    shifted = float(loss.compute_loss(LOGITS + 5.0, -LOGITS + 7.0))
    return shifted == pytest.approx(value, rel=1e-5)


def large_logits_tell_right_from_wrong(library, make_model, vectors):
    loss, large = library.soft_targets(), 1e4 * np.eye(3, dtype="float32")
    wrong = float(loss.compute_loss(large, large[::-1].copy()))
    return 1e4 < wrong < 1e6 and float(loss.compute_loss(large, large)) == 0


def float16_logits_are_summed_in_float32(library, make_model, vectors):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 16, 1000)).astype("float16")
    loss = library.soft_targets()
    exact = loss.compute_loss(teacher.astype("float32"), student.astype("float32"))
    # float32 differs from itself by 1e-7, float16 by 1e-3.
    half = float(loss.compute_loss(teacher, student))
    return half > 0 and half == pytest.approx(float(exact), rel=1e-5)


def regularisation_counts(library, make_model, vectors):
    student = make_model(kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = library.Distiller(make_model(), student, library.soft_targets())
    distiller.compile(keras.optimizers.SGD(0.0), LOSS)
    history = distiller.fit(*vectors, verbose=0).history
    terms = history["student_loss"][0], history["distillation_loss"][0]
    return history["loss"][0] == pytest.approx(
        sum(terms) / 2 + float(sum(student.losses)), rel=1e-4
    )


def _weight_matters(library, make_model, vectors, key, student_loss_weight, **weights):
    x, y = vectors
    values = []
    for arguments in ({}, weights):
        keras.utils.set_random_seed(0)
        distiller = library.Distiller(
            make_model(),
            make_model(),
            library.soft_targets(),
            student_loss_weight=student_loss_weight,
        )
        distiller.compile(keras.optimizers.SGD(0.0), LOSS)
        values.append(distiller.fit(x, y, verbose=0, **arguments).history[key][0])
    # Every weight is 3, so the mean is three times what it was.
    return values[1] == pytest.approx(3 * values[0], rel=1e-4)


def sample_weight_in_the_distillation_loss(library, make_model, vectors):
    weights = {"sample_weight": np.full(64, 3.0, "float32")}
    return _weight_matters(
        library, make_model, vectors, "distillation_loss", 0.5, **weights
    )


def sample_weight_in_the_student_loss(library, make_model, vectors):
    weights = {"sample_weight": np.full(64, 3.0, "float32")}
    return _weight_matters(library, make_model, vectors, "student_loss", 0.5, **weights)


def class_weight_in_both_losses(library, make_model, vectors):
    weights = {"class_weight": {0: 3.0, 1: 3.0, 2: 3.0}}
    return all(
        _weight_matters(library, make_model, vectors, key, 0.5, **weights)
        for key in ("student_loss", "distillation_loss")
    )


def what_a_mask_hides_is_not_taught(library, make_model, vectors):
    values, x = [], np.array([[1, 2, 0, 0], [3, 4, 0, 0]])
    for tokens in (x, x[:, :2]):
        keras.utils.set_random_seed(0)
        models = []
        for units in (6, 4):
            inputs = keras.Input((None,), dtype="int32")
            hidden = keras.layers.Embedding(5, units, "normal", mask_zero=True)(inputs)
            models.append(keras.Model(inputs, keras.layers.Dense(3)(hidden)))
        models[0].layers[1].set_weights([np.arange(30.0).reshape(5, 6) ** 2])
        distiller = library.Distiller(*models, library.soft_targets())
        distiller.compile(keras.optimizers.SGD(0.0), LOSS)
        history = distiller.fit(tokens, tokens % 3, verbose=0).history
        values.append(history["distillation_loss"][0])
    return values[0] == pytest.approx(values[1], rel=1e-5)


class CountsRuns(keras.layers.Layer):
    """Counts the calls in training mode of an eagerly run model."""

    runs = 0

    def call(self, x, training=None):
        self.runs += bool(training)
        return x


def the_student_runs_once_with_taps(library, make_model, vectors):
    counts = CountsRuns()
    student = keras.Sequential(
        [
            keras.layers.Input((4,)),
            counts,
            keras.layers.Dense(8, name="hidden"),
            keras.layers.Dense(3),
        ]
    )
    teacher = make_model()
    loss = library.feature_loss(teacher.layers[0].name, "hidden")
    distiller = library.Distiller(teacher, student, loss)
    distiller.compile("sgd", LOSS, run_eagerly=True)
    counts.runs = 0
    distiller.train_on_batch(*vectors)
    return counts.runs == 1


def dtype_policies_may_differ(library, make_model, vectors):
    student = make_model(dtype="mixed_bfloat16")
    student.add(keras.layers.Dense(3, dtype="mixed_bfloat16"))
    distiller = library.Distiller(make_model(), student, library.soft_targets())
    distiller.compile("sgd", LOSS)
    return np.isfinite(distiller.fit(*vectors, verbose=0).history["loss"]).all()


def dict_outputs_of_other_names(library, make_model, vectors):
    def two_heads(first, second):
        inputs = keras.Input((4,))
        heads = [keras.layers.Dense(3, name=name) for name in (first, second)]
        return keras.Model(inputs, {head.name: head(inputs) for head in heads})

    x, y = vectors
    teacher, student = two_heads("a", "b"), two_heads("c", "d")
    if library is Ours:
        losses = [kd.losses.SoftTargets(taps=taps) for taps in (("a", "c"), ("b", "d"))]
    else:
        losses = keras.distillation.LogitsDistillation(
            loss={"c": "kl_divergence", "d": "kl_divergence"}
        )
    distiller = library.Distiller(teacher, student, losses)
    distiller.compile("sgd", {"c": LOSS, "d": LOSS})
    distiller.fit(x, {"c": y, "d": y}, verbose=0)
    return True


def a_loss_without_weight_does_no_harm(library, make_model, vectors):
    class Broken:
        teacher_layer_name = student_layer_name = None

        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return np.nan * keras.ops.sum(student_outputs)

        def validate_outputs(self, teacher_outputs, student_outputs):
            pass

        def validate_model_compatibility(self, teacher, student):
            pass

    losses = [library.soft_targets(), Broken()]
    distiller = library.Distiller(make_model(), make_model(), losses, [1.0, 0.0])
    distiller.compile("sgd", LOSS)
    return np.isfinite(distiller.fit(*vectors, verbose=0).history["loss"]).all()


def no_labels_and_no_loss_where_they_have_no_weight(library, make_model, vectors):
    distiller = library.Distiller(
        make_model(), make_model(), library.soft_targets(), student_loss_weight=0.0
    )
    distiller.compile("sgd")
    history = distiller.fit(vectors[0], batch_size=32, verbose=0).history
    return history["loss"] == history["distillation_loss"]


def _teacher_runs_in_validation(library, make_model, vectors, **arguments):
    counts = []

    class Teacher(keras.layers.Layer):
        def call(self, x):
            counts.append(1)
            return x

    teacher = keras.Sequential([make_model(), Teacher()])
    teacher.build((None, 4))
    distiller = library.Distiller(
        teacher, make_model(), library.soft_targets(), **arguments
    )
    distiller.compile("sgd", LOSS, run_eagerly=True)
    counts.clear()
    results = distiller.evaluate(*vectors, verbose=0, return_dict=True)
    return len(counts), results


def validation_leaves_the_teacher_out(library, make_model, vectors):
    runs, results = _teacher_runs_in_validation(library, make_model, vectors)
    return runs == 0 and "distillation_loss" not in results


def validation_distillation_is_there_when_asked_for(library, make_model, vectors):
    runs, results = _teacher_runs_in_validation(
        library, make_model, vectors, validation_distillation=True
    )
    return runs > 0 and results["distillation_loss"] > 0


def the_teacher_stays_trainable(library, make_model, vectors):
    teacher = make_model()
    library.Distiller(teacher, make_model(), library.soft_targets())
    return teacher.trainable


def taps_of_subclassed_models(library, make_model, vectors):
    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(8, name="hidden")
            self.head = keras.layers.Dense(3)

        def call(self, x):
            return self.head(self.hidden(x))

    teacher, student = make_model(), Student()
    student(vectors[0])
    loss = library.feature_loss(teacher.layers[0].name, "hidden")
    distiller = library.Distiller(teacher, student, loss)
    distiller.compile("sgd", LOSS)
    return distiller.fit(*vectors, verbose=0).history["distillation_loss"][0] > 0


def metrics_by_output_name(library, make_model, vectors):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, keras.layers.Dense(3, name="digit")(inputs))
    distiller = library.Distiller(make_model(), student, library.soft_targets())
    distiller.compile("sgd", LOSS, metrics={"digit": ["accuracy"]})
    return "accuracy" in distiller.fit(*vectors, verbose=0).history


POINTS = [
    never_negative,
    unchanged_by_a_constant,
    large_logits_tell_right_from_wrong,
    float16_logits_are_summed_in_float32,
    regularisation_counts,
    sample_weight_in_the_distillation_loss,
    sample_weight_in_the_student_loss,
    class_weight_in_both_losses,
    what_a_mask_hides_is_not_taught,
    the_student_runs_once_with_taps,
    dtype_policies_may_differ,
    dict_outputs_of_other_names,
    a_loss_without_weight_does_no_harm,
    no_labels_and_no_loss_where_they_have_no_weight,
    validation_leaves_the_teacher_out,
    validation_distillation_is_there_when_asked_for,
    the_teacher_stays_trainable,
    taps_of_subclassed_models,
    metrics_by_output_name,
]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_right_here(point, make_model, vectors):
    assert point(Ours, make_model, vectors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_wrong_in_the_built_in(point, make_model, vectors):
    try:
        is_right = bool(point(BuiltIn, make_model, vectors))
    except (ValueError, TypeError) as error:
        print(f"{point.__name__}: {str(error)[:200]}")
        is_right = False
    assert not is_right
